"""Figures of the first layer: parts of a score, norms against directions, position read back."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullLocator

from t2i_lens.figures.style import ROLES, WIDTH, styled
from t2i_lens.stats.bootstrap import Estimate

# Okabe and Ito's colours again; terms are no roles.
TERM_COLOURS = ("#D55E00", "#CC79A7", "#0072B2", "#009E73", "#7f7f7f")


@styled
def score_terms(
    arms: Mapping[str, tuple[Sequence[Estimate], str]],
    excess: Float[np.ndarray, "head term"],
    terms: Sequence[str],
) -> Figure:
    """Terms of a score per arm on the left, the excess in each head and term on the right.

    Args:
        arms: Label -> (an estimate per term and one of their sum, role).
        excess: Difference between two arms, on its own scale, diverging from 0; its sum over
            terms is drawn below them.
        terms: Their names.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=[3, 2])
    for number, (label, (estimates, role)) in enumerate(arms.items()):
        y = np.arange(len(estimates)) + (number - (len(arms) - 1) / 2) * 0.22
        low, high = (np.array([getattr(e, end) for e in estimates]) for end in ("low", "high"))
        left.hlines(y, low, high, color=ROLES[role])
        name = f"{label} (n={estimates[0].n})"
        left.plot([e.value for e in estimates], y, "o", color=ROLES[role], ms=4.5, label=name)
    left.axvline(0, color="0.6", linewidth=0.8)
    left.set_yticks(range(len(terms) + 1), [*terms, "score"])
    left.set_ylim(len(terms) + 0.5, -0.5)
    left.set(xlabel="part of the score on itself,\nmean over heads (95 % intervals)")
    drawn = np.column_stack([excess, excess.sum(axis=1)])
    reach = np.abs(drawn).max()
    image = right.imshow(drawn.T, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    for (head, term), value in np.ndenumerate(np.round(drawn, 1) + 0.0):  # no "-0.0"
        shade = "white" if abs(value) > 0.6 * reach else "black"
        right.text(head, term, f"{value:.1f}", ha="center", va="center", fontsize=6, color=shade)
    right.set_yticks(range(len(terms) + 1), [])
    right.set_xticks(range(len(excess)), range(1, len(excess) + 1))
    right.set(xlabel="head", title="excess over the class word")
    right.tick_params(length=0)
    figure.colorbar(image, ax=right)
    figure.legend(loc="outside upper left", ncols=len(arms))
    return figure


@styled
def norm_sweep(
    panels: Mapping[str, tuple[Float[np.ndarray, "sample norm term"], np.ndarray, float]],
    ratios: Float[np.ndarray, " norm"],
    terms: Sequence[str],
) -> Figure:
    """Terms of the score on itself above, attention to itself below, as only the norm changes.

    Args:
        panels: Kind of direction -> (terms, attention [sample, norm], ratio of the kind's own
            mean norm, which is marked). Lines are means over samples; bands hold the central
            nine tenths.
        ratios: Norms over the vocabulary's mean.
        terms: Their names.
    """
    figure, axes = plt.subplots(
        2, len(panels), figsize=(WIDTH, 4), sharex=True, sharey="row", squeeze=False
    )
    for column, (label, (parts, attention, own)) in enumerate(panels.items()):
        top, bottom = axes[:, column]
        for number, (term, colour) in enumerate(zip(terms, TERM_COLOURS, strict=True)):
            top.plot(ratios, parts[..., number].mean(0), color=colour, label=term)
        top.plot(ratios, parts.sum(-1).mean(0), color="black", linestyle="--", label="score")
        low, high = np.quantile(attention, [0.05, 0.95], axis=0)
        bottom.fill_between(ratios, low, high, color="0.8", linewidth=0)
        bottom.plot(ratios, attention.mean(0), color="black")
        for axis in (top, bottom):
            axis.axvline(own, color=ROLES["placeholder"], linestyle=":", linewidth=1.2)
        top.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        top.set_title(f"{label} (n={len(parts)})")
        bottom.set_ylim(0, 1)
        _ratio_axis(bottom, ratios)
    axes[0, 0].set_ylabel("part of the score")
    axes[1, 0].set_ylabel("attention to itself")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), fontsize=7)
    return figure


