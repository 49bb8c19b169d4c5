"""Numbers of hand-made attention maps."""

import numpy as np
import pytest

from t2i_lens.experiments import prompt_attention


def patterns():
    """Two prompts of three tokens, one layer, two heads; the second ends one token earlier."""
    head = np.array([[1, 0, 0, 0], [0.2, 0.8, 0, 0], [0.5, 0.1, 0.4, 0], [0.25, 0.25, 0.25, 0.25]])
    other = np.array([[1, 0, 0, 0], [0.4, 0.6, 0, 0], [0.7, 0.1, 0.2, 0], [0.25, 0.5, 0.25, 0]])
    return np.stack([[[head, other]]] * 2).astype(np.float32), np.array([3, 2])


def test_a_profile_counts_queries_from_the_first_word_to_eos_and_words_without_it():
    profile = prompt_attention.layer_profile(*patterns())
    np.testing.assert_allclose(profile["bos"][0, 0], [0.95 / 3, 1.35 / 3], rtol=1e-6)
    np.testing.assert_allclose(profile["bos"][1, 0], [0.35, 0.55], rtol=1e-6)
    np.testing.assert_allclose(profile["own"][0, 0], [0.6, 0.4], rtol=1e-6)
    np.testing.assert_allclose(profile["own"][1, 0], [0.8, 0.6], rtol=1e-6)


def test_the_largest_other_share_has_the_same_queries_as_the_bos_mass():
    profile = prompt_attention.layer_profile(*patterns())
    heads = (0.8 + 0.1 + 0.25) / 3, (0.6 + 0.1 + 0.5) / 3
    np.testing.assert_allclose(profile["other"][0], np.mean(heads), rtol=1e-6)
    np.testing.assert_allclose(profile["other"][1], (0.45 + 0.35) / 2, rtol=1e-6)


def test_a_rank_leaves_bos_on_itself_out_and_ends_at_eos():
    some, eos = patterns()
    # Means over heads: nothing is above the 0.7 at [1, 1]; above the 0.3 at [2, 2] are 0.7,
    # 0.6 and, in the row that the second prompt does not have, 0.375.
    np.testing.assert_array_equal(prompt_attention.self_attention_ranks(some, eos, 1), [1, 1])
    np.testing.assert_array_equal(prompt_attention.self_attention_ranks(some, eos, 2), [4, 3])


def test_a_rank_does_not_change_the_patterns():
    some, eos = patterns()
    prompt_attention.self_attention_ranks(some, eos, 1)
    np.testing.assert_array_equal(some, patterns()[0])


def test_a_rank_after_eos_is_refused():
    with pytest.raises(ValueError, match="causal entries"):
        prompt_attention.self_attention_ranks(*patterns(), position=3)
