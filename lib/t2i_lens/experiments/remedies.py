"""Ways of teaching a concept and remedies for a trained token, each drawn with its concepts.

Shown in: notebooks/23_remedies.ipynb
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from t2i_lens.experiments.remedy_pictures import ALONE, SAMPLING, concepts_of, look, prompts
from t2i_lens.inversion.embedding_table import read_table, sort_vocabulary
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.inversion.starts import initial_rows
from t2i_lens.inversion.training import initializer_rows, train
from t2i_lens.inversion.training_plan import L2_PENALTY, recipe
from t2i_lens.methods import lora
from t2i_lens.methods import remedies as adjusted
from t2i_lens.methods.teaching import (
    CustomDiffusion,
    LayerTokens,
    LimitedInversion,
    Limits,
    changed_weights,
    teach,
)
from t2i_lens.models.tokens import encode
from t2i_lens.probes.edits import Edit, Inject, Swap, Value
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.probes.unet_hooks import cross_attention_layers

STEPS = 100  # of textual inversion and of the other ways
PRIORS = 6  # pictures of the class, for prior preservation
CONTEXT, ANCHOR = 0.5, 0.95  # weights of CoRe's and of Compositional Inversion's terms
OTHER_NOUNS = ("turtle", "guitar")  # the second where the first is the class word
WATCHED = ("token", "class word", "key lock, local")  # whose attention is measured
# Ways of teaching that learn a row, with what they change in textual inversion's settings.
ROW_WAYS = {
    "norm penalty": {"l2_penalty": L2_PENALTY},
    "direction only": {"fixed_norm": True},
    "encoder output": {},
    "context regularised": {},
    "anchored": {},
}
WEIGHT_WAYS = ("Custom Diffusion", "DreamBooth LoRA")


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
    for concept in concepts_of(names):
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
    concepts = concepts_of(names)
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
    concepts = concepts_of(names)
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
    for concept in concepts_of(names):
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
    concepts, frames = concepts_of(names), []
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
