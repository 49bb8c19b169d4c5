"""Differences between an effect and its control: paired over shared units, or of two estimates."""

import numpy as np
import pytest

from t2i_lens.stats import bootstrap as stats
from t2i_lens.stats.bootstrap import (
    Estimate,
    exact,
    independent_difference,
    paired_difference,
)


def cells(seed, prompts=12, seeds=6):
    """Outcomes of two arms [prompt, seed] that share what prompts and seeds do, and differ by 1."""
    rng = np.random.default_rng(seed)
    shared = 5 * rng.normal(size=(prompts, 1)) + 2 * rng.normal(size=seeds)
    effect, control = shared + 0.1 * rng.normal(size=(2, prompts, seeds))
    return effect + 1.0, control


def test_a_paired_difference_is_that_of_the_differences_cell_by_cell():
    effect, control = cells(0)
    found = paired_difference(effect, control)
    expected = stats.crossed_bootstrap(effect - control)
    assert found.value == pytest.approx(expected.value)
    assert found.interval == pytest.approx(expected.interval)


def test_units_that_are_resampled_together_leave_out_what_both_share():
    effect, control = cells(1)
    paired = paired_difference(effect, control)
    apart = independent_difference(
        stats.crossed_bootstrap(effect), stats.crossed_bootstrap(control)
    )
    assert paired.value == pytest.approx(apart.value)
    assert 0.9 < paired.low < 1.0 < paired.high < 1.1
    assert apart.low < 0 < apart.high


def test_a_paired_difference_takes_any_statistic_of_both_arms():
    effect, control = cells(2)
    found = paired_difference(effect, control, np.median)
    assert found.value == pytest.approx(np.median(effect) - np.median(control))
    assert found.low < found.value < found.high


def test_arms_that_are_alike_differ_by_an_interval_without_width():
    effect, _ = cells(3)
    assert paired_difference(effect, effect).interval == (0.0, 0.0)


def test_arms_of_different_cells_or_with_gaps_are_refused():
    effect, control = cells(4)
    with pytest.raises(ValueError, match="different cells"):
        paired_difference(effect, control[:6])
    control[0, 0] = np.nan
    with pytest.raises(ValueError, match="nan"):
        paired_difference(effect, control)


def test_the_interval_of_two_independent_estimates_covers_the_difference_of_their_means():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        each = []
        for mean, spread, n in ((3.0, 1.0, 40), (1.0, 2.0, 60)):
            sample = rng.normal(mean, spread, n)
            middle, half = sample.mean(), 1.96 * sample.std(ddof=1) / n**0.5
            each.append(Estimate(middle, middle - half, middle + half, n))
        found = independent_difference(*each)
        hits += found.low <= 2.0 <= found.high
        assert found.n == 40
    assert 0.92 < hits / 400 < 0.98


def test_each_end_of_an_independent_difference_comes_from_the_distances_on_its_side():
    found = independent_difference(Estimate(5.0, 2.0, 6.0, 9), Estimate(1.0, 0.0, 5.0, 4))
    assert found.value == 4.0
    assert found.low == pytest.approx(4.0 - np.hypot(3, 4))
    assert found.high == pytest.approx(4.0 + np.hypot(1, 1))


def test_an_exact_number_has_no_width_and_shifts_another_estimate():
    found = independent_difference(Estimate(5.0, 4.0, 6.0, 9), exact(1.0))
    assert (found.value, found.low, found.high) == (4.0, 3.0, 5.0)
    assert exact(2).interval == (2.0, 2.0) and exact(2).n == 1
