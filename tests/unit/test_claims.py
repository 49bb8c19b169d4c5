"""Claims: complete, judged by one rule against bound and control, recorded safely, compared."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from t2i_lens.base.paths import ROOT
from t2i_lens.study.claims import (
    compare_records,
    load_claims,
    load_records,
    without_room,
    write_records,
)
from t2i_lens.study.verdicts import (
    Bound,
    Claim,
    ClaimError,
    Difference,
    Number,
    Record,
    judge_claim,
)

# How many claims each source makes, and how many questions are left open.
FAMILIES = {"B": 25, "P": 12, "T": 15, "L": 15, "N": 6, "X": 32, "R": 15}
IDS = [
    f"{letter}{number:02}" for letter, count in FAMILIES.items() for number in range(1, count + 1)
]
CHAPTERS = {
    "01_hero": ["B01"],
    "02_norms": ["B06", "B07", "B08"],
    "03_cosine_pca": ["B11", "B12", "B18", "B23", "X19"],
    "07_bos_slerp": ["B19", "B20", "B21", "B22"],
    "09_norm_growth": ["X03"],
    "10_destruction": ["X04", "X09", "X10", "X11"],
    "23_remedies": ["B24", "B25", "N02", "N04", "N05", "X12", "X13", "X17", "X18", "X23"],
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
  control: {name: Another number, beyond: 0}
  bounds: {toybox: {above: 0.0}}
"""


ALONE = {"alone": "nothing to compare with"}
NAMED = {"name": "another noun", "beyond": 0.0}


def claim_with(control=ALONE, **fields):
    """B01 with another control, bound or other field; a bound is given by its own name."""
    bound = {key: fields.pop(key) for key in ("above", "below", "within") if key in fields}
    given = {"bounds": {"toybox": bound}, "control": control, "exact": None, "stays": None}
    return Claim.model_validate(CLAIMS["B01"].model_dump() | given | fields)


def judged(interval, control=None, difference=None, **fields):
    """The verdict of an interval on the toybox, and of the difference from a control."""
    found = Number(value=sum(interval) / 2, interval=interval)
    apart = difference and Difference(
        value=sum(difference) / 2, interval=difference, pairing="paired"
    )
    given = control or (NAMED if difference else ALONE)
    return judge_claim(claim_with(control=given, **fields), "toybox", found, apart)


CONTROL = {"value": 0.1, "interval": (0.0, 0.2)}
APART = {"value": 0.3, "interval": (0.2, 0.4), "pairing": "paired"}


def record(id="B01", value=0.4, interval=(0.3, 0.5), verdict="reproduced", **fields):
    measured = dict(value=value, interval=interval, n=12, notebook="01_hero")
    if value is not None:
        apart = APART | {"value": value - 0.1, "interval": (value - 0.2, value)}
        measured |= {"control": CONTROL, "difference": apart}
    return Record(id=id, profile="toybox", verdict=verdict, **(measured | fields))


def load_text(tmp_path, text):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    return load_claims(path)


def test_every_claim_of_the_sources_and_every_open_question_is_listed_once():
    assert sorted(CLAIMS) == sorted(IDS)
    assert len(IDS) == 120


def test_open_questions_are_ours_and_all_other_claims_name_what_their_source_says():
    for claim in CLAIMS.values():
        beyond = claim.id[0] in "XR"
        assert (claim.kind == "beyond") == beyond, claim.id
        own = {"X": "study", "R": "public_tokens"}.get(claim.id[0])
        assert (claim.source.key if beyond else None) == own, claim.id
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
    ],
)
def test_the_verdict_follows_from_the_whole_interval(bound, interval, verdict):
    assert judged(interval, **bound) == verdict


NUMBERS = st.floats(-1e6, 1e6)


WIDE = st.tuples(NUMBERS, NUMBERS).map(sorted).filter(lambda ends: ends[1] - ends[0] > 1)


@given(edge=NUMBERS, ends=WIDE)
def test_above_and_below_are_mirror_images(edge, ends):
    lower, upper = ends
    above = judged((lower, upper), above=edge)
    below = judged((-upper, -lower), below=-edge)
    assert above == below
    assert (above == "reproduced") == (lower > edge)
    assert (above == "opposite") == (upper < edge)


@given(edge=NUMBERS, ends=WIDE, wider=st.floats(0, 1e6))
def test_a_wider_interval_never_turns_a_verdict_into_its_opposite(edge, ends, wider):
    narrow = judged(ends, above=edge)
    wide = judged((ends[0] - wider, ends[1] + wider), above=edge)
    assert wide in (narrow, "not reproduced")


