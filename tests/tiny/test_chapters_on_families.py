"""What the chapters do to a pipeline runs on the real classes of every family, or is refused.

The list of functions is not kept by hand: it is read from the notebooks.
"""

import ast
import importlib
import inspect
import json
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from families import FAMILIES
from test_judged_arms import BrightnessJudge

from t2i_lens.base.lazy import Lazy
from t2i_lens.base.paths import ROOT
from t2i_lens.experiments import (
    alignment,
    binding,
    context_drift,
    destruction,
    dominance,
    dose,
    factorial,
    first_layer,
    growth,
    key_predictions,
    layer_tuning,
    map_similarity,
    mediation,
    perfusion_claims,
    prompt_attention,
    remedy_claims,
    rotation,
    sign_editing,
    token_alignment,
    word_exchange,
)
from t2i_lens.experiments.arms import Arm, Design, draw
from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.inversion import embedding_table, embeddings
from t2i_lens.inversion.embeddings import Inversion, attach_rows
from t2i_lens.methods import (
    latent_optimisation,
    layer_adapters,
    localisation,
    patching,
    prompt_to_prompt,
    safe_guidance,
)
from t2i_lens.methods.perfusion import concept_edits
from t2i_lens.models.tokens import encode, text_towers, token_table
from t2i_lens.probes.cross_attention import record
from t2i_lens.probes.edits import Inject, Scale, Value
from t2i_lens.probes.labelled import label_text
from t2i_lens.probes.patches import attention_sites, recorded_attention
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.probes.text_attention import read_prompts
from t2i_lens.probes.unet_hooks import cross_attention_layers
from t2i_lens.study.execute import NOTEBOOKS

LIBRARY = ROOT / "lib"
# Made for the toybox's pipeline alone, or read with its judge and picture tower.
TOYBOX = (
    "t2i_lens.toybox.", "t2i_lens.experiments.known_sign_edits.",
    "t2i_lens.experiments.faithfulness.answers", "t2i_lens.experiments.perfusion_claims.draw_again",
    "t2i_lens.experiments.remedy_claims.draw_again",
    "t2i_lens.experiments.patched_exchanges.", "t2i_lens.experiments.law_runs.",
)  # fmt: skip
WORD, VECTORS = "<t>", 2
PROMPTS = [Prompt("a {} next to a man", ("man",)), Prompt("a red {} and a friend", ("friend",))]
SENTENCES = [f"a {WORD} next to a man", "a red toy"]
FEW = {"num_inference_steps": 2, "guidance_scale": 3.0}
PAIRS = [
    {
        "text": f"a red {WORD} and a blue toy",
        "bound": [["red", WORD], ["blue", "toy"]],
        "unbound": [["red", "toy"], [WORD, "toy"]],
    }
]
TRAINING = {
    "steps": 10,
    "learning_rate": 1e-3,
    "batch_size": 2,
    "templates": ["a {}"],
    "record_every": 5,
}
ALIGNED = alignment.Sentence(
    set="pinata", number=0, order=0, text="a red toy and a blue chair",
    bound=(("red", "toy"), ("blue", "chair")), unbound=(("toy", "chair"),),
    plain="a red cat and a blue chair",
)  # fmt: skip
SHORTER = replace(
    ALIGNED, number=1, text="a toy and a blue chair", bound=(("blue", "chair"),),
    plain="a cat and a blue chair",
)  # fmt: skip
EXCHANGED = mediation.Sentence("toy", "a {} next to a man", ("man",), ("red", "toy", "chair"))
EXCHANGE = mediation.Exchange(
    mediation.TOKEN, mediation.CLASS_WORD, "paths", "values", into=("value",)
)
SIGNS = [{"template": "a {} cat", "source": "red", "target": "blue"}]


PAIR = word_exchange.Pair("a red toy", "a blue toy", "red", "blue")
TAUGHT = layer_adapters.Training(steps=2, batch=2, rank=2)
NOISE = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