@styled
def norm_by_direction(
    cells: Mapping[str, tuple[Sequence[Estimate], str]], norms: Sequence[str], quantity: str
) -> Figure:
    """A quantity for each direction at each norm, with intervals.

    Args:
        cells: Direction -> (an estimate per norm, role).
        norms: Their names.
        quantity: Label of the axis.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    for number, (label, (estimates, role)) in enumerate(cells.items()):
        x = np.arange(len(norms)) + (number - (len(cells) - 1) / 2) * 0.06
        low, high = (np.array([getattr(e, end) for e in estimates]) for end in ("low", "high"))
        axis.vlines(x, low, high, color=ROLES[role])
        name = f"{label} (n={estimates[0].n})"
        axis.plot(x, [e.value for e in estimates], "o-", color=ROLES[role], label=name)
    axis.set(ylim=(0, 1), ylabel=f"{quantity}\n(95 % intervals)", xlabel="norm forced to")
    axis.set_xticks(range(len(norms)), norms)
    axis.margins(x=0.2)
    figure.legend(loc="outside upper left", ncols=len(cells))
    return figure


@styled
def predictions(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray, str]]], quantity: str
) -> Figure:
    """Predicted against measured, a panel per prediction, on one scale from 0 to 1.

    Args:
        panels: Prediction -> label -> (predicted, measured, role); later ones lie on top.
        quantity: What is predicted.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 0.55 + 0.88 * WIDTH / len(panels)), sharey=True
    )
    for axis, (title, groups) in zip(axes, panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=ROLES["law"], linewidth=0.8)
        for label, (predicted, measured, role) in groups.items():
            crowd = len(predicted) > 100
            axis.scatter(
                predicted,
                measured,
                s=4 if crowd else 26,
                alpha=0.3 if crowd else 1,
                color=ROLES[role],
                edgecolor="none" if crowd else "black",
                linewidth=0.4,
                label=f"{label} (n={len(predicted)})",
            )
        axis.set(xlim=(0, 1), ylim=(0, 1), title=title, xlabel=f"{quantity}, predicted")
    axes[0].set_ylabel("in the encoder")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
    return figure


@styled
def probe_curves(
    curves: Mapping[str, tuple[np.ndarray, Float[np.ndarray, " norm"], str, str]],
    by_position: Mapping[str, Float[np.ndarray, " position"]],
) -> Figure:
    """Accuracy of probes by norm on the left, by position at single norms on the right.

    Args:
        curves: Label -> (norms over the vocabulary's mean, accuracy, role, line style).
        by_position: Norm -> accuracy at each position.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), sharey=True)
    for label, (ratios, accuracy, role, style) in curves.items():
        left.plot(ratios, accuracy, style, color=ROLES[role], markersize=4, label=label)
    _ratio_axis(left, np.unique(np.concatenate([c[0] for c in curves.values()])))
    left.set(ylabel="positions read right", ylim=(-0.02, 1.05))
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(by_position)))
    for shade, (label, accuracy) in zip(shades, by_position.items(), strict=True):
        right.plot(accuracy, color=shade, linewidth=1, label=label)
    right.set(xlabel="position", title="trained once")
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    right.legend(title="norm /\nmean norm", fontsize=7, title_fontsize=7, **beside)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=7)
    return figure


def _ratio_axis(axis: Axes, ratios: np.ndarray) -> None:
    axis.set(xscale="log", xlabel="norm / mean norm")
    powers = np.arange(np.floor(np.log2(ratios.min())), np.log2(ratios.max()) + 0.5)
    axis.set_xticks(2.0 ** powers[::2])
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.xaxis.set_minor_locator(NullLocator())
