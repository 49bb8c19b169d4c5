"""Norms of public TI embeddings against the optimiser's law: fits by series, ratios, exponents.

Rows are figures about public files (`data/public_tokens`). Every interval is resampled over
repositories, since the tokens of one repository share their recipe.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2i_lens.inversion.public_norms import DECAY, vocabulary_norm
from t2i_lens.stats.bootstrap import Estimate, cluster_bootstrap
from t2i_lens.stats.metrics import predicted_norm

FEWEST = 4  # checkpoints of a series that is fitted
# The recipe of diffusers' documentation, with which the blog's token was trained.
RECIPE = {"learning_rate": 2e-3, "weight_decay": DECAY}
RECIPE_STEPS = 3000


def with_law(tokens: pd.DataFrame, rate: float | None = None) -> pd.DataFrame:
    """Tokens with the law's norm where step and rate are known.

    Args:
        tokens: From `public_norms.tokens`.
        rate: Learning rate of all, in place of the documented one.

    Returns:
        Rows with step and rate, and two more columns: `law` with AdamW's decay of 0.01, `no_decay`
        without it. Runs start at the vocabulary's mean norm, see `vocabulary_norm`.
    """
    rates = tokens["lr"] if rate is None else pd.Series(rate, tokens.index)
    some = tokens[(tokens["step"] > 0) & rates.notna()]
    starts = {width: vocabulary_norm(width) for width in some["d"].unique()}
    laws = {
        name: [
            float(
                predicted_norm(np.array([row.step]), starts[row.d], row.d, rates[row.Index], wd)[0]
            )
            for row in some.itertuples()
        ]
        for name, wd in (("law", DECAY), ("no_decay", 0.0))
    }
    return some.assign(**laws)


def fits(series: pd.DataFrame) -> pd.DataFrame:
    """Straight lines through the checkpoints of each run, of n² and of n over the step.

    Args:
        series: From `public_norms.series`.

    Returns:
        A row per run of at least `FEWEST` checkpoints: `run_id repo way known d lr`, `checkpoints`,
        `r2` of n² over T, `r2_straight` of n over T, `slope` of n² per step, `ratio` of it to
        d·lr² (nan without a rate), `turning`, the mean cosine between successive displacements,
        and `moved`, mean of squared displacement over d·lr²·ΔT.

    Shown in: notebooks/21_real_token_norms.ipynb
    """
    rows = []
    for run, path in series.groupby("run_id", sort=False):
        if len(path) < FEWEST:
            continue
        first = path.iloc[0]
        steps, norms = path["step"].to_numpy(float), path["norm"].to_numpy()
        slope, r2 = _line(steps, norms**2)
        step_square = first["d"] * first["lr"] ** 2
        way = path["displacement"].to_numpy()[1:] ** 2 / (step_square * np.diff(steps))
        turning = path["cosine_of_displacements"]
        rows.append(
            {
                **first[["repo", "way", "known", "d", "lr"]],
                "run_id": run,
                "checkpoints": len(path),
                "r2": r2,
                "r2_straight": _line(steps, norms)[1],
                "slope": slope,
                "ratio": slope / step_square,
                "turning": turning.mean() if turning.notna().any() else np.nan,
                "moved": np.nanmean(way) if np.isfinite(way).any() else np.nan,
            }
        )
    return pd.DataFrame(rows).set_index("run_id")


def random_turning(series: pd.DataFrame, fits: pd.DataFrame, seed: int) -> pd.Series:
    """Mean cosine between successive displacements of random walks in the place of the series.

    Args:
        series: From `public_norms.series`.
        fits: From `fits`; a walk is drawn for each of its rows.
        seed: Of the walks.

    Returns:
        `walk`, by run.
    """
    rng, shapes = np.random.default_rng(seed), series.groupby("run_id")["n_vectors"].first()
    cosines = {}
    for run, row in fits.iterrows():
        ways = rng.normal(size=(row["checkpoints"] - 1, shapes[run], row["d"]))
        units = ways / np.linalg.norm(ways, axis=-1, keepdims=True)
        cosines[run] = (units[1:] * units[:-1]).sum(-1).mean()
    return pd.Series(cosines, name="walk")


def exponent(x: Float[np.ndarray, " row"], y: Float[np.ndarray, " row"]) -> float:
    """Slope of log y over log x; nan where x does not vary."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if np.ptp(np.log(x)) else np.nan


def over_repositories(
    table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], seed: int = 0
) -> Estimate:
    """A statistic of rows, with whole repositories resampled.

    Args:
        table: With a column `repo`.
        statistic: Number from some of its rows, drawn with repetition.
        seed: Of the resampling.

    Returns:
        n is the number of repositories.

    Raises:
        ValueError: fewer than two repositories.
    """
    return over_repositories_together(table, lambda rows: [statistic(rows)], seed)[0]


def over_repositories_together(
    table: pd.DataFrame, statistics: Callable[[pd.DataFrame], list[float]], seed: int = 0
) -> list[Estimate]:
    """Several statistics of the same resamples, such as a value, its control and their difference.

    Args:
        As in `over_repositories`.
    """

    def of_rows(index: np.ndarray) -> np.ndarray:
        return np.array(statistics(table.iloc[index]))

    return cluster_bootstrap(table["repo"].to_numpy(), of_rows, seed)


def compared(
    table: pd.DataFrame, value: str, control: str, seed: int = 0
) -> tuple[Estimate, Estimate, Estimate]:
    """Medians of two columns and of their difference of medians, repositories resampled."""

    def both(rows: pd.DataFrame) -> list[float]:
        first, second = rows[value].median(), rows[control].median()
        return [first, second, first - second]

    found = over_repositories_together(table, both, seed)
    return found[0], found[1], found[2]


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and R² of the least-squares line."""
    slope, offset = np.polyfit(x, y, 1)
    spread = np.square(y - y.mean()).sum()
    return float(slope), float(1 - np.square(y - offset - slope * x).sum() / spread)