def arm(word=WORD, **more):
    return replace(Arm("pinata", word, word, "toy"), **more)


ARMS = [arm(), arm("toy")]
DESIGN = Design(ARMS, PROMPTS, [0])


def table(pipe):
    return pipe.text_encoder.get_input_embeddings().weight.detach()


def rows(pipe, count=5):
    return np.random.default_rng(1).normal(0, 0.3, (count, table(pipe).shape[1])).astype("float32")


def with_token(pipe, concept):
    inversion = Inversion(concept, torch.full((1, 32), 0.5), pd.DataFrame(), {})
    attached = embeddings.with_tokens(Lazy(lambda: pipe, "tiny"), [inversion]).get()
    return table(attached)[list(encode(attached, concept.placeholder_token).ids[1:2])].numpy()


def injected(pipe):
    settings = localisation.single_layers(localisation.layer_sizes(pipe)["path"].tolist())
    return localisation.draw_settings(pipe, [("a red toy", "a blue chair")], settings, [0], **FEW)


def recorded(pipe):
    with record(pipe) as recorder:
        generate(pipe, SENTENCES, [0], recorder=recorder, **FEW)
    return {path: maps.numpy() for path, maps in recorder.maps().layers.items()}


def read(pipe):
    return label_text(read_prompts(pipe, SENTENCES), "patterns").to_numpy()


def moved(pipe):
    method = alignment.Method("paper", "paper")
    losses = alignment.losses_of(pipe, [ALIGNED], method)
    with latent_optimisation.optimised(pipe, losses, method.updates) as trace:
        pictures = generate(pipe, [ALIGNED.text], [0], **FEW)
    assert trace.passes.any()
    return pictures


def losses(pipe):
    (loss,) = alignment.losses_of(pipe, [ALIGNED], alignment.Method("code", "code"))
    return loss.target.numpy()


def exchanged(pipe):
    layers = tuple(localisation.layer_sizes(pipe)["path"])
    ways = [
        word_exchange.Way("no edit"), word_exchange.Way("all layers", layers),
        word_exchange.Way("maps", maps=(0.5, 0.5)), word_exchange.Way("away", negative="a {}"),
    ]  # fmt: skip
    fields = map(word_exchange.fields_of, ([PAIR], ways))
    drawn = word_exchange.draw(pipe, *fields, [0], **FEW)
    assert all((drawn[0] != pictures).any() for pictures in drawn[1:])
    return drawn


def adapted(pipe):
    latents = layer_adapters.encoded(pipe, torch.from_numpy(NOISE))
    layers = localisation.layer_sizes(pipe)["path"].tolist()
    with layer_adapters.adapted(pipe, layers, latents, SENTENCES[1:] * 2, TAUGHT):
        return generate(pipe, SENTENCES[1:], [0], **FEW)


def tuned(pipe):
    layers = tuple(localisation.layer_sizes(pipe)["path"])
    way, prompt = layer_tuning.Way("all", layers, 2), layer_tuning.Asked("others", SENTENCES[1])
    (way,), prompts = map(layer_tuning.fields_of, ([way], [prompt]))
    return layer_tuning.tuned_pictures(pipe, prompts, ["red"], way, [0], TAUGHT, **FEW)


def drawn_rows(pipe):
    texts = patching.encode_texts(pipe, ["a red toy"])
    return patching.draw_rows(pipe, texts, ["a red toy"], [0], **FEW)


def recorded_parts(pipe):
    with recorded_attention(pipe, list(attention_sites(pipe))) as recording:
        drawn_rows(pipe)
    return {f"{path} {part}": steps[-1].numpy() for (path, part), steps in recording.steps.items()}


