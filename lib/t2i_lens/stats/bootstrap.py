"""Intervals, effect sizes and corrections: how sure a number is.

Every random draw is seeded, so the same data give the same interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import bootstrap, permutation_test, rankdata
from statsmodels.stats.multitest import multipletests

from t2i_lens.stats.metrics import mean_pairwise_cosine

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def fields(self) -> dict:
        """`value`, `interval` and `n`, as a claim is recorded with."""
        return {"value": self.value, "interval": self.interval, "n": self.n}

    def shifted(self, by: float) -> "Estimate":
        """The same estimate with a known constant added to value and interval."""
        return Estimate(self.value + by, self.low + by, self.high + by, self.n)

    def __format__(self, spec: str) -> str:
        """`format(e, ".2f")` is "value [low, high]"."""
        spec = spec or ".3g"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def crossed_bootstrap(
    values: Float[np.ndarray, "..."],
    statistic: Callable[[np.ndarray], float] = np.mean,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap of an array whose axes are all samples of something larger.

    Prompts and seeds (and concepts) are crossed: every prompt is drawn with every seed,
    so two pictures that share either are not independent. Each axis is resampled on its
    own, as in Owen's pigeonhole bootstrap (2007), and the interval covers new prompts
    and new seeds alike.

    Args:
        values: One number per cell, e.g. [prompt, seed] or [concept, prompt, seed].
            For a paired comparison pass the differences.
        statistic: Number from an array of the same rank.
        seed: Of the resampling.
    Returns: The statistic, its 95 % interval, and n, the number of cells.
    Raises: ValueError: a value is missing (nan), or an axis holds a single entry.
    """
    values = np.asarray(values, dtype=float)
    if np.isnan(values).any():
        raise ValueError("values hold nan: every prompt must be drawn with every seed")
    if values.ndim == 0 or 1 in values.shape:
        raise ValueError(f"shape {values.shape}: an axis with one entry cannot be resampled")
    result = bootstrap(
        tuple(np.arange(size) for size in values.shape),
        lambda *picked: statistic(values[np.ix_(*picked)]),
        vectorized=False,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Estimate(float(statistic(values)), float(low), float(high), values.size)


def over_cells(
    values: Float[np.ndarray, "arm *cell"], statistic: Callable[[np.ndarray], float]
) -> Estimate:
    """A number of the arms' means, with the cells resampled and the arms kept.

    The interval is widened to hold the value where resampling misses it, as it can for the
    place of a maximum.

    Args:
        values: Outcome in every arm, e.g. [arm, prompt, seed].
        statistic: Number from the means [arm].
    Returns: n counts cells.
    Raises: ValueError: as `crossed_bootstrap`.
    """
    flat = values.reshape(len(values), -1)
    cells = np.arange(flat.shape[1], dtype=float).reshape(values.shape[1:])
    found = crossed_bootstrap(
        cells, lambda picked: statistic(flat[:, picked.astype(int).ravel()].mean(1))
    )
    low, high = min(found.low, found.value), max(found.high, found.value)
    return Estimate(found.value, low, high, found.n)


def ratio_bootstrap(
    part: Float[np.ndarray, "..."], whole: Float[np.ndarray, "..."], seed: int = 0
) -> Estimate | None:
    """Mean of `part` divided by the mean of `whole`, their cells resampled together.

    Args:
        part: As in `crossed_bootstrap`.
        whole: One number per cell of `part`.
        seed: Of the resampling.
    Returns: None where the interval of the whole reaches zero: there is nothing to divide by.
    Raises: ValueError: as `crossed_bootstrap`, or the two have different shapes.
    """
    part, whole = (np.asarray(values, dtype=float) for values in (part, whole))
    if part.shape != whole.shape:
        raise ValueError(f"part {part.shape} and whole {whole.shape} have different cells")
    if crossed_bootstrap(whole, seed=seed).low <= 0:
        return None

    def ratio(picked: np.ndarray) -> float:
        cells = picked.astype(int)
        # The few resamples without a whole come out as very large instead of endless.
        return float(part.ravel()[cells].mean() / max(whole.ravel()[cells].mean(), 1e-9))

    cells = np.arange(whole.size, dtype=float).reshape(whole.shape)
    return crossed_bootstrap(cells, ratio, seed=seed)


def mean_cosine_bootstrap(
    rows: Float[np.ndarray, "token d_model"], groups: np.ndarray, seed: int = 0
) -> Estimate:
    """Mean pairwise cosine with an interval over tokens.

    Whole groups are resampled; copies of a group are never compared with each other,
    since a row's cosine with itself says nothing.

    Args:
        rows: One row per token.
        groups: A label per row, as in `mean_pairwise_cosine`.
        seed: Of the resampling.
    Returns: The mean over pairs from different groups, its 95 % interval, n = rows.
    Raises: ValueError: fewer than two groups.
    """
    labels = np.unique(groups)
    if len(labels) < 2:
        raise ValueError("all rows are in one group: no pair to compare")
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == label) for label in labels]
    drawn = []
    while len(drawn) < RESAMPLES:
        picks = rng.integers(len(labels), size=len(labels))
        if len(set(picks)) > 1:
            index = np.concatenate([members[pick] for pick in picks])
            drawn.append(mean_pairwise_cosine(rows[index], groups[index]))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(mean_pairwise_cosine(rows, groups), float(low), float(high), len(rows))


