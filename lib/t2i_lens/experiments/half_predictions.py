"""Does a prediction that is fitted on half of the concepts hold on the other half?

Concepts are split at random, again and again. A regression, a single property or a direction is
taken from one half, and its prediction is compared with what was measured on the other.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from t2i_lens.stats.bootstrap import CONFIDENCE, Estimate
from t2i_lens.stats.metrics import rank_correlation, unit_rows

Rows = Int[np.ndarray, " row"]
# Rows of one half, rows of the other -> a number on the other half.
Transfer = Callable[[Rows, Rows], float]


def splits(
    groups: np.ndarray, count: int, seed: int, resample: bool = False
) -> list[tuple[Rows, Rows]]:
    """Random halves of the groups, as rows of either half.

    Args:
        groups: The group of each row, such as its concept.
        count: Of splits.
        resample: Whether groups are drawn with replacement inside of each half, so that a
            bootstrap never has a group in both.

    Raises:
        ValueError: fewer than four groups.
    """
    names = np.unique(groups)
    if len(names) < 4:
        raise ValueError(f"{len(names)} groups cannot be split into halves: four are needed")
    members = {name: np.flatnonzero(groups == name) for name in names}
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        order = rng.permutation(names)
        sides = order[: len(names) // 2], order[len(names) // 2 :]
        if resample:
            sides = tuple(rng.choice(side, len(side)) for side in sides)
        found.append(tuple(np.concatenate([members[name] for name in side]) for side in sides))
    return found


def fitted(causes: Float[np.ndarray, "row cause"], outcome: Float[np.ndarray, " row"]) -> Transfer:
    """Rank correlation with the outcome of a ridge regression that was fitted on the other half."""

    def transfer(here: Rows, there: Rows) -> float:
        model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 3, 11)))
        model.fit(causes[here], outcome[here])
        return rank_correlation(model.predict(causes[there]), outcome[there])

    return transfer


def signed(cause: Float[np.ndarray, " row"], outcome: Float[np.ndarray, " row"]) -> Transfer:
    """Rank correlation of one cause with the outcome, in the direction that the first half has.

    Positive where both halves have the same sign.
    """

    def transfer(here: Rows, there: Rows) -> float:
        sign = np.sign(rank_correlation(cause[here], outcome[here]))
        return float(sign * rank_correlation(cause[there], outcome[there]))

    return transfer


def toward_shared(
    vectors: Float[np.ndarray, "row d_model"], outcome: Float[np.ndarray, " row"]
) -> Transfer:
    """Rank correlation of the outcome with the cosine to the mean direction of the other half."""
    units = unit_rows(vectors)

    def transfer(here: Rows, there: Rows) -> float:
        shared = units[here].mean(0)
        return rank_correlation(units[there] @ shared, outcome[there])

    return transfer


def transferred(
    transfers: Sequence[Transfer], groups: np.ndarray, count: int, seed: int = 0
) -> list[Estimate]:
    """Mean over random halves, with an interval over halves and concepts; the last is a difference.

    Args:
        transfers: One or two; of two, the first minus the second on the same halves is appended.
        groups: The group of each row.
        count: Of splits, for the mean and for the interval.

    Returns:
        n is the number of groups. A half in which a number is not defined does not count.

    Raises:
        ValueError: as `splits`.

    Shown in: notebooks/32_predictors.ipynb
    """

    def numbers(pairs: list[tuple[Rows, Rows]]) -> np.ndarray:
        rows = [[transfer(*pair) for transfer in transfers] for pair in pairs]
        if len(transfers) == 2:
            rows = [[*row, row[0] - row[1]] for row in rows]
        return np.array(rows, dtype=float).T

    means = np.nanmean(numbers(splits(groups, count, seed)), axis=1)
    tail = (1 - CONFIDENCE) / 2
    drawn = numbers(splits(groups, count, seed + 1, resample=True))
    ends = np.nanquantile(drawn, [tail, 1 - tail], axis=1).T
    return [
        Estimate(float(mean), float(min(low, mean)), float(max(high, mean)), len(np.unique(groups)))
        for mean, (low, high) in zip(means, ends, strict=True)
    ]


def chosen(
    table: pd.DataFrame, causes: Sequence[str], outcome: str, group: str, count: int, seed: int = 0
) -> pd.Series:
    """How often each cause has the strongest rank correlation on a random half, in [0, 1]."""
    values, truth = table[list(causes)].to_numpy(float), table[outcome].to_numpy(float)
    strongest = [
        int(np.argmax([abs(rank_correlation(column[here], truth[here])) for column in values.T]))
        for here, _ in splits(table[group].to_numpy(), count, seed)
    ]
    shares = np.bincount(strongest, minlength=len(causes)) / count
    return pd.Series(shares, index=list(causes), name="strongest on a half")
