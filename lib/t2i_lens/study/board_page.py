"""The page of the scoreboard: a line a claim, which unfolds, with an address for each.

The address of a claim is `scoreboard.html#B15`; on another profile than the toybox, `#B15-sd15`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2i_lens.study.forest_plot import WIDTH, ForestPlot, bound_of, bound_text, forest_plot
from t2i_lens.study.render import render
from t2i_lens.study.scoreboard import number_text, row_texts, rows
from t2i_lens.study.verdicts import DEFAULT, MARKS, Claim, Record

# What the legend draws.
EXAMPLE = ForestPlot(
    110.0, (80.0, 150.0), 60.0, (40.0, 75.0), (50.0, WIDTH), 130.0, "value, control, bound"
)


@dataclass(frozen=True)
class Chapter:
    """What a claim needs to know of its chapter: its title, and the part of the book it is in."""

    title: str
    part: str


def address(record: Record) -> str:
    """The part of a record's address after `scoreboard.html#`."""
    return record.id if record.profile == DEFAULT else f"{record.id}-{record.profile}"


def scoreboard_page(
    claims: Mapping[str, Claim], records: Iterable[Record], chapters: Mapping[str, Chapter]
) -> str:
    """The scoreboard as a MyST page.

    Args:
        chapters: Those that the book has, as documents `chapters/<chapter>`, by name.
    """
    every = listed(claims, records)
    groups: dict[str, tuple] = {}
    for claim, record in every:
        source = groups.setdefault(claim.source.key, (claim.source, []))
        source[1].append(_line(claim, record, chapters))
    verdicts = {record.verdict for _, record in every}
    parts = dict.fromkeys(line["part"] for _, lines in groups.values() for line in lines)
    filters = {
        "source": {s.key: f"{s.title[:60]} ({s.year})" for s, _ in groups.values()},
        "verdict": {v: f"{mark} {v}" for v, mark in MARKS.items() if v in verdicts},
        "part": {part: part for part in parts if part},
    }
    return render(
        "scoreboard.md", groups=list(groups.values()), filters=filters, example=EXAMPLE
    )  # fmt: skip


def listed(claims: Mapping[str, Claim], records: Iterable[Record]) -> list[tuple[Claim, Record]]:
    """Every claim with each of its records, or with that of the toybox where it has none."""
    every = rows(claims, records)
    measured = {record.id for _, record in every if record.verdict != "not yet measured"}
    return [
        (claim, record)
        for claim, record in every
        if record.verdict != "not yet measured"
        or (record.id not in measured and record.profile == DEFAULT)
    ]


def _line(claim: Claim, record: Record, chapters: Mapping[str, Chapter]) -> dict[str, Any]:
    chapter = chapters.get(claim.chapter or "")
    profile = "" if record.profile == DEFAULT else f" -p profile={record.profile}"
    return {
        "claim": claim,
        "record": record,
        "address": address(record),
        "statement": " ".join(claim.statement.split()),
        "measured": " ".join(claim.measured.split()),
        "control": " ".join(claim.control.text.split()),
        "note": " ".join((claim.note or "").split()),
        "bound": bound_text(bound_of(claim, record.profile)),
        "texts": row_texts(record),
        "short": number_text(record.value, record.interval),
        "forest": forest_plot(claim, record),
        "published": _published(claim),
        "linked": chapter is not None,
        "title": chapter.title if chapter else "",
        "part": chapter.part if chapter else "",
        "command": f"t2i-lens run {claim.chapter}{profile}" if claim.chapter else "",
    }


def _published(claim: Claim) -> str:
    reference = claim.reference
    if reference is None:
        return f"nothing; an open question: {' '.join((claim.question or '').split())}"
    number = number_text(reference.value, reference.interval)
    basis = "" if reference.basis == "published" else f"; {reference.basis}"
    text = f"{' '.join(reference.text.split())} ({reference.model}{basis})"
    return f"{number}: {text}" if number else text


def picture(
    claims: Mapping[str, Claim], records: Iterable[Record], chapters: Mapping[str, Chapter]
) -> Sequence[tuple[str, list[dict[str, Any]]]]:
    """All measured records as marks, by part of the book: the scoreboard in one small picture."""
    by_part: dict[str, list] = {chapter.part: [] for chapter in chapters.values()}
    for claim, record in listed(claims, records):
        if claim.chapter in chapters and record.verdict != "not yet measured":
            by_part[chapters[claim.chapter].part].append(
                {"address": address(record), "id": claim.id, "verdict": record.verdict,
                 "mark": MARKS[record.verdict], "statement": " ".join(claim.statement.split())}
            )  # fmt: skip
    return [(part, marks) for part, marks in by_part.items() if marks]
