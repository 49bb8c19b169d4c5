"""Every way of teaching and every remedy on two axes: likeness of the concept, objects kept.

The command `t2i-lens remedies` trains and draws everything once, prints a time estimate first and
resumes after an interruption. It writes a table with a row per picture, and the key-locked edits of
the standard setting; chapters replay the table and draw a sample anew.

Shown in: notebooks/drafts/22_perfusion.ipynb, notebooks/23_remedies.ipynb
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from t2i_lens.base.files import digest
from t2i_lens.base.lazy import Cache, Lazy
from t2i_lens.experiments.prompt_sets import Prompt, load_prompts
from t2i_lens.inversion.embedding_table import read_table, sort_vocabulary
from t2i_lens.inversion.embeddings import Concept, load_concepts
from t2i_lens.inversion.starts import initial_rows
from t2i_lens.inversion.training import initializer_rows, train
from t2i_lens.inversion.training_data import InversionConfig
from t2i_lens.inversion.training_plan import L2_PENALTY, recipe
from t2i_lens.judging.protocols import FOUND, Judge
from t2i_lens.methods import lora
from t2i_lens.methods import remedies as adjusted
from t2i_lens.methods.localisation import ordered, quarter
from t2i_lens.methods.perfusion import concept_edits, equations
from t2i_lens.methods.perfusion import training as perfusion
from t2i_lens.methods.teaching import (
    CustomDiffusion,
    LayerTokens,
    LimitedInversion,
    Limits,
    changed_weights,
    teach,
)
from t2i_lens.models.tokens import encode
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.edits import Edit, Inject, Swap, Value
from t2i_lens.probes.heat_maps import heat_map
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.probes.unet_hooks import cross_attention_layers
from t2i_lens.toybox.likeness import likeness
from t2i_lens.toybox.takeover import alike, concept_entry
from t2i_lens.toybox.world.captions import caption
from t2i_lens.toybox.world.placing import PICTURE
from t2i_lens.toybox.world.scenes import sample_scene

PROMPT_SET, PROMPTS = "dose", 3
ALONE = Prompt("a photo of a {}", ())
SEEDS = (0, 1)
SAMPLING = {"num_inference_steps": 10, "guidance_scale": 7.5}
CONCEPTS, TOGETHER = 12, 6
CAPTIONS = 1000  # of the toybox's world, for C⁻¹
STEPS, EDIT_STEPS = 100, 100  # of textual inversion and other ways, and of key-locked edits
PRIORS = 6  # pictures of the class, for prior preservation
CONTEXT, ANCHOR = 0.5, 0.95  # weights of CoRe's and of Compositional Inversion's terms
BETAS, TAU = (0.5, 0.65, 0.8), 0.15
CLOSED = (3.0, 3.5, 4.0)  # biases at which no token passes the gate
OTHER_NOUNS = ("turtle", "guitar")  # the second where the first is the class word
WATCHED = ("token", "class word", "key lock, local")  # whose attention is measured
KEYS = ["way", "setting", "concept", "prompt", "seed"]

# Ways of teaching that learn a row, with what they change in textual inversion's settings.
ROW_WAYS = {
    "norm penalty": {"l2_penalty": L2_PENALTY},
    "direction only": {"fixed_norm": True},
    "encoder output": {},
    "context regularised": {},
    "anchored": {},
}
WEIGHT_WAYS = ("Custom Diffusion", "DreamBooth LoRA")
# Key-locked edits: what differs from the standard setting.
EDITS = {
    "standard": {},
    "trained keys": {"keys": "trained"},
    "values only": {"keys": "free"},
    "bias 0.5": {"beta": 0.5},
    "bias 0.9": {"beta": 0.9},
    "other seed": {"seed": 1},
    "no mask": {"mask": "none"},
    "random mask": {"mask": "random"},
    "one picture": {"picture": 0},
    "another picture": {"picture": 2},
    "position": {"form": "position"},
}
SWEPT = ("standard", "trained keys", "values only", "bias 0.5", "bias 0.9", "other seed")


def prompts() -> list[Prompt]:
    """The sentences of all pictures: the concept alone, then among other objects."""
    return [ALONE, *load_prompts(PROMPT_SET)[:PROMPTS]]


def held_out(concepts: Sequence[Concept], count: int = CONCEPTS) -> list[Concept]:
    """Objects that no choice was made on, spread over all of them."""
    rest = [c for c in concepts if c.kind == "object" and not (c.hero or c.development)]
    places = np.linspace(0, len(rest) - 1, min(count, len(rest))).round().astype(int)
    return [rest[place] for place in places]


def captions(count: int = CAPTIONS, seed: int = 0) -> list[str]:
    """Captions of the world's scenes, as the toybox was trained on."""
    rng = np.random.default_rng([seed, 22])
    return [caption(sample_scene(rng), rng) for _ in range(count)]


