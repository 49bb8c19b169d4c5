"""Distributions: histograms with marked values, densities in panels."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from t2i_lens.figures.intervals import whisker
from t2i_lens.figures.style import ROLES, WIDTH, panels_of, styled
from t2i_lens.stats.bootstrap import Estimate

Counts = tuple[np.ndarray, str]  # per bin, role


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
        name = f"{label} (n={len(values)})"
        axis.hist(values, bins=edges, color=ROLES[role], alpha=0.75, label=name)
    ticks = {"markersize": 10, "markeredgewidth": 1.8}
    for y, (value, role) in enumerate(marks.values()):
        if isinstance(value, Estimate):
            whisker(rug, value, y, role)
            continue
        rug.plot(np.atleast_1d(value), np.full(np.size(value), y), "|", color=ROLES[role], **ticks)
        if np.size(value) == 1:
            single = float(np.squeeze(value))
            axis.axvline(single, color=ROLES[role], linestyle="--", linewidth=1)
    rug.set(ylim=(len(marks) - 0.4, -0.6), yticks=range(len(marks)))
    rug.set_yticklabels(marks)
    rug.tick_params(axis="y", length=0)
    rug.set_xlabel(f"{xlabel}; bins of {edges[1] - edges[0]:.3g}")
    # A group that would be invisible beside the tallest bar needs a logarithmic count axis.
    peaks = [np.histogram(values, bins=edges)[0].max() for values, _ in groups.values()]
    uneven = max(peaks) > 20 * max(min(peaks), 1)
    axis.set(ylabel=ylabel, yscale="symlog" if uneven else "linear")
    axis.legend()
    return figure


@styled
def density_panels(
    panels: Mapping[str, Mapping[str, Counts]],
    edges: Mapping[str, np.ndarray],
    laws: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Figure:
    """Counted histograms of equal area, a panel per quantity; the first is filled.

    Args:
        panels: Quantity -> label -> (counts per bin, role).
        edges: Quantity -> bin edges; edges of growing distance make the axis logarithmic.
        laws: Label -> x and density of a curve that is drawn over the last panel.
    """
    figure, _, axes = panels_of(len(panels), None, 2.3)
    for axis, (quantity, histograms) in zip(axes, panels.items(), strict=True):
        width = np.diff(edges[quantity])
        even = np.allclose(width, width[0])
        for number, (label, (counts, role)) in enumerate(histograms.items()):
            axis.stairs(
                counts / counts.sum() / width,
                edges[quantity],
                color=ROLES[role],
                fill=number == 0,
                alpha=0.5 if number == 0 else 1,
                linewidth=1.2,
                label=f"{label} (n={int(counts.sum()):,})",
            )
        if even:
            axis.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        bins = f"bins of {width[0]:.3g}" if even else f"{len(width)} logarithmic bins"
        axis.set(xlabel=f"{quantity}; {bins}", xscale="linear" if even else "log")
        axis.margins(y=0.45)
        axis.set_ylim(bottom=0)
    for label, law in (laws or {}).items():
        axis.plot(*law, color=ROLES["law"], label=label)
    for axis in axes:
        axis.legend(loc="upper left", fontsize=7)
    axes[0].set_ylabel("density")
    return figure
