"""Arrays in, Figure out: one look per role, on one page width.

Each function draws inside its own style context and leaves matplotlib's settings as it
found them. The colours are Okabe and Ito's, told apart by colour-blind readers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from t2i_lens.stats import Estimate

WIDTH = 7.0  # inches, the book's text column
ROLES = {
    "bos": "#7f7f7f",
    "content": "#0072B2",
    "placeholder": "#E69F00",
    "eos": "#D3A4C0",
    "control": "#56B4E9",
    "law": "#000000",
    "random": "#009E73",
}
STYLE = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function in the book's style; its figure is shown once, by its caller."""

    @wraps(draw)
    def inside(*args, **kwargs) -> Figure:
        with sns.axes_style("ticks"), plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            plt.close(figure)
        return figure

    return inside


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


def _whisker(
    axis: Axes, estimate: Estimate, y: float | int, role: str, label: str | None = None
) -> None:
    axis.hlines(y, estimate.low, estimate.high, color=ROLES[role], linewidth=1.5)
    axis.plot(estimate.value, y, "o", color=ROLES[role], markersize=4.5, label=label)


@styled
def compared_arms(
    values: Mapping[str, Mapping[str, Estimate]],
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
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 0.9 + 0.27 * len(values)), sharey=True, width_ratios=[3, 2]
    )
    for y, (subject, arms) in enumerate(values.items()):
        for arm, estimate in arms.items():
            offset = (list(roles).index(arm) - (len(roles) - 1) / 2) * 0.22
            _whisker(left, estimate, y + offset, roles[arm])
        if subject in differences:
            _whisker(right, differences[subject], y, "law")
    for arm, role in roles.items():
        left.plot([], [], "o-", color=ROLES[role], markersize=4.5, label=arm)
    right.axvline(0, color="0.6", linewidth=0.8)
    labels = [f"{name} (n={min(e.n for e in arms.values())})" for name, arms in values.items()]
    left.set(xlabel=quantity, yticks=range(len(values)), yticklabels=labels)
    left.invert_yaxis()
    if min(e.low for arms in values.values() for e in arms.values()) >= 0:
        left.set_xlim(left=0)
    else:
        left.axvline(0, color="0.6", linewidth=0.8)
    right.set(xlabel=f"{difference}\n(95 % intervals)")
    figure.legend(loc="outside upper left", ncols=len(roles))
    return figure


@styled
def interval_panels(
    panels: Mapping[str, Mapping[str, Mapping[str, Estimate]]], roles: Mapping[str, str]
) -> Figure:
    """Estimates with their intervals: a panel per quantity, a row per subject.

    Args:
        panels: Quantity -> subject -> series -> estimate; the same subjects in all panels.
        roles: Series -> role, which gives its colour.
    """
    subjects = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 1.0 + 0.3 * len(subjects)), sharey=True, squeeze=False
    )
    every = [
        (name, e.n) for rows in panels.values() for name, s in rows.items() for e in s.values()
    ]
    fewest = {name: min(n for other, n in every if other == name) for name in subjects}
    labels = [f"{name} (n={fewest[name]})" for name in subjects]
    for axis, (quantity, rows) in zip(axes[0], panels.items(), strict=True):
        axis.axvline(0, color="0.6", linewidth=0.8)
        for subject, series in rows.items():
            for name, estimate in series.items():
                offset = (list(roles).index(name) - (len(roles) - 1) / 2) * 0.22
                _whisker(axis, estimate, subjects.index(subject) + offset, roles[name])
        axis.set(xlabel=quantity, yticks=range(len(subjects)), yticklabels=labels)
    axes[0, 0].invert_yaxis()
    for name, role in roles.items():
        axes[0, 0].plot([], [], "o-", color=ROLES[role], markersize=4.5, label=name)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def marked_histogram(
    groups: Mapping[str, tuple[np.ndarray, str]],
    edges: np.ndarray,
    marks: Mapping[str, tuple[float | Estimate | np.ndarray, str]],
    xlabel: str,
    ylabel: str = "tokens",
) -> Figure:
    """Histograms on stated bins, with values marked on the same axis.

    Args:
        groups: Label -> (values, role).
        edges: Bin edges, shared by all groups.
        marks: Label -> (value, role): a number is a line, an array is a rug of lines on a
            row of its own, an estimate is a point with its interval.
        xlabel: What is counted, with its unit.
        ylabel: What a bar counts.
    """
    figure, (axis, rug) = plt.subplots(
        2,
        1,
        figsize=(WIDTH, 2.6 + 0.2 * len(marks)),
        sharex=True,
        height_ratios=[2.2, 0.22 * max(len(marks), 1)],
    )
    for label, (values, role) in groups.items():
        axis.hist(
            values, bins=edges, color=ROLES[role], alpha=0.75, label=f"{label} (n={len(values)})"
        )
    for y, (value, role) in enumerate(marks.values()):
        if isinstance(value, Estimate):
            _whisker(rug, value, y, role)
        else:
            rug.plot(
                np.atleast_1d(value),
                np.full(np.size(value), y),
                "|",
                color=ROLES[role],
                markersize=10,
                markeredgewidth=1.8,
            )
            if np.size(value) == 1:
                axis.axvline(
                    float(np.squeeze(value)), color=ROLES[role], linestyle="--", linewidth=1
                )
    rug.set(ylim=(len(marks) - 0.4, -0.6), yticks=range(len(marks)))
    rug.set_yticklabels(marks)
    rug.tick_params(axis="y", length=0)
    rug.set_xlabel(f"{xlabel}; bins of {edges[1] - edges[0]:.3g}")
    axis.set(ylabel=ylabel, yscale="symlog" if _uneven(groups, edges) else "linear")
    axis.legend()
    return figure


def _uneven(groups: Mapping[str, tuple[np.ndarray, str]], edges: np.ndarray) -> bool:
    # A group that would be invisible beside the tallest bar needs a logarithmic count axis.
    peaks = [np.histogram(values, bins=edges)[0].max() for values, _ in groups.values()]
    return bool(max(peaks) > 20 * max(min(peaks), 1))


@styled
def density_panels(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, str]]], edges: Mapping[str, np.ndarray]
) -> Figure:
    """Counted histograms of equal area, a panel per quantity; the first is filled.

    Args:
        panels: Quantity -> label -> (counts per bin, role).
        edges: Quantity -> bin edges.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 2.7), squeeze=False)
    for axis, (quantity, histograms) in zip(axes[0], panels.items(), strict=True):
        width = np.diff(edges[quantity])
        for place, (label, (counts, role)) in enumerate(histograms.items()):
            axis.stairs(
                counts / counts.sum() / width,
                edges[quantity],
                color=ROLES[role],
                fill=place == 0,
                alpha=0.5 if place == 0 else 1,
                linewidth=1.2,
                label=f"{label} (n={int(counts.sum()):,})",
            )
        axis.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.set(xlabel=f"{quantity}; bins of {width[0]:.3g}", ylabel="density")
        axis.margins(y=0.45)
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper left", fontsize=7)
    return figure
