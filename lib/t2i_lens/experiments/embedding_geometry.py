"""Norms, cosines and spectrum of an embedding table; arrays only."""

import numpy as np
from jaxtyping import Float, Int
from sklearn.decomposition import PCA

from t2i_lens.stats.bootstrap import random_subsets
from t2i_lens.stats.metrics import (
    explained_shares,
    growth_slope,
    marchenko_pastur_density,
    marchenko_pastur_edges,
    mean_pairwise_cosine,
    pairwise_histogram,
    predicted_norm,
    unit_rows,
)


def growth(
    steps: Int[np.ndarray, " step"],
    norms: Float[np.ndarray, "token step"],
    initial: Float[np.ndarray, " token"],
    width: int,
    learning_rate: float,
    weight_decay: float,
) -> dict[str, np.ndarray]:
    """Measured norms over training, the optimiser's law, and its two extremes.

    Args:
        steps: Optimiser steps at which the norms were recorded, all above 0.
        norms: Of the TI embeddings.
        initial: Norm of each token's row before training.
        width: d_model.
        learning_rate: Effective and constant.
        weight_decay: Of AdamW.

    Returns:
        `steps`, `norms`; `law`, `no_decay` and `straight` [token, step], the last
        being the norm if all steps pointed away from the origin; `slope` [token], measured
        over predicted growth of the squared norm.

    Shown in: notebooks/02_norms.ipynb
    """
    law, no_decay = (
        np.stack(
            [predicted_norm(steps, float(start), width, learning_rate, wd) for start in initial]
        )
        for wd in (weight_decay, 0.0)
    )
    start = np.square(initial)[:, None]
    grown, predicted = np.square(norms) - start, np.square(law) - start
    slope = [growth_slope(*pair) for pair in zip(grown, predicted, strict=True)]
    straight = initial[:, None] + np.sqrt(width) * learning_rate * np.asarray(steps)
    return {
        "steps": np.asarray(steps),
        "norms": norms,
        "law": law,
        "no_decay": no_decay,
        "straight": straight,
        "slope": np.array(slope),
    }


def gaussian_rows(
    rows: Float[np.ndarray, "token d_model"], seed: int
) -> Float[np.ndarray, "token d_model"]:
    """Random rows of the same shape and mean squared length: the control for any geometry."""
    scale = np.sqrt(np.square(rows).mean())
    return np.random.default_rng(seed).normal(0, scale, rows.shape).astype(rows.dtype)


def pair_distributions(
    rows: Float[np.ndarray, "token d_model"], sample: int, bins: int, seed: int
) -> dict[str, np.ndarray]:
    """Dot products and cosines over all pairs, over a sample's pairs, and over random rows'.

    Args:
        rows: Trained rows.
        sample: Rows in the sample; all of them if there are fewer.
        bins: Bins of each histogram, symmetric about 0.
        seed: Of the sample and of the random rows.

    Returns:
        `dot_edges`, `cosine_edges`, and for each of `all`, `sample`, `random` the fields
        of `pairwise_histogram` under names like `all_cosine_counts`.

    Shown in: notebooks/03_cosine_pca.ipynb
    """
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(rows), size=min(sample, len(rows)), replace=False)
    longest = float(np.square(np.linalg.norm(rows, axis=1)).max())
    edges = {
        "dot": np.linspace(-longest, longest, bins + 1),
        "cosine": np.linspace(-1, 1, bins + 1),
    }
    result = {f"{name}_edges": value for name, value in edges.items()}
    sets = {"all": rows, "sample": rows[picked], "random": gaussian_rows(rows, seed)}
    for name, of_set in sets.items():
        for product, units in {"dot": of_set, "cosine": unit_rows(of_set)}.items():
            fields = pairwise_histogram(units, edges[product])
            result |= {f"{name}_{product}_{field}": value for field, value in fields.items()}
    return result


def subset_geometry(
    rows: Float[np.ndarray, "token d_model"], subsets: int, share: float, seed: int
) -> dict[str, np.ndarray]:
    """Mean |cosine| and first principal share over random subsets of the rows.

    Subsets are drawn without replacement: a row that occurs twice would be parallel to
    itself and inflate both numbers.

    Args:
        rows: Trained rows.
        subsets: Number of subsets.
        share: Part of the rows in each.
        seed: Of the subsets.

    Returns:
        `mean_abs_cosine` and `first_share`, one value per subset.
    """
    members = random_subsets(len(rows), share, subsets, seed)
    units, weights = unit_rows(rows), members.astype(np.float32)
    sums = np.zeros(subsets)
    for start in range(0, len(rows), 1024):
        block = slice(start, start + 1024)
        absolute = np.abs(units[block] @ units.T)
        sums += np.einsum("sb,sb->s", weights[:, block], weights @ absolute.T)
    size = members[0].sum()
    return {
        # each row met itself once, with cosine 1
        "mean_abs_cosine": (sums - size) / (size * (size - 1)),
        "first_share": np.array([explained_shares(rows[m], centred=True)[0] for m in members]),
    }


def group_cosines(
    rows: Float[np.ndarray, "token d_model"], size: int, draws: int, seed: int
) -> dict[str, Float[np.ndarray, " draw"]]:
    """Mean pairwise cosine of random groups of rows: the baseline for a group of tokens.

    Returns:
        `cosines`, one mean per group.
    """
    rng = np.random.default_rng(seed)
    groups = (rng.choice(len(rows), size=size, replace=False) for _ in range(draws))
    return {"cosines": np.array([mean_pairwise_cosine(rows[group]) for group in groups])}


def principal_plane(
    rows: Float[np.ndarray, "token d_model"], others: dict[str, Float[np.ndarray, "_ d_model"]]
) -> dict[str, Float[np.ndarray, "_ 2"]]:
    """Coordinates of rows and of others on the first two principal axes of the rows, mean at 0."""
    pca = PCA(n_components=2, svd_solver="full").fit(rows)
    return {name: pca.transform(points) for name, points in {"rows": rows, **others}.items()}


def spectrum(
    rows: Float[np.ndarray, "token d_model"], seed: int
) -> dict[str, Float[np.ndarray, " _"]]:
    """Explained shares, centred and not, of the rows and of a random matrix, with its limit law.

    Args:
        rows: Trained rows, more of them than coordinates.
        seed: Of the random matrix.

    Returns:
        `centred`, `uncentred`, `random` shares per component; `law_x`, `law_y` the
        Marchenko-Pastur density of eigenvalues in units of their mean.
    """
    count, width = rows.shape
    random = explained_shares(gaussian_rows(rows, seed), centred=True)
    grid = np.geomspace(*marchenko_pastur_edges(count, width), 400)
    return {
        "centred": explained_shares(rows, centred=True),
        "uncentred": explained_shares(rows, centred=False),
        "random": random,
        "law_x": grid,
        "law_y": marchenko_pastur_density(grid, count, width),
    }
