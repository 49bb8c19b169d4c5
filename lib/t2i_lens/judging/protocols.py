"""The interface of a judge: probabilities of named objects in pictures."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

FOUND = 0.5  # an object is in the picture when the judge gives it at least this probability


@runtime_checkable
class Reading(Protocol):
    """Reading of a judge; `nouns` are probabilities [picture, noun]."""

    nouns: Float[np.ndarray, "picture noun"]


@runtime_checkable
class Judge(Protocol):
    """Anything that finds named objects in pictures."""

    nouns: list[str]

    def read(self, images: UInt8[np.ndarray, "picture height width 3"]) -> Reading: ...


def judge_scores(quality: dict) -> dict[str, float | None]:
    """The judge's own scores on held-out pictures, in [0, 1].

    Args:
        quality: The model's `quality.json`, see `study.subject`.

    Returns:
        `recall` and `precision`, means over nouns, and the share of objects whose `style` is read
        right. What the file lacks is None.
    """
    scores = quality.get("judge", {})
    means = {name: scores.get(f"{name}_mean_per_noun") for name in ("recall", "precision")}
    return means | {"style": scores.get("style", {}).get("value")}
