"""Figures of an outcome against a dose: how long a row is, how far it is turned or trained."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from t2i_lens.figures.style import ROLES, WIDTH, styled
from t2i_lens.stats.bootstrap import Estimate

Curve = tuple[Sequence[Estimate], str, str]  # values at the doses, role, line style


@styled
def dose_curves(
    doses: Float[np.ndarray, " dose"],
    panels: Mapping[str, Mapping[str, Curve]],
    dose: str,
    *,
    log: bool = False,
    marks: Mapping[str, tuple[float, str]] | None = None,
) -> Figure:
    """Curves with their intervals, a panel per outcome, all over the same doses.

    Args:
        doses: Rising.
        panels: Outcome -> label -> (an estimate per dose, role, line style). A label has one
            look in all panels.
        dose: Label of the horizontal axis.
        log: Whether that axis is logarithmic.
        marks: Doses that are marked by a line: label -> (dose, role).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 2.8), squeeze=False)
    for axis, (outcome, curves) in zip(axes[0], panels.items(), strict=True):
        for label, (estimates, role, style) in curves.items():
            bounds = np.array([estimate.interval for estimate in estimates]).T
            axis.fill_between(doses, *bounds, color=ROLES[role], alpha=0.15, linewidth=0)
            values = [estimate.value for estimate in estimates]
            axis.plot(doses, values, style, color=ROLES[role], markersize=3, label=label)
        for label, (at, role) in (marks or {}).items():
            axis.axvline(at, color=ROLES[role], linestyle="--", linewidth=0.8, label=label)
        axis.set(xlabel=dose, ylabel=outcome, xscale="log" if log else "linear")
        if log:
            axis.set_xticks(doses, [f"{each:g}" for each in doses], fontsize=7)
            axis.xaxis.set_minor_locator(NullLocator())
    seen = {}
    for axis in axes[0]:
        handles, labels = axis.get_legend_handles_labels()
        seen |= dict(zip(labels, handles, strict=True))
    figure.legend(seen.values(), seen.keys(), loc="outside upper left", ncols=3, fontsize=7)
    return figure


@styled
def outcome_against(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, str]],
    cause: str,
    outcome: str,
    mark: float,
) -> Figure:
    """Two outcomes of one dose against each other, a curve per subject.

    Args:
        curves: Label -> (horizontal values, vertical values, role), at the same doses.
        cause: Label of the horizontal axis.
        outcome: Label of the vertical axis.
        mark: Horizontal value that is marked.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
    markers = "osD^v<>phX"
    for place, (label, (across, up, role)) in enumerate(curves.items()):
        marker = markers[place % len(markers)]
        axis.plot(across, up, f"{marker}-", color=ROLES[role], markersize=4, label=label)
        axis.plot(across[0], up[0], marker, color=ROLES[role], markersize=9)
    axis.axvline(mark, color=ROLES["law"], linestyle=":", linewidth=1)
    axis.set(xlabel=cause, ylabel=outcome)
    axis.set_ylim(bottom=0)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    return figure


@styled
def norm_laws(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]],
) -> Figure:
    """Norm over training, measured and expected, a panel per thing that was varied.

    Args:
        panels: Title -> label -> (steps, measured norms, expected norms). Expected norms are drawn
            in black, over the colours of the measured ones.
    """
    columns = 3
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, 2.3 * rows), sharex=True, squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(curves)))
        for shade, (label, (steps, measured, expected)) in zip(shades, curves.items(), strict=True):
            axis.plot(steps, measured, color=shade, linewidth=2.5, alpha=0.7, label=label)
            axis.plot(steps, expected, ":", color=ROLES["law"], linewidth=1)
        axis.set(title=title, xlabel="training step")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=6)
    for axis in axes[:, 0]:
        axis.set_ylabel("norm")
    return figure


@styled
def against_causes(
    causes: Mapping[str, Float[np.ndarray, " token"]],
    outcome: Float[np.ndarray, " token"],
    groups: Mapping[str, tuple[Bool[np.ndarray, " token"], str]],
    label: str,
) -> Figure:
    """One outcome against several possible causes, a panel each.

    Args:
        causes: Label of the axis -> value of every token.
        outcome: Of every token.
        groups: Label -> (which tokens, role).
        label: Of the outcome.
    """
    figure, axes = plt.subplots(1, len(causes), figsize=(WIDTH, 2.5), sharey=True, squeeze=False)
    for axis, (cause, values) in zip(axes[0], causes.items(), strict=True):
        for name, (chosen, role) in groups.items():
            text = f"{name} (n={int(chosen.sum())})"
            axis.scatter(
                values[chosen], outcome[chosen], s=9, alpha=0.6, color=ROLES[role], label=text
            )
        axis.set_xlabel(cause, fontsize=8)
    axes[0, 0].set_ylabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure
