"""Metrics of the chapters: norms, cosines, spectra, percentiles, map shapes; arrays only.

Nothing here knows a pipeline, a file or a figure.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import exprel
from scipy.stats import entropy, percentileofscore, rankdata
from sklearn.metrics.pairwise import cosine_similarity

BLOCK_ROWS = 1024  # rows per block of a pairwise product; bounds memory, changes no result


def predicted_norm(
    steps: Float[np.ndarray, " step"] | Int[np.ndarray, " step"],
    initial_norm: float,
    width: int,
    learning_rate: float,
    weight_decay: float = 0.0,
) -> Float[np.ndarray, " step"]:
    """Norm that AdamW alone gives a row whose gradient is orthogonal to it.

    Solves dn²/dT = d·lr² − 2·lr·wd·n² with n(0) = n0. Each Adam step moves every
    coordinate by about lr, so its squared length is d·lr²; steps orthogonal to the row
    add up by Pythagoras, and decay removes 2·lr·wd of n² per step. Without decay this
    is n² = n0² + d·lr²·T. No parameter is fitted.

    Args:
        steps: Optimiser steps taken, T.
        initial_norm: Norm of the initializer's row, n0.
        width: Coordinates of the row, d.
        learning_rate: Effective learning rate, lr, constant over training.
        weight_decay: AdamW's decoupled decay, wd.

    Returns:
        Norm after each number of steps, in units of the embedding table.

    Shown in: notebooks/02_norms.ipynb
    """
    steps = np.asarray(steps, dtype=float)
    decay = 2 * learning_rate * weight_decay * steps
    # steps * exprel(-decay) is (1 - exp(-decay)) / rate, and stays exact as decay goes to 0.
    grown = width * learning_rate**2 * steps * exprel(-decay)
    return np.sqrt(initial_norm**2 * np.exp(-decay) + grown)


def norm_ceiling(width: int, learning_rate: float, weight_decay: float) -> float:
    """Norm at which decay takes as much as AdamW's steps add: √(d·lr / (2·wd)).

    Args:
        As in `predicted_norm`; the decay is above 0.

    Shown in: notebooks/21_real_token_norms.ipynb
    """
    return float(np.sqrt(width * learning_rate / (2 * weight_decay)))


def pairwise_histogram(
    rows: Float[np.ndarray, "token d_model"], edges: Float[np.ndarray, " edge"]
) -> dict[str, np.ndarray]:
    """Histogram, mean and spread of the dot product over all pairs of distinct rows.

    Pass unit rows for cosines. Pairs are visited in blocks, so a vocabulary of 49,408
    rows fits in memory.

    Args:
        rows: One row per token.
        edges: Increasing bin edges; products outside are counted in the end bins.

    Returns:
        `counts` per bin, `mean`, `sd`, `mean_abs` and `pairs` over all n(n-1)/2 pairs.

    Raises:
        ValueError: fewer than two rows.

    Shown in: notebooks/03_cosine_pca.ipynb
    """
    if len(rows) < 2:
        raise ValueError(f"a pair needs two rows, got {len(rows)}")
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    total = squares = absolute = 0.0
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        products = block @ rows[start:].T
        upper = products[np.triu_indices(len(block), k=1, m=products.shape[1])].astype(float)
        counts += np.histogram(np.clip(upper, edges[0], edges[-1]), bins=edges)[0]
        total += upper.sum()
        squares += np.square(upper).sum()
        absolute += np.abs(upper).sum()
    pairs = len(rows) * (len(rows) - 1) // 2
    mean = total / pairs
    return {
        "counts": counts,
        "mean": np.asarray(mean),
        "sd": np.asarray(np.sqrt(max(squares / pairs - mean**2, 0.0))),
        "mean_abs": np.asarray(absolute / pairs),
        "pairs": np.asarray(pairs),
    }


def unit_rows(rows: Float[np.ndarray, "token d_model"]) -> Float[np.ndarray, "token d_model"]:
    """Rows divided by their norms.

    Raises:
        ValueError: a row is zero, so it has no direction.
    """
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError(f"{int((norms == 0).sum())} rows are zero and have no direction")
    return rows / norms


def mean_pairwise_cosine(
    rows: Float[np.ndarray, "token d_model"], groups: np.ndarray | None = None
) -> float:
    """Mean cosine over pairs of distinct rows, in [-1, 1]; 0 is expected of random rows.

    Args:
        rows: One row per token.
        groups: A label per row; only pairs with different labels count. Rows that
            started from the same initializer, or repeat in a resample, share a label.

    Returns:
        The mean, nan if no pair is left.
    """
    groups = np.arange(len(rows)) if groups is None else np.asarray(groups)
    apart = groups[:, None] != groups[None, :]
    return float(cosine_similarity(rows)[apart].mean()) if apart.any() else float("nan")


def percentile(value: float, sample: Float[np.ndarray, " token"]) -> float:
    """Share of the sample below the value, ties counted half, in percent [0, 100]."""
    return float(percentileofscore(sample, value, kind="mean"))


def explained_shares(
    rows: Float[np.ndarray, "token d_model"], centred: bool
) -> Float[np.ndarray, " component"]:
    """Share of the rows' total squared length along each principal axis, falling, sum 1.

    Args:
        rows: One row per token.
        centred: Subtract the mean row first (PCA, equal to scikit-learn's
            `explained_variance_ratio_`); otherwise the mean's direction counts too.

    Shown in: notebooks/03_cosine_pca.ipynb
    """
    rows = rows - rows.mean(axis=0) if centred else rows
    # the d_model x d_model second moment has the same eigenvalues and is small
    energy = np.clip(np.linalg.eigvalsh(rows.T.astype(float) @ rows)[::-1], 0, None)
    return energy / energy.sum()


def effective_rank(shares: Float[np.ndarray, " component"]) -> float:
    """Participation ratio 1 / Σ share²: the number of equal axes with the same spread."""
    return float(1 / np.square(shares).sum())


def growth_slope(grown: Float[np.ndarray, " step"], predicted: Float[np.ndarray, " step"]) -> float:
    """Least-squares slope through the origin of measured against predicted growth.

    Args:
        grown: Measured n²(T) − n²(0).
        predicted: The law's n²(T) − n²(0) at the same steps.

    Returns:
        1 if the law holds exactly, 0.5 if half of it was grown.

    Raises:
        ValueError: the law predicts no growth at all.
    """
    if not predicted.any():
        raise ValueError("the predicted growth is 0 at every step; record later steps")
    return float(grown @ predicted / (predicted @ predicted))


def rank_correlation(
    first: Float[np.ndarray, " observation"],
    second: Float[np.ndarray, " observation"],
    given: Float[np.ndarray, "observation cause"] | None = None,
) -> float:
    """Spearman's correlation, in [-1, 1]; of what `given` does not explain, if there is any.

    Partial correlation: ranks of both are regressed on the ranks of what is given, and what is
    left of them is correlated.

    Args:
        given: Held fixed; a column each.

    Returns:
        0 where one of the two is constant, or is explained whole.
    """
    ranks = [rankdata(each).astype(float) for each in (first, second)]
    known = np.ones((len(first), 1))
    if given is not None:
        known = np.column_stack([known, *(rankdata(column) for column in given.T)])
    residuals = [each - known @ np.linalg.lstsq(known, each)[0] for each in ranks]
    size = [np.linalg.norm(each) for each in residuals]
    # Below this what is left is rounding error of ranks up to the number of observations.
    if min(size) < 1e-9 * len(first) ** 1.5:
        return 0.0
    return float(np.clip(residuals[0] @ residuals[1] / (size[0] * size[1]), -1, 1))


def marchenko_pastur_edges(rows: int, width: int) -> tuple[float, float]:
    """Support of the eigenvalues of a random covariance whose mean eigenvalue is 1.

    Independent coordinates of unit variance, rows ≥ width, both large: eigenvalues fill
    [(1-√q)², (1+√q)²] with q = width / rows (Marchenko and Pastur, 1967).

    Raises:
        ValueError: fewer rows than coordinates, where part of the spectrum is 0.
    """
    if rows < width:
        raise ValueError(f"{rows} rows of width {width}: the law here needs rows >= width")
    root = np.sqrt(width / rows)
    return float((1 - root) ** 2), float((1 + root) ** 2)


def marchenko_pastur_density(
    eigenvalues: Float[np.ndarray, " x"], rows: int, width: int
) -> Float[np.ndarray, " x"]:
    """Density of those eigenvalues, integrating to 1 and zero outside the edges.

    Args:
        eigenvalues: Where to evaluate it, in units of the mean eigenvalue, above 0.

    Raises:
        ValueError: fewer rows than coordinates.

    Shown in: notebooks/03_cosine_pca.ipynb
    """
    low, high = marchenko_pastur_edges(rows, width)
    inside = np.clip((high - eigenvalues) * (eigenvalues - low), 0, None)
    return np.sqrt(inside) / (2 * np.pi * (width / rows) * eigenvalues)


def gini(maps: Float[np.ndarray, "*axes height width"]) -> Float[np.ndarray, "*axes"]:
    """Gini coefficient of each map's pixels: 0 if flat, near 1 if one pixel has all.

    Free of the map's scale, so maps of any total can be compared.

    Args:
        maps: Not negative, and not all zero.

    Raises:
        ValueError: a map has no positive pixel.

    Shown in: notebooks/04_attention_dominance.ipynb
    """
    shares = np.sort(_pixel_shares(maps), axis=-1)
    count = shares.shape[-1]
    weights = 2 * np.arange(1, count + 1) - count - 1
    return np.asarray((shares * weights).sum(-1) / count)


def flatness(maps: Float[np.ndarray, "*axes height width"]) -> Float[np.ndarray, "*axes"]:
    """Entropy of each map over its largest possible value: 1 if flat, 0 if one pixel has all.

    Args:
        As in `gini`.

    Raises:
        ValueError: a map has no positive pixel.
    """
    shares = _pixel_shares(maps)
    return np.asarray(entropy(shares, axis=-1) / np.log(shares.shape[-1]))


def roughness(maps: Float[np.ndarray, "*axes height width"]) -> Float[np.ndarray, "*axes"]:
    """Total variation of each map over its sum: 0 if flat, 4 at most.

    The absolute differences between neighbours, across and down, added up. A smooth hill has
    little, the same pixels in random order have much.

    Args:
        As in `gini`.

    Raises:
        ValueError: a map has no positive pixel.
    """
    shares = _pixel_shares(maps).reshape(maps.shape)
    across, down = (np.abs(np.diff(shares, axis=axis)).sum((-2, -1)) for axis in (-1, -2))
    return np.asarray(across + down)


def _pixel_shares(maps: np.ndarray) -> np.ndarray:
    flat = np.asarray(maps, dtype=float).reshape(*maps.shape[:-2], -1)
    total = flat.sum(-1, keepdims=True)
    if not (total > 0).all() or (flat < 0).any():
        raise ValueError("a map needs pixels of at least 0, and one above it")
    return flat / total
