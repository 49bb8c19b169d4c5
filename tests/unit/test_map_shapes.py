"""How clean a map is, on maps whose answer is known."""

import numpy as np
import pytest

from t2i_lens.stats import metrics

FLAT = np.ones((4, 5))
SPIKE = np.zeros((4, 5))
SPIKE[1, 2] = 3.0


def test_a_flat_map_is_equal_flat_and_smooth():
    assert metrics.gini(FLAT) == pytest.approx(0)
    assert metrics.flatness(FLAT) == pytest.approx(1)
    assert metrics.roughness(FLAT) == pytest.approx(0)


def test_one_bright_pixel_is_unequal_and_as_rough_as_can_be():
    assert metrics.gini(SPIKE) == pytest.approx(1 - 1 / 20)
    assert metrics.flatness(SPIKE) == pytest.approx(0)
    assert metrics.roughness(SPIKE) == pytest.approx(4)  # two neighbours across, two down


def test_half_of_the_pixels_dark_has_a_gini_of_one_half():
    half = np.concatenate([np.ones((2, 5)), np.zeros((2, 5))])
    assert metrics.gini(half) == pytest.approx(0.5)
    assert metrics.flatness(half) == pytest.approx(np.log(10) / np.log(20))
    assert metrics.roughness(half) == pytest.approx(5 / 10)  # one edge of five pixels


def test_cleanness_does_not_depend_on_scale_nor_on_other_maps():
    rng = np.random.default_rng(0)
    maps = rng.random((2, 3, 6, 6))
    for measure in (metrics.gini, metrics.flatness, metrics.roughness):
        together = measure(maps)
        assert together.shape == (2, 3)
        np.testing.assert_allclose(together, measure(maps * 7))
        assert together[1, 2] == pytest.approx(float(measure(maps[1, 2])))


def test_shuffled_pixels_keep_gini_and_entropy_but_not_roughness():
    rows, columns = np.mgrid[-3:4, -3:4]
    hill = np.exp(-(rows**2 + columns**2) / 8.0)
    shuffled = np.random.default_rng(0).permutation(hill.ravel()).reshape(hill.shape)
    assert metrics.gini(shuffled) == pytest.approx(float(metrics.gini(hill)))
    assert metrics.flatness(shuffled) == pytest.approx(float(metrics.flatness(hill)))
    assert metrics.roughness(shuffled) > 1.5 * metrics.roughness(hill)


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.array([[1.0, -1.0]])])
def test_a_map_without_light_or_with_negative_light_is_refused(bad):
    with pytest.raises(ValueError, match="a map needs"):
        metrics.gini(bad)
