"""Explanations of the destruction, each with the claims that decide it and a verdict from records.

A claim speaks for an explanation, against it, or does not show it: an interval on both sides of its
bound, or a control that does as much, refutes nothing. What is not measured decides nothing.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from t2i_lens.base.paths import DATA
from t2i_lens.study.claims import first_message
from t2i_lens.study.render import render
from t2i_lens.study.scoreboard import number_text
from t2i_lens.study.verdicts import DEFAULT, MARKS, Claim, ClaimError, Record

FILE = DATA / "explanations.yaml"
OPEN = ("not measurable", "not yet measured", "no room")
Standing = Literal["stands", "partly", "mixed", "falls", "not shown", "open"]
UNDECIDED = ("not shown", "open")


class Explanation(BaseModel):
    """One explanation; the fields are those of `data/explanations.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    says: str
    by: str
    experiment: str
    supports: tuple[str, ...]
    against: tuple[str, ...]
    change: str

    @property
    def decided_by(self) -> tuple[str, ...]:
        """All claims that decide it."""
        return (*self.supports, *self.against)


def load_explanations(claims: Mapping[str, Claim], file: Path = FILE) -> list[Explanation]:
    """All explanations, in the order of the file.

    Raises:
        ClaimError: a field is missing or unknown, or a claim does not exist.
    """
    try:
        found = TypeAdapter(list[Explanation]).validate_python(yaml.safe_load(file.read_text()))
    except ValidationError as error:
        raise ClaimError(f"{file.name}: {first_message(error)}") from None
    for explanation in found:
        if not explanation.decided_by or set(explanation.decided_by) - set(claims):
            raise ClaimError(f"{file.name}: {explanation.name} needs claims of data/claims.yaml")
    return found


def standing(explanation: Explanation, records: Mapping[str, Record]) -> Standing:
    """What the records say of an explanation.

    Args:
        records: By claim, of one profile; a claim without one is open.

    Returns:
        "stands" where all claims speak for it, "partly" where some do and others do not show it,
        "mixed" where claims speak for it and against it, "falls" where some speak against it and
        none for it, "not shown" where none does either, "open" where nothing is measured.
    """
    votes = set()
    for id in explanation.decided_by:
        verdict = records[id].verdict if id in records else "not yet measured"
        if verdict not in OPEN:
            votes.add(_vote(verdict, id in explanation.supports))
    if not votes:
        return "open"
    if "for" in votes:
        return "mixed" if "against" in votes else "partly" if "neither" in votes else "stands"
    return "falls" if "against" in votes else "not shown"


def _vote(verdict: str, supports: bool) -> Literal["for", "against", "neither"]:
    if verdict not in ("reproduced", "opposite"):
        return "neither"
    return "for" if (verdict == "reproduced") == supports else "against"


def known_parts(claims: Mapping[str, Claim], records: Iterable[Record]) -> dict[str, str]:
    """The table of explanations, and the same in about ten lines: file name -> Markdown.

    A line tells an explanation that records speak for or against; those that nothing is known of
    share one, for each standing.

    Args:
        records: Of any profiles; those of the toybox count.
    """
    own = {record.id: record for record in records if record.profile == DEFAULT}
    rows = [
        {
            "about": explanation,
            "standing": standing(explanation, own),
            "evidence": [_evidence(id, own) for id in explanation.decided_by],
        }
        for explanation in load_explanations(claims)
    ]
    by_standing = {kind: [r for r in rows if r["standing"] == kind] for kind in get_args(Standing)}
    undecided = {kind: by_standing.pop(kind) for kind in UNDECIDED}
    return {
        "explanations.md": render("explanations.md", rows=rows),
        "known.md": render(
            "known.md", decided=chain(*by_standing.values()),
            undecided={kind: some for kind, some in undecided.items() if some},
        ),
    }  # fmt: skip


def _evidence(id: str, records: Mapping[str, Record]) -> dict[str, str]:
    record = records.get(id) or Record(id=id, profile=DEFAULT, verdict="not yet measured")
    number = record.found and number_text(record.value, record.interval)
    control = record.control and number_text(record.control.value, record.control.interval)
    return {
        "id": id, "verdict": record.verdict, "mark": MARKS[record.verdict],
        "number": number or "", "control": control or "",
    }  # fmt: skip
