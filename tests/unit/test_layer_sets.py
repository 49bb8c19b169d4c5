"""Which sets of layers are drawn, how they are chosen, and what the published ones weigh."""

import numpy as np
import pytest

from t2i_lens.methods.localisation import (
    NONE,
    Setting,
    first_enough,
    ordered,
    published_shares,
    quarter,
    random_sets,
    single_layers,
)
from t2i_lens.stats import bootstrap as stats

LAYERS = ["d0", "d1", "mid", "u0", "u1"]


def test_a_setting_is_a_set_of_layers_and_a_start():
    assert Setting(("b", "a", "b")) == Setting(("a", "b")) != Setting(("a", "b"), 2)
    assert Setting(("b", "a")).fingerprint == Setting(("a", "b")).fingerprint
    assert Setting(("a",)).fingerprint != Setting(("a",), 1).fingerprint
    with pytest.raises(ValueError, match="start -1 is no step"):
        Setting((), -1)


def test_single_layers_stand_between_none_and_all():
    none, *alone, every = single_layers(LAYERS)
    assert none == NONE and every == Setting(tuple(LAYERS))
    assert [setting.layers for setting in alone] == [(path,) for path in LAYERS]


def test_layers_are_ordered_by_response_and_equals_by_place():
    assert ordered(LAYERS, np.array([0.1, 0.5, 0.1, 0.9, 0.5])) == ["u0", "d1", "u1", "d0", "mid"]


def test_the_first_score_that_is_enough_is_taken_or_the_last():
    assert first_enough([0.2, 0.9, 0.95], 1.0) == 1
    assert first_enough([0.2, 0.3], 1.0) == 1
    assert first_enough([0.0], 0.0) == 0
    with pytest.raises(ValueError, match="no scores"):
        first_enough([], 1.0)


def test_a_quarter_of_the_layers_is_rounded_up():
    assert [quarter(count) for count in (1, 4, 7, 16, 70)] == [1, 1, 2, 4, 18]


def test_random_sets_are_different_seeded_and_avoid_the_one_they_are_compared_with():
    avoid = Setting(("d0", "mid"))
    drawn = random_sets(LAYERS, 2, 9, seed=1, avoid=avoid)  # all there are
    assert len(set(drawn)) == 9 and avoid not in drawn
    assert all(len(setting.layers) == 2 for setting in drawn)
    assert random_sets(LAYERS, 2, 3, seed=1) == random_sets(LAYERS, 2, 3, seed=1)
    assert random_sets(LAYERS, 2, 3, seed=1) != random_sets(LAYERS, 2, 3, seed=2)
    with pytest.raises(ValueError, match="9 other sets of 2 layers exist, 10 are wanted"):
        random_sets(LAYERS, 2, 10, seed=1, avoid=avoid)


def test_published_shares_are_counted_from_the_configurations():
    table = published_shares().set_index("model")
    # Printed: 15.7M, 8.9M and 4.7M parameters, as per cents with two decimals.
    assert table["share"].to_dict() == pytest.approx(
        {"sdxl": 0.61, "if": 0.21, "sd3": 0.23}, abs=0.005
    )
    assert table["parameters"].to_dict() == pytest.approx(
        {"sdxl": 15.7e6, "if": 8.9e6, "sd3": 4.7e6}, abs=0.05e6
    )
    assert table["localised"].to_list() == [3, 1, 1] and table["layers"].to_list() == [70, 22, 24]
    assert (table["all"] > table["share"]).all()


def test_a_ratio_is_that_of_the_means_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    whole = rng.uniform(0.5, 1.5, (6, 4))
    estimate = stats.ratio_bootstrap(0.3 * whole, whole)
    # Exactly proportional cells: every resample has the same ratio.
    assert estimate.interval == pytest.approx((0.3, 0.3)) and estimate.n == 4
    noisy = stats.ratio_bootstrap(rng.uniform(0, 1, (6, 4)), whole)
    assert noisy.low < noisy.value < noisy.high


def test_there_is_no_ratio_to_a_whole_that_may_be_nothing():
    whole = np.array([[1.0, -1.0], [0.5, -0.5]])
    assert stats.ratio_bootstrap(whole, whole) is None
    assert stats.ratio_bootstrap(whole, np.zeros((2, 2))) is None
    with pytest.raises(ValueError, match="different cells"):
        stats.ratio_bootstrap(np.ones((2, 3)), np.ones((3, 2)))
