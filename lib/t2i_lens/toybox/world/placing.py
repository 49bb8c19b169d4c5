"""Where things stand: anywhere their relation allows, on a lattice as fine as the latents' cells.

On the lattice a drawing looks the same to the autoencoder wherever it stands. Places follow from
chance and not from the caption, so one caption has many pictures.

Shown in: book/toybox.md
"""

from collections.abc import Sequence

import numpy as np

Box = tuple[int, int]  # width and height, or a left top corner, in pixels

PICTURE = 64  # pixels
LATTICE = 4  # pixels, one cell of the latents
TRIES = 96


def place(boxes: Sequence[Box], relation: str | None, rng: np.random.Generator) -> list[Box] | None:
    """Left top corners, in pixels, of boxes that do not overlap.

    Args:
        boxes: Width and height of each, at most the picture's.
        relation: Between the first two: left of, above, on top of (above, and touching), next to
            (side by side); any other word asks nothing.
    Returns: None if no such places were found in `TRIES` random ones.
    """
    sizes = np.array(boxes)  # [box, 2]
    steps = (PICTURE - sizes) // LATTICE + 1
    low = rng.integers(0, steps, (TRIES, *steps.shape)) * LATTICE  # [try, box, 2]
    if relation == "on top of" and len(sizes) > 1:
        low[:, 1, 1] = low[:, 0, 1] + sizes[0, 1]  # the first stands on the second
    high = low + sizes
    right = (high <= PICTURE).all((1, 2))
    for a in range(len(sizes)):
        for b in range(a):
            right &= ((high[:, a] <= low[:, b]) | (high[:, b] <= low[:, a])).any(1)
    if len(sizes) > 1:
        right &= _related(relation, low, high)
    if not right.any():
        return None
    return [(int(x), int(y)) for x, y in low[right.argmax()]]


def _related(relation: str | None, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Does the relation hold between the first two boxes of each try? bool `[try]`."""
    beside = (low[:, 0, 1] < high[:, 1, 1]) & (low[:, 1, 1] < high[:, 0, 1])
    over = (low[:, 0, 0] < high[:, 1, 0]) & (low[:, 1, 0] < high[:, 0, 0])
    if relation == "left of":
        return beside & (high[:, 0, 0] <= low[:, 1, 0])
    if relation in ("above", "on top of"):
        return over & (high[:, 0, 1] <= low[:, 1, 1])
    if relation == "next to":
        return beside
    return np.ones(len(low), bool)
