"""Prompts made of other prompts, and the statistics of pairs, on hand-made numbers."""

import numpy as np
import pytest

from t2i_lens.experiments import binding, map_similarity
from t2i_lens.experiments.prompt_sets import PairedPrompt, load_pairs
from t2i_lens.experiments.word_pairs import adjoining, exchanged, with_word
from t2i_lens.stats import bootstrap as stats

PROMPT = load_pairs("toybox", "objects")[0]


def test_exchanging_the_phrases_twice_gives_the_prompt_back():
    other = exchanged(PROMPT)
    assert other.text != PROMPT.text and sorted(other.text.split()) == sorted(PROMPT.text.split())
    assert other.bound == PROMPT.bound
    assert exchanged(other) == PROMPT
    with pytest.raises(ValueError, match="not two phrases"):
        exchanged(PairedPrompt("a cat with a hat", (), (("cat", "hat"),)))


@pytest.mark.parametrize("prompt", load_pairs("toybox", "objects")[:20], ids=lambda p: p.text)
def test_adjoining_pairs_are_all_neighbours_and_no_word_is_lost(prompt):
    near = adjoining(prompt)
    words = near.text.split()
    assert {w for pair in prompt.bound for w in pair} <= set(words)
    pairs = [*near.bound, *near.unbound]
    assert [abs(words.index(b) - words.index(a)) for a, b in pairs] == [1, 1, 1]


def test_adjoining_needs_two_coloured_objects():
    with pytest.raises(ValueError, match="not two coloured objects"):
        adjoining(load_pairs("toybox", "animals")[0])


def test_clusters_are_resampled_whole():
    labels = np.repeat(np.arange(10), 50)
    values = np.repeat(np.random.default_rng(0).normal(size=10), 50)
    (clustered,) = stats.cluster_bootstrap(labels, lambda rows: values[rows].mean())
    (single,) = stats.cluster_bootstrap(np.arange(500), lambda rows: values[rows].mean())
    assert (clustered.n, single.n) == (10, 500)
    width = clustered.high - clustered.low
    # Fifty copies of a value are one observation: the interval is sqrt(50) times wider.
    assert width / (single.high - single.low) == pytest.approx(50**0.5, rel=0.15)


def test_several_numbers_are_resampled_together_and_empty_resamples_drawn_again():
    labels, kinds = np.array([0, 1, 2, 2]), np.array([1.0, 0.0, 0.0, 0.0])

    def both(rows):
        share = kinds[rows].mean()
        return np.array([share, 2 * share]) if share else np.array([np.nan, np.nan])

    first, second = stats.cluster_bootstrap(labels, both)
    assert second.interval == tuple(2 * end for end in first.interval)
    assert first.low > 0
    with pytest.raises(ValueError, match="nothing to resample"):
        stats.cluster_bootstrap(labels, lambda rows: np.nan)


def test_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    x, ys = rng.integers(0, 9, 40).astype(float), rng.normal(size=(40, 3))
    ours = stats.rank_correlations(x, ys)
    np.testing.assert_allclose(ours, [spearmanr(x, y).statistic for y in ys.T])
    assert np.isnan(stats.rank_correlations(x, np.ones((40, 1)))).all()


def test_determination_is_one_for_a_perfect_prediction_and_zero_for_the_mean():
    measured = np.random.default_rng(0).normal(size=(30, 2))
    means = np.broadcast_to(measured.mean(0), measured.shape)
    np.testing.assert_allclose(stats.determination(measured, measured), 1)
    np.testing.assert_allclose(stats.determination(measured, means), 0, atol=1e-12)
    assert (stats.determination(measured, -measured) < 0).all()


def pairs_of(bound, other):
    """Pairs of one layer with two heads: head 0 as given, head 1 the same everywhere."""
    values = np.array([*bound, *other])
    kind = np.array(["bound"] * len(bound) + ["crossed"] * len(other))
    to_key = np.stack([values, np.full(len(values), 0.5)], 1)[:, None]
    return {
        "kind": kind, "to_key": to_key, "to_content": np.ones_like(to_key),
        "prompt": np.arange(len(values)),
    }  # fmt: skip


def test_the_head_that_separates_is_found():
    pairs = pairs_of([0.8, 0.9], [0.1, 0.2, 0.3])
    scores = binding.head_scores(pairs)
    np.testing.assert_allclose(scores, [[1.0, 0.5]])
    best = binding.best_heads(scores)
    assert best.tolist() == [[True, False]]
    np.testing.assert_allclose(binding.of_heads(pairs, best), pairs["to_key"][:, 0, 0])
    assert binding.best_heads(np.arange(20.0).reshape(4, 5), 0.2).sum() == 4


def test_areas_come_with_the_lead_of_the_first():
    pairs = pairs_of([0.8, 0.9, 0.2], [0.1, 0.2, 0.3])
    values = [pairs["to_key"][:, 0, 0], pairs["to_key"][:, 0, 1]]
    first, second, lead = binding.areas(pairs, values)
    assert first.value == pytest.approx(7.5 / 9) and second.value == 0.5
    assert lead.value == pytest.approx(first.value - 0.5)


def test_a_gap_between_labels_vanishes_when_they_are_shuffled():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, 300)
    values = rng.normal(size=300) + 2 * (labels == 1)
    rows = np.arange(300)
    assert map_similarity.label_gap(values, labels, rows) == pytest.approx(2, abs=0.5)
    shuffled = map_similarity.shuffled_gaps(values, labels, 200)
    assert abs(shuffled.mean()) < 0.1 and np.abs(shuffled).max() < 1.5
    assert np.isnan(map_similarity.label_gap(values, np.ones(300), rows))


def test_values_of_other_prompts_stay_in_their_group():
    groups = np.array(["a"] * 4 + ["b"] * 3)
    values = np.arange(7.0)
    moved = map_similarity.from_other_prompts(values, groups)
    assert sorted(moved[:4]) == [0, 1, 2, 3] and sorted(moved[4:]) == [4, 5, 6]
    assert (moved != values).any()


def test_a_word_takes_a_nouns_place_in_text_and_pairs():
    (colour, noun), other = PROMPT.bound
    filled = with_word(PROMPT, noun, "<cat-toy>")
    assert filled.text.split().count("<cat-toy>") == 1 and noun not in filled.text.split()
    assert filled.bound == ((colour, "<cat-toy>"), other)
    assert not any(noun in pair for pair in filled.unbound)
    with pytest.raises(ValueError, match="cannot take the place"):
        with_word(PROMPT, noun, other[1])
