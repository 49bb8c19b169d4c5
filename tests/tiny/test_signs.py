"""Signs of the world, read by an OCR engine and by the judge, before and after known edits."""

import numpy as np
import pytest

from t2i_lens.experiments import sign_editing
from t2i_lens.experiments.known_sign_edits import KNOWN, judged_words, known_edits
from t2i_lens.judging.ocr import read_texts
from t2i_lens.toybox.judge import load_judge
from t2i_lens.toybox.quality.drawing import read_ocr

SOURCES, TARGETS = ["open", "milk"], ["stop", "park"]
SEED = 3  # the objects beside these signs are not taken for letters


@pytest.fixture(scope="module")
def known():
    return known_edits(SOURCES, TARGETS, seed=SEED)


@pytest.fixture(scope="module")
def scores(known):
    few = [KNOWN.index(name) for name in ("word exchanged", "letters reversed")]
    names = [KNOWN[place] for place in few]
    return sign_editing.score(known["source"], known["edited"][few], names, TARGETS)


def edit(known, name):
    return known["edited"][KNOWN.index(name)].astype(int)


def test_only_the_sign_differs_where_the_word_is_exchanged(known):
    changed = (edit(known, "word exchanged") != known["source"]).any(axis=(1, 4))
    for rows in changed:  # the board is 28 pixels high, one of at least 24 holds letters
        assert 0 < np.ptp(np.flatnonzero(rows.any(axis=1))) < 28


def test_darker_pictures_are_darker_by_the_level_that_wraps_to_nothing(known):
    word, dark = edit(known, "word exchanged"), edit(known, "16 levels darker")
    np.testing.assert_array_equal(dark, np.maximum(word - 16, 0))


def test_a_picture_moved_down_is_the_same_one_row_lower(known):
    word, low = edit(known, "word exchanged"), edit(known, "one pixel lower")
    np.testing.assert_array_equal(low[:, :, 1:], word[:, :, :-1])


def test_known_edits_are_the_same_at_every_call(known):
    again = known_edits(SOURCES, TARGETS, seed=SEED)
    np.testing.assert_array_equal(known["edited"], again["edited"])
    assert (known["source"] != known_edits(SOURCES, TARGETS, seed=SEED + 1)["source"]).any()


def test_the_engine_reads_the_exchanged_word_and_the_scores_know_it(scores):
    right = scores[scores["method"] == "word exchanged"]
    # The engine may see letters in a drawing beside the sign as well.
    assert all(word in text.split() for word, text in zip(TARGETS, right["text"], strict=True))
    exact = right["text"].isin(TARGETS)
    assert exact.any()
    assert (right["word_f1"][exact] == 1).all() and (right["distance"][exact] == 0).all()


def test_outside_the_text_an_exchanged_word_leaves_hardly_an_error(scores):
    right = scores[scores["method"] == "word exchanged"]
    # what is left is the blurred edge of letters beyond the detected box
    assert (right["masked"] < 0.1 * right["true"]).all()


def test_letters_in_reverse_order_are_perfect_as_published_and_wrong_as_words(scores):
    reverse = scores[scores["method"] == "letters reversed"]
    assert list(reverse["text"]) == [target[::-1] for target in TARGETS]
    assert (reverse["precision"] == 1).all() and (reverse["word_f1"] == 0).all()


def test_the_same_picture_is_read_once_and_given_twice(known):
    picture = known["source"][0, 0]
    first, second = read_texts(np.stack([picture, picture]))
    assert first is second and first.lines == ("open",)
    assert read_ocr(picture) == "open"
    rows = np.flatnonzero(first.region.any(axis=1))
    assert 8 <= len(rows) <= 32 and not first.region.all()


def test_white_paper_holds_no_text():
    (reading,) = read_texts(np.full((1, 64, 64, 3), 255, np.uint8))
    assert reading.lines == () and not reading.region.any()


def test_the_judge_reads_the_words_of_the_world(known):
    exchanged = known["edited"][[KNOWN.index("word exchanged")]]
    assert judged_words(load_judge(), exchanged)["words"][0, :, 0].tolist() == TARGETS
