"""Where things stand: on a grid, so that what is stated of them holds and no boxes overlap.

A drawing on the grid looks the same to the autoencoder wherever it stands, so the U-Net learns one
pattern of latents for an object and not one for each offset.

Shown in: book/toybox.md
"""

from collections.abc import Sequence

import numpy as np

Box = tuple[int, int]  # width and height, or a left top corner, in pixels

PICTURE = 64  # pixels
GRID = 8  # pixels, two cells of the latents
BOXES = {"small": 24, None: 32, "large": 40}  # side of an object's box in pixels, by stated size
SIGN_BOX = (64, 32)  # width and height
UPRIGHT = ("above", "on top of")


def place(boxes: Sequence[Box], relation: str | None, rng: np.random.Generator) -> list[Box]:
    """Left top corners, in pixels, of one to three boxes.

    Args:
        boxes: Width and height of each, multiples of 8; those of two fit side by side, those of
            three are at most 32.
        relation: Between the first two.
    """
    if len(boxes) == 1:
        return [tuple(_step(PICTURE - side, rng) for side in boxes[0])]
    # Everything is worked out as if the pair stood side by side, and turned if it does not.
    wide = max(width for width, _ in boxes) > PICTURE // 2 + GRID  # a sign needs the width
    upright = relation in UPRIGHT or (wide and len(boxes) == 2)
    turned = [box[::-1] if upright else box for box in boxes]
    ordered = relation in ("left of", *UPRIGHT)
    swap = not ordered and rng.random() < 0.5
    pair = turned[1::-1] if swap else turned[:2]
    corners = _pair(pair, relation, rng) if len(boxes) == 2 else _triangle(pair, turned[2], rng)
    if swap:
        corners[:2] = corners[1::-1]
    return [corner[::-1] if upright else corner for corner in corners]


def _step(slack: int, rng: np.random.Generator) -> int:
    return GRID * int(rng.integers(slack // GRID + 1))


def _pair(pair: Sequence[Box], relation: str | None, rng: np.random.Generator) -> list[Box]:
    """Side by side, at most a grid step apart in height; the one on top touches the other."""
    (w0, h0), (w1, h1) = pair
    slack = PICTURE - w0 - w1
    gap = 0 if relation == "on top of" else _step(slack, rng)
    left = _step(slack - gap, rng)
    y0 = _step(PICTURE - h0, rng)
    if relation == "on top of":
        y1 = int(np.clip(y0 + (h0 - h1) // 2, 0, PICTURE - h1))
    else:
        near = [y for y in range(0, PICTURE - h1 + 1, GRID) if abs(y + h1 / 2 - y0 - h0 / 2) <= 8]
        y1 = int(rng.choice(near)) if near else (PICTURE - h1) // 2
    return [(left, y0), (left + w0 + gap, y1)]


def _triangle(pair: Sequence[Box], third: Box, rng: np.random.Generator) -> list[Box]:
    """The pair in one half, each in its quarter; the third anywhere in the other half."""
    half = PICTURE // 2
    top = half * int(rng.integers(2))
    corners = [
        (slot + _step(half - width, rng), top + _step(half - height, rng))
        for slot, (width, height) in zip((0, half), pair, strict=True)
    ]
    width, height = third
    return [*corners, (_step(PICTURE - width, rng), half - top + _step(half - height, rng))]
