"""Forests: a row per subject, a dot on the line of an interval for each series."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from t2i_lens.figures.style import colour, legend, log_axis, panels_of, styled
from t2i_lens.stats.bootstrap import Estimate

LEAST_SPAN = 0.1  # of a shared axis, so that rounding errors about zero look like zero

# An estimate, single values without an interval, or a range that somebody printed.
Shown = Estimate | np.ndarray | tuple[float, float]
Rows = Mapping[str, Mapping[str, Shown]]
Response = tuple[Sequence[Estimate], Estimate, Estimate]  # each layer alone, no layer, all layers


def whisker(axis: Axes, shown: Shown, y: float | int, role: str) -> None:
    """Draw an estimate as a dot on the line of its interval, values as dots, a range as a bar."""
    if isinstance(shown, Estimate):
        axis.hlines(y, *shown.interval, color=colour(role), linewidth=1.5)
        axis.plot(shown.value, y, "o", color=colour(role))
    elif isinstance(shown, tuple):
        axis.plot(shown, [y, y], "|-", color=colour(role), linewidth=0.8)
    else:
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.5, "markersize": 6}
        axis.plot(shown, np.full(len(shown), y), "o", color=colour(role), alpha=0.75, **edge)


@styled
def forest(
    panels: Mapping[str, Rows],
    roles: Mapping[str, str],
    *,
    quantity: str | None = None,
    log: bool = False,
    marks: Mapping[str, Mapping[str, Estimate | float]] | None = None,
    widths: Sequence[float] | None = None,
) -> Figure:
    """Values with their intervals: a panel per quantity, a row per subject, n after its name.

    Args:
        panels: Quantity -> subject -> series -> what is shown; the first subject on top.
        roles: Series or mark -> role, which gives its colour.
        quantity: Of all panels, which then share their axis and have their keys as titles.
        log: Whether the horizontal axes are logarithmic.
        marks: Panel -> label -> value that is marked by a line, an estimate's interval by a band.
        widths: Of the panels, relative to each other.
    """
    subjects = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    figure, _, axes = panels_of(
        len(panels), None, 0.6 + 0.29 * len(subjects), sharey=True,
        sharex=quantity is not None, width_ratios=widths,
    )  # fmt: skip
    used = {series for rows in panels.values() for row in rows.values() for series in row}
    for name in [name for name in roles if name in used]:
        axes[0].plot([], [], "o-", color=colour(roles[name]), label=name)
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        drawn = [name for name in roles if any(name in row for row in rows.values())]
        for subject, row in rows.items():
            for name, shown in row.items():
                offset = (drawn.index(name) - (len(drawn) - 1) / 2) * min(0.22, 0.7 / len(drawn))
                whisker(axis, shown, subjects.index(subject) + offset, roles[name])
        for label, mark in (marks or {}).get(title, {}).items():
            value = mark.value if isinstance(mark, Estimate) else mark
            axis.axvline(value, color=colour(roles[label]), linestyle="--", lw=1, label=label)
            if isinstance(mark, Estimate):
                axis.axvspan(*mark.interval, color=colour(roles[label]), alpha=0.12, linewidth=0)
        _scale(axis, rows, log)
        axis.set(title=title) if quantity else axis.set_xlabel(title)
    counted = [f"{name}{_count(panels, name)}" for name in subjects]
    axes[0].set(yticks=range(len(subjects)), ylim=(len(subjects) - 0.5, -0.5))
    axes[0].set_yticklabels(counted)
    if quantity:
        low, high = axes[0].get_xlim()
        missing = max(0.0, LEAST_SPAN - (high - low))
        axes[0].set_xlim(low - missing / 2, high + missing / 2)
        figure.supxlabel(quantity, fontsize=9)
    if len(roles) > 1:
        legend(figure)
    return figure


def compared_arms(
    values: Rows,
    differences: Mapping[str, Estimate],
    roles: Mapping[str, str],
    quantity: str,
    difference: str,
) -> Figure:
    """Each subject's value per arm on the left, its paired difference on the right.

    Args:
        values: Subject -> arm -> estimate.
        differences: Subject -> paired difference, on the same scale.
        roles: Arm -> role, which gives its colour.
        quantity: Label of the left axis.
        difference: Label of the right axis.
    """
    beside = {subject: {"difference": estimate} for subject, estimate in differences.items()}
    panels = {quantity: values, f"{difference}\n(95 % intervals)": beside}
    return forest(panels, {**roles, "difference": "law"}, widths=(3.0, 2.0))


def layer_responses(panels: Mapping[str, Response], layers: Sequence[str], quantity: str) -> Figure:
    """Response to each layer alone, to no layer and to all layers, a panel per kind.

    Args:
        panels: Title -> estimates of each layer alone, of no layer and of all layers.
        layers: Names, in the order in which they run, the first on top.
        quantity: Label of the horizontal axis.
    """
    alone_name, none_name, all_name = "this layer alone", "no layer", "all layers"
    rows = {
        title: {
            layer: {alone_name: estimate} for layer, estimate in zip(layers, alone, strict=True)
        }
        for title, (alone, _, _) in panels.items()
    }
    marks = {
        title: {none_name: response[1], all_name: response[2]} for title, response in panels.items()
    }
    roles = {alone_name: "content", none_name: "bos", all_name: "law"}
    return forest(rows, roles, quantity=f"{quantity} (95 % intervals)", marks=marks)


def _scale(axis: Axes, rows: Rows, log: bool) -> None:
    """A logarithmic axis with plain numbers, or a linear one on which zero can be seen."""
    if log:
        axis.set_xscale("log")
        log_axis(axis.xaxis)
        return
    shown = [s for row in rows.values() for s in row.values() if isinstance(s, Estimate)]
    axis.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    if shown and min(e.low for e in shown) >= 0:
        axis.set_xlim(left=0)


def _count(panels: Mapping[str, Rows], subject: str) -> str:
    """The smallest n behind a subject's estimates, or how many values are shown."""
    counts = []
    for rows in panels.values():
        shown = rows.get(subject, {}).values()
        counts += [item.n for item in shown if isinstance(item, Estimate)]
        values = [len(item) for item in shown if isinstance(item, np.ndarray)]
        counts += [sum(values)] if values else []
    return f" (n={min(counts)})" if counts else ""