def edit_of(pipe, seed=0):
    torch.manual_seed(seed)
    # Stable Diffusion 3 has no layers of cross-attention: an edit of it would be another model's.
    layers = cross_attention_layers(pipe.unet) if hasattr(pipe, "unet") else {}
    outputs = {path: torch.randn(layer.to_k.out_features) for path, layer in layers.items()}
    target = torch.randn(next((layer.to_k.in_features for layer in layers.values()), 32))
    towers = [e.get_input_embeddings().embedding_dim for _, e in text_towers(pipe)]
    words = tuple(torch.randn(1, width) for width in towers)
    return concept_edits.ConceptEdit("<e>", "toy", words, target, target, outputs, outputs)


def edited(pipe):
    with concept_edits.applied(pipe, [edit_of(pipe)]):
        return generate(pipe, SENTENCES, [0], **FEW)


def files_of(pipe, *names):
    contents = [concept_edits.to_bytes(edit_of(pipe, seed)) for seed in range(len(names))]
    files = {n: np.frombuffer(c, np.uint8) for n, c in zip(names, contents, strict=True)}
    return files, {name: rows(pipe)[0] for name in names}


def shown(pipe, draw_them):
    return {"pictures": draw_them(pipe, *files_of(pipe, "one", "two"), 2)["pictures"]}


