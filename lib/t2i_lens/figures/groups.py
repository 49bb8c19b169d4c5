"""Grouped dots with their mean per category, stacked shares, and slopes between two orders."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.stats import rankdata

from t2i_lens.figures.style import ROLES, SMALL, WIDTH, colour, legend, panels_of, styled
from t2i_lens.stats.bootstrap import Estimate

LEAST_SHARE = 0.04  # that has its interval drawn
WRITTEN = 16  # means, up to which they are written out


@styled
def grouped_dots(
    groups: Mapping[str, tuple[Float[np.ndarray, "unit category"], str]],
    categories: Sequence,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Shares of single units, such as heads, in categories such as layers, one column per group.

    Args:
        groups: Label -> (values in [0, 1], role). A dot is a unit, a bar the mean over units.
        categories: Their names.
        xlabel: What the categories are.
        ylabel: What the values are.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    width = 0.8 / len(groups)
    written = len(groups) * len(categories) <= WRITTEN
    for number, (label, (values, role)) in enumerate(groups.items()):
        centres = np.arange(len(categories)) + (number - (len(groups) - 1) / 2) * width
        means = values.mean(0)
        axis.bar(centres, means, 0.9 * width, color=ROLES[role], alpha=0.6, label=label)
        beside = np.linspace(-0.3, 0.3, len(values))[:, None] * width
        axis.plot(centres + beside, values, "o", color="black", markersize=2)
        for x, mean in zip(centres, means, strict=True) if written else ():
            axis.text(x, 1.05, f"{mean:.3f}", ha="center", fontsize=SMALL)
    axis.set(ylim=(0, 1.15 if written else 1), xlabel=xlabel, ylabel=ylabel)
    axis.set_xticks(range(len(categories)), categories)
    legend(figure)
    return figure


@styled
def stacked_shares(
    rows: Mapping[str, Sequence[Estimate]], parts: Sequence[str], xlabel: str
) -> Figure:
    """A bar per row that is made of shares, each with the interval of its own length.

    Args:
        rows: Label -> the share of each part, which sum to 1; the first row on top.
        parts: Names of the parts, from the left.
        xlabel: What the shares are of.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 0.8 + 0.38 * len(rows)))
    shades = [colour(at) for at in np.linspace(1.05, 0.05, len(parts))]
    outline = [withStroke(linewidth=2.5, foreground="white")]  # told from any shade
    for y, shares in enumerate(rows.values()):
        left = 0.0
        for number, (share, shade) in enumerate(zip(shares, shades, strict=True)):
            name = parts[number] if y == 0 else None
            axis.barh(y, share.value, 0.75, left, color=shade, label=name)
            # Inside a narrow bar an interval would not be told from the next one.
            if share.value > LEAST_SHARE:
                ends = [[share.value - share.low], [share.high - share.value]]
                at = y + 0.22 * (-1) ** number
                axis.errorbar(
                    left + share.value, at, xerr=ends, color="black", lw=1, path_effects=outline
                )
            left += share.value
    counted = [f"{label} (n={shares[0].n})" for label, shares in rows.items()]
    axis.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1), xlabel=xlabel)
    axis.set_yticklabels(counted)
    legend(figure)
    return figure


@styled
def slopes(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    methods: Sequence[str],
    better: Sequence[str],
    sides: tuple[str, str] = ("as published", "corrected"),
) -> Figure:
    """How methods are ordered by one score (left) and by another (right).

    Lines of methods that change places with another are orange.

    Args:
        panels: Title -> scores by the one and by the other definition, [method] each.
        methods: Their names.
        better: Per panel "low" or "high": which scores come first.
        sides: Names of the two definitions.
    """
    figure, _, axes = panels_of(len(panels), None, 0.5 + 0.28 * len(methods))
    for axis, (title, scores), first in zip(axes, panels.items(), better, strict=True):
        sign = 1 if first == "low" else -1
        ranks = [rankdata(sign * np.round(values, 9), method="average") for values in scores]
        signs = [np.sign(np.subtract.outer(rank, rank)) for rank in ranks]
        changed = (signs[0] != signs[1]).any(axis=1)
        for method, moved in enumerate(changed):
            ends = [rank[method] for rank in ranks]
            axis.plot([0, 1], ends, "o-", color=ROLES["placeholder" if moved else "content"])
            for x, y, values, side in zip((0, 1), ends, scores, ("right", "left"), strict=True):
                digits = ",.0f" if values.max() >= 1000 else ".3g"
                text, beside = f"{values[method]:{digits}}", x + (0.06 if x else -0.06)
                axis.text(beside, y, text, fontsize=SMALL, ha=side, va="center")
        order = np.argsort(ranks[0], kind="stable")
        tied = {
            rank: "\n".join(methods[m] for m in order if ranks[0][m] == rank) for rank in ranks[0]
        }
        axis.set_yticks(list(tied), list(tied.values()))
        axis.set_xticks([0, 1], sides)
        axis.set(xlim=(-0.5, 1.5), ylim=(len(methods) + 0.5, 0.5), title=title)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure
