"""Pairs of prompts and arms of the patching sweep, and the table that it leaves."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import patched_exchanges
from t2i_lens.experiments.prompt_sets import load_signs

LAYERS = [f"layer {number}" for number in range(7)]
SIGNS = load_signs("toybox", "test", "creative")


def test_every_word_is_exchanged_for_several_others_and_none_for_itself():
    pairs = patched_exchanges.word_pairs(SIGNS)
    assert len(pairs) == len({pair.pair for pair in pairs}) == patched_exchanges.PAIRS
    old = [patched_exchanges._reversed(pair).new for pair in pairs]
    assert all(pair.new != word for pair, word in zip(pairs, old, strict=True))
    assert {pair.new for pair in pairs} == set(old) == {sign.source for sign in SIGNS}
    for pair, word in zip(pairs, old, strict=True):
        assert pair.source.replace(f'"{word}"', f'"{pair.new}"') == pair.target


def test_the_unrelated_prompt_of_a_pair_does_not_depend_on_how_many_pairs_are_drawn():
    pairs = patched_exchanges.word_pairs(SIGNS)
    others = patched_exchanges.unrelated_prompts(pairs)
    assert len(others) == len(pairs)
    assert all(other != pair.target for pair, other in zip(pairs, others, strict=True))
    part = patched_exchanges.TOGETHER
    assert others[part : 2 * part] == patched_exchanges.unrelated_prompts(pairs[part : 2 * part])


def test_more_pairs_than_there_are_words_are_refused():
    with pytest.raises(ValueError, match="pairs are wanted"):
        patched_exchanges.word_pairs(SIGNS, 10_000)


def test_arms_have_names_of_their_own_and_patch_the_chosen_layers():
    arms = {arm.name: arm for arm in patched_exchanges.arms(LAYERS, LAYERS[2:4], heads=2)}
    assert len(arms) == len(patched_exchanges.arms(LAYERS, LAYERS[2:4], heads=2))
    others = arms["other layers"].layers
    assert len(others) == 2 and set(others) != set(LAYERS[2:4])
    every = {"injected, all layers", "patched, all layers"}
    for name, arm in arms.items():
        expected = LAYERS if name in every else others if name == "other layers" else LAYERS[2:4]
        assert set(arm.layers) <= set(expected), name
    heads = [arm for name, arm in arms.items() if ", head " in name]
    assert {(arm.layers, arm.heads) for arm in heads} == {
        ((layer,), (head,)) for layer in LAYERS[2:4] for head in (0, 1)
    }


def test_a_column_is_read_by_pair_and_seed():
    rows = [("a", p, s, 10 * s + i) for i, p in enumerate(("x", "y")) for s in (0, 1)]
    table = pd.DataFrame(rows, columns=[*patched_exchanges.KEYS, "target"])
    assert np.array_equal(patched_exchanges.column(table, "a", "target"), [[0, 10], [1, 11]])
    with pytest.raises(KeyError, match="no arm 'b'"):
        patched_exchanges.column(table, "b", "target")
