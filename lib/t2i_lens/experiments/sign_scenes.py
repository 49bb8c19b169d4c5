"""What a picture of a sign shows besides its word: the sign's board, the ground around it.

Shown in: notebooks/28_unwanted_words.ipynb
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from t2i_lens.experiments.contents import sign_region
from t2i_lens.toybox.judge import Judge
from t2i_lens.toybox.world.atlas import world_words

COLOURED = 15.0  # grey levels from white to the palest ground or board that has a colour

Grid = UInt8[np.ndarray, "*grid height width 3"]


def grounds(pictures: Grid) -> np.ndarray:
    """Colour of the ground of each picture, by the median of its outermost pixels.

    Returns:
        Names of the world's colours, or "white", [*grid].
    """
    edges = [pictures[..., 0, :, :], pictures[..., -1, :, :]]
    edges += [pictures[..., :, 0, :], pictures[..., :, -1, :]]
    return named_colours(np.median(np.concatenate(edges, axis=-2), axis=-2))


def boards(
    judge: Judge, pictures: UInt8[np.ndarray, "*grid 64 64 3"]
) -> Float[np.ndarray, "*grid 3"]:
    """Median colour of the places that the judge labels as sign; nan where there are none.

    The board covers more of them than its letters.
    """
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    regions = sign_region(judge, flat)
    found = [
        np.median(picture[region], axis=0) if region.any() else np.full(3, np.nan)
        for picture, region in zip(flat, regions, strict=True)
    ]
    return np.array(found).reshape(*pictures.shape[:-3], 3)


def named_colours(shades: Float[np.ndarray, "*grid 3"]) -> np.ndarray:
    """The colour of the world that a pale shade of it is, "white", or "" for no shade at all.

    The world mixes a colour with white in unknown parts, so that only the direction from white to
    the shade tells which colour it is.
    """
    colours = list(world_words()["colours"])[:7]  # black is no colour of boards and grounds
    towards = 255.0 - np.array([world_words()["colours"][name] for name in colours])
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    away = 255.0 - shades
    nearest = np.nan_to_num(away @ towards.T).argmax(-1)
    names = np.array([*colours, "white", ""])
    chosen = np.where(np.abs(away).max(-1) < COLOURED, len(colours), nearest)
    return names[np.where(np.isnan(shades).any(-1), len(colours) + 1, chosen)]


def outside_signs(
    judge: Judge, source: UInt8[np.ndarray, "pair seed 64 64 3"]
) -> Bool[np.ndarray, "pair seed 64 64"]:
    """Pixels outside the places that the judge labels as sign."""
    keep = ~sign_region(judge, source.reshape(-1, *source.shape[2:]))
    return keep.reshape(*source.shape[:2], *keep.shape[1:])
