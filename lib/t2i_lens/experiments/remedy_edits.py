"""Key-locked edits of held-out concepts: train every variant, draw it at several gates, in pairs.

Shown in: notebooks/22_perfusion.ipynb
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from t2i_lens.experiments.remedy_pictures import SAMPLING, SEEDS, concepts_of, look, prompts, read
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.inversion.training_data import InversionConfig
from t2i_lens.inversion.training_plan import recipe
from t2i_lens.methods.perfusion import concept_edits, equations
from t2i_lens.methods.perfusion import training as perfusion
from t2i_lens.models.tokens import encode
from t2i_lens.probes.edits import Edit, Inject, Swap, Value
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.toybox.takeover import alike, concept_entry
from t2i_lens.toybox.world.captions import caption
from t2i_lens.toybox.world.placing import PICTURE
from t2i_lens.toybox.world.scenes import sample_scene

CAPTIONS = 1000  # of the toybox's world, for C⁻¹
EDIT_STEPS = 100  # of training
BETAS, TAU = (0.5, 0.65, 0.8), 0.15
CLOSED = (3.0, 3.5, 4.0)  # biases at which no token passes the gate
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


def captions(count: int = CAPTIONS, seed: int = 0) -> list[str]:
    """Captions of the world's scenes, as the toybox was trained on."""
    rng = np.random.default_rng([seed, 22])
    return [caption(sample_scene(rng), rng) for _ in range(count)]


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
    concepts = concepts_of(names)
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
    for concept in concepts_of(names):
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
    concepts, found = concepts_of(names), []
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
