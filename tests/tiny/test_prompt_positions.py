"""Pairs of the prompt sets are found in the ids that the text encoder is fed."""

import pytest

from t2i_lens.experiments import prompt_sets
from t2i_lens.models import profiles
from t2i_lens.models.tokens import encode

PAIRED = ("animals", "animals_objects", "objects", "relations")


@pytest.fixture(scope="module")
def toybox():
    return profiles.load(profiles.get("toybox"))


def spelled(pipe, row, positions):
    return pipe.tokenizer.decode([row.ids[p] for p in positions]).strip()


@pytest.mark.parametrize("name", PAIRED)
def test_in_the_toybox_every_word_of_a_pair_is_one_token_where_it_is_said_to_be(toybox, name):
    for prompt in prompt_sets.load_pairs("toybox", name):
        row = encode(toybox, prompt.text)
        for pair in (*prompt.bound, *prompt.unbound):
            found = prompt_sets.pair_positions(row, pair)
            assert [len(positions) for positions in found] == [1, 1]
            assert tuple(spelled(toybox, row, positions) for positions in found) == pair


@pytest.mark.parametrize("name", PAIRED)
def test_words_of_several_pieces_are_found_whole(shared_pipe, name):
    for prompt in prompt_sets.load_pairs("sd", name)[:12]:
        row = encode(shared_pipe, prompt.text)
        for pair in (*prompt.bound, *prompt.unbound):
            found = prompt_sets.pair_positions(row, pair)
            assert tuple(spelled(shared_pipe, row, positions) for positions in found) == pair
            assert not set(found[0]) & set(found[1])


@pytest.mark.parametrize("kind", ["simple", "creative"])
def test_the_word_of_a_sign_is_one_word_of_the_row(toybox, kind):
    for prompt in prompt_sets.load_signs("toybox", "test", kind):
        for text, word in (
            (prompt.source_text, prompt.source), (prompt.target_text, prompt.target)
        ):  # fmt: skip
            row = encode(toybox, text)
            assert spelled(toybox, row, row.positions(word)) == word


def test_a_word_that_stands_twice_is_refused(toybox):
    row = encode(toybox, "a red cat and a red car")
    with pytest.raises(ValueError, match="more than once"):
        prompt_sets.pair_positions(row, ("red", "car"))
    with pytest.raises(ValueError, match="its words are"):
        prompt_sets.pair_positions(row, ("blue", "car"))
