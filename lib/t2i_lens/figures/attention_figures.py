"""Figures of text self-attention: maps, rows of a map, and what layers and heads look at."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from t2i_lens.figures.style import ROLES, WIDTH, styled


@styled
def pattern_maps(
    maps: Mapping[str, tuple[Float[np.ndarray, "query key"], Sequence[str]]],
    columns: int,
    marked: tuple[int, int] | None = None,
) -> Figure:
    """Attention maps side by side, on one scale from 0 to 1 with one colour bar.

    Args:
        maps: Title -> (averaged over heads, the words at its positions); positions beyond the
            words are not drawn.
        columns: Maps in a row.
        marked: Query and key of an entry to frame and to write out, with its value.
    """
    rows = -(-len(maps) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, 0.3 + rows * 0.82 * WIDTH / columns), squeeze=False
    )
    for axis in axes.flat[len(maps) :]:
        axis.set_visible(False)
    for number, (title, (pattern, words)) in enumerate(maps.items()):
        axis, count = axes.flat[number], len(words)
        drawn = np.where(np.tri(count) > 0, pattern[:count, :count], np.nan)
        image = axis.imshow(drawn, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(title)
        axis.set_xticks(range(count), range(count), fontsize=6)
        labels = [f"{word} {place}" for place, word in enumerate(words)]
        axis.set_yticks(range(count), labels, fontsize=6)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        if marked:
            query, key = marked
            corner = (key - 0.5, query - 0.5)
            frame = plt.Rectangle(corner, 1, 1, fill=False, edgecolor=ROLES["placeholder"], lw=1.5)
            axis.add_patch(frame)
            axis.text(key + 0.7, query, f"{pattern[query, key]:.3f}", fontsize=7, va="center")
    figure.supxlabel("key (looked at)", fontsize=8)
    figure.supylabel("query (looks)", fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.01)
    bar.set_label("attention", fontsize=8)
    return figure


@styled
def query_rows(
    rows: Mapping[str, tuple[Float[np.ndarray, "head key"], str]], keys: Sequence[str]
) -> Figure:
    """One row of a map, zoomed in: what one place looks at when different words stand there.

    Args:
        rows: Label -> (attention of the row in each head, role). Bars are means over heads,
            dots are heads.
        keys: Names of the keys.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    width, heads = 0.8 / len(rows), len(next(iter(rows.values()))[0])
    for number, (label, (values, role)) in enumerate(rows.items()):
        at = np.arange(len(keys)) + (number - (len(rows) - 1) / 2) * width
        means = values.mean(0)
        axis.bar(at, means, 0.9 * width, color=ROLES[role], alpha=0.6, label=label)
        spread = np.linspace(-0.25, 0.25, len(values))[:, None] * width
        axis.plot(at + spread, values, "o", color="black", markersize=2.5)
        for x, mean in zip(at, means, strict=True):
            axis.text(x, 1.06, f"{mean:.3f}", ha="center", fontsize=7)
    axis.set(ylim=(0, 1.15), ylabel=f"attention\n(bar: mean, dots: {heads} heads)")
    axis.set_xticks(range(len(keys)), keys)
    figure.legend(loc="outside upper left", ncols=len(rows))
    return figure


@styled
def layer_curves(
    panels: Mapping[str, Mapping[str, tuple[Float[np.ndarray, "sample layer"], str]]],
) -> Figure:
    """A share of attention over the layers, a panel per quantity, on one axis.

    Args:
        panels: Quantity -> label -> (values, role). Lines are means over samples, bands reach
            from the smallest to the largest of them.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 2.6), sharey=True, sharex=True, squeeze=False
    )
    for axis, (quantity, curves) in zip(axes[0], panels.items(), strict=True):
        for label, (values, role) in curves.items():
            layers = np.arange(1, values.shape[1] + 1)
            axis.fill_between(
                layers, values.min(0), values.max(0), color=ROLES[role], alpha=0.2, linewidth=0
            )
            name = f"{label} (n={len(values)})"
            axis.plot(layers, values.mean(0), "o-", color=ROLES[role], markersize=4, label=name)
        axis.set(xlabel="layer", title=quantity, ylim=(0, 1), xticks=layers)
    axes[0, 0].set_ylabel("attention, mean over heads")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
    return figure


@styled
def head_dots(
    arms: Mapping[str, tuple[Float[np.ndarray, "sample layer head"], str]], quantity: str
) -> Figure:
    """Every head of every layer, arm beside arm.

    Args:
        arms: Label -> (values, role). A dot is a head's mean over samples, a bar the mean over
            heads.
        quantity: Label of the axis.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    width = 0.7 / len(arms)
    for number, (label, (values, role)) in enumerate(arms.items()):
        heads = values.mean(0)  # [layer, head]
        at = np.arange(1, len(heads) + 1) + (number - (len(arms) - 1) / 2) * width
        spread = np.linspace(-0.3, 0.3, heads.shape[1]) * width
        name = f"{label} (n={len(values)})"
        axis.plot(at[:, None] + spread, heads, "o", color=ROLES[role], markersize=3.5)
        axis.hlines(
            heads.mean(1), at - 0.4 * width, at + 0.4 * width, color=ROLES[role], label=name
        )
    axis.set(xlabel="layer (dot: head, bar: mean over heads)", ylabel=quantity, ylim=(0, 1))
    axis.set_xticks(range(1, len(heads) + 1))
    figure.legend(loc="outside upper left", ncols=len(arms))
    return figure
