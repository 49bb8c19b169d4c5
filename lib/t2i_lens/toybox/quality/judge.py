"""Quality of the toybox's judge on held-out pictures of the world.

Shown in: book/toybox.md
"""

from collections import Counter

import numpy as np

from t2i_lens.toybox.judge import FOUND, Judge, classes, mixed_picture, other_noun
from t2i_lens.toybox.quality.intervals import share
from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.scenes import draw, render, sample_scene


def judge_quality(judge: Judge, scenes: int = 2000, seed: int = 101) -> dict:
    """The judge on held-out world pictures: nouns, by size too, colours, styles, words, mixtures.

    Nouns are the network's own classes; the most frequent confusions are listed.
    """
    rng = np.random.default_rng(seed)
    known = classes()
    stated = [sample_scene(rng, nouns=known, held_out_too=True) for _ in range(scenes)]
    reading = judge.read(np.stack([render(scene, rng) for scene in stated]))
    columns = [judge.nouns.index(noun) for noun in known]
    found = reading.nouns[:, columns] > FOUND
    # An object near to a noun counts for both, so of two that are kin only the likelier is found.
    truth = np.array([[any(t.noun == n for t in s.things) for n in known] for s in stated])
    kin = np.array([[_kin(a, b) for b in known] for a in known])
    excused = (truth @ kin > 0) & ~truth
    hit, claimed = (truth & found).sum(0), (found & ~excused).sum(0)
    hits: dict[str, list[bool]] = {"colour": [], "style": [], "word": []}
    by_size: dict[str, list[bool]] = {"small": [], "medium": [], "large": []}
    confused: Counter[str] = Counter()
    for i, scene in enumerate(stated):
        for thing in scene.things:
            if thing.word:
                hits["word"].append(judge.word(reading)[i] == thing.word)
                continue
            column = judge.nouns.index(thing.noun)
            recognised = reading.nouns[i, column] > FOUND
            by_size[thing.size or "medium"].append(bool(recognised))
            colours = [*judge.colours, None]
            hits["colour"].append(colours[reading.colours[i, column].argmax()] == thing.colour)
            hits["style"].append(judge.styles[reading.styles[i, column].argmax()] == thing.style)
            if not recognised:
                false = np.flatnonzero(found[i] & ~truth[i] & ~excused[i])
                confused.update(f"{thing.noun} as {known[wrong]}" for wrong in false)
    return {
        "recall_mean_per_noun": float((hit / truth.sum(0)).mean()),
        "recall_worst_noun": float((hit / truth.sum(0)).min()),
        "precision_mean_per_noun": float((hit / np.maximum(claimed, 1)).mean()),
        "precision_worst_noun": float((hit / np.maximum(claimed, 1)).min()),
        **{name: share(right) for name, right in hits.items()},
        **{f"recall_of_{size}_objects": share(right) for size, right in by_size.items()},
        **mixture_quality(judge),
        "pictures": scenes,
        "most_confused": dict(confused.most_common(8)),
    }


def _kin(first: str, second: str) -> bool:
    """Is one of the two an object near to the other, or are both near to one noun?"""
    near = {c["name"]: c["superclass"] for c in world_words()["concepts"] if "icons" in c}
    return first != second and near.get(first, first) == near.get(second, second)


def mixture_quality(judge: Judge, pictures: int = 400, seed: int = 109) -> dict:
    """Mixtures made as in the judge's training found, and whole objects taken for mixtures."""
    rng = np.random.default_rng(seed)
    of_mixtures, of_whole_objects = [], []
    for _ in range(pictures):
        scene = sample_scene(rng, (1.0, 0.0, 0.0, 0.0))
        picture, boxes = draw(scene, rng)
        other = other_noun(scene, list(world_words()["nouns"]), rng)
        mixed = mixed_picture(picture, boxes[0], other, rng)
        pair = scene.things[0].noun, other.noun
        of_mixtures.append(bool(judge.mixed(judge.read(mixed[None]), *pair)[0]))
        of_whole_objects.append(bool(judge.mixed(judge.read(picture[None]), *pair)[0]))
    return {
        "mixture_found": share(of_mixtures),
        "whole_object_taken_for_mixture": share(of_whole_objects),
    }
