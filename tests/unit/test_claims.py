"""Claims: complete, judged by one rule, recorded safely, compared, shown."""

import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from t2i_lens.base.paths import ROOT
from t2i_lens.study.claims import (
    claims_json,
    compare_records,
    load_claims,
    load_records,
    scoreboard_markdown,
    table,
    write_records,
)
from t2i_lens.study.verdicts import MARKS, Bound, ClaimError, Record, judge_claim

# How many claims each source makes, and how many questions are left open.
FAMILIES = {"B": 25, "P": 12, "T": 15, "L": 15, "N": 6, "X": 23}
IDS = [
    f"{letter}{number:02}" for letter, count in FAMILIES.items() for number in range(1, count + 1)
]
CHAPTERS = {
    "01_hero": ["B01"],
    "02_norms": ["B06", "B07", "B08"],
    "03_cosine_pca": ["B11", "B12", "B18", "B23", "X19"],
    "07_bos_slerp": ["B19", "B20", "B21", "B22"],
    "09_norm_growth": ["B25", "N02", "X03"],
    "10_destruction": ["B24", "X04", "X09", "X10", "X11"],
}
CLAIMS = load_claims()

SMALL = """
sources:
  someone2024: {title: A title, authors: Some One, year: 2024, url: "https://example.org"}
claims:
- id: B01
  source: someone2024
  kind: reproduce
  statement: A thing is so.
  measured: The number.
  control: Another number.
  bounds: {toybox: {above: 0.0}}
"""


def claim_with(**bound):
    return CLAIMS["B01"].model_validate(CLAIMS["B01"].model_dump() | {"bounds": {"toybox": bound}})


def record(id="B01", value=0.4, interval=(0.3, 0.5), verdict="reproduced", **fields):
    measured = dict(value=value, interval=interval, n=12, control=0.1, notebook="01_hero")
    return Record(id=id, profile="toybox", verdict=verdict, **(measured | fields))


def load_text(tmp_path, text):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    return load_claims(path)


def test_every_claim_of_the_sources_and_every_open_question_is_listed_once():
    assert sorted(CLAIMS) == sorted(IDS)
    assert len(IDS) == 96


def test_open_questions_are_ours_and_all_other_claims_name_what_their_source_says():
    for claim in CLAIMS.values():
        beyond = claim.id.startswith("X")
        assert (claim.kind == "beyond") == beyond, claim.id
        assert (claim.source.key == "study") == beyond, claim.id
        assert claim.question if beyond else claim.reference, claim.id


def test_statements_are_single_sentences_and_differ():
    statements = [claim.statement for claim in CLAIMS.values()]
    assert len(set(statements)) == len(statements)
    for statement in statements:
        assert re.fullmatch(r"[^.]*(\.\d[^.]*)*\.", statement), statement


def test_every_measured_text_says_which_number_is_the_value():
    assert [c.id for c in CLAIMS.values() if "alue" not in c.measured] == []


def test_claims_of_the_first_chapters_have_a_bound_on_the_toybox_and_a_chapter():
    for chapter, ids in CHAPTERS.items():
        assert [c.id for c in CLAIMS.values() if c.chapter == chapter] == ids
        assert all("toybox" in CLAIMS[id].bounds for id in ids)


def test_every_chapter_named_by_a_claim_is_a_notebook():
    chapters = {claim.chapter for claim in CLAIMS.values() if claim.chapter}
    assert [c for c in chapters if not (ROOT / "notebooks" / f"{c}.ipynb").exists()] == []


def test_every_source_is_in_the_bibliography():
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    keys = set(re.findall(r"@\w+\{([^,\s]+)", bibliography))
    cited = {source.key for c in CLAIMS.values() for source in (c.source, *c.also)} - {"study"}
    assert cited - keys == set()


@pytest.mark.parametrize(
    ("bound", "interval", "verdict"),
    [
        ({"above": 0.0}, (0.1, 0.2), "reproduced"),
        ({"above": 0.0}, (-0.1, 0.2), "not reproduced"),
        ({"above": 0.0}, (-0.2, -0.1), "opposite"),
        ({"above": 0.0}, (0.0, 0.2), "not reproduced"),  # touching a bound is not passing it
        ({"above": 0.0}, (-0.2, 0.0), "not reproduced"),
        ({"below": 1.0}, (0.1, 0.2), "reproduced"),
        ({"below": 1.0}, (0.1, 1.2), "not reproduced"),
        ({"below": 1.0}, (1.1, 1.2), "opposite"),
        ({"within": (0.8, 1.25)}, (0.8, 1.25), "reproduced"),
        ({"within": (0.8, 1.25)}, (0.79, 1.0), "not reproduced"),
        ({"within": (0.8, 1.25)}, (0.1, 0.2), "not reproduced"),  # a band has no other side
        ({"within": (0.8, 1.25)}, (1.0, 1.0), "reproduced"),  # a number without sampling error
    ],
)
def test_the_verdict_follows_from_the_whole_interval(bound, interval, verdict):
    assert judge_claim(claim_with(**bound), "toybox", sum(interval) / 2, interval) == verdict


NUMBERS = st.floats(-1e6, 1e6)


