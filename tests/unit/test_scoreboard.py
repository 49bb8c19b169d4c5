"""The scoreboard: every claim in words, with value, control and difference side by side."""

import json
import re

from t2i_lens.study.claims import load_claims
from t2i_lens.study.scoreboard import COLUMNS, claims_json, row_texts, rows, scoreboard_markdown
from t2i_lens.study.verdicts import MARKS, Record

CLAIMS = load_claims()
NUMBERS = {
    "value": 0.4,
    "interval": (0.3, 0.5),
    "control": {"value": 0.1, "interval": (0.0, 0.2)},
    "difference": {"value": 0.3, "interval": (0.2, 0.4), "pairing": "paired"},
    "n": 12,
}


def record(id="B01", verdict="reproduced", **fields):
    given = {"profile": "toybox", "notebook": "01_hero"} | NUMBERS | fields
    return Record(id=id, verdict=verdict, **given)


def line_of(id, *records):
    page = scoreboard_markdown(CLAIMS, records)
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {id} |")]
    return line


def test_there_is_a_row_for_every_claim_and_profile():
    other = Record(id="B02", profile="sd15", verdict="not measurable", reason="too slow")
    found = {(claim.id, r.profile): r.verdict for claim, r in rows(CLAIMS, [record(), other])}
    assert list(found) == [(id, profile) for id in CLAIMS for profile in ("sd15", "toybox")]
    assert found.pop(("B01", "toybox")) == "reproduced"
    assert found.pop(("B02", "sd15")) == "not measurable"
    assert set(found.values()) == {"not yet measured"}


def test_the_json_gives_the_numbers_and_what_the_control_must_do():
    entries = json.loads(claims_json(CLAIMS, [record(result="lost-0f3a")]))
    (row,) = [entry for entry in entries if entry["id"] == "B01"]
    assert (row["value"], row["interval"], row["n"]) == (0.4, [0.3, 0.5], 12)
    assert row["control"] == {"value": 0.1, "interval": [0.0, 0.2]}
    assert row["difference"] == {"value": 0.3, "interval": [0.2, 0.4], "pairing": "paired"}
    assert (row["result"], row["source"]) == ("lost-0f3a", "isozaki2024blog")
    assert row["compared_with"]["beyond"] == 0 and row["statement"] == CLAIMS["B01"].statement


def test_one_formatter_gives_every_column_its_text():
    texts = row_texts(record())
    assert tuple(texts) == COLUMNS
    assert texts == {
        "verdict": "● reproduced",
        "value": "0.4 [0.3, 0.5]",
        "control": "0.1 [0, 0.2]",
        "difference": "0.3 [0.2, 0.4], paired",
        "n": "12",
    }
    assert row_texts(record(control=None, difference=None))["control"] == ""


def test_every_claim_is_listed_with_a_verdict_in_words():
    lines = scoreboard_markdown(CLAIMS, [record()]).splitlines()
    for id in CLAIMS:
        (line,) = [line for line in lines if line.startswith(f"| {id} |")]
        verdict = "reproduced" if id == "B01" else "not yet measured"
        assert f"| {MARKS[verdict]} {verdict} |" in line


def test_value_control_and_difference_stand_side_by_side():
    line = line_of("B01", record())
    name = CLAIMS["B01"].control.name
    assert (
        r"| ● reproduced | toybox: **0.4 \[0.3, 0.5\]**"
        rf" | 0.1 \[0, 0.2\] *{name}* | 0.3 \[0.2, 0.4\], paired | 12 |"
    ) in line
    assert "{doc}`01 <chapters/01_hero>`" in line


def test_a_claim_that_stands_alone_says_why():
    alone = line_of("B02", record("B02", control=None, difference=None))
    assert f"| *none: {CLAIMS['B02'].control.alone}* | " in alone


def test_what_cannot_be_measured_is_shown_with_its_reason():
    line = line_of(
        "B01", Record(id="B01", profile="toybox", verdict="not measurable", reason="a < b")
    )
    assert r"| – not measurable | toybox: a \< b |" in line


def test_verdicts_are_counted_per_profile():
    records = [record(), record("B08", "not specific"), record("B03", "no room")]
    counts = dict.fromkeys(MARKS, 0) | {"reproduced": 1, "not specific": 1, "no room": 1}
    counts["not yet measured"] = len(CLAIMS) - 3
    expected = "| toybox | " + " | ".join(map(str, counts.values())) + " |"
    assert expected in scoreboard_markdown(CLAIMS, records).splitlines()


def test_every_row_has_as_many_cells_as_its_head():
    cells = re.compile(r"(?<!\\)\|")
    odd = Record(id="B01", profile="toybox", verdict="not measurable", reason="a | b <c>")
    width = None
    for line in scoreboard_markdown(CLAIMS, [odd]).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        width = width or len(cells.findall(line))
        assert len(cells.findall(line)) == width, line


def test_marks_tell_the_verdicts_apart_without_colour():
    assert len(set(MARKS.values())) == len(MARKS)