# By the function that a notebook calls.
CASES = {
    "alignment.draw": lambda p: alignment.draw(
        p, alignment.fields_of([ALIGNED]), vars(alignment.Method("SynGen", "SynGen")), [0], **FEW
    ),
    "alignment.losses_of": losses,
    "alignment.target": lambda p: alignment.target(
        p, ALIGNED, alignment.Method("T", "paper", target="class word")
    ).numpy(),
    "latent_optimisation.optimised": moved,
    "token_alignment.read_targets": lambda p: token_alignment.read_targets(
        p, alignment.fields_of([ALIGNED, SHORTER])
    ),
    "arms.draw": lambda p: draw(p, DESIGN, **FEW),
    "destruction.measure": lambda p: destruction.measure(p, BrightnessJudge(), DESIGN, **FEW),
    "embeddings.with_tokens": with_token,
    "cross_attention.record": recorded,
    "patches.recorded_attention": recorded_parts,
    "patching.draw_rows": drawn_rows,
    "patching.encode_texts": lambda p: patching.encode_texts(p, ["a toy"]).states["a toy"].numpy(),
    "text_attention.read_prompts": read,
    "sampling.text_states": lambda p: text_states(p, SENTENCES),
    "sampling.generate": lambda p: generate(p, SENTENCES, [0], **FEW),
    "tokens.encode": lambda p: np.array(encode(p, SENTENCES[0]).ids),
    "tokens.token_table": lambda p: token_table(p, SENTENCES[0]),
    "dominance.beside_daam": lambda p: dominance.beside_daam(p, SENTENCES[1], 0, **FEW),
    "dominance.draw_with_maps": lambda p: dominance.draw_with_maps(
        p, ARMS[:1], PROMPTS[0].text, [0], **FEW
    ),
    "dominance.maps_by_step": lambda p: dominance.maps_by_step(
        p, ARMS[:1], PROMPTS[0].text, 0, [0, 1], **FEW
    ),
    "dominance.measure_tokens": lambda p: dominance.per_picture(
        dominance.measure_tokens(p, DESIGN, **FEW)
    ),
    "dominance.trace_norms": lambda p: dominance.trace_norms(
        p, ARMS[:1], PROMPTS[0].text, [0], **FEW
    ),
    "concept_edits.applied": edited,
    "context_drift.context_cosines": lambda p: context_drift.context_cosines(
        p, {"one": rows(p)[0]}, {"one": "toy"}, {"one": "cat"}, PROMPTS
    ),
    "context_drift.set_distances": lambda p: context_drift.set_distances(
        p, {"one": dict(enumerate(rows(p)))}, {"one": "toy"}, [prompt.text for prompt in PROMPTS]
    ),
    "remedy_claims.draw_shown": lambda p: {
        "pictures": remedy_claims.draw_shown(p, ["blue_cat"], {"blue_cat": rows(p)[0]}, 2)[
            "pictures"
        ]
    },
    "dose.measure": lambda p: dose.measure(p, BrightnessJudge(), DESIGN, **FEW),
    "embedding_table.read_table": lambda p: embedding_table.read_table(p, ["toy"]),
    "factorial.draw_rows": lambda p: factorial.draw_rows(
        p, factorial.cells("toy", "toy", PROMPTS, [0]), rows(p, 6), **FEW
    ),
    "first_layer.measure_rows": lambda p: first_layer.measure_rows(p, SENTENCES[0], 2, rows(p)),
    "first_layer.place_attention": lambda p: first_layer.place_attention(
        p, SENTENCES[0], 2, rows(p)
    ),
    "first_layer.place_rows": lambda p: first_layer.place_rows(p, SENTENCES[0], 2, rows(p)),
    "first_layer.probe_positions": lambda p: first_layer.probe_positions(
        p, rows(p, 24), np.array([0.5, 2.0]), tokens=12, seed=0
    ),
    "growth.first_steps": lambda p, concept: growth.first_steps(p, concept, TRAINING, 10),
    "key_predictions.measure_keys": lambda p: key_predictions.measure_keys(
        p, SENTENCES, [0], [0, 1], **FEW
    ),
    "key_predictions.measure_shares": lambda p: key_predictions.measure_shares(p, DESIGN, **FEW),
    "layer_adapters.adapted": adapted,
    "layer_adapters.count": lambda p: [
        layer_adapters.count(p, localisation.layer_sizes(p)["path"].tolist(), r) for r in (1, 2)
    ],
    "layer_adapters.encoded": lambda p: layer_adapters.encoded(p, torch.from_numpy(NOISE)).numpy(),
    "layer_tuning.tuned_pictures": tuned,
    "localisation.draw_settings": injected,
    "localisation.layer_sizes": localisation.layer_sizes,
    "map_similarity.measure_maps": lambda p: map_similarity.measure_maps(p, PAIRS, [0], **FEW),
    "mediation.draw": lambda p: mediation.draw(p, [EXCHANGED], EXCHANGE, [0], **FEW),
    "perfusion_claims.draw_maps": lambda p: perfusion_claims.draw_maps(p, *files_of(p, "one"), 2),
    "perfusion_claims.draw_shown": lambda p: shown(p, perfusion_claims.draw_shown),
    "perfusion_claims.draw_together": lambda p: shown(p, perfusion_claims.draw_together),
    "perfusion_claims.equation_errors": lambda p: list(
        perfusion_claims.equation_errors(p, edit_of(p), np.random.default_rng(0)).values()
    ),
    "perfusion_claims.open_gates": lambda p: perfusion_claims.open_gates(
        p, files_of(p, "one")[0], 0.65, 0.15
    ),
    "prompt_attention.read_patterns": lambda p: prompt_attention.read_patterns(p, SENTENCES),
    "prompt_attention.read_untrained_patterns": lambda p: prompt_attention.read_untrained_patterns(
        p, SENTENCES, 1
    ),
    "rotation.slot_attention": lambda p: rotation.slot_attention(
        p, Design(rotation.turned(arm(), rows(p)[0], [0.0, 1.0], path="random"), PROMPTS)
    ),
    "binding.matrices": lambda p: binding.matrices(p, SENTENCES[0]),
    "binding.read_pairs": lambda p: binding.read_pairs(p, PAIRS),
    "binding.read_untrained_pairs": lambda p: binding.read_untrained_pairs(p, PAIRS, 1),
    "binding.sink_outputs": lambda p: binding.sink_outputs(p, SENTENCES),
    "prompt_to_prompt.draw_replaced": lambda p: prompt_to_prompt.draw_replaced(
        p, [("a red toy", "a blue chair")], [prompt_to_prompt.Replacement()], [0], **FEW
    ),
    "safe_guidance.draw_safely": lambda p: safe_guidance.draw_safely(
        p, SENTENCES[1:], ["a toy"], safe_guidance.CONFIGURATIONS["max"], [0], **FEW
    ),
    "sign_editing.edits": lambda p: sign_editing.edits(p, SIGNS, [0, 1], [0, 1], **FEW),
    "word_exchange.draw": exchanged,
}
# What a family cannot do is said in one line.
DRAWING = [
    name for name in CASES
    if name.startswith(
        (
            "dominance.", "key_predictions.", "latent_optimisation.", "layer_adapters.",
            "layer_tuning.", "localisation.", "prompt_to_prompt.", "safe_guidance.",
            "sign_editing.", "word_exchange.",
        )
    )
    or name.split(".")[1] in ("draw", "generate", "measure", "measure_maps", "record")
]  # fmt: skip
REFUSED = {(name, "sd3"): "StableDiffusion3Pipeline|SD3Transformer2D" for name in DRAWING} | {
    ("factorial.draw_rows", "sdxl"): "which of SDXL's two text encoders",
    ("factorial.draw_rows", "sd3"): "StableDiffusion3Pipeline",
    ("layer_adapters.adapted", "sdxl"): "StableDiffusionXLPipeline",
    ("layer_tuning.tuned_pictures", "sdxl"): "StableDiffusionXLPipeline",
    ("safe_guidance.draw_safely", "sdxl"): "StableDiffusionXLPipeline",
    ("patches.recorded_attention", "sdxl"): "StableDiffusionXLPipeline",
    ("patching.draw_rows", "sdxl"): "StableDiffusionXLPipeline",
    ("patching.encode_texts", "sdxl"): "StableDiffusionXLPipeline",
    ("mediation.draw", "sdxl"): "StableDiffusionXLPipeline",
    ("context_drift.context_cosines", "sdxl"): "which of SDXL's two text encoders",
    ("context_drift.set_distances", "sdxl"): "which of SDXL's two text encoders",
    **{
        (f"perfusion_claims.{name}", "sdxl"): "which of SDXL's two text encoders"
        for name in ("draw_maps", "draw_shown", "draw_together", "open_gates")
    },
    **{
        (name, "sd3"): "StableDiffusion3Pipeline"
        for name in (
            "concept_edits.applied",
            "perfusion_claims.draw_maps",
            "perfusion_claims.draw_shown",
            "perfusion_claims.draw_together",
            "perfusion_claims.equation_errors",
        )
    },
    ("remedy_claims.draw_shown", "sdxl"): "StableDiffusionXLPipeline",
    ("remedy_claims.draw_shown", "sd3"): "StableDiffusion3Pipeline",
    ("growth.first_steps", "sdxl"): "StableDiffusionXLPipeline",
    ("growth.first_steps", "sd3"): "StableDiffusion3Pipeline",
    ("embeddings.with_tokens", "sdxl"): r"width 32, the model needs 32 \+ 48",
    ("embeddings.with_tokens", "sd3"): r"width 32, the model needs 32 \+ 32",
}
# No gradient before the first step; no map of a head that a layer does not have.
PARTLY_UNDEFINED = ("growth.", "key_predictions.measure_keys", "map_similarity.")
KINDS = ["sd1", *FAMILIES]


