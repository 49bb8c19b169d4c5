"""Causes are told from companions, and what is learned is tested on groups not looked at."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.stats import regression
from t2i_lens.stats.metrics import rank_correlation


@pytest.fixture(scope="module")
def table():
    """Outcome follows `cause`; `companion` is a noisy copy of it; `noise` is by itself."""
    rng = np.random.default_rng(0)
    cause = rng.normal(size=200)
    return pd.DataFrame(
        {
            "cause": cause,
            "companion": cause + rng.normal(size=200),
            "noise": rng.normal(size=200),
            "outcome": cause + 0.3 * rng.normal(size=200),
            "group": np.repeat(np.arange(20), 10),
        }
    )


def test_a_cause_explains_and_noise_does_not(table):
    causes = ["cause", "companion", "noise"]
    every = regression.explained(table, causes, "outcome", "group")
    assert 0.8 < every.value < 1 and every.n == 20  # groups
    assert abs(regression.explained(table, ["noise"], "outcome", "group").value) < 0.1


def test_what_holds_within_a_group_alone_explains_nothing_outside_it():
    rng = np.random.default_rng(1)
    label = np.repeat(np.arange(10), 20)
    table = pd.DataFrame({"code": label % 2 + rng.normal(0, 0.01, 200), "group": label})
    # Each group has a level of its own, which its code says nothing about.
    table["level"] = rng.normal(size=10)[label]
    assert regression.explained(table, ["code"], "level", "group").value < 0.3


def test_a_companion_goes_with_the_outcome_until_the_cause_is_held_fixed(table):
    found = regression.associations(table, ["cause", "companion", "noise"], "outcome", "group")
    alone, given = found["companion"]
    assert alone.low > 0.4
    assert given.low < 0.15 and abs(given.value) < 0.2
    alone, given = found["cause"]
    assert given.low > 0.6 and alone.low > 0.8


def test_one_group_and_a_constant_outcome_are_refused(table):
    with pytest.raises(ValueError, match="one group"):
        regression.explained(table.assign(group=0), ["cause"], "outcome", "group")
    with pytest.raises(ValueError, match="same everywhere"):
        regression.explained(table.assign(outcome=1.0), ["cause"], "outcome", "group")


def test_rank_correlation_is_spearmans_and_partial_takes_a_cause_out():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(2)
    common = rng.normal(size=300)
    first, second = common + rng.normal(size=(2, 300))
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation(first, second) > 0.3
    # Of two that share nothing but a cause about 1/sqrt(300) is left, and what ranks bend.
    assert abs(rank_correlation(first, second, common[:, None])) < 0.15


def test_a_constant_goes_with_nothing():
    assert rank_correlation(np.ones(5), np.arange(5.0)) == 0
    x = np.arange(5.0)
    assert rank_correlation(x, np.array([2.0, 1, 4, 3, 5]), x[:, None]) == 0
