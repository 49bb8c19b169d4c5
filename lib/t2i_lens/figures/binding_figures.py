"""Figures of word pairs: two similarities, prediction and measurement, head by head."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from t2i_lens.figures.style import ROLES, WIDTH, styled

KINDS = {  # kind of pair -> its name, role and marker
    "bound": ("bound: colour and its object", "placeholder", "o"),
    "crossed": ("colour and the other object", "content", "x"),
    "nouns": ("two objects", "law", "+"),
    "attributes": ("two colours", "random", "."),
}
Cloud = tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"], str]


@styled
def similarity_clouds(
    x: Float[np.ndarray, " pair"],
    panels: Mapping[str, Float[np.ndarray, " pair"]],
    kinds: np.ndarray,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """One similarity of word pairs against another, a panel per moment, on one scale.

    Args:
        x: Of each pair, the same in all panels.
        panels: Title -> vertical values.
        kinds: Kind of each pair, a key of `KINDS`.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 2.9), sharey=True, sharex=True, squeeze=False
    )
    for axis, (title, y) in zip(axes[0], panels.items(), strict=True):
        for kind, (label, role, marker) in KINDS.items():
            here = kinds == kind
            if here.any():
                name = f"{label} (n={here.sum()})"
                axis.plot(
                    x[here], y[here], marker, color=ROLES[role], ms=3.5, alpha=0.7, label=name
                )
        axis.set(title=title, xlabel=xlabel)
    axes[0, 0].set_ylabel(ylabel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


@styled
def clouds(
    panels: Mapping[str, Cloud], xlabel: str, ylabel: str, *, identity: bool, log: bool = False
) -> Figure:
    """Points, a panel per kind, on one scale.

    Args:
        panels: Title -> (horizontal values, vertical values, role).
        identity: Draw the line on which both are equal.
        log: Both axes are logarithmic; values must be above 0.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 3.0), sharey=True, sharex=True, squeeze=False
    )
    for axis, (title, (x, y, role)) in zip(axes[0], panels.items(), strict=True):
        axis.plot(x, y, ".", color=ROLES[role], ms=3, alpha=0.35, rasterized=True)
        if identity:
            ends = [min(x.min(), y.min()), max(x.max(), y.max())]
            axis.plot(ends, ends, color=ROLES["law"], linewidth=0.8, label="equal")
            axis.legend(loc="upper left")
        axis.set(title=f"{title} (n={len(x)})", xlabel=xlabel)
        if log:
            axis.set(xscale="log", yscale="log")
    axes[0, 0].set_ylabel(ylabel)
    return figure


@styled
def head_grids(
    panels: Mapping[str, Float[np.ndarray, "layer head"]],
    layers: Mapping[str, list[str]],
    quantity: str,
    limits: tuple[float, float],
) -> Figure:
    """One number of every head of every layer, written out, on one colour scale.

    Args:
        panels: Title -> numbers.
        layers: Title -> names of its layers.
        quantity: Label of the colour bar.
        limits: Ends of the colour scale, diverging about their middle; what lies beyond is
            drawn in the colour of the end.
    """
    rows = max(len(names) for names in layers.values())
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 0.9 + 0.27 * rows), squeeze=False)
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        low, high = limits
        image = axis.imshow(values, cmap="RdBu_r", vmin=low, vmax=high, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            far = abs(value - (low + high) / 2) > 0.3 * (high - low)
            shade = "white" if far else "black"
            axis.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=shade
            )
        axis.set_yticks(range(len(layers[title])), layers[title], fontsize=7)
        axis.set_xticks(range(values.shape[1]), range(1, values.shape[1] + 1), fontsize=7)
        axis.set(title=title, xlabel="head")
        axis.tick_params(length=0)
    figure.colorbar(image, ax=axes, extend="both", pad=0.01).set_label(quantity, fontsize=8)
    return figure
