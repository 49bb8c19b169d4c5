"""Pairs and ways of exchanging words, and what the tables of them say."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import exchange_claims, word_exchange
from t2i_lens.experiments.exchange_claims import EVERY, LOCALISED, NONE
from t2i_lens.experiments.prompt_sets import load_signs
from t2i_lens.experiments.sign_scenes import grounds, named_colours
from t2i_lens.experiments.style_layers import layers_needed

SIGNS = load_signs("toybox", "test", "creative")
VALIDATION = {sign.source for sign in load_signs("toybox", "validation", "creative")}
LAYERS = [f"layer{number}" for number in range(5)]


def test_every_test_word_is_exchanged_for_several_others():
    pairs = word_exchange.editing_pairs(SIGNS)
    assert len(pairs) == len({(p.source, p.target) for p in pairs}) == 48
    for pair in pairs:
        assert pair.old != pair.new and pair.source.replace(pair.old, pair.new) == pair.target
    assert {pair.old for pair in pairs} == {pair.new for pair in pairs}
    assert len({pair.source.replace(pair.old, "{}") for pair in pairs}) == 9


@pytest.mark.parametrize("count", [2, 3, 4])
def test_longer_texts_have_no_word_twice_and_the_templates_of_the_single_words(count):
    longer = word_exchange.longer_pairs(SIGNS, count)
    assert len(longer) == len({(p.source, p.target) for p in longer}) == 48
    for pair, single in zip(longer, word_exchange.editing_pairs(SIGNS), strict=False):
        words = [*pair.old.split(), *pair.new.split()]
        assert len(words) == len(set(words)) == 2 * count
        assert pair.old.split()[0] == single.old
        assert pair.target.replace(pair.new, "") == single.target.replace(single.new, "")


def test_unwanted_words_chose_no_layers_and_every_one_stands_in_every_sentence():
    pairs = word_exchange.unwanted_pairs()
    words = {pair.old for pair in pairs} | {pair.new for pair in pairs}
    assert len(pairs) == len({pair.source for pair in pairs}) == 48
    assert not words & VALIDATION
    assert not {pair.old for pair in pairs} & {pair.new for pair in pairs}
    for pair in pairs:
        assert pair.object or pair.ground
        assert all(said in pair.source for said in (pair.object, pair.ground) if said)


def test_ways_have_names_of_their_own_and_come_back_from_their_fields():
    for ways in (word_exchange.editing_ways, word_exchange.avoiding_ways):
        made = ways(LAYERS, LAYERS[:2])
        assert len({way.name for way in made}) == len(made)
        fields = word_exchange.fields_of(made)
        assert [word_exchange.way_of(of_way) for of_way in fields] == made
        at_random = [way for way in made if way.name.startswith(exchange_claims.RANDOM)]
        assert at_random and all(len(way.layers) == 2 for way in at_random)
        assert all(set(way.layers) != set(LAYERS[:2]) for way in at_random)


def table_of(shares, change=None, seeds=(0, 1)):
    """A row per way, pair and seed, the given share of the pairs showing the new word."""
    rows = [
        (way, pair, seed, float(pair < share * 10), (change or {}).get(way, 0.0))
        for way, share in shares.items()
        for pair in range(10)
        for seed in seeds
    ]
    return pd.DataFrame(rows, columns=["way", "pair", "seed", "new", "background"])


def advantages(shares, change):
    table = table_of(shares, change)
    shown, changed = exchange_claims.read_as(table, "new"), exchange_claims.cells(
        table, "background")  # fmt: skip
    return shown, changed, exchange_claims.advantages(shown, changed)


def test_the_rival_is_the_best_among_those_that_change_no_more():
    shares = {NONE: 0.0, LOCALISED: 0.8, EVERY: 1.0, "P2P a": 0.5, "P2P b": 0.9}
    change = {LOCALISED: 10.0, EVERY: 40.0, "P2P a": 9.0, "P2P b": 30.0}
    shown, changed, (ours, of_all, apart) = advantages(shares, change)
    assert ours.value == pytest.approx(0.3) and of_all.value == pytest.approx(0.1)
    assert apart.value == pytest.approx(0.2)
    assert exchange_claims.best_rival(shown, changed, LOCALISED) == "P2P a"
    assert exchange_claims.best_rival(shown, changed, EVERY) == "P2P b"


def test_without_a_rival_that_changes_as_little_the_picture_without_an_edit_counts():
    shares = {NONE: 0.1, LOCALISED: 0.8, EVERY: 1.0, "P2P a": 0.9}
    shown, changed, (ours, *_) = advantages(shares, {LOCALISED: 1.0, EVERY: 9.0, "P2P a": 5.0})
    assert ours.value == pytest.approx(0.7)
    assert exchange_claims.best_rival(shown, changed, LOCALISED) == NONE


def test_a_picture_that_is_missing_is_told():
    table = table_of({NONE: 0.5}).iloc[1:]
    with pytest.raises(ValueError, match="19 pictures of 20"):
        exchange_claims.cells(table, "new")


def test_only_sizes_at_which_the_model_itself_writes_count():
    def of(ours, model):
        return {LOCALISED: np.full((4, 2), ours), EVERY: np.full((4, 2), model)}

    scores = {"trained": of(0.8, 0.8), "wide": of(0.6, 0.5), "large": of(0.0, 0.1)}
    names = exchange_claims.counted(scores, "trained", ["wide", "large"])
    assert names == ["wide"]
    loss = exchange_claims.largest_loss(scores, "trained", names)
    assert loss.value == pytest.approx(0.2)
    longer, model, apart = exchange_claims.loss_with_length(scores, "trained", "large")
    assert (longer.value, model.value, apart.value) == pytest.approx((-0.8, -0.7, -0.1))


def test_what_is_left_of_a_word_is_compared_with_the_better_negative_prompt():
    shares = {NONE: 1.0, LOCALISED: 0.2, EVERY: 0.1, "random layers 1": 0.6,
              "random layers 2": 0.8, "negative prompt": 0.5, "negative word": 0.9}  # fmt: skip
    found = exchange_claims.avoided(exchange_claims.read_as(table_of(shares), "new"))
    negative, exchange = ([e.value for e in found[name]] for name in ("negative", "exchange"))
    assert negative == pytest.approx([0.3, -0.2, 0.5])
    assert exchange == pytest.approx([-0.1, -0.9, 0.8])


def test_pictures_need_one_without_an_edit():
    way = word_exchange.fields_of([word_exchange.Way("all layers", ("a",))])
    with pytest.raises(ValueError, match="'no edit': draw it too"):
        word_exchange.table_of(SimpleNamespace(), np.zeros((1, 1, 1, 8, 8, 3)), [{}], way, [0])


def test_pale_shades_have_the_colour_they_are_mixed_from():
    red, blue = np.array([222.0, 40, 40]), np.array([40.0, 95, 220])
    pale = [255 - share * (255 - colour) for colour in (red, blue) for share in (0.2, 0.6)]
    shades = np.array([*pale, [255.0, 255, 255], [np.nan] * 3])
    assert named_colours(shades).tolist() == ["red", "red", "blue", "blue", "white", ""]


def test_the_ground_is_seen_around_whatever_stands_on_it():
    picture = np.full((2, 16, 16, 3), 255, np.uint8)
    picture[0] = (170, 190, 240)
    picture[:, 4:12, 4:12] = 0
    assert grounds(picture).tolist() == ["blue", "white"]


@pytest.mark.parametrize(
    ("shares", "needed"),
    [
        ([0, 0.5, 0.6, 1], 1),
        ([0.2, 0.3, 0.5, 1], 2.2),
        ([0, 0.1, 0.5, 1], 2),
        ([0, 1, 1, 1], 0.5),
        ([0.5, 0.1, 0.5, 1.0], 2.5),
    ],
)
def test_half_of_the_change_is_counted_from_no_layer_and_between_whole_numbers(shares, needed):
    assert layers_needed(np.array(shares, float)) == pytest.approx(needed)


def test_no_change_cannot_be_halved():
    assert np.isnan(layers_needed(np.array([0.5, 0.9, 0.5])))
