"""Grids of pictures: an arm in each row, a seed in each column."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from t2i_lens.figures.style import WIDTH, styled


@styled
def picture_grid(
    pictures: np.ndarray,
    arms: Sequence[str],
    seeds: Sequence[int | str],
    notes: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Pictures on a grid: a row per arm, a column per seed, same latents down a column.

    Args:
        pictures: uint8 [arm, seed, height, width, 3].
        arms: Row labels.
        seeds: Column labels; a text stands as it is.
        notes: A few words under each picture, [arm][seed].
    """
    rows, columns = pictures.shape[:2]
    cell = min((WIDTH - 1.3) / columns, 1.3)
    size = (1.3 + columns * cell, rows * (cell + (0.22 if notes else 0.05)) + 0.25)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for row, column in np.ndindex(rows, columns):
        axis = axes[row, column]
        axis.imshow(pictures[row, column], interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        if notes:
            axis.set_xlabel(notes[row][column], fontsize=7, labelpad=2)
        if row == 0:
            label = seeds[column]
            title = label if isinstance(label, str) else f"seed {label}"
            axis.set_title(title, loc="center", fontsize=8)
        if column == 0:
            axis.set_ylabel(arms[row], rotation=0, ha="right", va="center")
        axis.spines[:].set_visible(False)
    return figure
