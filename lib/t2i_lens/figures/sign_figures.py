"""Figures of text editing and of its scores."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata

from t2i_lens.figures.style import ROLES, WIDTH, styled

MODELS = {"SDXL": "content", "IF": "random", "SD3": "placeholder"}


@styled
def edited_pictures(
    pictures: np.ndarray, methods: Sequence[str], rows: Sequence[str], notes: np.ndarray
) -> Figure:
    """Pictures on a grid: a row per pair of words, a column per method.

    Args:
        pictures: uint8 [row, method, height, width, 3].
        methods: Column labels.
        rows: Row labels.
        notes: A few words under each picture [row, method].
    """
    count, columns = pictures.shape[:2]
    cell = (WIDTH - 0.9) / columns
    figure, axes = plt.subplots(
        count, columns, figsize=(WIDTH, count * (cell + 0.2) + 0.35), squeeze=False
    )
    for row, column in np.ndindex(count, columns):
        axis = axes[row, column]
        axis.imshow(pictures[row, column], interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(notes[row, column], fontsize=7, labelpad=2)
        axis.spines[:].set_visible(False)
        if row == 0:
            axis.set_title(methods[column], loc="center", fontsize=7)
        if column == 0:
            axis.set_ylabel(rows[row], rotation=0, ha="right", va="center", fontsize=8)
    return figure


@styled
def wrapped_scale(
    law: tuple[np.ndarray, np.ndarray],
    groups: Mapping[str, tuple[np.ndarray, np.ndarray, str, str]],
    published: pd.DataFrame,
    ceiling: float,
) -> Figure:
    """Wrapped against true error, and beside it, on the same axis, the errors that are printed.

    Args:
        law: True and wrapped error of Gaussian noise.
        groups: Label -> (true errors, wrapped errors, role, marker).
        published: Columns `mse` and `model`.
        ceiling: Wrapped error of unrelated pictures.
    """
    figure, (axis, side) = plt.subplots(
        1, 2, figsize=(WIDTH, 3.6), sharey=True, width_ratios=[4, 1.1]
    )
    axis.plot(*law, color=ROLES["law"], label="Gaussian noise, derived")
    span = np.geomspace(law[0].min(), ceiling * 1.2, 50)
    axis.plot(span, span, ":", color="0.5", label="wrapped = true")
    for label, (true, wrapped, role, marker) in groups.items():
        axis.plot(
            true, wrapped, marker, color=ROLES[role], markersize=5, alpha=0.75,
            markeredgecolor="white", markeredgewidth=0.4, label=f"{label} (n={len(true)})",
        )  # fmt: skip
    for part in (axis, side):
        part.axhline(ceiling, color="0.5", linestyle="--", linewidth=0.9, zorder=0)
    axis.set(xscale="log", xlabel="true mean squared error (grey levels squared, log scale)")
    axis.set_ylabel("wrapped error, as published")
    axis.set_ylim(0, 1.45 * ceiling)
    axis.legend(loc="upper left", ncols=2, fontsize=7)
    _printed(side, published)
    return figure


def _printed(axis: Axes, published: pd.DataFrame) -> None:
    for place, model in enumerate(MODELS):
        errors = published.loc[published["model"] == model, "mse"]
        axis.plot(np.full(len(errors), place), errors, "_", color="0.3", markersize=16)
    axis.set_xticks(range(len(MODELS)), MODELS, fontsize=8)
    axis.set(xlim=(-0.6, len(MODELS) - 0.4), title=f"printed (n={len(published)})")


@styled
def printed_means(
    rows: pd.DataFrame, curve: tuple[np.ndarray, np.ndarray], mixture: tuple[np.ndarray, np.ndarray]
) -> Figure:
    """Printed PSNR against printed error: what one error gives, and what identical pairs add.

    Args:
        rows: Columns `mse`, `psnr`, `model`, `label` (written beside a point where not empty).
        curve: Errors and their PSNR.
        mixture: Mean error and mean PSNR of identical and saturated pairs, for all shares.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0))
    axis.plot(*curve, color=ROLES["law"], label="PSNR of the mean error")
    axis.plot(
        *mixture, "--", color=ROLES["control"], label="identical pairs mixed with saturated ones"
    )
    for model, role in MODELS.items():
        some = rows[rows["model"] == model]
        axis.plot(
            some["mse"], some["psnr"], "o", color=ROLES[role], markersize=5,
            markeredgecolor="white", markeredgewidth=0.4, label=f"{model} (n={len(some)})",
        )  # fmt: skip
    named = rows.loc[rows["label"] != "", ["mse", "psnr", "label"]].to_numpy()
    for line, (mse, psnr, text) in enumerate(named):  # a line each: points may coincide
        axis.annotate(
            text, (mse, psnr), (9, 10 - 11 * line), textcoords="offset points", fontsize=8
        )
    axis.set(xlabel="printed mean squared error", ylabel="printed PSNR (dB)", ylim=(15, 155))
    axis.set_xlim(0, 112)
    axis.legend(fontsize=7, loc="upper right")
    return figure


@styled
def orders(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    methods: Sequence[str],
    better: Sequence[str],
) -> Figure:
    """How methods are ordered by a published score (left) and the corrected one (right).

    Lines of methods that change places with another are orange.

    Args:
        panels: Title -> scores by the published and by the corrected definition, [method] each.
        methods: Their names.
        better: Per panel "low" or "high": which scores come first.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 0.9 + 0.28 * len(methods)), squeeze=False
    )
    for axis, (title, scores), first in zip(axes[0], panels.items(), better, strict=True):
        sign = 1 if first == "low" else -1
        ranks = [rankdata(sign * np.round(values, 9), method="average") for values in scores]
        signs = [np.sign(np.subtract.outer(rank, rank)) for rank in ranks]
        changed = (signs[0] != signs[1]).any(axis=1)
        for method in range(len(methods)):
            ends = [rank[method] for rank in ranks]
            role = "placeholder" if changed[method] else "content"
            axis.plot([0, 1], ends, "o-", color=ROLES[role], markersize=5)
            for x, y, values, side in zip((0, 1), ends, scores, ("right", "left"), strict=True):
                digits = ",.0f" if values.max() >= 1000 else ".3g"
                text, beside = f"{values[method]:{digits}}", x + (0.06 if x else -0.06)
                axis.text(beside, y, text, fontsize=7, ha=side, va="center")
        order = np.argsort(ranks[0], kind="stable")
        tied = {
            rank: "\n".join(methods[m] for m in order if ranks[0][m] == rank) for rank in ranks[0]
        }
        axis.set_yticks(list(tied), list(tied.values()), fontsize=7)
        axis.set_xticks([0, 1], ["as published", "corrected"])
        axis.set(xlim=(-0.5, 1.5), ylim=(len(methods) + 0.5, 0.5), title=title)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure


@styled
def score_by_length(
    lengths: Sequence[int], curves: Mapping[str, tuple[np.ndarray, str, str]], score: str
) -> Figure:
    """A score against the number of words.

    Args:
        lengths: Numbers of words.
        curves: Label -> (score per length, role, line style).
        score: Its name.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    for label, (values, role, style) in curves.items():
        axis.plot(lengths, values, style, color=ROLES[role], markersize=4, label=label)
    axis.set(xlabel="words in the text", ylabel=score, ylim=(-0.03, 1), xticks=list(lengths))
    axis.legend(fontsize=7, loc="upper left", ncols=2)
    return figure
