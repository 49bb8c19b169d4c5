"""Figures of heat maps: the maps themselves, their norms, and where those come from."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from t2i_lens.figures.style import ROLES, WIDTH, styled
from t2i_lens.stats.bootstrap import Estimate

MAP_COLOURS = "cividis"  # even in lightness, and read alike by colour-blind eyes


@styled
def token_maps(
    pictures: UInt8[np.ndarray, "arm height width 3"],
    maps: Float[np.ndarray, "arm token map_height map_width"],
    pieces: Sequence[Sequence[str]],
    arms: Sequence[str],
    quantity: str,
    floor: float | None = None,
) -> Figure:
    """A row per arm: its picture, and a map per token, all on one colour scale.

    Args:
        maps: At least 0.
        pieces: Titles of the maps, [arm][token].
        arms: Row labels.
        quantity: Label of the colour bar.
        floor: Lower end of a logarithmic scale; the scale is linear from 0 if None.
    """
    rows, columns = maps.shape[:2]
    cell = min((WIDTH - 1.2) / (columns + 1), 1.2)
    size = (1.2 + (columns + 1) * cell, rows * (cell + 0.2) + 0.6)
    figure, axes = plt.subplots(rows, columns + 1, figsize=size, squeeze=False)
    top = float(maps.max())
    norm = Normalize(0, top) if floor is None else LogNorm(floor, top)
    for row in range(rows):
        axes[row, 0].imshow(pictures[row], interpolation="nearest")
        axes[row, 0].set_ylabel(arms[row], rotation=0, ha="right", va="center", fontsize=8)
        for column in range(columns):
            shown = maps[row, column] if floor is None else np.maximum(maps[row, column], floor)
            drawn = axes[row, column + 1].imshow(shown, norm=norm, cmap=MAP_COLOURS)
            axes[row, column + 1].set_title(pieces[row][column], loc="center", fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", aspect=50, shrink=0.8)
    bar.set_label(quantity, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


@styled
def norms_by_role(
    values: Mapping[str, Mapping[str, Estimate]],
    roles: Mapping[str, str],
    cap: float,
    references: Mapping[str, tuple[float, float]],
    quantity: str,
) -> Figure:
    """Norm of each kind of token per arm, on a logarithmic axis up to the largest possible one.

    Args:
        values: Kind of token -> arm -> estimate.
        roles: Arm -> role, which gives its colour.
        cap: Largest norm there can be.
        references: Kind of token -> range that a source prints.
        quantity: Label of the axis.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 1.0 + 0.42 * len(values)))
    for y, (kind, arms) in enumerate(values.items()):
        for place, (arm, role) in enumerate(roles.items()):
            if arm in arms:
                at, estimate = y + (place - (len(roles) - 1) / 2) * 0.2, arms[arm]
                axis.hlines(at, estimate.low, estimate.high, color=ROLES[role], linewidth=1.5)
                axis.plot(estimate.value, at, "o", color=ROLES[role], markersize=4.5)
        if kind in references:
            low, high = references[kind]
            axis.plot([low, high], [y + 0.4] * 2, "|-", color=ROLES["law"], linewidth=0.8)
    for arm, role in roles.items():
        axis.plot([], [], "o-", color=ROLES[role], markersize=4.5, label=arm)
    axis.plot([], [], "|-", color=ROLES["law"], linewidth=0.8, label="printed for SD 1.x")
    axis.axvline(cap, color="0.6", linestyle="--", linewidth=1, label=f"cap {cap:,.0f}")
    axis.set(xscale="log", xlabel=quantity, yticks=range(len(values)))
    axis.set_yticklabels(values)
    axis.set_ylim(len(values) - 0.4, -0.5)
    axis.xaxis.set_major_formatter("{x:,g}")
    figure.legend(loc="outside upper left", ncols=len(roles) + 2, fontsize=7)
    return figure


@styled
def norms_where(
    over_steps: Mapping[str, tuple[np.ndarray, str, str]],
    by_layer: Mapping[str, tuple[np.ndarray, str, str]],
    layers: Sequence[str],
    cap: float,
) -> Figure:
    """Norms of single steps: over steps on the left, by layer on the right, one log axis.

    Args:
        over_steps: Label -> (values per step, role, line style).
        by_layer: Label -> (values per layer, role, marker).
        layers: Names, in the order in which they run.
        cap: Largest norm of one step.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 2.9), sharey=True, width_ratios=[3, 2]
    )
    for label, (values, role, style) in over_steps.items():
        left.plot(values, style, color=ROLES[role], label=label)
    for values, role, marker in by_layer.values():
        right.plot(values, marker, color=ROLES[role], markersize=5, linestyle="none")
    for axis in (left, right):
        axis.axhline(cap, color="0.6", linestyle="--", linewidth=1)
    left.set(yscale="log", xlabel="denoising step", ylabel="norm in one step")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Two decades or fewer would otherwise have a single labelled tick.
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    left.yaxis.set_minor_formatter(NullFormatter())
    right.set(xlabel="cross-attention layer", xticks=range(len(layers)))
    right.set_xticklabels(layers, rotation=45, ha="right", fontsize=7)
    figure.legend(loc="outside upper left", ncols=3, fontsize=7)
    return figure