@given(value=NUMBERS, ends=st.tuples(NUMBERS, NUMBERS).map(sorted))
def test_a_value_outside_its_interval_is_refused(value, ends):
    width = max(abs(ends[0]), abs(ends[1]))
    assume(value < ends[0] - 1e-3 * width - 1e-9 or value > ends[1] + 1e-3 * width + 1e-9)
    with pytest.raises(ValueError, match="value .* is not inside its interval"):
        Number(value=value, interval=tuple(ends))


@pytest.mark.parametrize("interval", [(float("nan"), 1.0), (0.0, float("inf")), (1.0, 0.0)])
def test_an_interval_that_is_no_interval_is_refused(interval):
    with pytest.raises(ValueError, match="Number"):
        Number(value=0.5, interval=interval)


def test_a_profile_without_a_bound_of_its_own_is_held_to_the_toyboxs():
    claim, found = claim_with(above=0.0), Number(value=0.5, interval=(0.4, 0.6))
    assert judge_claim(claim, "sd15", found) == "reproduced"
    stricter = claim.model_copy(update={"bounds": claim.bounds | {"sd15": Bound(above=0.7)}})
    assert judge_claim(stricter, "sd15", found) == "opposite"
    with pytest.raises(ClaimError, match="B01 has no bound on sd15"):
        judge_claim(claim.model_copy(update={"bounds": {}}), "sd15", found)


@pytest.mark.parametrize(
    ("bound", "interval", "difference", "verdict"),
    [
        ({"above": 0.0}, (0.1, 0.2), (0.05, 0.15), "reproduced"),
        ({"above": 0.0}, (0.1, 0.2), (-0.05, 0.05), "not specific"),  # as strong as the effect
        ({"above": 0.0}, (0.1, 0.2), (0.0, 0.1), "not specific"),  # touching is not passing
        ({"above": 0.0}, (0.1, 0.2), (-0.2, -0.1), "not specific"),  # the control is stronger
        ({"below": 1.0}, (0.1, 0.2), (-0.2, -0.1), "reproduced"),
        ({"below": 1.0}, (0.1, 0.2), (0.1, 0.2), "not specific"),  # beyond, but on the wrong side
        ({"above": 0.0}, (-0.1, 0.2), (0.1, 0.2), "not reproduced"),  # the bound comes first
        ({"above": 0.0}, (-0.2, -0.1), (0.1, 0.2), "opposite"),
    ],
)
def test_a_control_as_strong_as_the_effect_makes_it_not_specific(
    bound, interval, difference, verdict
):
    assert judged(interval, difference=difference, **bound) == verdict


@pytest.mark.parametrize(
    ("side", "difference", "verdict"),
    [
        ("above", (0.1, 0.2), "reproduced"),
        ("above", (-0.2, -0.1), "not specific"),
        ("below", (-0.2, -0.1), "reproduced"),
        ("below", (0.1, 0.2), "not specific"),
        ("either", (0.1, 0.2), "reproduced"),
        ("either", (-0.2, -0.1), "reproduced"),
        ("either", (-0.1, 0.1), "not specific"),
    ],
)
def test_a_bound_of_two_sides_is_held_to_the_side_that_its_control_names(side, difference, verdict):
    control = NAMED | {"side": side}
    assert judged((0.9, 1.1), control, difference, within=(0.8, 1.25)) == verdict


@pytest.mark.parametrize(
    ("bound", "difference", "verdict"),
    [
        ({"above": 0.0}, (0.3, 0.4), "reproduced"),
        ({"above": 0.0}, (0.2, 0.4), "not specific"),
        ({"below": 3.0}, (-0.4, -0.3), "reproduced"),
        ({"below": 3.0}, (-0.4, -0.2), "not specific"),
    ],
)
def test_a_control_is_exceeded_by_as_much_as_the_claim_asks(bound, difference, verdict):
    control = NAMED | {"beyond": 0.25}
    assert judged((1.0, 2.0), control, difference, **bound) == verdict


@given(ends=WIDE, apart=WIDE, edge=NUMBERS)
def test_a_control_can_only_take_a_reproduced_verdict_away(ends, apart, edge):
    alone, compared = judged(ends, above=edge), judged(ends, difference=apart, above=edge)
    assert compared == alone or (alone, compared) == ("reproduced", "not specific")


def test_an_interval_of_no_width_gives_no_room():
    assert judged((0.0, 0.0), above=0.0) == "no room"
    assert judged((0.5, 0.5), above=0.0) == "no room"
    assert judged((1e-17, 2e-17), above=0.0) == "no room"  # a sum's rounding is no width


