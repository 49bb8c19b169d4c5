"""A causal drawing: boxes joined by arrows whose widths and labels are measured shares."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from t2i_lens.figures.style import SMALL, WIDTH, colour, styled
from t2i_lens.stats.bootstrap import Estimate

THINNEST, THICKEST = 0.8, 7.0  # points, of an arrow with no share and with the whole


class Arrow(NamedTuple):
    """An arrow between two boxes; None in place of an estimate is an arrow without a share."""

    start: str
    end: str
    share: Estimate | None
    bend: float = 0.0
    role: str = "law"


@styled
def causal_drawing(
    boxes: Mapping[str, tuple[float, float]], arrows: Sequence[Arrow], height: float = 3.2
) -> Figure:
    """Boxes at their places, arrows as wide as their shares, each with its value and interval.

    Args:
        boxes: Text -> place, both coordinates in [0, 1], from left and from below.
        arrows: Between the boxes.
        height: In inches.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, height))
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.axis("off")
    drawn = {
        name: axis.text(
            *place, name, ha="center", va="center", fontsize=8, zorder=3,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "0.3"},
        )
        for name, place in boxes.items()
    }  # fmt: skip
    for arrow in arrows:
        (x, y), (to_x, to_y) = boxes[arrow.start], boxes[arrow.end]
        value = 0.0 if arrow.share is None else arrow.share.value
        width = THINNEST + (THICKEST - THINNEST) * min(max(value, 0.0), 1.0)
        style = f"simple,tail_width={width},head_width={width + 6},head_length=8"
        axis.add_patch(
            FancyArrowPatch(
                (x, y), (to_x, to_y), connectionstyle=f"arc3,rad={arrow.bend}", arrowstyle=style,
                color=colour(arrow.role), alpha=0.5, linewidth=0, zorder=1,
                patchA=drawn[arrow.start].get_bbox_patch(),
                patchB=drawn[arrow.end].get_bbox_patch(),
            )
        )  # fmt: skip
        if arrow.share is not None:
            middle = (
                (x + to_x) / 2 + arrow.bend * (to_y - y) / 2,
                (y + to_y) / 2 - arrow.bend * (to_x - x) / 2,
            )
            label = f"{arrow.share.value:.2f}\n[{arrow.share.low:.2f}, {arrow.share.high:.2f}]"
            axis.text(
                *middle,
                label,
                ha="center",
                va="center",
                fontsize=SMALL,
                zorder=4,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
            )
    return figure
