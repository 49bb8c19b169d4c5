"""Where things stand: on a grid, so that what is stated of them holds and no boxes overlap.

A drawing on the grid looks the same to the autoencoder wherever it stands, so the U-Net learns one
pattern of latents for an object and not one for each offset. What is said first stands on the left
or on top, and chance moves a scene by one grid step only: a caption says almost everything about
its picture, so a small U-Net learns to read it.

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
    shift = GRID * int(rng.integers(-1, 2))
    if len(boxes) == 1:
        width, height = (PICTURE - side for side in boxes[0])
        if width == 0:  # a sign moves up and down
            return [(0, _middle(height, shift))]
        return [(_middle(width, shift), _middle(height))]
    # Everything is worked out as if the pair stood side by side, and turned if it does not.
    wide = max(width for width, _ in boxes) > PICTURE // 2 + GRID  # a sign needs the width
    upright = relation in UPRIGHT or (wide and len(boxes) == 2)
    turned = [box[::-1] if upright else box for box in boxes]
    if len(boxes) == 2:
        corners = _pair(turned, relation == "on top of", shift)
    else:
        corners = _triangle(turned, shift)
    return [corner[::-1] if upright else corner for corner in corners]


def _middle(slack: int, shift: int = 0) -> int:
    """The grid step at or before the middle of the slack, shifted as far as there is room."""
    return int(np.clip(slack // 2 // GRID * GRID + shift, 0, slack))


def _pair(pair: Sequence[Box], touching: bool, shift: int) -> list[Box]:
    """Side by side, at the edges of the picture or touching in its middle, moved together."""
    (w0, h0), (w1, h1) = pair
    slack = PICTURE - w0 - w1
    left = _middle(slack) if touching else 0
    right = left + w0 if touching else PICTURE - w1
    return [(left, _middle(PICTURE - h0, shift)), (right, _middle(PICTURE - h1, shift))]


def _triangle(boxes: Sequence[Box], shift: int) -> list[Box]:
    """The pair in the upper half, each in its corner; the third near the middle of the lower."""
    (first, second, third), half = boxes, PICTURE // 2
    return [
        (0, _middle(half - first[1])),
        (PICTURE - second[0], _middle(half - second[1])),
        (_middle(PICTURE - third[0], shift), half + _middle(half - third[1])),
    ]
