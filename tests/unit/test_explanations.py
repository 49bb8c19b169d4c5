"""What the records say of an explanation."""

import pytest

from t2i_lens.study.book import RECORDED
from t2i_lens.study.claims import load_claims, load_records
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


def test_the_table_has_a_row_for_each_explanation_with_its_verdict():
    parts = known_parts(load_claims(), [])
    count = len(load_explanations(load_claims()))
    assert parts["explanations.md"].count("**open**") == count
    assert MARKS["not yet measured"] in parts["known.md"]


def test_undecided_explanations_share_a_line_and_decided_ones_have_their_own():
    one, other, *rest = load_explanations(load_claims())
    known = dict.fromkeys(one.decided_by, "reproduced") | {other.supports[0]: "not reproduced"}
    measured = [
        Record(id=id, profile="toybox", verdict=verdict, notebook="01_tiny", value=1, n=2,
               interval=(0, 2))
        for id, verdict in known.items()
    ]  # fmt: skip
    page = known_parts(load_claims(), measured)["known.md"]
    *decided, undecided, not_measured = page.splitlines()
    assert [one.says in line for line in decided] == [True]
    assert undecided.startswith("1. **Not shown:**") and other.says.strip(".") in undecided
    assert not_measured.startswith("1. **Open:**")
    assert all(explanation.says.strip(".") in not_measured for explanation in rest)


def test_the_front_page_says_what_is_known_in_about_ten_lines():
    known = known_parts(load_claims(), load_records(RECORDED))["known.md"]
    assert len(known.splitlines()) <= 12
