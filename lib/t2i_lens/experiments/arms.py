"""Designs of experiments: every arm with every prompt and every seed, on labelled axes.

A prompt has a slot for its subject, and an arm fills it: with a word, or with a word whose row is
edited. All arms are drawn from the same latents, so a difference of arms is a paired one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr

from t2i_lens.base.files import digest
from t2i_lens.base.lazy import canonical
from t2i_lens.base.prompts import Prompt
from t2i_lens.base.shapes import ImageGrid
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.models.tokens import encode
from t2i_lens.probes.edits import Edit
from t2i_lens.probes.sampling import generate

PICTURE = ("height", "width", "channel")


@dataclass(frozen=True)
class Arm:
    """What fills the slot.

    Attributes:
        concept: Whose arm it is; every concept of a design is compared in the same arms.
        name: Of the arm.
        word: Stands in the slot.
        subject: The noun that a judge should then find.
        edits: Made at the positions of the word.
    """

    concept: str
    name: str
    word: str
    subject: str = ""
    edits: tuple[Edit, ...] = ()

    @property
    def fields(self) -> dict:
        """All that the arm's pictures and readings depend on."""
        names = {"concept": self.concept, "arm": self.name, "word": self.word}
        return names | {"subject": self.subject, "edits": self.edits}

    @property
    def fingerprint(self) -> str:
        return json.dumps(canonical(self.fields))


@dataclass(frozen=True)
class Design:
    """Every arm with every prompt and every seed.

    Attributes:
        arms: Of one or more concepts, concept by concept, each in the same arms.
        prompts: With a slot for the arm's word.
        seeds: One latent each, the same in all arms; none where sentences are only read.
    """

    arms: Sequence[Arm]
    prompts: Sequence[Prompt]
    seeds: Sequence[int] = ()

    def __post_init__(self):
        product = [(concept, name) for concept in self.concepts for name in self.names]
        if [(arm.concept, arm.name) for arm in self.arms] != product:
            raise ValueError("the concepts of a design differ in their arms, or an arm is twice")

    @cached_property
    def concepts(self) -> list[str]:
        return list(dict.fromkeys(arm.concept for arm in self.arms))

    @cached_property
    def names(self) -> list[str]:
        """Of the arms."""
        return list(dict.fromkeys(arm.name for arm in self.arms))

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever what is drawn or asked for would change."""
        prompts = [[prompt.text, prompt.context] for prompt in self.prompts]
        fields = [[arm.fields for arm in self.arms], prompts, list(self.seeds)]
        return digest(json.dumps(canonical(fields)).encode())

    def label(self, values: np.ndarray, *more: str, name: str | None = None) -> xr.DataArray:
        """Measured values with the design's axes: concept, arm, prompt and, if there are, seed.

        Args:
            values: In the order of arms, prompts and seeds, seeds fastest, flat or not.
            more: Names of the axes that follow.
            name: Of the array.
        """
        axes = {
            "concept": self.concepts,
            "arm": self.names,
            "prompt": [prompt.text for prompt in self.prompts],
        } | ({"seed": list(self.seeds)} if self.seeds else {})
        values = np.asarray(values)
        shape = [len(labels) for labels in axes.values()]
        values = values.reshape(*shape, *values.shape[values.ndim - len(more) :])
        return xr.DataArray(values, axes, (*axes, *more), name)


def arms_of(concept: Concept, **words: str) -> list[Arm]:
    """A concept's placeholder and its class word, and other words by name of the arm.

    Args:
        words: Name of an arm, with `_` for spaces -> another noun, which is its own subject.
    """
    pair = [
        Arm(concept.name, "TI token", concept.placeholder_token, concept.name),
        Arm(concept.name, "class word", concept.superclass, concept.superclass),
    ]
    nouns = {name.replace("_", " "): word for name, word in words.items()}
    return pair + [Arm(concept.name, name, noun, noun) for name, noun in nouns.items()]


def placed(
    pipe, arms: Sequence[Arm], prompts: Sequence[Prompt]
) -> tuple[list[str], list[list[Edit]]]:
    """The sentences of arms, and their edits at the slot of each, arms x prompts, prompts fastest.

    Raises:
        ValueError: an edit that has no positions.
    """
    sentences, edits = [], []
    for arm in arms:
        for edit in arm.edits:
            if not hasattr(edit, "positions"):
                raise ValueError(f"{type(edit).__name__} has no positions to put at a slot")
        for prompt in prompts:
            sentence = prompt.text.replace("{}", arm.word)
            slot = encode(pipe, sentence).positions(arm.word) if arm.edits else ()
            sentences.append(sentence)
            edits.append([replace(edit, positions=slot) for edit in arm.edits])
    return sentences, edits


def distinct(arms: Sequence[Arm]) -> tuple[list[Arm], list[int]]:
    """Arms without those that draw the same as another, and the place of each arm's twin."""
    keys = [(arm.word, tuple(map(repr, arm.edits))) for arm in arms]
    order = list(dict.fromkeys(keys))
    return [arms[keys.index(key)] for key in order], [order.index(key) for key in keys]


def draw(pipe, design: Design, **sampling) -> xr.DataArray:
    """Draw a design; arms with equal words and edits share their pictures.

    Args:
        pipe: A pipeline to which the placeholders of the arms are attached.
        sampling: Passed to `sampling.generate`.

    Returns:
        Bytes 0..255, [concept, arm, prompt, seed, height, width, channel].
    """
    unique, twins = distinct(design.arms)
    pictures = draw_arms(pipe, unique, design.prompts, design.seeds, **sampling)
    pictures = pictures.reshape(len(unique), len(design.prompts), *pictures.shape[1:])
    return design.label(pictures[twins], *PICTURE, name="pictures")


def draw_arms(
    pipe, arms: Sequence[Arm], prompts: Sequence[Prompt], seeds: Sequence[int], **sampling
) -> ImageGrid:
    """Pictures of arms x prompts, prompts fastest, and seeds; see `draw` and `placed`."""
    sentences, edits = placed(pipe, arms, prompts)
    return generate(pipe, sentences, list(seeds), edits=edits, **sampling)


def apart(values: xr.DataArray, axis: str) -> dict[str | int | float, xr.DataArray]:
    """The parts of an array along one of its axes, by their labels."""
    labels = values[axis].values.tolist()
    return {label: values.sel({axis: label}) for label in labels}
