"""Figures of what each layer decides."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from t2i_lens.figures.style import ROLES, WIDTH, styled
from t2i_lens.stats.bootstrap import Estimate

LEAST_SPAN = 0.1  # of the horizontal axis, so that rounding errors about zero look like zero

Response = tuple[Sequence[Estimate], Estimate, Estimate]  # each layer alone, no layer, all layers


@styled
def layer_responses(panels: Mapping[str, Response], layers: Sequence[str], quantity: str) -> Figure:
    """The response to each layer alone, a panel per kind, layers in the order in which they run.

    All panels share both axes. No layer and all layers are lines with their intervals as bands.

    Args:
        panels: Title -> estimates of each layer alone, of no layer and of all layers.
        layers: Names, the first to run on top.
        quantity: Label of the horizontal axis.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 1.1 + 0.27 * len(layers)), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for axis, (title, (alone, none, every)) in zip(axes[0], panels.items(), strict=True):
        for estimate, role, style in ((none, "bos", ":"), (every, "law", "--")):
            axis.axvspan(*estimate.interval, color=ROLES[role], alpha=0.12, linewidth=0)
            axis.axvline(estimate.value, color=ROLES[role], linestyle=style, linewidth=1)
        for y, estimate in enumerate(alone):
            axis.hlines(y, *estimate.interval, color=ROLES["content"])
            axis.plot(estimate.value, y, "o", color=ROLES["content"], markersize=4.5)
        axis.set_title(f"{title} (n={every.n})", fontsize=8)
    low, high = axes[0, 0].get_xlim()
    missing = max(0.0, LEAST_SPAN - (high - low))
    axes[0, 0].set_xlim(low - missing / 2, high + missing / 2)
    axes[0, 0].set_yticks(range(len(layers)), layers)
    axes[0, 0].invert_yaxis()
    figure.supxlabel(f"{quantity} (95 % intervals)", fontsize=9)
    handles = [
        axes[0, 0].plot([], [], "o-", color=ROLES["content"], label="this layer alone")[0],
        axes[0, 0].plot([], [], ":", color=ROLES["bos"], label="no layer")[0],
        axes[0, 0].plot([], [], "--", color=ROLES["law"], label="all layers")[0],
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure
