"""Intervals cover, effects have their sign, draws are repeatable."""

import numpy as np
import pytest

from t2i_lens.stats import bootstrap as stats


def test_crossed_bootstrap_is_repeatable_and_holds_its_value():
    values = np.random.default_rng(0).normal(size=(8, 5))
    first, again = (stats.crossed_bootstrap(values, seed=3) for _ in range(2))
    assert first == again
    assert first.low < first.value < first.high
    assert first.value == pytest.approx(values.mean())
    assert first.n == 5  # seeds, the shorter of two crossed axes


def test_values_that_differ_by_prompt_alone_are_as_uncertain_as_their_prompts():
    by_prompt = np.random.default_rng(0).normal(size=(8, 1))
    wide = stats.crossed_bootstrap(np.tile(by_prompt, 50))
    alone = stats.crossed_bootstrap(by_prompt[:, 0])
    width = [estimate.high - estimate.low for estimate in (wide, alone)]
    # fifty seeds of the same eight prompts are still eight prompts
    assert width[0] == pytest.approx(width[1], rel=0.1)


def test_crossed_interval_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for trial in range(40):
        prompts, seeds = rng.normal(size=(12, 1)), rng.normal(size=(1, 12))
        estimate = stats.crossed_bootstrap(prompts + seeds + rng.normal(size=(12, 12)), seed=trial)
        hits += estimate.low < 0 < estimate.high
    # 38 expected; fewer than 32 of 40 has a chance below 1 in 1000 at 95 % coverage
    assert hits >= 32


def test_an_axis_with_one_entry_is_kept_and_the_others_are_resampled():
    values = np.random.default_rng(0).normal(size=(6, 5))
    alone = stats.crossed_bootstrap(values[None], seed=2)
    assert alone == stats.crossed_bootstrap(values, seed=2)
    assert alone.n == 5 and alone.low < alone.value < alone.high


def test_crossed_bootstrap_refuses_holes_and_single_values():
    with pytest.raises(ValueError, match="nan"):
        stats.crossed_bootstrap(np.array([[1, np.nan], [1, 2]]))
    with pytest.raises(ValueError, match="a single value cannot be resampled"):
        stats.crossed_bootstrap(np.ones((1, 1)))


def test_equal_values_have_an_interval_of_width_zero():
    assert stats.crossed_bootstrap(np.zeros((3, 3))).interval == (0, 0)


def test_mean_cosine_interval_holds_a_shared_direction_and_not_zero():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(10, 64)) + 1
    estimate = stats.mean_cosine_bootstrap(rows, np.arange(10))
    assert 0.3 < estimate.low < estimate.value < estimate.high < 0.7
    apart = stats.mean_cosine_bootstrap(rng.normal(size=(10, 64)), np.arange(10))
    assert apart.low < 0.05 and apart.high > -0.05


def test_copies_of_a_resampled_row_are_not_compared_with_each_other():
    # rows at right angles: every resample has mean cosine 0 unless a row meets its own copy
    estimate = stats.mean_cosine_bootstrap(np.eye(5), np.arange(5))
    assert estimate.interval == (0, 0)


def test_one_group_has_no_pair():
    with pytest.raises(ValueError, match="1 cluster"):
        stats.mean_cosine_bootstrap(np.eye(3), np.zeros(3))


def test_random_subsets_hold_their_share_without_repeats():
    members = stats.random_subsets(50, 0.8, 20)
    np.testing.assert_array_equal(members.sum(axis=1), 40)
    assert len(np.unique(members, axis=0)) == 20


def test_subset_estimate_is_the_middle_95_percent():
    estimate = stats.subset_estimate(np.arange(1001.0), 7)
    assert estimate.interval == pytest.approx((25, 975))
    assert estimate.value == 500 and estimate.n == 7


def test_superiority_is_one_when_all_of_the_first_are_larger():
    estimate = stats.superiority_bootstrap(np.arange(10, 20.0), np.arange(5.0))
    assert estimate.value == 1 and estimate.interval == (1, 1) and estimate.n == 5
    assert stats.probability_of_superiority(np.array([1.0]), np.array([1.0])) == 0.5


def test_paired_effect_size_is_mean_over_sd():
    assert stats.paired_effect_size(np.array([0.0, 2.0])) == pytest.approx(1 / np.sqrt(2))
    assert stats.paired_effect_size(np.ones(4)) == 0


def test_sign_flips_of_a_few_clusters_are_counted_exactly():
    # five equal differences: only all-plus and all-minus reach them, 2 of 32
    assert stats.sign_flip_p(np.ones(5)) == pytest.approx(2 / 32)


def test_holm_corrects_over_the_family():
    holds, corrected = stats.holm([0.001, 0.04, 0.5])
    np.testing.assert_array_equal(holds, [True, False, False])
    np.testing.assert_allclose(corrected, [0.003, 0.08, 0.5])


def test_estimate_reads_as_value_and_interval():
    estimate = stats.Estimate(1.0, 0.5, 1.5, 3)
    assert f"{estimate:.1f}" == "1.0 [0.5, 1.5]"
    assert estimate.shifted(-1.0).interval == (-0.5, 0.5)


def test_a_curve_keeps_its_places_while_cells_are_resampled():
    rng = np.random.default_rng(0)
    values = np.array([0.0, 5.0, 1.0])[:, None, None] + rng.normal(0, 0.1, (3, 4, 5))
    peak = stats.over_cells(values, lambda curve: float(np.argmax(curve)))
    assert (peak.value, peak.low, peak.high, peak.n) == (1, 1, 1, 4)
    mean = stats.over_cells(values, lambda curve: curve[1])
    assert mean.low < mean.value < mean.high and mean.value == pytest.approx(5, abs=0.1)