@given(edge=NUMBERS, ends=st.tuples(NUMBERS, NUMBERS).map(sorted))
def test_above_and_below_are_mirror_images(edge, ends):
    lower, upper = ends
    above = judge_claim(claim_with(above=edge), "toybox", lower, (lower, upper))
    below = judge_claim(claim_with(below=-edge), "toybox", -lower, (-upper, -lower))
    assert above == below
    assert (above == "reproduced") == (lower > edge)
    assert (above == "opposite") == (upper < edge)


@given(edge=NUMBERS, ends=st.tuples(NUMBERS, NUMBERS).map(sorted), wider=st.floats(0, 1e6))
def test_a_wider_interval_never_turns_a_verdict_into_its_opposite(edge, ends, wider):
    lower, upper = ends
    narrow = judge_claim(claim_with(above=edge), "toybox", lower, (lower, upper))
    wide = judge_claim(claim_with(above=edge), "toybox", lower, (lower - wider, upper + wider))
    assert wide in (narrow, "not reproduced")


@given(value=NUMBERS, ends=st.tuples(NUMBERS, NUMBERS).map(sorted))
def test_a_value_outside_its_interval_is_refused(value, ends):
    width = max(abs(ends[0]), abs(ends[1]))
    assume(value < ends[0] - 1e-3 * width - 1e-9 or value > ends[1] + 1e-3 * width + 1e-9)
    with pytest.raises(ClaimError, match="B01: value .* is not inside its interval"):
        judge_claim(claim_with(above=0.0), "toybox", value, tuple(ends))


@pytest.mark.parametrize("interval", [(float("nan"), 1.0), (0.0, float("inf")), (1.0, 0.0)])
def test_an_interval_that_is_no_interval_is_refused(interval):
    with pytest.raises(ClaimError, match="B01"):
        judge_claim(claim_with(above=0.0), "toybox", 0.5, interval)


def test_a_profile_without_a_bound_of_its_own_is_held_to_the_toyboxs():
    claim = claim_with(above=0.0)
    assert judge_claim(claim, "sd15", 0.5, (0.4, 0.6)) == "reproduced"
    stricter = claim.model_copy(update={"bounds": claim.bounds | {"sd15": Bound(above=0.7)}})
    assert judge_claim(stricter, "sd15", 0.5, (0.4, 0.6)) == "opposite"
    with pytest.raises(ClaimError, match="B01 has no bound on sd15"):
        judge_claim(claim.model_copy(update={"bounds": {}}), "sd15", 0.5, (0.4, 0.6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("claims:", "claims: ["), "not valid YAML at line"),
        (("claims:", "assertions:"), "needs a map `sources` and a list `claims`"),
        (("source: someone2024", "source: nobody2024"), "B01: source 'nobody2024' is not listed"),
        (("  source: someone2024\n", ""), "B01: source None is not listed"),
        (("  control: Another number.\n", ""), "B01: control: Field required"),
        (("kind: reproduce", "kind: guess"), "B01: kind"),
        (("statement:", "sentence: no\n  statement:"), "B01: sentence: Extra inputs"),
        (("{above: 0.0}", "{above: 0.0, below: 1.0}"), "a bound is one of above, below, within"),
        (("{above: 0.0}", "{within: [1.0, 0.0]}"), r"within \[1.0, 0.0\] is empty"),
        (("{above: 0.0}", "{above: .nan}"), "B01: bounds.toybox.above"),
        (("id: B01", "id: Z99"), "Z99: id"),
        (("- id: B01", "- B01\n- id: B01"), "claim number 1 is not a map"),
        (("authors: Some One, ", ""), "sources: authors: Field required"),
    ],
)
def test_a_damaged_claims_file_gives_one_short_error(tmp_path, change, message):
    assert change[0] in SMALL
    with pytest.raises(ClaimError, match=message) as error:
        load_text(tmp_path, SMALL.replace(*change, 1))
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith("claims.yaml")


def test_a_claim_listed_twice_is_refused(tmp_path):
    claim = SMALL[SMALL.index("- id") :]
    with pytest.raises(ClaimError, match="B01 is listed twice"):
        load_text(tmp_path, SMALL + claim)


@pytest.mark.parametrize(
    "fields",
    [
        dict(value=None),
        dict(interval=None),
        dict(n=None),
        dict(n=0),
        dict(control=None),
        dict(notebook=None),
        dict(value=0.9),
        dict(verdict="not measurable", reason="no such layer"),
        dict(verdict="not measurable", value=None, interval=None),
        dict(verdict="proved"),
    ],
)
def test_an_incomplete_record_is_refused(fields):
    with pytest.raises(ValueError, match="Record"):
        record(**fields)


def test_records_survive_writing_and_loading(tmp_path):
    path = tmp_path / "toybox" / "01_hero.json"
    records = [
        record("B08", 3.3, (2.9, 3.7), seeds=(0, 1, 2), result="ratios-0f3a"),
        record(control="the class word lost none"),
        record("X01", None, None, "not measurable", n=None, control=None, reason="no TI token"),
    ]
    write_records(records, path)
    assert load_records(path) == sorted(records, key=lambda r: r.id)
    assert load_records(tmp_path) == load_records(path)
    assert [p.name for p in path.parent.iterdir()] == ["01_hero.json"]


