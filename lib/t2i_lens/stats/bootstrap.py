"""Bootstrap intervals, differences from a control, effect sizes and corrections.

Every random draw is seeded, so the same data give the same interval.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import DegenerateDataWarning, bootstrap, permutation_test, rankdata
from statsmodels.stats.multitest import multipletests

from t2i_lens.stats.metrics import mean_pairwise_cosine

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval.

    Attributes:
        n: Independent units of resampling behind the interval. Of axes that are crossed it is the
            shortest: no more units than that are independent in every respect.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    def shifted(self, by: float) -> "Estimate":
        """The same estimate with a known constant added to value and interval."""
        return Estimate(self.value + by, self.low + by, self.high + by, self.n)

    def __format__(self, spec: str) -> str:
        """`format(e, ".2f")` is "value [low, high]"."""
        spec = spec or ".3g"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def resampled(
    sizes: Sequence[int], statistic: Callable[..., np.ndarray | float], n: int, seed: int
) -> list[Estimate]:
    """Percentile bootstrap; every other function here resamples with it.

    A resample in which a number is not finite, such as one without rows of some kind, does not
    count for it. An interval is widened to hold its value where resampling misses it, as it can
    for the place of a maximum, or for few or unequal clusters.

    Args:
        sizes: Entries of each sample; each is resampled on its own.
        statistic: One number, or several at once, from the drawn indices of each sample.
        n: Recorded with the estimates.
        seed: Of the resampling.

    Returns:
        An estimate for each number.

    Raises:
        ValueError: a sample of fewer than two entries, or a number that is never finite.
    """
    samples = tuple(np.arange(size) for size in sizes)
    with warnings.catch_warnings():
        # SciPy's own interval is not used: one resample that is not finite would spoil it.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        drawn = bootstrap(
            samples,
            statistic,
            vectorized=False,
            method="percentile",
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    tail = (1 - CONFIDENCE) / 2
    estimates = []
    for value, row in zip(np.atleast_1d(statistic(*samples)), np.atleast_2d(drawn), strict=True):
        finite = row[np.isfinite(row)]
        if not np.isfinite(value) or not len(finite):
            raise ValueError(f"the statistic of all data is {value}: nothing to resample")
        low, high = np.quantile(finite, [tail, 1 - tail])
        estimates.append(Estimate(float(value), float(min(low, value)), float(max(high, value)), n))
    return estimates


def crossed_bootstrap(
    values: Float[np.ndarray, "..."],
    statistic: Callable[[np.ndarray], float] = np.mean,
    seed: int = 0,
) -> Estimate:
    """Bootstrap of an array whose axes are all samples of something larger.

    Prompts and seeds (and concepts) are crossed: every prompt is drawn with every seed,
    so two pictures that share either are not independent. Each axis is resampled on its
    own, as in Owen's pigeonhole bootstrap (2007), and the interval covers new prompts
    and new seeds alike. An axis with one entry, such as a single concept, is kept: the interval
    is for that entry alone.

    Args:
        values: One number per cell, e.g. [prompt, seed] or [concept, prompt, seed].
            For a paired comparison pass the differences.
        statistic: Number from an array of the same rank.
        seed: Of the resampling.

    Returns:
        The statistic and its 95 % interval; n is the length of the shortest axis resampled.

    Raises:
        ValueError: a value is missing (nan), or no axis has two entries.
    """
    values = np.asarray(values, dtype=float)
    if np.isnan(values).any():
        raise ValueError("values hold nan: every prompt must be drawn with every seed")
    several = [size for size in values.shape if size > 1]
    if not several:
        raise ValueError(f"shape {values.shape}: a single value cannot be resampled")

    def of_cells(*picked: np.ndarray) -> float:
        drawn = iter(picked)
        return statistic(values[np.ix_(*(next(drawn) if n > 1 else [0] for n in values.shape))])

    return resampled(several, of_cells, min(several), seed)[0]


def over_cells(
    values: Float[np.ndarray, "arm *cell"],
    statistic: Callable[[np.ndarray], float],
    seed: int = 0,
) -> Estimate:
    """A number of the arms' means, with the cells resampled and the arms kept.

    Args:
        values: Outcome in every arm, e.g. [arm, prompt, seed].
        statistic: Number from the means [arm].
        seed: Of the resampling.

    Returns:
        n as `crossed_bootstrap`.

    Raises:
        ValueError: as `crossed_bootstrap`.
    """
    flat = np.reshape(values, (len(values), -1))
    cells = np.arange(flat.shape[1], dtype=float).reshape(np.shape(values)[1:])

    def of_means(picked: np.ndarray) -> float:
        return statistic(flat[:, picked.astype(int).ravel()].mean(1))

    return crossed_bootstrap(cells, of_means, seed)


def ratio_bootstrap(
    part: Float[np.ndarray, "..."], whole: Float[np.ndarray, "..."], seed: int = 0
) -> Estimate | None:
    """Mean of `part` divided by the mean of `whole`, their cells resampled together.

    Args:
        part: As in `crossed_bootstrap`.
        whole: One number per cell of `part`.
        seed: Of the resampling.

    Returns:
        None where the interval of the whole reaches zero: there is nothing to divide by.

    Raises:
        ValueError: as `crossed_bootstrap`, or the two have different shapes.
    """
    if np.shape(part) != np.shape(whole):
        raise ValueError(f"part {np.shape(part)} and whole {np.shape(whole)} have different cells")
    if crossed_bootstrap(whole, seed=seed).low <= 0:
        return None
    # The few resamples without a whole come out as very large instead of endless.
    return over_cells(np.stack([part, whole]), lambda means: means[0] / max(means[1], 1e-9), seed)


def paired_difference(
    effect: Float[np.ndarray, "..."],
    control: Float[np.ndarray, "..."],
    statistic: Callable[[np.ndarray], float] = np.mean,
    seed: int = 0,
) -> Estimate:
    """A statistic of the effect minus that of the control, their cells resampled together.

    Args:
        effect: As in `crossed_bootstrap`, e.g. [prompt, seed].
        control: One number per cell of `effect`.
        statistic: Number from an array of the same rank.
        seed: Of the resampling.

    Raises:
        ValueError: as `crossed_bootstrap`, or the two have different shapes.
    """
    if np.shape(effect) != np.shape(control):
        raise ValueError(
            f"effect {np.shape(effect)} and control {np.shape(control)} have different cells"
        )
    outcomes = np.stack([np.ravel(effect), np.ravel(control)]).astype(float)
    if np.isnan(outcomes).any():
        raise ValueError("effect or control holds nan: both are needed in every cell")
    cells = np.arange(outcomes.shape[1], dtype=float).reshape(np.shape(effect))

    def apart(picked: np.ndarray) -> float:
        first, second = outcomes[:, picked.astype(int)]
        return statistic(first) - statistic(second)

    return crossed_bootstrap(cells, apart, seed)


def independent_difference(effect: Estimate, control: Estimate) -> Estimate:
    """Effect minus control of two estimates that share no units.

    The interval comes from the two intervals by the method of variance estimates recovery (Zou
    and Donner 2008): each end is as far from the difference as the root of the summed squares of
    the two distances that lie on its side. It is exact for normal estimates and keeps the skew of
    others.

    Returns:
        n is the smaller of the two.
    """
    value = effect.value - control.value
    down = np.hypot(effect.value - effect.low, control.high - control.value)
    up = np.hypot(effect.high - effect.value, control.value - control.low)
    return Estimate(value, float(value - down), float(value + up), min(effect.n, control.n))


def exact(value: float | int) -> Estimate:
    """A number that is counted and not sampled: its interval has no width, and n is 1."""
    return Estimate(float(value), float(value), float(value), 1)


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

    Returns:
        The mean over pairs from different groups, its 95 % interval, n = groups.

    Raises:
        ValueError: fewer than two groups.
    """

    def mean_cosine(index: np.ndarray) -> float:
        return mean_pairwise_cosine(rows[index], groups[index])

    return cluster_bootstrap(groups, mean_cosine, seed)[0]


def cluster_bootstrap(
    labels: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray | float], seed: int = 0
) -> list[Estimate]:
    """Bootstrap of rows that come in clusters of unequal size, e.g. by prompt.

    Whole clusters are resampled, each with all its rows.

    Args:
        labels: The cluster of each row.
        statistic: One number, or several at once, from the indices of the drawn rows.
        seed: Of the resampling.

    Returns:
        An estimate for each number; n is the number of clusters.

    Raises:
        ValueError: fewer than two clusters, or the statistic of all rows is not finite.
    """
    names, inverse = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{len(names)} cluster: nothing to resample")
    members = [np.flatnonzero(inverse == number) for number in range(len(names))]

    def of_rows(clusters: np.ndarray) -> np.ndarray | float:
        return statistic(np.concatenate([members[cluster] for cluster in clusters]))

    return resampled([len(names)], of_rows, len(names), seed)


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

    Returns:
        The chance (area under the ROC curve), its 95 % interval; n is the smaller group's.
    """

    def chance(first_rows: np.ndarray, second_rows: np.ndarray) -> float:
        return probability_of_superiority(first[first_rows], second[second_rows])

    return resampled([len(first), len(second)], chance, min(len(first), len(second)), seed)[0]


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