def pictures_mark(concepts: Sequence[Concept]) -> str:
    """Changes with the training pictures."""
    return digest(b"".join(c.images.tobytes() for c in concepts))[:16]


def look(
    pipe, judge: Judge, eye, concept: Concept, sentences: Sequence[str],
    edits: Sequence[Sequence[Edit]], *, word: str = "",
) -> pd.DataFrame:  # fmt: skip
    """Draw one arm of a concept and read its pictures.

    Args:
        sentences: One for each of `prompts`.
        word: Whose attention is measured; none if empty.

    Returns:
        A row per prompt and seed: `asked`, `lost`, context objects; `found`, whether the judge
        finds the concept; `likeness` to the training pictures; `variety`, mean distance between
        the pictures of a prompt's seeds, 1 minus cosine; `attention`, the word's share of
        cross-attention over pixels and steps; `outside`, the share of its heat map outside the
        object, the concept or its class, nan where neither is found.
    """
    if word:
        with record(pipe, Keep()) as recorder:
            drawn = generate(pipe, sentences, list(SEEDS), edits=edits, recorder=recorder,
                             **SAMPLING)  # fmt: skip
        heat = heat_map(recorder.maps(), word).cpu().numpy()
    else:
        drawn, heat = generate(pipe, sentences, list(SEEDS), edits=edits, **SAMPLING), None
    return read(judge, eye, concept, drawn, heat)


def read(judge: Judge, eye, concept: Concept, drawn: np.ndarray, heat=None) -> pd.DataFrame:
    """`look`, of pictures [prompt, seed, ...] that were drawn already."""
    flat = drawn.reshape(-1, *drawn.shape[2:])
    reading = judge.read(flat)
    nouns = np.asarray(reading.nouns).reshape(*drawn.shape[:2], -1)
    like = likeness(eye, drawn, concept.images)["likeness"]
    seen = eye.embed(flat).reshape(*drawn.shape[:2], -1)
    own = list(judge.nouns).index(concept.name)
    away = share = np.full(drawn.shape[:2], np.nan)
    if heat is not None:
        kinds = [own, list(judge.nouns).index(concept.superclass)]
        away = _outside(heat, reading.places[..., kinds].max(-1)).reshape(drawn.shape[:2])
        share = heat.mean((1, 2)).reshape(drawn.shape[:2]) / SAMPLING["num_inference_steps"]
    rows = []
    for i, prompt in enumerate(prompts()):
        context = [list(judge.nouns).index(noun) for noun in prompt.context]
        variety = 1 - float(seen[i, 0] @ seen[i, 1])
        for j, seed in enumerate(SEEDS):
            rows.append(
                {"prompt": prompt.text, "seed": seed, "asked": len(context),
                 "lost": int((nouns[i, j, context] < FOUND).sum()),
                 "found": float(nouns[i, j, own] >= FOUND), "likeness": float(like[i, j]),
                 "variety": variety, "attention": float(share[i, j]),
                 "outside": float(away[i, j])}
            )  # fmt: skip
    return pd.DataFrame(rows).assign(concept=concept.name)


