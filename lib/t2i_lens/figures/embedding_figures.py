"""Figures of the embedding table: norms, growth, spectra and planes."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from t2i_lens.figures.style import ROLES, WIDTH, styled


@styled
def norm_ratios(points: pd.DataFrame) -> Figure:
    """Norms in units of the mean vocabulary norm of their own model, a row per source.

    Args:
        points: Columns source, token, ratio, role; drawn in the order given.
    """
    sources = list(dict.fromkeys(points["source"]))
    figure, axis = plt.subplots(figsize=(WIDTH, 0.8 + 0.26 * len(sources)))
    for y, source in enumerate(sources):
        for role, some in points[points["source"] == source].groupby("role", sort=False):
            axis.plot(
                some["ratio"],
                np.full(len(some), y),
                "o",
                color=ROLES[role],
                alpha=0.75,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.5,
            )
    counts = points["source"].value_counts()
    axis.axvline(1, color=ROLES["content"], linestyle="--", linewidth=1)
    axis.set(
        xscale="log",
        xlabel="norm / mean vocabulary norm of the same model (log scale)",
        yticks=range(len(sources)),
        ylim=(len(sources) - 0.5, -0.5),
    )
    axis.set_yticklabels([f"{source} (n={counts[source]})" for source in sources])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xticks([0.5, 1, 2, 5, 10, 20, 50, 100])
    return figure


@styled
def norm_growth(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Measured norm over training against the law, and their ratio below.

    Args:
        panels: Title -> what `embedding_geometry.growth` returns. The upper curves of the law
            start at the mean initial norm; each ratio is to the token's own law.
    """
    figure, axes = plt.subplots(
        2,
        len(panels),
        figsize=(WIDTH, 4.2),
        sharex="col",
        sharey="row",
        squeeze=False,
        height_ratios=[2, 1.2],
    )
    for column, (title, panel) in enumerate(panels.items()):
        top, bottom = axes[:, column]
        steps, count = panel["steps"], len(panel["norms"])
        style = {"color": ROLES["placeholder"], "linewidth": 1, "alpha": 0.8}
        marker = "o" if len(steps) < 20 else None
        for norms, law in zip(panel["norms"], panel["law"], strict=True):
            top.plot(steps, norms, marker=marker, markersize=4, **style)
            bottom.plot(steps, norms / law, marker=marker, markersize=4, **style)
        top.plot(
            steps, panel["straight"].mean(0), ":", color=ROLES["control"], label="steps all aligned"
        )
        top.plot(steps, panel["no_decay"].mean(0), "--", color="0.6", label="law without decay")
        top.plot(steps, panel["law"].mean(0), color=ROLES["law"], label="law")
        top.plot([], [], label="measured", **style)
        bottom.axhline(1, color=ROLES["law"], linewidth=1)
        top.set_title(f"{title} (n={count})")
        top.set_ylim(0, 1.4 * max(panel["norms"].max() for panel in panels.values()))
        top.set_xlim(0, steps.max())
        bottom.set_xlabel("training step")
    ratios = np.concatenate([(p["norms"] / p["law"]).ravel() for p in panels.values()])
    axes[1, 0].set_ylim(min(0.5, 0.95 * ratios.min()), max(1.5, 1.05 * ratios.max()))
    axes[0, 0].set_ylabel("norm")
    axes[1, 0].set_ylabel("measured / law")
    axes[0, -1].legend(loc="upper left", ncols=2, fontsize=7)
    return figure


@styled
def spectra(
    shares: Mapping[str, tuple[np.ndarray, str]],
    eigenvalues: Mapping[str, tuple[np.ndarray, str]],
    law: tuple[np.ndarray, np.ndarray],
) -> Figure:
    """Explained share per component, and the eigenvalues against Marchenko and Pastur.

    Args:
        shares: Label -> (share per component, role).
        eigenvalues: Label -> (eigenvalues in units of their mean, role).
        law: Where the random density was evaluated, and its values.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    for label, (share, role) in shares.items():
        style = "--" if role == "random" else "-"
        left.plot(np.arange(1, len(share) + 1), share, style, color=ROLES[role], label=label)
    left.set(xscale="log", yscale="log", xlabel="component", ylabel="share of squared length")
    limits = (1e-3, 1.5 * max(share.max() for share, _ in shares.values()))
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_yticks([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
    left.set_ylim(*limits)
    left.legend(fontsize=7)
    top = max(values.max() for values, _ in eigenvalues.values())
    edges = np.geomspace(min(law[0].min(), 0.02), top * 1.05, 41)
    for label, (values, role) in eigenvalues.items():
        style = {"histtype": "step" if role == "random" else "stepfilled", "alpha": 0.7}
        name = f"{label} (n={len(values)})"
        right.hist(values, bins=edges, density=True, color=ROLES[role], label=name, **style)
    right.plot(*law, color=ROLES["law"], label="Marchenko–Pastur")
    right.set(xscale="log", xlabel="eigenvalue / mean eigenvalue; 40 log bins", ylabel="density")
    right.legend(fontsize=7)
    return figure


@styled
def plane(points: Mapping[str, tuple[np.ndarray, str]], axes_labels: tuple[str, str]) -> Figure:
    """Tokens on two axes, one look per role.

    Args:
        points: Label -> ([token, 2], role); later ones lie on top.
        axes_labels: Names of the two axes.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    for label, (xy, role) in points.items():
        crowd = len(xy) > 100
        axis.scatter(
            xy[:, 0],
            xy[:, 1],
            s=6 if crowd else 42,
            alpha=0.4 if crowd else 1,
            color=ROLES[role],
            edgecolor="none" if crowd else "black",
            linewidth=0.5,
            label=f"{label} (n={len(xy)})",
        )
    axis.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
