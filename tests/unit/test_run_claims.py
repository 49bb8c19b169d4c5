"""What a notebook may say of a claim: its number, its control, their difference, its result."""

import numpy as np
import pytest

from t2i_lens.stats.bootstrap import Estimate
from t2i_lens.study import run as runs
from t2i_lens.study.run import Run
from t2i_lens.study.store import Store
from t2i_lens.study.verdicts import ClaimError

FOUND = Estimate(0.4, 0.3, 0.5, 12)
CONTROL = Estimate(0.1, 0.0, 0.2, 12)
APART = Estimate(0.3, 0.25, 0.35, 12)


def numbers(size: int) -> dict[str, np.ndarray]:
    return {"numbers": np.arange(size)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of the first chapter that shows nothing."""
    monkeypatch.setattr(runs, "display", lambda *_, **__: None)
    run = Run("01_hero", profile="toybox")
    run._store = Store(tmp_path)
    return run


def test_a_paired_difference_is_recorded_with_value_and_control(run):
    run.claim("B01", FOUND, control=CONTROL, difference=APART)
    (record,) = run.records
    assert record.verdict == "reproduced"
    assert (record.value, record.interval, record.n) == (0.4, (0.3, 0.5), 12)
    assert record.control.model_dump() == {"value": 0.1, "interval": (0.0, 0.2)}
    assert record.difference.pairing == "paired"
    assert record.difference.interval == (0.25, 0.35)


def test_without_a_paired_difference_it_follows_from_the_two_intervals(run):
    run.claim("B01", FOUND, control=CONTROL)
    (record,) = run.records
    assert record.difference.pairing == "independent"
    assert record.difference.interval == pytest.approx((0.3 - 0.02**0.5, 0.3 + 0.02**0.5))


def test_a_control_as_strong_as_the_effect_is_recorded_as_not_specific(run):
    run.claim("B01", FOUND, control=Estimate(0.39, 0.28, 0.49, 12))
    assert run.records[0].verdict == "not specific"


def test_a_record_names_the_one_result_that_its_value_came_from(run):
    run.cached("first", numbers, size=2)
    run.cached("other", numbers, size=2)
    run.claim("B01", FOUND, control=CONTROL, result="first")
    name, _, key = run.records[0].result.rpartition("-")
    assert name == "first" and len(key) == 16


def test_a_name_with_several_results_is_recorded_as_a_pattern(run):
    for size in (2, 3):
        run.cached("first", numbers, size=size)
    run.claim("B01", FOUND, control=CONTROL, result="first")
    assert run.records[0].result == "first-*"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "B01 is compared with a control"),
        ({"difference": APART}, "B01: a difference needs its control"),
        ({"control": CONTROL, "result": "none"}, "B01: this run used no result none"),
        ({"control": CONTROL, "difference": FOUND}, "B01: value minus control is 0.3, not 0.4"),
        ({"control": Estimate(0.1, 0.2, 0.3, 12)}, "B01: value 0.1 is not inside its interval"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused_in_one_line(run, given, message):
    with pytest.raises(ClaimError, match=message) as error:
        run.claim("B01", FOUND, **given)
    assert len(str(error.value).splitlines()) == 1 and run.records == []


def test_a_claim_without_a_number_needs_a_reason(run):
    with pytest.raises(ClaimError, match="B01 needs what was found, or a reason"):
        run.claim("B01")
    run.claim("B01", reason="this profile has no judge")
    assert run.records[0].verdict == "not measurable"
    with pytest.raises(ClaimError, match="B01 is recorded twice"):
        run.claim("B01", FOUND, control=CONTROL)
    with pytest.raises(ClaimError, match="B02 belongs to 04_attention_dominance"):
        run.claim("B02", FOUND)
