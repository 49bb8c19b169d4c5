"""What the records say of an explanation."""

import pytest

from t2i_lens.study.claims import load_claims
from t2i_lens.study.explanations import (
    Explanation,
    known_parts,
    load_explanations,
    standing,
)
from t2i_lens.study.verdicts import MARKS, ClaimError, Record


def explanation(supports=("X04",), against=()):
    texts = dict.fromkeys(("name", "says", "by", "experiment", "change"), "some")
    return Explanation(**texts, supports=supports, against=against)


def records(**verdicts):
    return {id: Record(id=id, profile="toybox", verdict=verdict, reason="because")
            if verdict == "not measurable"
            else Record.model_construct(id=id, profile="toybox", verdict=verdict)
            for id, verdict in verdicts.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({"X04": "reproduced", "X05": "opposite"}, "stands"),
        ({"X04": "reproduced", "X05": "reproduced"}, "mixed"),
        ({"X04": "reproduced", "X05": "not reproduced"}, "partly"),
        ({"X04": "opposite", "X05": "not specific"}, "falls"),
        ({"X04": "not reproduced", "X05": "reproduced"}, "falls"),
        ({"X04": "not specific", "X05": "not reproduced"}, "not shown"),
        ({"X04": "not measurable"}, "open"),
        ({}, "open"),
    ],
)
def test_claims_speak_for_against_or_do_not_show_it(verdicts, expected):
    assert standing(explanation(against=("X05",)), records(**verdicts)) == expected


def test_every_explanation_names_claims_and_the_source_that_offered_it():
    claims = load_claims()
    found = load_explanations(claims)
    assert len({one.name for one in found}) == len(found) >= 7
    sources = {claim.source.key for claim in claims.values()}
    assert {one.by for one in found} <= sources


def test_a_claim_that_does_not_exist_is_named_in_one_line(tmp_path):
    file = tmp_path / "explanations.yaml"
    file.write_text(
        "- {name: norm, says: a, by: study, experiment: b, supports: [X99], against: [], change: c}"
    )
    with pytest.raises(ClaimError, match="norm needs claims") as error:
        load_explanations(load_claims(), file)
    assert len(str(error.value).splitlines()) == 1


def test_pages_show_a_line_for_each_explanation_with_the_verdict_of_its_records():
    claims = load_claims()
    parts = known_parts(claims, [])
    count = len(load_explanations(claims))
    assert parts["known.md"].count("Open:") == count
    assert parts["explanations.md"].count("**open**") == count
    assert MARKS["not yet measured"] in parts["known.md"]