def random_subsets(
    count: int, share: float, subsets: int, seed: int = 0
) -> Bool[np.ndarray, "subset token"]:
    """Membership of random subsets without replacement, each of the given share of `count`."""
    rng = np.random.default_rng(seed)
    members = np.zeros((subsets, count), dtype=bool)
    for row in members:
        row[rng.choice(count, size=round(share * count), replace=False)] = True
    return members


def subset_estimate(values: Float[np.ndarray, " subset"], n: int) -> Estimate:
    """Mean and central 95 % of a statistic over random subsets of n observations."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(float(np.mean(values)), float(low), float(high), n)


def superiority_bootstrap(
    first: Float[np.ndarray, " a"], second: Float[np.ndarray, " b"], seed: int = 0
) -> Estimate:
    """Chance that a draw of `first` exceeds one of `second`, both groups resampled.

    Returns: The chance (area under the ROC curve), its 95 % interval, n = len(first).
    """
    result = bootstrap(
        (first, second),
        probability_of_superiority,
        vectorized=False,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Estimate(probability_of_superiority(first, second), float(low), float(high), len(first))


def paired_effect_size(differences: Float[np.ndarray, "..."]) -> float:
    """Cohen's d_z: mean difference over its standard deviation; 0 if all are equal."""
    spread = np.std(differences, ddof=1)
    return float(np.mean(differences) / spread) if spread > 0 else 0.0


def probability_of_superiority(
    first: Float[np.ndarray, " a"], second: Float[np.ndarray, " b"]
) -> float:
    """Chance that a draw of `first` exceeds one of `second`, ties half; 0.5 is no effect."""
    # By ranks, as Mann and Whitney's U: a thousand resamples have no use for its p.
    ranks = rankdata(np.concatenate([first, second]))[: len(first)].sum()
    return float(ranks / len(first) - (len(first) + 1) / 2) / len(second)


def sign_flip_p(differences: Float[np.ndarray, " cluster"], seed: int = 0) -> float:
    """Two-sided p of "the mean paired difference is 0", by flipping signs of clusters.

    Args:
        differences: One mean difference per independent cluster, e.g. per prompt.
        seed: Of the flips, used only when there are too many to try all.
    """
    result = permutation_test(
        (np.asarray(differences, dtype=float),),
        lambda sample: float(np.mean(sample)),
        permutation_type="samples",
        vectorized=False,
        n_resamples=RESAMPLES * 2,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> tuple[Bool[np.ndarray, " test"], Float[np.ndarray, " test"]]:
    """Which tests hold at 5 % over the whole family, and their Holm-corrected p values."""
    reject, corrected, _, _ = multipletests(p_values, alpha=1 - CONFIDENCE, method="holm")
    return reject, corrected


def cluster_bootstrap(
    labels: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray | float], seed: int = 0
) -> list[Estimate]:
    """Percentile bootstrap of rows that come in clusters of unequal size, e.g. by prompt.

    Whole clusters are resampled, each with all its rows. A resample in which the statistic is
    not finite, such as one without rows of some kind, is drawn again. An interval is widened to
    hold its value where resampling misses it, as it can for few or unequal clusters.

    Args:
        labels: The cluster of each row.
        statistic: One number, or several at once, from the indices of the drawn rows.
        seed: Of the resampling.
    Returns: An estimate for each number; n is the number of clusters.
    Raises: ValueError: fewer than two clusters, or the statistic of all rows is not finite.
    """
    names, inverse = np.unique(labels, return_inverse=True)
    whole = np.atleast_1d(statistic(np.arange(len(inverse))))
    if len(names) < 2 or not np.isfinite(whole).all():
        raise ValueError(f"{len(names)} clusters give {whole}: nothing to resample")
    members = [np.flatnonzero(inverse == place) for place in range(len(names))]
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < RESAMPLES:
        picks = rng.integers(len(names), size=len(names))
        values = np.atleast_1d(statistic(np.concatenate([members[pick] for pick in picks])))
        if np.isfinite(values).all():
            drawn.append(values)
    tail = (1 - CONFIDENCE) / 2
    bounds = np.quantile(drawn, [tail, 1 - tail], axis=0)
    triples = zip(whole.tolist(), *bounds.tolist(), strict=True)
    return [Estimate(float(v), min(a, v), max(b, v), len(names)) for v, a, b in triples]


def rank_correlations(
    x: Float[np.ndarray, " row"], ys: Float[np.ndarray, "row column"]
) -> Float[np.ndarray, " column"]:
    """Spearman's correlation of x with every column, in [-1, 1]; nan where one is constant."""
    a, b = rankdata(x), rankdata(ys, axis=0)
    a, b = a - a.mean(), b - b.mean(axis=0)
    with np.errstate(invalid="ignore"):
        return (a @ b) / np.sqrt((a @ a) * (b**2).sum(axis=0))


def determination(
    measured: Float[np.ndarray, "row *axes"], predicted: Float[np.ndarray, "row *axes"]
) -> Float[np.ndarray, "*axes"] | float:
    """Coefficient of determination of a prediction without free parameters; at most 1.

    0 is what the mean of the measured values would reach; a prediction can be worse than that.
    Not finite where the measured values are all equal.
    """
    missed = ((measured - predicted) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - missed / ((measured - measured.mean(axis=0)) ** 2).sum(axis=0)
