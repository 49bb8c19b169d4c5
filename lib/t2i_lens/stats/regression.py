"""Cross-validated ridge regression: how much of an outcome do causes explain on held-out groups?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from t2i_lens.stats.bootstrap import Estimate, cluster_bootstrap, determination
from t2i_lens.stats.metrics import rank_correlation

FOLDS = 5


def held_out(
    causes: Float[np.ndarray, "observation cause"],
    outcome: Float[np.ndarray, " observation"],
    groups: np.ndarray,
) -> Float[np.ndarray, " observation"]:
    """Prediction of each outcome by a ridge regression that was not fitted on its group.

    Raises:
        ValueError: fewer than two groups.
    """
    count = len(np.unique(groups))
    if count < 2:
        raise ValueError("all observations are in one group: none is left to test on")
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 3, 11)))
    folds = GroupKFold(min(FOLDS, count))
    return cross_val_predict(model, causes, outcome, groups=groups, cv=folds)


def explained(table: pd.DataFrame, causes: Sequence[str], outcome: str, group: str) -> Estimate:
    """Share of an outcome's variance that causes explain on held-out groups.

    Args:
        Names of columns.

    Returns:
        1 is all of it; 0 what the mean tells, below 0 is worse than that. The interval
        resamples groups, with the predictions kept; n counts groups.

    Raises:
        ValueError: fewer than two groups, or the outcome is constant.
    """
    truth, groups = table[outcome].to_numpy(float), table[group].to_numpy()
    if np.ptp(truth) == 0:
        raise ValueError(f"{outcome} is the same everywhere: there is nothing to explain")
    guess = held_out(table[list(causes)].to_numpy(float), truth, groups)
    return cluster_bootstrap(groups, lambda rows: determination(truth[rows], guess[rows]))[0]


def associations(
    table: pd.DataFrame, causes: Sequence[str], outcome: str, group: str
) -> dict[str, tuple[Estimate, Estimate]]:
    """Rank correlation of each cause with an outcome: alone, and with all other causes held fixed.

    Args:
        Names of columns.

    Returns:
        Cause -> (rank correlation, partial rank correlation); intervals resample groups.
    """
    values, truth = table[list(causes)].to_numpy(float), table[outcome].to_numpy(float)
    groups, correlations = table[group].to_numpy(), {}
    for column, cause in enumerate(causes):
        others = np.delete(values, column, axis=1)

        def alone_and_given(picked: np.ndarray, column=column, others=others) -> np.ndarray:
            pair = values[picked, column], truth[picked]
            return np.array([rank_correlation(*pair), rank_correlation(*pair, others[picked])])

        correlations[cause] = tuple(cluster_bootstrap(groups, alone_and_given))
    return correlations
