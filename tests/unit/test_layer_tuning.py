"""Words and pictures of fine-tuned layers, and what the table of them says."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import layer_tuning, style_layers, tuning_claims
from t2i_lens.experiments.prompt_sets import load_pairs, load_signs, read_words
from t2i_lens.experiments.tuning_claims import BEFORE, EVERY, LOCALISED

SIGNS = [s for bucket in ("validation", "test") for s in load_signs("toybox", bucket, "creative")]
LAYERS = [f"layer{number}" for number in range(7)]


def test_no_held_out_word_stands_on_a_training_picture():
    taught, held_out = layer_tuning.words(SIGNS)
    assert len(taught) == 10 and len(held_out) == 6 and not set(taught) & set(held_out)
    _, captions = layer_tuning.sign_pictures([*taught, *layer_tuning.NEW_TAUGHT], 40)
    said = {caption.split('"')[1] for caption in captions}
    assert said == {*taught, *layer_tuning.NEW_TAUGHT}


def test_more_training_pictures_begin_with_the_same_ones():
    few, many = (layer_tuning.sign_pictures(["open", "sale"], count) for count in (3, 6))
    assert (few[0] == many[0][:3]).all() and few[1] == many[1][:3]
    assert len(set(many[1])) > 1


def test_prompts_without_a_sign_name_their_objects_and_others_their_word():
    asked = layer_tuning.asked(SIGNS, load_pairs("toybox", "objects"))
    _, held_out = layer_tuning.words(SIGNS)
    for prompt in asked:
        assert bool(prompt.word) != bool(prompt.nouns)
        assert all(said in prompt.text for said in (prompt.word, *prompt.nouns))
    of_held_out = [prompt.word for prompt in asked if prompt.kind == "held out"]
    assert {word: of_held_out.count(word) for word in held_out} == dict.fromkeys(held_out, 8)


def test_random_sets_have_as_many_layers_as_were_localised():
    ways = layer_tuning.ways(LAYERS, LAYERS[:2])
    at_random = [way for way in ways if way.name.startswith("random")]
    assert ways[0] == layer_tuning.Way(BEFORE) and len(ways) == 10
    assert {len(way.layers) for way in at_random} == {2}
    assert tuple(LAYERS[:2]) not in [way.layers for way in at_random]
    assert len({way.layers for way in at_random}) == 3


def table_of(shares):
    rows = [
        (way, amount, prompt, seed, "held out", float(prompt < share * 10))
        for (way, amount), share in shares.items()
        for prompt in range(10)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["way", "amount", "prompt", "seed", "kind", "shown"])


SHARES = {
    (BEFORE, 0): 0.4, (LOCALISED, 1): 0.6, (LOCALISED, 2): 0.9, (EVERY, 1): 0.5, (EVERY, 2): 0.6,
    ("random layers 1", 2): 0.3, ("random layers 2", 2): 0.7,
}  # fmt: skip


def test_the_gain_is_the_smallest_over_the_amounts():
    shown = tuning_claims.cells(table_of(SHARES), "held out")
    gain, before, apart = tuning_claims.smallest_gain(shown, (1, 2))
    assert (gain.value, before.value, apart.value) == pytest.approx((0.1, -0.2, 0.3))


def test_random_layers_are_compared_by_the_best_of_them():
    table = table_of(SHARES)
    names = tuning_claims.random_names(table)
    gain, before, apart = tuning_claims.over_random(
        tuning_claims.cells(table, "held out"), 2, names
    )
    assert names == ["random layers 1", "random layers 2"]
    assert (gain.value, before.value, apart.value) == pytest.approx((0.2, -0.3, 0.5))


def test_a_kind_that_was_not_drawn_is_told():
    with pytest.raises(ValueError, match="no prompts of kind 'taught'; there are"):
        tuning_claims.cells(table_of(SHARES), "taught")


def test_boards_change_to_another_colour_and_keep_their_word():
    pairs = style_layers.board_pairs(["open", "sale"], 9)
    for pair in pairs:
        assert pair.source.split('"')[1] == pair.target.split('"')[1]
        assert pair.source != pair.target and f" {pair.new} " in pair.target
    assert len({pair.new for pair in pairs}) == len(style_layers.COLOURS)


def test_no_pair_that_chooses_the_order_of_layers_is_counted():
    words, test = read_words("toybox"), load_signs("toybox", "test", "creative")
    chosen = style_layers.single_pairs(load_signs("toybox", "validation", "creative"), words)
    growing = style_layers.growing_pairs(test, words)
    assert {kind: len(pairs) for kind, pairs in growing.items()} == {
        style_layers.BOARD: 48, style_layers.WORD: 48, style_layers.DRAWING: 16,
    }  # fmt: skip
    counted = [pair for pairs in growing.values() for pair in pairs]
    assert not {pair.source for pair in chosen} & {pair.source for pair in counted}
    assert len({pair.pair for pair in counted}) == len(counted)


def test_layers_are_ordered_by_the_pictures_that_each_alone_changes():
    single = pd.DataFrame(
        [("board", layer, pair, 0, float(pair < hits))
         for layer, hits in (("none", 0), ("a", 1), ("b", 3), ("all", 4)) for pair in range(4)],
        columns=[*style_layers.KEYS, "shown"],
    )  # fmt: skip
    assert style_layers.order_of(single, "board", ["a", "b"]) == ["b", "a"]


def test_the_first_of_equal_layers_in_the_run_comes_first():
    rows = [("board", layer, pair, 0, 1.0) for layer in "ba" for pair in range(2)]
    single = pd.DataFrame(rows, columns=[*style_layers.KEYS, "shown"])
    assert style_layers.order_of(single, "board", ["a", "b"]) == ["a", "b"]
    assert np.isfinite(single["shown"]).all()
