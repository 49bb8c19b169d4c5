"""Scores of text editing, as published and corrected, on cases whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_lens.stats import sign_metrics as tm

RNG = np.random.default_rng(0)
TEXT = st.text("abc ", max_size=7)


def noise_picture(rng=RNG, side=64):
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


def grey(level=128, side=64):
    return np.full((side, side, 3), level, np.uint8)


def test_an_anagram_has_a_perfect_published_score_and_no_word_right():
    assert tm.published_f1(["tsop"], ["stop"]) == 1
    assert tm.word_f1("tsop", "stop") == 0


def test_case_and_the_order_of_words_do_not_count():
    assert tm.word_f1("Sale OPEN", "open sale") == 1


def test_a_word_read_beside_the_right_one_costs_precision():
    assert tm.word_f1("open now", "open") == pytest.approx(2 / 3)


def test_a_letter_counts_as_often_as_it_stands_there():
    assert tm.precision_recall("ll", "hello") == (1, 0.4)
    assert tm.precision_recall("lll", "hello") == (pytest.approx(2 / 3), 0.4)


def test_the_published_f1_is_that_of_the_means_and_not_the_mean_of_f1():
    found, wanted = ["aaaa", "b"], ["a", "bbbb"]
    singles = [tm.published_f1([a], [b]) for a, b in zip(found, wanted, strict=True)]
    assert tm.published_f1(found, wanted) == pytest.approx(0.625)
    assert np.mean(singles) == pytest.approx(0.4)


def test_nothing_read_scores_nothing():
    assert tm.published_f1([""], ["stop"]) == tm.word_f1("", "stop") == 0


def test_clip_t_stretches_positive_cosines_and_hides_negative_ones():
    np.testing.assert_allclose(tm.published_clip_t(np.array([-0.5, 0.0, 0.3])), [0, 0, 0.75])


def test_a_difference_of_sixteen_levels_is_no_wrapped_error_at_all():
    assert tm.true_error(grey(128), grey(144)) == 256
    assert tm.wrapped_error(grey(128), grey(144)) == 0


@pytest.mark.parametrize("step", [1, 7, 15])
def test_below_sixteen_levels_both_errors_agree_in_either_direction(step):
    for other in (grey(100 + step), grey(100 - step)):
        assert tm.wrapped_error(grey(100), other) == tm.true_error(grey(100), other) == step**2


def test_the_ceiling_is_the_mean_of_all_squares_modulo_256():
    assert tm.wrapped_ceiling() == sum(x * x % 256 for x in range(256)) / 256 == 105.5
    assert tm.psnr(105.5) == pytest.approx(27.90, abs=0.005)  # as printed, two digits


def test_unrelated_pictures_reach_the_ceiling_and_truly_differ_a_hundred_times_more():
    first, second = noise_picture(), noise_picture()
    # 12,288 values with a standard deviation of about 85: the mean is known to 0.8, times four
    assert tm.wrapped_error(first, second) == pytest.approx(105.5, abs=3.1)
    # two uniform bytes: (256² - 1) / 6, known to 1 % here, times four
    assert tm.true_error(first, second) == pytest.approx((256**2 - 1) / 6, rel=0.05)


@pytest.mark.parametrize("sd", [4, 16, 30])
def test_simulated_noise_has_the_errors_that_are_derived(sd):
    noise = np.random.default_rng(1).normal(0, sd, (256, 256, 3)).round()
    noisy = (128 + noise).clip(0, 255).astype(np.uint8)  # sd 30: 4 in 100,000 are clipped
    true, wrapped = (float(x[0]) for x in tm.wrapped_noise(np.array([float(sd)])))
    # 196,608 values know a mean square to sqrt(2 / n) = 0.3 %, the wrapped one alike: times four
    assert tm.true_error(grey(side=256), noisy) == pytest.approx(true, rel=0.013)
    assert tm.wrapped_error(grey(side=256), noisy) == pytest.approx(wrapped, rel=0.013)


def test_the_derived_errors_of_noise_are_those_worked_out_by_hand():
    true, wrapped = tm.wrapped_noise(np.array([4.0, 16.0, 64.0]))
    # rounding adds 1/12 to the variance
    np.testing.assert_allclose(true, np.array([16, 256, 4096]) + 1 / 12, rtol=1e-6)
    # 16.2 and 80.4 were simulated with clipping at black and white, which moves little here
    np.testing.assert_allclose(wrapped, [16.1, 80.4, 105.5], rtol=0.01)


def test_no_error_has_the_psnr_that_is_printed():
    assert tm.psnr(0.0) == pytest.approx(148.13, abs=0.005)  # as printed, two digits


def test_a_mask_leaves_the_text_out():
    first, second, keep = grey(), grey(), np.ones((64, 64), bool)
    second[20:30] = 0
    keep[20:30] = False
    assert tm.true_error(first, second) > 0 and tm.true_error(first, second, keep) == 0
    with pytest.raises(ValueError, match="no pixel"):
        tm.true_error(first, second, ~np.ones((64, 64), bool))


def test_structural_similarity_is_one_for_equals_and_falls_with_noise():
    picture = noise_picture()
    assert tm.ssim(picture, picture) == pytest.approx(1)
    assert tm.ssim(picture, noise_picture()) < 0.1


@given(st.floats(0.0, 0.95), st.floats(1.0, 105.5))
def test_the_share_of_identical_pairs_is_found_again(share, error):
    mean = (1 - share) * error
    decibel = share * tm.psnr(0.0) + (1 - share) * tm.psnr(error)
    found, other = tm.identical_share(mean, float(decibel))
    assert found == pytest.approx(share, abs=1e-6)
    assert other == pytest.approx(error, rel=1e-4)


def test_orders_agree_and_disagree():
    assert tm.order_agreement(np.arange(4.0), np.arange(4.0) ** 2) == pytest.approx(1)
    assert tm.order_agreement(np.arange(4.0), -np.arange(4.0)) == pytest.approx(-1)


def test_a_score_that_is_the_same_for_all_orders_nothing():
    assert tm.order_agreement(np.ones(4), np.arange(4.0)) == 0
