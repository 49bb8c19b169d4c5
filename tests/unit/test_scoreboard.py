"""The scoreboard: a line a claim, with an address, a forest plot and all that unfolds."""

import json

from bs4 import BeautifulSoup

from t2i_lens.study.board_page import Chapter, picture, scoreboard_page
from t2i_lens.study.claims import load_claims
from t2i_lens.study.forest_plot import WIDTH, forest_plot
from t2i_lens.study.scoreboard import COLUMNS, claims_json, number_text, row_texts, rows
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


CHAPTERS = {"01_hero": Chapter("How many objects?", "The phenomenon")}


def test_rounding_is_not_written_as_a_number_and_small_numbers_are():
    assert number_text(-6.9e-18, (-0.1, 0.1)) == "0 [-0.1, 0.1]"
    assert number_text(1.63e-7, None) == "1.63e-07"


def page_of(*records):
    return BeautifulSoup(scoreboard_page(CLAIMS, records, CHAPTERS), "html.parser")


def line_of(address, *records):
    return page_of(*records).find(id=address)


def said(line, name):
    """What stands in the unfolded part of a line beside a name."""
    (term,) = [term for term in line.find_all("dt") if term.text == name]
    return term.find_next_sibling("dd").text


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


def test_every_claim_has_one_line_with_its_address_and_its_verdict_in_words():
    page = page_of(record())
    assert [line["id"] for line in page.find_all("details")] == list(CLAIMS)
    for id in CLAIMS:
        verdict = "reproduced" if id == "B01" else "not yet measured"
        summary = page.find(id=id).find("summary")
        assert summary.find(class_="verdict").text == f"{MARKS[verdict]} {verdict}"
        assert page.find(id=id)["data-verdict"] == verdict


def test_a_line_unfolds_to_bound_value_control_difference_chapter_and_command():
    line = line_of("B01", record())
    assert said(line, "bound") == "above 0"
    assert said(line, "value") == "0.4 [0.3, 0.5], n = 12, on toybox"
    assert said(line, "control").startswith("0.1 [0, 0.2] ")
    assert CLAIMS["B01"].control.name in said(line, "control")
    assert said(line, "difference").startswith("0.3 [0.2, 0.4], paired")
    assert said(line, "measure again") == "t2i-lens run 01_hero"
    assert line.find("a", href="chapters/01_hero.html").text == "How many objects?"
    assert line["data-part"] == "The phenomenon"


def test_another_profile_has_an_address_and_a_command_of_its_own():
    line = line_of("B01-sd15", record(), record(profile="sd15"))
    assert said(line, "measure again") == "t2i-lens run 01_hero -p profile=sd15"


def test_a_claim_that_stands_alone_says_why():
    alone = line_of("B02", record("B02", control=None, difference=None))
    assert f"none: {CLAIMS['B02'].control.alone}" in said(alone, "control")


def test_what_cannot_be_measured_is_shown_with_its_reason():
    line = line_of(
        "B01", Record(id="B01", profile="toybox", verdict="not measurable", reason="a < b")
    )
    assert said(line, "value") == "a < b, on toybox"
    assert line.find("svg") is None


def test_verdicts_sources_and_parts_can_be_chosen():
    page = page_of(record(), record("B08", "not specific"))
    options = {s["name"]: [o["value"] for o in s.find_all("option")] for s in page("select")}
    assert set(options["source"]) == {"", *(claim.source.key for claim in CLAIMS.values())}
    assert options["verdict"] == ["", "reproduced", "not specific", "not yet measured"]
    assert options["part"] == ["", "The phenomenon"]


def test_a_forest_plot_keeps_the_order_of_its_numbers_on_one_scale():
    plot = forest_plot(CLAIMS["B01"], record())
    bound, (first, last) = plot.allowed[0], plot.control_interval
    assert 0 < bound == first < plot.control < last < plot.interval[0] + 40
    assert plot.interval[0] < plot.value < plot.interval[1] < plot.allowed[1] == WIDTH
    # Control 0.1 lies at a fifth of the way from the bound, 0, to the interval's end, 0.5.
    share = (plot.control - bound) / (plot.interval[1] - bound)
    assert abs(share - 0.2) < 0.01  # places are rounded to a tenth of a unit
    assert plot.text == "value 0.4 [0.3, 0.5], control 0.1 [0, 0.2], bound above 0"


def test_a_published_value_far_away_does_not_crush_the_scale():
    alone = {"control": None, "difference": None}
    wide = record("B15", value=0.7, interval=(0.6, 0.8), **alone)
    narrow = record("B15", value=0.77, interval=(0.769, 0.771), **alone)
    assert CLAIMS["B15"].reference.value == 0.905
    assert forest_plot(CLAIMS["B15"], wide).published is not None
    assert forest_plot(CLAIMS["B15"], narrow).published is None


def test_the_small_picture_marks_every_measured_claim_in_its_part():
    shown = picture(CLAIMS, [record(), record("B08", "not specific")], CHAPTERS)
    assert [(part, [mark["address"] for mark in marks]) for part, marks in shown] == [
        ("The phenomenon", ["B01"])
    ]


def test_marks_tell_the_verdicts_apart_without_colour():
    assert len(set(MARKS.values())) == len(MARKS)
