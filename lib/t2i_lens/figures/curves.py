"""Curves with their bands, and clouds of points: one quantity over another, panel by panel."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from t2i_lens.figures.style import colour, legend, log_axis, panels_of, styled
from t2i_lens.stats.bootstrap import Estimate

CROWD = 100  # points above which a cloud is drawn small and translucent


class Curve(NamedTuple):
    """Values over x.

    Attributes:
        x: Numbers, or names of categories.
        y: Numbers [x]; several curves of one look [sample, x]; or an estimate for each x, whose
            intervals become a band.
        role: Gives the colour, see `style.colour`.
        style: matplotlib's line and marker; one without a line is a cloud, labelled with its n.
        band: Lower and upper ends [2, x], in place of intervals.
    """

    x: Sequence | np.ndarray
    y: Sequence[Estimate] | np.ndarray
    role: str | float
    style: str = "o-"
    band: np.ndarray | None = None


def spread(
    x: Sequence | np.ndarray,
    samples: Float[np.ndarray, "sample x"],
    role: str,
    share: float = 1.0,
    style: str = "o-",
) -> Curve:
    """The mean of samples, with a band that holds the central share of them."""
    tail = (1 - share) / 2
    return Curve(x, samples.mean(0), role, style, np.quantile(samples, [tail, 1 - tail], axis=0))


@styled
def curves(
    panels: Mapping[str, Mapping[str, Curve]],
    xlabel: str | Sequence[str],
    ylabel: str | Sequence[str] = "",
    *,
    columns: int | None = None,
    height: float = 2.4,
    log: str = "",
    limits: tuple[float, float] | None = None,
    marks: Mapping[str, tuple[float, str]] | None = None,
    ticks: Sequence | np.ndarray | None = None,
    widths: Sequence[float] | None = None,
    own_legends: bool = False,
) -> Figure:
    """Curves and clouds, a panel per outcome.

    Args:
        panels: Title -> label -> curve; a label has one look in all panels. Later ones lie on
            top.
        xlabel: Of all panels, or one for each column.
        ylabel: Of the panels on the left, or one for each row.
        columns: Panels side by side; all of them if None.
        height: Of a row of panels, in inches.
        log: Which axes are logarithmic: "x", "y" or "xy".
        limits: Ends of the vertical axis; it is shared by the panels of a row where `ylabel`
            says that they show one quantity.
        marks: Values of x that are marked by a line: label -> (value, role).
        ticks: Of the horizontal axis.
        widths: Of the columns, relative to each other.
        own_legends: Whether each panel has labels of its own, and so a legend.
    """
    figure, grid, axes = panels_of(
        len(panels), columns, height, sharey="row" if ylabel else False, width_ratios=widths
    )
    for axis, (title, of_panel) in zip(axes, panels.items(), strict=True):
        scales = ("log" if name in log else "linear" for name in "xy")
        axis.set(title=title, **dict(zip(("xscale", "yscale"), scales, strict=True)))
        for label, curve in of_panel.items():
            _draw(axis, label, curve)
        for label, (value, role) in (marks or {}).items():
            axis.axvline(value, color=colour(role), linestyle="--", linewidth=0.8, label=label)
        if limits:
            axis.set_ylim(*limits)
        for name in log:
            log_axis({"x": axis.xaxis, "y": axis.yaxis}[name])
        if ticks is not None:
            axis.set_xticks(ticks)
            axis.minorticks_off()
        if own_legends:
            axis.legend(fontsize=7)
    rows, across = grid.shape
    for axis, label in zip(grid[:, 0], _each(ylabel, rows), strict=True):
        axis.set_ylabel(label)
    for column, label in zip(grid.T, _each(xlabel, across), strict=True):
        [axis for axis in column if axis.get_visible()][-1].set_xlabel(label)
    if not own_legends:
        legend(figure)
    return figure


def equality(*clouds: Curve) -> Curve:
    """The line on which x and y of clouds are equal, from end to end."""
    values = np.concatenate([np.asarray(cloud.x) for cloud in clouds])
    ends = np.array([values.min(), values.max()])
    return Curve(ends, ends, "law", "-")


def _each(labels: str | Sequence[str], count: int) -> Sequence[str]:
    return [labels] * count if isinstance(labels, str) else labels


def _draw(axis: Axes, label: str, curve: Curve) -> None:
    shade, band, y = colour(curve.role), curve.band, curve.y
    if len(y) and isinstance(y[0], Estimate):
        band = np.array([estimate.interval for estimate in y]).T
        y = np.array([estimate.value for estimate in y])
    if band is not None:
        axis.fill_between(curve.x, *band, color=shade, alpha=0.18, linewidth=0)
    if "-" not in curve.style and ":" not in curve.style:
        crowd = {"markersize": 3, "alpha": 0.4, "markeredgewidth": 0, "rasterized": True}
        look = crowd if len(curve.x) > CROWD else {"markersize": 4.5, "alpha": 0.85}
        label = f"{label} (n={len(curve.x)})"
        axis.plot(curve.x, y, curve.style, color=shade, label=label, **look)
        return
    several = np.ndim(y) == 2
    lines = axis.plot(
        curve.x, np.transpose(y), curve.style, color=shade, linewidth=1 if several else 1.5,
        alpha=0.8 if several else 1,
    )  # fmt: skip
    lines[0].set_label(f"{label} (n={len(y)})" if several else label)
