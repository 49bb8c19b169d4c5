"""Sentences, answers and tables of the comparison of methods."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import alignment, faithfulness
from t2i_lens.experiments.kept_table import compare_means, load_table, save_table
from t2i_lens.experiments.prompt_sets import load_pairs
from t2i_lens.toybox.judge import Outcome

SETS = {name: load_pairs("toybox", name) for name in alignment.SENTENCES}


def test_every_sentence_is_said_in_both_orders_and_none_is_also_tried():
    said, tried = alignment.sentences(SETS)
    assert len(said) == 96 and len({s.text for s in said}) == 96
    for one, other in zip(said[::2], said[1::2], strict=True):
        assert one.nouns == other.nouns[::-1] and (one.order, other.order) == (0, 1)
        assert set(one.bound) == set(other.bound)
    assert not {s.text for s in tried} & {s.text for s in said}
    assert {s.set for s in tried} == set(alignment.SENTENCES)


def test_a_class_word_sentence_is_not_drawn_twice_for_the_t_it_has():
    token, plain = (
        alignment.Sentence("toy", 0, order, text, (), (("man", word),), plain="a toy and a man")
        for order, (word, text) in enumerate(
            [("<t>", "a <t> and a man"), ("toy", "a toy and a man")]
        )
    )
    own, other = (alignment.Method("m", "paper", target=kind) for kind in ("own", "class word"))
    assert alignment.drawn_under([token, plain], own) == [token, plain]
    assert alignment.drawn_under([token, plain], other) == [token]


def test_the_outcomes_are_the_judges():
    assert set(faithfulness.OUTCOMES) == {str(outcome) for outcome in Outcome}


def judge_of(found, colours, centres, places):
    nouns = list(found)
    reading = SimpleNamespace(
        nouns=np.array([list(found.values())]), places=places, centres=np.array([centres])
    )
    judge = SimpleNamespace(
        nouns=nouns,
        colour=lambda _, noun: [colours[noun]],
        outcomes=lambda _, a, b: [Outcome.both],
    )
    return judge, reading


def pieces(*counts):
    """Places of 8x8 with so many separate spots for each noun."""
    places = np.zeros((1, 64, len(counts)))
    for noun, count in enumerate(counts):
        places[0, 2 * np.arange(count), noun] = 1
    return places


def test_answers_tell_presence_colour_and_count_apart():
    sentence = alignment.Sentence(
        "objects", 0, 0, "a red car and a blue hat", (("red", "car"), ("blue", "hat")),
        (("car", "hat"),),
    )  # fmt: skip
    colours = {"car": "blue", "hat": "blue"}
    judge, reading = judge_of({"car": 0.9, "hat": 0.2}, colours, [[0, 0], [9, 9]], pieces(2, 0))
    found = faithfulness.answers_about(judge, reading, 0, sentence)
    assert (found["proper"], found["improper"], found["neglected"]) == (0, 1, 1)
    assert (found["lost"], found["right"]) == (1, False)
    assert (found["object asked"], found["object right"]) == (2, 1)
    assert (found["count asked"], found["count right"], found["animal asked"]) == (2, 0, 0)


@pytest.mark.parametrize(
    ("relation", "holds"), [("left of", True), ("above", False), ("next to", True)]
)
def test_a_relation_is_read_from_where_the_nouns_are(relation, holds):
    text = f"a car {relation} a hat"
    sentence = alignment.Sentence("relations", 0, 0, text, (), (("car", "hat"),), relation)
    places = [[10.0, 30.0], [50.0, 25.0]]  # x, y: the car stands left of the hat, and lower
    judge, reading = judge_of({"car": 0.9, "hat": 0.9}, {}, places, pieces(1, 1))
    found = faithfulness.answers_about(judge, reading, 0, sentence)
    assert found["relation right"] == int(holds) and found["right"] == holds


def test_the_animal_is_known_in_both_orders():
    said, _ = alignment.sentences(SETS)
    animals = {p.unbound[0][0] for p in SETS["animals"]} | {
        p.unbound[0][1] for p in SETS["animals"]
    }
    for sentence in (s for s in said if s.set == "animals_objects"):
        kinds = [faithfulness.kind_of_noun(sentence, place) for place in (0, 1)]
        assert [noun in animals for noun in sentence.nouns] == [k == "animal" for k in kinds]


def test_the_multiple_with_the_best_score_is_chosen_and_the_smaller_of_equals():
    scores = pd.Series({method.name: 0.5 for method in alignment.trial_methods()})
    scores["code x3"] = 0.6
    chosen = alignment.chosen_multiples(scores)
    assert chosen == {"paper": 0.3, "code": 3, "attend-and-excite": 0.3, "SynGen": 0.3}


def test_scores_are_shares_of_the_questions_asked():
    counts = {
        f"{kind} {what}": [0, 0] for kind in faithfulness.KINDS for what in ("asked", "right")
    }
    counts |= {"object asked": [2, 2], "object right": [1, 2], "colour asked": [2, 0]}
    table = pd.DataFrame({"method": ["a", "b"], "set": "s", "number": 0} | counts)
    assert faithfulness.score(table).tolist() == [0.25, 1.0]
    by_kind = faithfulness.scores_by_kind(table)
    assert by_kind["object"].to_dict() == {"a": 0.5, "b": 1.0} and by_kind["colour"]["a"] == 0
    assert np.isnan(by_kind["relation"]["a"])
    assert faithfulness.right_by_kind(table).tolist() == [[0, 3, 0, 0, 0]]
    assert faithfulness.per_sentence(table, pd.Series([1, 0])).to_numpy().tolist() == [[1.0, 0.0]]


def test_a_kept_table_is_refused_when_damaged_or_made_from_other_weights(tmp_path):
    table = pd.DataFrame({"row": [1, 2], "value": [0.1, 0.2]})
    file = save_table(table, {"a": "1"}, tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(load_table(file, {"a": "1", "b": "2"}, "again"), table)
    with pytest.raises(ValueError, match="other weights or settings"):
        load_table(file, {"a": "2"}, "again")
    near = {"value": 0.01}
    assert compare_means(table[:1], table, ["row"], near) == {"value": 0.0}
    with pytest.raises(ValueError, match="not in the table"):
        compare_means(table.assign(row=[1, 3]), table, ["row"], near)
    with pytest.raises(ValueError, match="differs"):
        compare_means(table.assign(value=[0.1, 0.4]), table, ["row"], near)
    file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="damaged"):
        load_table(file, {"a": "1"}, "again")
    with pytest.raises(FileNotFoundError, match="again"):
        load_table(tmp_path / "none.parquet", {}, "again")
