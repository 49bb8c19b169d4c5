"""Changing the prompt on the way, and scoring what comes of it, with a pipeline of real classes."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import sign_editing
from t2i_lens.probes.sampling import generate
from t2i_lens.stats import sign_metrics

SAMPLING = {"num_inference_steps": 4, "guidance_scale": 3.0}
FIRST, SECOND, SEEDS = ["a red cat", "a dog"], ["a blue chair", "a good frog"], [0, 1]


def switched(pipe, start, **changed):
    return sign_editing.switched(pipe, FIRST, SECOND, SEEDS, start, **(SAMPLING | changed))


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_from_step_zero_the_second_prompt_alone_counts(shared_pipe, guidance):
    sampling = SAMPLING | {"guidance_scale": guidance}
    expected = generate(shared_pipe, SECOND, SEEDS, **sampling)
    np.testing.assert_array_equal(switched(shared_pipe, 0, guidance_scale=guidance), expected)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_after_the_last_step_the_second_prompt_comes_too_late(shared_pipe, guidance):
    sampling = SAMPLING | {"guidance_scale": guidance}
    expected = generate(shared_pipe, FIRST, SEEDS, **sampling)
    np.testing.assert_array_equal(switched(shared_pipe, 4, guidance_scale=guidance), expected)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_a_change_on_the_way_gives_the_picture_of_neither(shared_pipe, guidance):
    ends = [switched(shared_pipe, start, guidance_scale=guidance) for start in (0, 2, 4)]
    assert (ends[1] != ends[0]).any() and (ends[1] != ends[2]).any()


def test_a_change_to_the_same_prompt_changes_nothing(shared_pipe):
    same = sign_editing.switched(shared_pipe, FIRST, FIRST, SEEDS, 2, **SAMPLING)
    np.testing.assert_array_equal(same, generate(shared_pipe, FIRST, SEEDS, **SAMPLING))


def test_pictures_do_not_depend_on_their_batch(shared_pipe):
    alone = switched(shared_pipe, 2, batch_size=1)
    # batched sums round differently: one grey level at most, as for `generate`
    assert np.abs(alone.astype(int) - switched(shared_pipe, 2).astype(int)).max() <= 1


@pytest.mark.parametrize("start", [-1, 5])
def test_a_start_outside_the_run_is_refused(shared_pipe, start):
    with pytest.raises(ValueError, match="0 and 4"):
        switched(shared_pipe, start)


def test_methods_are_drawn_in_the_order_of_their_names(shared_pipe):
    prompts = [
        {"template": "a {} cat", "source": "red", "target": "blue"},
        {"template": "a {} cat", "source": "blue", "target": "red"},
    ]
    drawn = sign_editing.edits(shared_pipe, prompts, SEEDS, [0, 2], **SAMPLING)
    names = sign_editing.method_names([0, 2])
    by_name = dict(zip(names, drawn["edited"], strict=True))
    assert names == ["no edit", "other latents", "from step 0", "from step 2"]
    target = generate(shared_pipe, ["a blue cat", "a red cat"], SEEDS, **SAMPLING)
    np.testing.assert_array_equal(by_name["no edit"], drawn["source"])
    np.testing.assert_array_equal(by_name["from step 0"], target)
    np.testing.assert_array_equal(by_name["other latents"], target[:, ::-1])
    np.testing.assert_array_equal(drawn["source"], target[::-1])


def test_one_seed_leaves_no_other_latents(shared_pipe):
    with pytest.raises(ValueError, match="two seeds"):
        sign_editing.edits(shared_pipe, [], [0], [0])


def scores_of(readings):
    rows = []
    for method, (precision, recall, wrapped, true) in readings.items():
        for picture in range(2):
            row = dict.fromkeys(sign_editing.SCORES, 0.0)
            del row["character_f1"]
            row |= {"precision": precision[picture], "recall": recall[picture]}
            rows.append(row | {"method": method, "wrapped": wrapped, "true": true, "word_f1": true})
    return pd.DataFrame(rows)


def test_a_method_is_scored_over_the_pictures_that_are_picked():
    scores = scores_of({"a": ([1, 0], [1, 0], 1, 2), "b": ([0.5, 0.5], [1, 1], 3, 4)})
    means = sign_editing.method_means(scores)
    np.testing.assert_allclose(means["character_f1"], [0.5, 2 / 3])
    np.testing.assert_allclose(means["wrapped"], [1, 3])
    twice = sign_editing.method_means(scores, [1, 1])
    np.testing.assert_allclose(twice["character_f1"], [0, 2 / 3])


def test_agreement_is_the_mean_over_error_and_text():
    alike = {"a": ([1, 1], [1, 1], 2.0, 2.0), "b": ([0.1, 0.1], [1, 1], 1.0, 1.0)}
    assert sign_editing.agreement(scores_of(alike)) == pytest.approx(1)
    error_turned = alike | {"b": ([0.1, 0.1], [1, 1], 3.0, 1.0)}
    assert sign_editing.agreement(scores_of(error_turned)) == pytest.approx(0)


def test_noise_keeps_to_its_limit_and_its_seed():
    grey = np.full((2, 8, 8, 3), 128, np.uint8)
    noisy = sign_editing.add_noise(grey, 20.0, 0, limit=15)
    assert np.abs(noisy.astype(int) - 128).max() == 15
    np.testing.assert_array_equal(noisy, sign_editing.add_noise(grey, 20.0, 0, limit=15))
    true, wrapped = sign_editing.errors(grey, noisy)
    np.testing.assert_array_equal(true, wrapped)  # below 16 levels nothing wraps


def test_unrelated_words_share_letters_but_no_word():
    words = ["open", "stop", "sale", "exit", "milk", "news"]
    chance = sign_editing.chance_f1(words, [1, 3], draws=50, seed=0)
    assert not chance["word"].any()
    assert 0 < chance["character"][0] < chance["character"][1] < 1
    assert sign_metrics.published_f1(["open"], ["open"]) == 1