def _outside(heat: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Share of each heat map [sample, 64, 64] outside the places [sample, 64] of the object."""
    cell = heat.shape[-1] // 8
    pooled = heat.reshape(len(heat), 8, cell, 8, cell).sum((2, 4)).reshape(len(heat), -1)
    inside = places >= FOUND
    shares = 1 - (pooled * inside).sum(1) / pooled.sum(1)
    return np.where(inside.any(1), shares, np.nan)


def _chosen(names: Sequence[str]) -> list[Concept]:
    by_name = {c.name: c for c in load_concepts()}
    return [by_name[name] for name in names]


def _class_rows(pipe, concepts: Sequence[Concept]) -> dict[str, torch.Tensor]:
    return {c.name: initializer_rows(pipe, c, 1)[0].clone() for c in concepts}


def measure_tokens(
    pipe, judge, eye, names: list[str], rows: dict, earlier: dict, others: dict,
    layers: dict, mark: str,
) -> pd.DataFrame:  # fmt: skip
    """Trained tokens, their class words, and remedies that need no retraining.

    Args:
        rows: Concept -> trained row.
        earlier: Concept -> row at `STEPS` of the same training.
        others: Concept -> row at `STEPS` of another seed of training.
        layers: Name -> layers that read the token.
        mark: Of the training pictures.
    """
    every = list(cross_attention_layers(pipe.unet))
    longest = np.linalg.norm(sort_vocabulary(read_table(pipe), None).trained, axis=1).max()
    texts, frames = [p.text for p in prompts()], []
    for concept in _chosen(names):
        class_row = _class_rows(pipe, [concept])[concept.name]
        word, row = concept.superclass, torch.tensor(rows[concept.name])
        noun = next(n for n in OTHER_NOUNS if n != word)
        some = adjusted.remedies(row, class_row, word, float(longest), noun=noun, layers=layers)
        some.append(adjusted.Remedy("class word", class_row))
        few, other = (torch.tensor(found[concept.name]) for found in (earlier, others))
        short = few / few.norm() * class_row.norm()
        some += [
            adjusted.Remedy("token, fewer steps", few),
            adjusted.Remedy("token, fewer steps, other seed", other),
            adjusted.Remedy("token, fewer steps, rescaled", short),
        ]
        for remedy in some:
            sentences, edits = adjusted.prepared(pipe, remedy, word, texts, every)
            watched = word if remedy.name in WATCHED else ""
            table = look(pipe, judge, eye, concept, sentences, edits, word=watched)
            frames.append(table.assign(way=remedy.name, setting=""))
    return pd.concat(frames, ignore_index=True)


def measure_rows(
    pipe, judge, eye, names: list[str], way: str, earlier: dict, mark: str
) -> pd.DataFrame:
    """Textual inversion with a limit or another start, trained anew for `STEPS` steps.

    Args:
        earlier: Concept -> row of the plain training at `STEPS`. Setting "rescaled" is that row at
            the norm of the limited one, the control of a limit on the norm.
    """
    concepts = _chosen(names)
    config = replace(recipe("toybox"), steps=STEPS, **ROW_WAYS[way])
    vocabulary = sort_vocabulary(read_table(pipe), None)
    kind = "encoder_output" if way == "encoder output" else "class_word"
    initial = [initial_rows(pipe, c, kind, vocabulary) for c in concepts]
    limits = {"context regularised": Limits(context=CONTEXT), "anchored": Limits(anchor=ANCHOR)}
    began = time.perf_counter()
    if way in limits:
        lessons = [(c, config) for c in concepts]
        taught, _ = teach(
            pipe, lessons, lambda: LimitedInversion(pipe, lessons, initial, limits[way])
        )
        learned = [rows.detach()[0] for rows in taught.rows]
    else:
        learned = [i.embedding[0] for i in train(pipe, concepts, config, False, initial=initial)]
    seconds, frames = (time.perf_counter() - began) / len(concepts), []
    texts, every = [p.text for p in prompts()], list(cross_attention_layers(pipe.unet))
    for concept, row in zip(concepts, learned, strict=True):
        arms = {"": row}
        if way == "norm penalty":
            plain = torch.tensor(earlier[concept.name])
            arms["rescaled"] = plain / plain.norm() * row.norm()
        for setting, each in arms.items():
            remedy = adjusted.Remedy(way, each)
            arm = adjusted.prepared(pipe, remedy, concept.superclass, texts, every)
            frames.append(look(pipe, judge, eye, concept, *arm).assign(setting=setting))
    return pd.concat(frames).assign(way=way, seconds=seconds)


def measure_layer_tokens(pipe, judge, eye, names: list[str], mark: str) -> pd.DataFrame:
    """P+: a row per layer; all of them, then each layer's alone while the others read the class."""
    concepts = _chosen(names)
    lessons = [(c, replace(recipe("toybox"), steps=STEPS)) for c in concepts]
    initial = [initializer_rows(pipe, c, 1) for c in concepts]
    taught, seconds = teach(pipe, lessons, lambda: LayerTokens(pipe, lessons, initial))
    layers, frames = list(cross_attention_layers(pipe.unet)), []
    for concept, rows in zip(concepts, taught.rows, strict=True):
        own = dict(zip(layers, rows.detach(), strict=True))
        arms = {"": layers} | {f"only {layer}": [layer] for layer in layers}
        for setting, active in arms.items():
            sentences, edits = _layered(pipe, concept.superclass, {n: own[n] for n in active})
            table = look(pipe, judge, eye, concept, sentences, edits)
            frames.append(table.assign(setting=setting))
    return pd.concat(frames).assign(way="per-layer tokens", seconds=seconds)


def measure_single_layers(pipe, judge, eye, names: list[str], rows: dict, mark: str):
    """A trained token in one layer alone, while all others read the class word."""
    frames = []
    for concept in _chosen(names):
        row = torch.tensor(rows[concept.name])
        for layer in cross_attention_layers(pipe.unet):
            sentences, edits = _layered(pipe, concept.superclass, {layer: row})
            table = look(pipe, judge, eye, concept, sentences, edits)
            frames.append(table.assign(setting=f"only {layer}"))
    return pd.concat(frames).assign(way="token in one layer")


def _layered(pipe, word: str, rows: Mapping[str, torch.Tensor]):
    """Sentences with the class word, and edits that let layers read another row in its slot."""
    sentences = [p.text.replace("{}", word) for p in prompts()]
    slots = [encode(pipe, sentence).positions(word) for sentence in sentences]
    edits: list[list[Edit]] = [[] for _ in sentences]
    for layer, row in rows.items():
        swaps = [[Swap(Value(layer, row), positions=slot)] for slot in slots]
        states = text_states(pipe, sentences, edits=swaps)
        for each, own in zip(edits, states, strict=True):
            each.append(Inject(Value(layer, own), layers=(layer,)))
    return sentences, edits


def measure_weights(pipe, judge, eye, names: list[str], way: str, mark: str) -> pd.DataFrame:
    """Custom Diffusion or DreamBooth by LoRA, with pictures of the class as priors."""
    concepts, frames = _chosen(names), []
    together = [concepts] if way == "Custom Diffusion" else [[c] for c in concepts]
    for some in together:
        lessons, initial = _with_priors(pipe, some)
        kind = CustomDiffusion if way == "Custom Diffusion" else lora.Adapters
        taught, each = teach(pipe, lessons, lambda k=kind, ls=lessons, i=initial: k(pipe, ls, i))
        adapters = taught.learned() if way != "Custom Diffusion" else None
        for number, concept in enumerate(some):
            row = taught.rows[number].detach()[0]
            if adapters is None:
                changes = {k: v.detach()[number] for k, v in taught.changes.items()}
                context = changed_weights(pipe.unet, changes)
            else:
                context = lora.adapted(pipe.unet, adapters)
            with context:
                table = look(pipe, judge, eye, concept, *_modified(pipe, concept, row))
            frames.append(table.assign(seconds=2 * each))
    return pd.concat(frames).assign(way=way, setting="")


def _with_priors(pipe, concepts: Sequence[Concept]):
    """Lessons of concepts, said as modifier and class word, and those of their priors."""
    config = replace(recipe("toybox"), steps=STEPS)
    vocabulary = sort_vocabulary(read_table(pipe), None)
    lessons, priors, initial, usual = [], [], [], []
    for concept in concepts:
        said = tuple(t.replace("{}", "{} " + concept.superclass) for t in config.templates)
        sentence = ALONE.text.replace("{}", concept.superclass)
        drawn = generate(pipe, [sentence], list(range(PRIORS)), **SAMPLING)[0]
        prior = replace(concept, name=f"{concept.name} prior", images=drawn)
        lessons.append((concept, replace(config, templates=said)))
        priors.append((prior, config))
        initial.append(initial_rows(pipe, concept, "random_direction", vocabulary))
        usual.append(initializer_rows(pipe, concept, 1))
    return [*lessons, *priors], [*initial, *usual]


def _modified(pipe, concept: Concept, row: torch.Tensor):
    """Sentences with the class word twice, the first one replaced by the modifier's row."""
    word = f"{concept.superclass} {concept.superclass}"
    sentences = [p.text.replace("{}", word) for p in prompts()]
    first = [encode(pipe, sentence).positions(word)[:1] for sentence in sentences]
    return sentences, [[Swap(Value("modifier", row), positions=slot)] for slot in first]


def inverse(pipe, said: list[str]) -> np.ndarray:
    """C⁻¹ of captions, [d_model, d_model]."""
    return equations.inverse_covariance(perfusion.caption_states(pipe, said)).cpu().numpy()


def train_edits(pipe, names: list[str], variant: str, inverse: np.ndarray, mark: str) -> dict:
    """Train key-locked edits of one variant.

    Args:
        inverse: C⁻¹.

    Returns:
        Concept -> its file's bytes; `seconds` of training for each concept.
    """
    options = dict(EDITS[variant])
    seed, picture = options.pop("seed", 0), options.pop("picture", None)
    kind = options.pop("mask", "known")
    concepts = _chosen(names)
    base = InversionConfig(
        steps=EDIT_STEPS, learning_rate=perfusion.WORD_RATE, batch_size=2, seed=seed,
        templates=perfusion.TEMPLATES, bfloat16=recipe("toybox").bfloat16,
    )  # fmt: skip
    side = pipe.unet.config.sample_size
    masks = [masks_of(c, side, kind, number) for number, c in enumerate(concepts)]
    if picture is not None:
        concepts = [replace(c, images=c.images[picture : picture + 1]) for c in concepts]
        masks = [mask[picture : picture + 1] for mask in masks]
    edits, seconds = perfusion.train(
        pipe, [(c, base) for c in concepts], torch.from_numpy(inverse),
        perfusion.EditConfig(**options), None if kind == "none" else masks,
    )  # fmt: skip
    found = {
        name: np.frombuffer(concept_edits.to_bytes(edit), np.uint8)
        for name, edit in zip(names, edits, strict=True)
    }
    return found | {"seconds": np.array(seconds)}


def masks_of(concept: Concept, side: int, kind: str, number: int = 0) -> np.ndarray:
    """Where the concept is in its training pictures, [picture, side, side] in [0, 1].

    Its ground is paler than any object: a pixel counts that is far from the colours of the
    picture's border. "random" moves each mask, rolled around, to a random place.
    """
    pixels = concept.images.astype(float)
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
    usual = np.median(border, axis=1)[:, None, None]
    far = np.abs(pixels - usual).max(-1) > 60
    cell = PICTURE // side
    found = far.reshape(len(far), side, cell, side, cell).max((2, 4)).astype(np.float32)
    if kind == "random":
        rng = np.random.default_rng([number, 7])
        shifts = rng.integers(side // 4, 3 * side // 4, (len(found), 2))
        found = np.stack([np.roll(m, tuple(s), (0, 1)) for m, s in zip(found, shifts, strict=True)])
    return found


def settings_of(variant: str) -> list[tuple[str, float, float]]:
    """Name, β and τ of the gates that a variant's edits are drawn with."""
    if variant == "position":
        return [("", 0.0, 1.0)]
    swept = BETAS if variant in SWEPT else BETAS[1:2]
    found = [(f"β {beta:g}, τ {TAU:g}", beta, TAU) for beta in swept]
    if variant == "standard":
        found += [(f"β {beta:g}, τ {tau:g}", beta, tau) for tau in (0.05, 0.1) for beta in BETAS]
        found += [(f"closed {beta:g}", beta, TAU) for beta in CLOSED]
    return found


def draw_edits(
    pipe, judge, eye, names: list[str], edits: dict, variant: str, mark: str
) -> pd.DataFrame:
    """Draw every concept with its edit, at all gates of the variant."""
    frames = []
    for concept in _chosen(names):
        edit = concept_edits.from_bytes(edits[concept.name].tobytes())
        for setting, beta, tau in settings_of(variant):
            watched = variant == "standard" and setting == f"β {BETAS[1]:g}, τ {TAU:g}"
            table = draw_edit(pipe, judge, eye, concept, edit, beta, tau, watched=watched)
            frames.append(table.assign(setting=setting))
        if variant == "standard":
            table = draw_edit(pipe, judge, eye, concept, edit, BETAS[0], TAU, "global")
            frames.append(table.assign(setting="global lock"))
    seconds = float(edits["seconds"])
    return pd.concat(frames).assign(way=f"Perfusion, {variant}", seconds=seconds)


def draw_edit(
    pipe, judge, eye, concept: Concept, edit: concept_edits.ConceptEdit, beta: float, tau: float,
    lock: str = "local", watched: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Draw one concept's edit at one gate.

    Args:
        lock: "local", or "global": keys come from the whole prompt with the class word.
        watched: Whether attention outside the object is measured.
    """
    word = concept.superclass
    sentences = [p.text.replace("{}", word) for p in prompts()]
    slots = [encode(pipe, sentence).positions(word) for sentence in sentences]
    edits: list[list[Edit]] = [
        [Swap(Value("word", edit.embedding[0][0]), positions=slot)] for slot in slots
    ]
    if lock == "global":
        usual = text_states(pipe, sentences)
        for each, states in zip(edits, usual, strict=True):
            each.append(Inject(Value(word, states), into=("key",)))
        edit = replace(edit, keys={})
    if not edit.positional:
        with concept_edits.applied(pipe, [edit.tuned(beta, tau)]):
            return look(pipe, judge, eye, concept, sentences, edits,
                        word=word if watched else "")  # fmt: skip
    drawn = []
    for sentence, each, slot in zip(sentences, edits, slots, strict=True):
        with concept_edits.applied(pipe, [edit], positions=slot):
            drawn.append(generate(pipe, [sentence], list(SEEDS), edits=[each], **SAMPLING))
    return read(judge, eye, concept, np.concatenate(drawn))


def measure_pairs(
    pipe, judge, names: list[str], rows: dict, edits: dict, mark: str
) -> pd.DataFrame:
    """Two concepts in one picture: two edits, in both versions, two tokens, two class words.

    Returns:
        A row per pair, arm and seed: `first`, `second`, whether each is found as the concept, see
        `as_concept`; `first_found`, `second_found`, whether it or its class is.
    """
    concepts, found = _chosen(names), []
    for one, two in zip(concepts[::2], concepts[1::2], strict=False):
        both = [concept_edits.from_bytes(edits[c.name].tobytes()) for c in (one, two)]
        tuned = [edit.tuned(BETAS[1], TAU) for edit in both]
        for text in ("a {} and a {}", "a {} next to a {}"):
            sentence = text.format(one.superclass, two.superclass)
            arms = {
                "edits, joint": [edit.embedding[0][0] for edit in both],
                "edits, one by one": [edit.embedding[0][0] for edit in both],
                "tokens": [torch.tensor(rows[c.name]) for c in (one, two)],
                "class words": None,
            }
            for arm, placed in arms.items():
                edited = arm.startswith("edits")
                context = nullcontext()
                if edited:
                    context = concept_edits.applied(pipe, tuned, joint=arm == "edits, joint")
                swaps = pair_swaps(pipe, sentence, (one, two), placed)
                with context:
                    drawn = generate(pipe, [sentence], list(range(4)), edits=[swaps], **SAMPLING)
                reading = judge.read(drawn[0])
                seen = pd.DataFrame(
                    {
                        "first": as_concept(judge, reading, one.name),
                        "second": as_concept(judge, reading, two.name),
                        "first_found": judge.present(reading, one.name),
                        "second_found": judge.present(reading, two.name),
                    }
                )
                about = {"pair": f"{one.name}, {two.name}", "prompt": text, "arm": arm}
                found.append(seen.astype(float).assign(**about, seed=range(len(seen))))
    return pd.concat(found, ignore_index=True)


def as_concept(judge, reading, name: str) -> np.ndarray:
    """Is each picture's object the concept and not only its class? bool [picture].

    A composed concept has its colour; an object near to a noun is likelier itself than that noun.
    """
    colour = concept_entry(name).get("colour")
    if colour is None:
        return alike(judge, reading, name)
    return judge.present(reading, name) & (np.array(judge.colour(reading, name)) == colour)


def pair_swaps(pipe, sentence: str, pair: Sequence, placed) -> list[Edit]:
    """Edits that put two rows at the class words of a pair; none where nothing is to be placed.

    Args:
        pair: Two things with a `superclass`.
        placed: A row for each, or None.
    """
    if placed is None:
        return []
    row = encode(pipe, sentence)
    if pair[0].superclass == pair[1].superclass:
        places = row.positions(pair[0].superclass)
    else:
        places = [row.positions(c.superclass)[0] for c in pair]
    return [
        Swap(Value("word", vector), positions=(place,))
        for vector, place in zip(placed, places, strict=True)
    ]


@contextmanager
def _telling(tell: Callable[[str], None], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    tell(f"{what}: {time.perf_counter() - began:.0f} s")


def carry_out(
    store: Cache, pipe: Lazy, judge: Lazy, eye: Lazy, variants: pd.DataFrame,
    count: int = CONCEPTS, tell: Callable[[str], None] = print,
) -> tuple[dict[str, pd.DataFrame], dict[str, bytes]]:  # fmt: skip
    """Train and draw everything; every part is kept as it is done.

    Args:
        variants: Of the trained tokens, see `embedding_table.load_variants`.
        count: Of the held-out concepts.

    Returns:
        Tables `pictures` and `pairs`, and the files of the standard edits by concept.
    """
    seen = {"pipe": pipe, "judge": judge, "eye": eye}
    frames, edits = [], {}
    for number in range(len(shares(count))):
        tables, trained = measure_share(store, **seen, variants=variants, number=number,
                                        count=count, tell=tell)  # fmt: skip
        frames += tables
        edits |= trained
    names = list(edits)
    with _telling(tell, "pairs"):
        pairs = store.cached("remedy_pairs", measure_pairs, pipe=pipe, judge=judge, names=names,
                             rows=_only(token_rows(variants)[0], names), edits=edits,
                             mark=pictures_mark(load_concepts()))  # fmt: skip
    files = {name: content.tobytes() for name, content in edits.items()}
    return {"pictures": pd.concat(frames, ignore_index=True), "pairs": pairs}, files


def shares(count: int) -> list[list[str]]:
    """Names of the held-out concepts, in batches that are trained together."""
    names = [c.name for c in held_out(load_concepts(), count)]
    return [names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER)]


def measure_share(
    store: Cache, pipe: Lazy, judge: Lazy, eye: Lazy, variants: pd.DataFrame, number: int,
    count: int = CONCEPTS, tell: Callable[[str], None] = print,
) -> tuple[list[pd.DataFrame], dict[str, np.ndarray]]:  # fmt: skip
    """Train and draw one batch of concepts; shares can be measured side by side.

    Args:
        variants, count: As in `carry_out`.
        number: Of the batch, from 0.

    Returns:
        Tables of pictures, the first batch's with those of single layers on other concepts, and
        the bytes of the standard edits by concept.
    """
    every, names = load_concepts(), shares(count)[number]
    rows, earlier, others = token_rows(variants)
    seen = {"pipe": pipe, "judge": judge, "eye": eye, "mark": pictures_mark(every)}

    def part(name, function, **more):
        with _telling(tell, f"{number}: {name} {more.get('way', more.get('variant', ''))}"):
            return store.cached(name, function, **{"names": names, **more})

    looked_at = [c.name for c in every if c.development]
    alone = part("remedy_layers", measure_single_layers, **seen | {"names": looked_at},
                 rows=_only(rows, looked_at))  # fmt: skip
    few = {"earlier": _only(earlier, names)}
    frames = [
        part("remedy_tokens", measure_tokens, rows=_only(rows, names), others=_only(others, names),
             layers=layer_choice(alone), **few, **seen),
        *(part("remedy_rows", measure_rows, way=way, **few, **seen) for way in ROW_WAYS),
        part("remedy_layer_tokens", measure_layer_tokens, **seen),
        *(part("remedy_weights", measure_weights, way=way, **seen) for way in WEIGHT_WAYS),
    ]  # fmt: skip
    whitening = store.cached("remedy_inverse", inverse, pipe=pipe, said=captions())
    kept = {}
    for variant in EDITS:
        trained = part("remedy_edits", train_edits, variant=variant, inverse=whitening, pipe=pipe,
                       mark=seen["mark"])  # fmt: skip
        frames.append(part("remedy_drawn", draw_edits, variant=variant, edits=trained, **seen))
        if variant == "standard":
            kept = _only(trained, names)
    return frames if number else [alone, *frames], kept


def _only(rows: Mapping, names: Sequence[str]) -> dict:
    return {name: rows[name] for name in names if name in rows}


def token_rows(variants: pd.DataFrame) -> tuple[dict, dict, dict]:
    """Trained rows by concept: final, at `STEPS` steps, and of another seed at these."""
    final, earlier, others = {}, {}, {}
    for token in variants.itertuples():
        if token.variant not in ("standard", "seed_1"):
            continue
        path = token.trajectory.set_index("step")["vector"]
        at_few = earlier if token.variant == "standard" else others
        at_few[token.concept] = np.asarray(path[STEPS], np.float32)
        if token.variant == "standard":
            final[token.concept] = np.asarray(token.vector, np.float32)
    return final, earlier, others


def layer_choice(alone: pd.DataFrame, seed: int = 0) -> dict[str, list[str]]:
    """The quarter of the layers that lose most when they alone read a token, and a random one.

    Args:
        alone: From `measure_single_layers`, of concepts that nothing else is told of.
    """
    lost = alone.groupby("setting", sort=False)["lost"].mean()
    paths = [setting.removeprefix("only ") for setting in lost.index]
    ranked = ordered(paths, lost.to_numpy())
    count = quarter(len(paths))
    rest = [str(p) for p in np.random.default_rng(seed).permutation(ranked[count:])[:count]]
    return {"layers found": ranked[:count], "random layers": rest}


def estimate(pipe, concepts: int, tell: Callable[[str], None]) -> None:
    """Say what `carry_out` costs at most, from one small batch drawn here."""
    generate(pipe, ["a toy"], [0], num_inference_steps=1)
    began = time.perf_counter()
    generate(pipe, ["a toy"] * 4, [0, 1], num_inference_steps=5)
    picture = (time.perf_counter() - began) / 40 * SAMPLING["num_inference_steps"]
    layers = len(cross_attention_layers(pipe.unet))
    gates = sum(len(settings_of(variant)) for variant in EDITS) + 1
    arms = 14 + len(ROW_WAYS) + 1 + 1 + layers + len(WEIGHT_WAYS) + gates
    pictures = arms * len(prompts()) * len(SEEDS) * concepts
    steps = STEPS * (len(ROW_WAYS) + 2 + 2 * len(WEIGHT_WAYS)) + EDIT_STEPS * len(EDITS)
    # A step of two pictures, forward and backward, costs about as much as 1.3 steps of drawing.
    seconds = picture * pictures + steps * concepts * 1.3 * picture / 10
    tell(f"{pictures} pictures and {steps * concepts} steps of training: about "
         f"{seconds / 60:.0f} min on one core")  # fmt: skip


def fronts(table: pd.DataFrame, way: str, tau: float = TAU) -> pd.Series:
    """Area under the front of likeness against objects kept, by concept, sweeping the gate's bias.

    The area that is dominated by the points of the sweep, with both axes in [0, 1].

    Args:
        table: Rows of `pictures`.
    """
    names = [f"β {beta:g}, τ {tau:g}" for beta in BETAS]
    points = axes(table[(table["way"] == way) & table["setting"].isin(names)])
    return points.groupby("concept", sort=False).apply(
        lambda some: dominated(some[["likeness", "kept"]].to_numpy()), include_groups=False
    )


def dominated(points: np.ndarray) -> float:
    """Area of the union of rectangles from the origin to points [point, 2] in [0, 1]²."""
    area, height = 0.0, 0.0
    for x, y in sorted(np.clip(points, 0, 1).tolist(), reverse=True):
        if y > height:
            area, height = area + x * (y - height), y
    return area


def axes(table: pd.DataFrame) -> pd.DataFrame:
    """Per way, setting and concept: the two axes, and coexistence and balance.

    Returns:
        `likeness` of the concept drawn alone; `kept`, the share of the other objects; `lost`,
        objects per picture; `found`, share of pictures with the concept among others; `together`,
        share with the concept and all others; `balance`, found minus kept.
    """
    groups = ["way", "setting", "concept"]
    alone = table[table["asked"] == 0].groupby(groups, sort=False)["likeness"].mean()
    among = table[table["asked"] > 0].copy()
    among["kept"] = 1 - among["lost"] / among["asked"]
    among["together"] = among["found"] * (among["lost"] == 0)
    means = among.groupby(groups, sort=False)[["kept", "lost", "found", "together"]].mean()
    return means.assign(likeness=alone, balance=means["found"] - means["kept"]).reset_index()