@pytest.fixture(scope="module")
def pipes(make_pipe):
    """A pipeline of each family, with a placeholder of two vectors in all its towers."""
    found = {"sd1": make_pipe(), **{name: build(make_pipe) for name, build in FAMILIES.items()}}
    for pipe in found.values():
        random = torch.Generator().manual_seed(5)
        widths = [e.get_input_embeddings().embedding_dim for _, e in text_towers(pipe)]
        attach_rows(pipe, WORD, [torch.randn(VECTORS, w, generator=random) for w in widths])
    return found


def numbers(found):
    """All numbers in a result, by name."""
    if isinstance(found, pd.DataFrame):
        found = {name: found[name].to_numpy() for name in found}
    if isinstance(found, xr.Dataset):
        found = {str(name): part.to_numpy() for name, part in found.items()}
    if not isinstance(found, dict):
        found = {"": found}
    arrays = {name: np.asarray(value) for name, value in found.items()}
    return {n: value.astype(float) for n, value in arrays.items() if value.dtype.kind in "bfiu"}


@pytest.mark.parametrize(("name", "kind"), list(product(CASES, KINDS)))
def test_it_runs_on_the_family_or_is_refused_in_one_line(pipes, make_concept, name, kind):
    trained = name in ("embeddings.with_tokens", "growth.first_steps")
    more = [make_concept(f"of-{kind}")] if trained else []
    if (name, kind) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, kind]) as error:
            CASES[name](pipes[kind], *more)
        assert len(str(error.value).splitlines()) == 1
        return
    found = numbers(CASES[name](pipes[kind], *more))
    assert found and all(value.size for value in found.values())
    for value in found.values():
        finite = np.isfinite(value)
        assert finite.all() or (name.startswith(PARTLY_UNDEFINED) and finite.mean() >= 0.5)
    if name not in ("embeddings.with_tokens", "localisation.layer_sizes"):
        assert any(np.nanmax(value) > np.nanmin(value) for value in found.values())