def test_a_failed_write_leaves_the_old_records_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "01_hero.json"
    write_records([record()], path)
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_records([record(value=0.45)], path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": "B01"', "no list of records"),
        ('{"id": "B01"}', "records.json"),
        ('[{"id": "B01", "profile": "toybox", "verdict": "reproduced"}]', "needs value"),
        ('[{"id": "B99", "profile": "toybox", "verdict": "not yet measured"}]', "no claim B99"),
        (
            '[{"id": "B01", "profile": "toybox", "verdict": "not yet measured"},'
            ' {"id": "B01", "profile": "toybox", "verdict": "not yet measured"}]',
            "B01 is recorded twice on toybox",
        ),
    ],
)
def test_a_damaged_record_gives_one_short_error(tmp_path, text, message):
    path = tmp_path / "records.json"
    path.write_text(text)
    with pytest.raises(ClaimError, match=message) as error:
        load_records(path)
    assert len(str(error.value).splitlines()) == 1


def test_the_same_records_differ_in_nothing():
    assert compare_records([record()], [record()]) == []


def test_a_value_that_moves_inside_the_recorded_interval_is_no_difference():
    assert compare_records([record()], [record(value=0.49, interval=(0.45, 0.6))]) == []


def test_a_value_outside_the_recorded_interval_is_reported():
    (message,) = compare_records([record()], [record(value=0.7, interval=(0.6, 0.8))])
    assert message == "B01 on toybox: value 0.7 left the recorded interval [0.3, 0.5]"


def test_a_changed_verdict_is_reported():
    fresh = record(verdict="not reproduced", interval=(-0.1, 0.5))
    (message,) = compare_records([record()], [fresh])
    assert message == "B01 on toybox: verdict was 'reproduced', is now 'not reproduced'"


def test_claims_on_one_side_only_are_reported():
    messages = compare_records([record()], [record("B08")])
    assert messages == [
        "B01 on toybox: recorded (reproduced) but no longer measured",
        "B08 on toybox: measured (reproduced) but not recorded; record it",
    ]


def test_an_exact_value_may_differ_in_its_last_digits_only():
    exact = record(value=0.25, interval=(0.25, 0.25))
    assert compare_records([exact], [record(value=0.250001, interval=(0.25, 0.2501))]) == []
    assert compare_records([exact], [record(value=0.2501, interval=(0.25, 0.2501))])


def test_the_table_has_a_row_for_every_claim_and_profile():
    other = Record(id="B02", profile="sd15", verdict="not measurable", reason="too slow")
    rows = table(CLAIMS, [record(), other])
    assert [(r["id"], r["profile"]) for r in rows] == [
        (i, p) for i in CLAIMS for p in ("sd15", "toybox")
    ]
    verdicts = {(r["id"], r["profile"]): r["verdict"] for r in rows}
    assert verdicts.pop(("B01", "toybox")) == "reproduced"
    assert verdicts.pop(("B02", "sd15")) == "not measurable"
    assert set(verdicts.values()) == {"not yet measured"}


def test_the_json_gives_value_interval_n_control_and_result():
    rows = json.loads(claims_json(CLAIMS, [record(result="lost-0f3a")]))
    (row,) = [r for r in rows if r["id"] == "B01"]
    assert row["value"] == 0.4
    assert row["interval"] == [0.3, 0.5]
    assert (row["n"], row["control"], row["result"]) == (12, 0.1, "lost-0f3a")
    assert row["source"] == "isozaki2024blog"


def test_the_scoreboard_lists_every_claim_with_a_verdict_in_words():
    lines = scoreboard_markdown(CLAIMS, [record()]).splitlines()
    for id in IDS:
        (line,) = [line for line in lines if line.startswith(f"| {id} |")]
        verdict = "reproduced" if id == "B01" else "not yet measured"
        assert f"| {MARKS[verdict]} {verdict} |" in line


def test_the_scoreboard_shows_value_interval_n_control_and_chapter():
    page = scoreboard_markdown(CLAIMS, [record(seeds=5)])
    line = next(line for line in page.splitlines() if line.startswith("| B01 |"))
    assert r"toybox: **0.4 \[0.3, 0.5\]**; n = 12; 5 seeds; control: 0.1" in line
    assert "{doc}`01 <chapters/01_hero>`" in line


def test_the_scoreboard_counts_verdicts_per_profile():
    page = scoreboard_markdown(CLAIMS, [record(), record("B08", verdict="opposite")])
    assert "| toybox | 1 | 0 | 1 | 0 | 94 |" in page.splitlines()


def test_every_row_of_the_scoreboard_has_as_many_cells_as_its_head():
    cells = re.compile(r"(?<!\\)\|")
    width = None
    for line in scoreboard_markdown(CLAIMS, [record(control="a | b <c>")]).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        width = width or len(cells.findall(line))
        assert len(cells.findall(line)) == width, line


def test_marks_tell_the_verdicts_apart_without_colour():
    assert len(set(MARKS.values())) == len(MARKS)
