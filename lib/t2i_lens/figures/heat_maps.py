"""Heat maps: numbers on a grid, panel by panel, on one colour scale with one colour bar."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from t2i_lens.figures.style import ROLES, SMALL, WIDTH, panels_of, styled


class Grid(NamedTuple):
    """Numbers [row, column] with the names of both; nan stays empty."""

    values: Float[np.ndarray, "row column"]
    rows: Sequence[str]
    columns: Sequence


def looked_back(pattern: Float[np.ndarray, "query key"], words: Sequence[str]) -> Grid:
    """A causal attention map up to its last word: each query by name, each key by its place."""
    count = len(words)
    causal = np.where(np.tri(count) > 0, pattern[:count, :count], np.nan)
    return Grid(causal, [f"{word} {position}" for position, word in enumerate(words)], range(count))


@styled
def heat_maps(
    panels: Mapping[str, Grid],
    quantity: str,
    limits: tuple[float, float],
    *,
    centre: float | None = None,
    form: str = "",
    axes_labels: tuple[str, str] = ("", ""),
    columns: int | None = None,
    marked: tuple[int, int] | None = None,
) -> Figure:
    """Numbers on grids, all on one colour scale.

    Args:
        panels: Title -> grid. Rows that are the same in neighbouring panels are named once.
        quantity: Label of the colour bar.
        limits: Ends of the colour scale; what lies beyond has the colour of the end.
        centre: The value from which colours diverge; without it they rise from the lower end.
        form: Format of the numbers that are written into the cells; none are if it is empty.
        axes_labels: Of the horizontal and the vertical axis.
        columns: Panels side by side; all of them if None.
        marked: Row and column of a cell that is framed, with its number beside it.
    """
    columns = columns or len(panels)
    rows = max(len(grid.rows) for grid in panels.values())
    square = 0.82 * WIDTH / columns
    figure, _, axes = panels_of(len(panels), columns, 0.5 + 0.27 * rows if form else 0.2 + square)
    low, high = limits
    scale = {"vmin": low, "vmax": high, "cmap": "Blues" if centre is None else "RdBu_r"}
    middle = (low + high) / 2 if centre is None else centre
    rows_before: Sequence[str] = ()
    for number, (axis, (title, grid)) in enumerate(zip(axes, panels.items(), strict=True)):
        image = axis.imshow(grid.values, aspect="auto" if form else "equal", **scale)
        for (row, column), value in np.ndenumerate(grid.values) if form else ():
            far = value - middle if centre is None else abs(value - middle)
            shade = "white" if far > 0.3 * (high - low) else "black"
            text = format(round(value, 6) + 0.0, form)
            axis.text(column, row, text, ha="center", va="center", fontsize=SMALL, color=shade)
        if marked:
            row, column = marked
            frame = {"fill": False, "edgecolor": ROLES["placeholder"], "lw": 1.5}
            axis.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
            axis.text(column + 0.7, row, f"{grid.values[marked]:.3f}", fontsize=SMALL, va="center")
        repeated = number % columns and list(grid.rows) == list(rows_before)
        rows_before = grid.rows
        axis.set_yticks(range(len(grid.rows)), [""] * len(rows_before) if repeated else grid.rows)
        axis.set_xticks(range(len(grid.columns)), grid.columns)
        axis.set_title(title)
        axis.tick_params(length=0, labelsize=SMALL)
        axis.spines[:].set_visible(False)
    figure.supxlabel(axes_labels[0], fontsize=9)
    figure.supylabel(axes_labels[1], fontsize=9)
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.8, pad=0.01)
    bar.set_label(quantity)
    return figure