def called(file):
    """Functions of the library that a notebook names, with their whole path."""
    cells = [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]
    nodes = [n for c in cells for n in ast.walk(ast.parse("".join(c["source"])))]
    modules, found = {}, set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("t2i_lens."):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if (LIBRARY / name.replace(".", "/")).with_suffix(".py").exists():
                    modules[alias.asname or alias.name] = name
                else:
                    found.add(name)
    for node in nodes:
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in modules:
            found.add(f"{modules[node.value.id]}.{node.attr}")
    return found


def takes_a_pipeline(name):
    module, function = name.rsplit(".", 1)
    value = getattr(importlib.import_module(module), function)
    if not inspect.isfunction(value):
        return False
    first = next(iter(inspect.signature(value).parameters.values()), None)
    # Of a pipeline that is not loaded there is only a name to be had.
    return first is not None and first.name == "pipe" and first.annotation is not Lazy


def test_every_function_that_a_chapter_gives_a_pipeline_to_is_tried():
    names = set().union(*(called(file) for file in NOTEBOOKS.glob("*.ipynb")))
    # The toybox's own are for the toybox's pipeline alone.
    names = {name for name in names if not name.startswith(TOYBOX)}
    tried = {".".join(name.split(".")[-2:]) for name in names if takes_a_pipeline(name)}
    assert tried <= set(CASES)


@pytest.mark.parametrize("kind", ["sd1", "sd21", "sdxl"])
def test_other_states_are_injected_into_every_family_that_draws(pipes, kind):
    pipe = pipes[kind]
    other = Value("other", text_states(pipe, ["a blue chair"])[0])
    pictures = generate(pipe, ["a red toy"] * 2, [0], edits=[[Inject(other)], []], **FEW)
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("kind", ["sd1", "sd21"])
def test_a_slot_is_edited_where_there_is_one_text_encoder(pipes, kind):
    longer = arm("<t>", name="longer", edits=(Scale(8.0, positions=()),))
    plain, scaled = draw(pipes[kind], Design([arm(), longer], PROMPTS, [0]), **FEW).values[0]
    assert (plain != scaled).any()


def test_a_slot_of_two_text_encoders_is_not_edited(pipes):
    longer = arm(edits=(Scale(8.0, positions=()),))
    with pytest.raises(ValueError, match="which of SDXL's two text encoders"):
        draw(pipes["sdxl"], Design([longer], PROMPTS, [0]), **FEW)