def test_arms_that_are_alike_to_the_last_picture_give_no_room():
    assert judged((0.0, 0.0), difference=(0.0, 0.0), above=0.0) == "no room"
    control = NAMED | {"side": "below"}
    assert judged((0.0, 0.0), control, (0.0, 0.0), within=(-0.2, 0.2)) == "no room"


def test_a_control_that_moves_shows_that_there_is_room():
    assert judged((0.0, 0.0), difference=(-0.3, -0.1), above=0.0) == "not reproduced"
    assert judged((1.0, 1.0), difference=(0.4, 0.6), above=0.9) == "reproduced"


def test_an_exact_number_needs_no_width():
    exact = "Parameters are counted."
    assert judged((0.7, 0.7), below=1.0, exact=exact) == "reproduced"
    assert judged((0.7, 0.7), difference=(-1.5, -1.5), below=1.0, exact=exact) == "reproduced"
    assert judged((0.7, 0.7), difference=(0.5, 0.5), below=1.0, exact=exact) == "not specific"


def test_a_claim_is_not_judged_without_its_control_nor_with_one_that_it_does_not_name():
    with pytest.raises(ClaimError, match=r"B01 is compared with a control \(another noun\)"):
        judged((0.1, 0.2), control=NAMED, above=0.0)
    with pytest.raises(ClaimError, match="B01 stands alone"):
        judged((0.1, 0.2), control=ALONE, difference=(0.1, 0.2), above=0.0)


def test_every_recorded_claim_says_what_its_control_must_do():
    for claim in CLAIMS.values():
        control = claim.control
        assert (control.beyond is None) == (control.alone is not None), claim.id
        assert control.alone or control.name[0].isupper(), claim.id


def test_a_record_without_room_is_reported_unless_its_claim_says_why_it_stays():
    still = record(value=0.0, interval=(0.0, 0.0), verdict="no room", control=None, difference=None)
    (message,) = without_room({"B01": claim_with(above=0.0)}, [still])
    assert message.startswith("B01 on toybox: no room in 01_hero")
    assert without_room({"B01": claim_with(above=0.0, stays="shown as a warning")}, [still]) == []
    assert without_room(CLAIMS, [record()]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("claims:", "claims: ["), "not valid YAML at line"),
        (("claims:", "assertions:"), "needs a map `sources` and a list `claims`"),
        (("source: someone2024", "source: nobody2024"), "B01: source 'nobody2024' is not listed"),
        (("  source: someone2024\n", ""), "B01: source None is not listed"),
        (("  control: {name: Another number, beyond: 0}\n", ""), "B01: control: Field required"),
        ((", beyond: 0}", "}"), "B01: control: .* a name and a number to be beyond"),
        (("beyond: 0}", "beyond: -1}"), "B01: control.beyond"),
        (("beyond: 0}", "alone: yes}"), "B01: control"),
        (("beyond: 0}", "beyond: 0, side: above}"), "a side where the bound has two"),
        (("{above: 0.0}", "{within: [0.0, 1.0]}"), "a side where the bound has two"),
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
        dict(difference=None),
        dict(difference=APART | {"value": 0.25}),
        dict(difference=APART | {"pairing": "guessed"}),
        dict(control={"value": 0.1, "interval": (0.2, 0.3)}),
        dict(reason="measured, and not measurable"),
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
        record(control=None, difference=None),
        record("X01", None, None, "not measurable", n=None, reason="no TI token"),
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
    alone = {"control": None, "difference": None}
    fresh = record(value=0.7, interval=(0.6, 0.8), **alone)
    (message,) = compare_records([record(**alone)], [fresh])
    assert message == "B01 on toybox: value 0.7 left the recorded interval [0.3, 0.5]"


def test_a_control_or_difference_outside_its_recorded_interval_is_reported():
    other = {"value": 0.25, "interval": (0.2, 0.3)}
    fresh = record(control=other, difference=APART | {"value": 0.15, "interval": (0.1, 0.2)})
    assert compare_records([record()], [fresh]) == [
        "B01 on toybox: control 0.25 left the recorded interval [0, 0.2]",
        "B01 on toybox: difference 0.15 left the recorded interval [0.2, 0.4]",
    ]


def test_a_control_on_one_side_only_is_reported():
    alone = record(control=None, difference=None)
    assert compare_records([alone], [record()]) == [
        "B01 on toybox: control is new",
        "B01 on toybox: difference is new",
    ]
    assert "B01 on toybox: control is no longer measured" in compare_records([record()], [alone])


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
