"""A row of tokens says by itself what stands where; no pipeline, no model."""

import pytest

from t2i_lens.models.tokens import TokenRow, Word

WORDS = ("a", "<cat-toy>", "next", "to", "a", "cat", "Cat")


def row():
    positions = [(1,), (2, 3), (4,), (5,), (6,), (7, 8), (9,)]
    return TokenRow(
        prompt=" ".join(WORDS),
        ids=tuple(range(77)),
        pieces=("piece",) * 77,
        words=tuple(Word(text, at) for text, at in zip(WORDS, positions, strict=True)),
        eos=10,
    )


def test_a_word_of_several_pieces_has_all_their_positions():
    assert row().positions("<cat-toy>") == (2, 3)


def test_every_occurrence_of_a_word_counts():
    assert row().positions("a") == (1, 6)


def test_words_in_sequence_are_found_together():
    assert row().positions("next to") == (4, 5)
    assert row().positions("to a cat") == (5, 6, 7, 8)


def test_the_exact_spelling_wins_over_ignoring_case():
    assert row().positions("Cat") == (9,)
    assert row().positions("cat") == (7, 8)
    assert row().positions("NEXT") == (4,)


@pytest.mark.parametrize("absent", ["dog", "ca", "to next", "", "a a"])
def test_a_word_that_is_not_there_is_refused_with_the_words_there_are(absent):
    with pytest.raises(ValueError, match="its words are"):
        row().positions(absent)


def test_padding_is_what_follows_the_first_eos():
    assert row().bos == 0
    assert range(77)[row().padding] == range(11, 77)
