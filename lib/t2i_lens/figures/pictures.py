"""Grids of pictures, alone or with the heat map of each token."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from t2i_lens.figures.style import SMALL, WIDTH, styled

MAP_COLOURS = "cividis"  # even in lightness, and read alike by colour-blind eyes


@styled
def picture_grid(
    pictures: UInt8[np.ndarray, "row column height width 3"],
    rows: Sequence[str],
    columns: Sequence[int | str],
    notes: Sequence[Sequence[str]] | np.ndarray | None = None,
) -> Figure:
    """Pictures on a grid: a row per arm, a column per seed, same latents down a column.

    Args:
        pictures: Bytes, [row, column, height, width, 3].
        rows: Labels, such as arms.
        columns: Labels: a number is a seed, a text stands as it is.
        notes: A few words under each picture, [row][column].
    """
    count, across = pictures.shape[:2]
    cell = min((WIDTH - 1.3) / across, 1.3)
    size = (1.3 + across * cell, count * (cell + (0.22 if notes is not None else 0.05)) + 0.25)
    figure, axes = plt.subplots(count, across, figsize=size, squeeze=False)
    for row, column in np.ndindex(count, across):
        axis = axes[row, column]
        axis.imshow(pictures[row, column], interpolation="nearest")
        if notes is not None:
            axis.set_xlabel(notes[row][column], fontsize=SMALL, labelpad=2)
        if row == 0:
            label = columns[column]
            title = label if isinstance(label, str) else f"seed {label}"
            axis.set_title(title, loc="center", fontsize=8)
        if column == 0:
            axis.set_ylabel(rows[row], rotation=0, ha="right", va="center", fontsize=8)
    _bare(figure)
    return figure


@styled
def token_maps(
    pictures: UInt8[np.ndarray, "arm height width 3"],
    maps: Float[np.ndarray, "arm token map_height map_width"],
    pieces: Sequence[Sequence[str]] | np.ndarray,
    arms: Sequence[str],
    quantity: str,
    floor: float | None = None,
) -> Figure:
    """A row per arm: its picture, and a map per token, all on one colour scale.

    Args:
        pictures: One per arm.
        maps: At least 0.
        pieces: Titles of the maps, [arm][token].
        arms: Row labels.
        quantity: Label of the colour bar.
        floor: Lower end of a logarithmic scale; the scale is linear from 0 if None.
    """
    rows, columns = maps.shape[:2]
    cell = min((WIDTH - 1.2) / (columns + 1), 1.2)
    size = (1.2 + (columns + 1) * cell, rows * (cell + 0.2) + 0.6)
    figure, axes = plt.subplots(rows, columns + 1, figsize=size, squeeze=False)
    top = float(maps.max())
    norm = Normalize(0, top) if floor is None else LogNorm(floor, top)
    for row in range(rows):
        axes[row, 0].imshow(pictures[row], interpolation="nearest")
        axes[row, 0].set_ylabel(arms[row], rotation=0, ha="right", va="center", fontsize=8)
        for axis, shown, piece in zip(axes[row, 1:], maps[row], pieces[row], strict=True):
            drawn = axis.imshow(np.maximum(shown, floor or 0), norm=norm, cmap=MAP_COLOURS)
            axis.set_title(piece, loc="center", fontsize=SMALL)
    _bare(figure)
    bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", aspect=50, shrink=0.8)
    bar.set_label(quantity)
    return figure


def _bare(figure: Figure) -> None:
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
