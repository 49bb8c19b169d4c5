"""One look for all figures: a colour per role, sizes that can be read at the book's width.

Each drawing function takes arrays and labels, returns a `Figure`, draws inside its own style
context and leaves matplotlib's settings as it found them. The colours are Okabe and Ito's, told
apart by colour-blind readers.
"""

from collections.abc import Callable, Sequence
from functools import wraps

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

WIDTH = 7.0  # inches, the book's text column
SMALL = 7  # points, of numbers inside of a picture or map
ROLES = {
    "bos": "#7f7f7f",
    "content": "#0072B2",
    "placeholder": "#E69F00",
    "eos": "#D3A4C0",
    "control": "#56B4E9",
    "law": "#000000",
    "random": "#009E73",
}
TERMS = ("#D55E00", "#CC79A7", "#0072B2", "#009E73", "#7f7f7f")  # for parts, which are no roles
STYLE = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function in the book's style; its figure is shown once, by its caller."""

    @wraps(draw)
    def inside(*args, **kwargs) -> Figure:
        # A matplotlibrc of the reader's would change every figure, or ask for LaTeX.
        with plt.style.context("default"), sns.axes_style("ticks"), plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            plt.close(figure)
            for text in figure.findobj(Text):
                # A dollar in a word is a dollar; matplotlib writes its own numbers as formulas.
                if "$" in text.get_text() and r"\mathdefault" not in text.get_text():
                    text.set_parse_math(False)
        return figure

    return inside


def colour(role: str | float) -> str | tuple:
    """The colour of a role; a place from 0 to 1 in an ordered series; or a colour as it is."""
    if isinstance(role, str):
        return ROLES.get(role, role)
    return plt.get_cmap("viridis")(0.9 * role)


def panels_of(
    count: int, columns: int | None, height: float, **shared
) -> tuple[Figure, np.ndarray, Sequence[Axes]]:
    """A figure of the book's width with a grid of panels.

    Args:
        count: Panels that are drawn; what the grid has more is hidden.
        columns: Panels side by side; all of them if None.
        height: Of a row, in inches.
        shared: Passed to `plt.subplots`.

    Returns:
        The figure, all axes [row, column], and the first `count` of them.
    """
    columns = columns or count
    rows = -(-count // columns)
    size = (WIDTH, rows * height + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **shared)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes, list(axes.flat[:count])


def legend(figure: Figure) -> None:
    """One legend above all panels, with every label once, in as many columns as fit."""
    entries: dict = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        for label, handle in zip(labels, handles, strict=True):
            entries.setdefault(label, handle)
    if entries:
        longest = max(len(label) for label in entries)
        columns = max(1, min(len(entries), int(110 / (longest + 8))))
        figure.legend(entries.values(), entries.keys(), loc="outside upper left", ncols=columns)


def log_axis(part: Axis) -> None:
    """Plain numbers on a logarithmic axis: powers of ten, or three to a decade on a short one."""
    low, high = part.get_view_interval()
    subs = (1.0,) if high / low >= 1000 else (1.0, 2.0, 5.0)
    part.set_major_locator(LogLocator(subs=subs))
    part.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    part.set_minor_formatter(NullFormatter())
