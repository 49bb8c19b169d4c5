"""Verdicts and their numbers as text: one row a claim and profile, as JSON, in a table or a page.

Notebooks, the command line and the book show a record by `row_texts` alone.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from t2i_lens.study.verdicts import MARKS, Claim, Interval, Record, Source

# Columns of a record wherever it is shown.
COLUMNS = ("verdict", "value", "control", "difference", "n")

INTRODUCTION = """\
(scoreboard)=
# Scoreboard

Each line is one claim on one profile.
A bound and a control were stated before the measurement; the verdict follows from three intervals.

- **reproduced**: the value satisfies the bound, and its difference from the control lies beyond what the claim asks for.
- **not specific**: the value satisfies the bound, and the control does as much.
- **not reproduced**, **opposite**: it does not, or lies on the other side.
- **no room**: the quantity cannot move here, neither the value nor its difference from the control. That is no result.
- **not measurable**: this profile cannot show it.

A difference is value minus control. It is *paired* where both were resampled together over the same units, and *independent* where they share none.
Here n counts independent units of resampling; of axes that are crossed, such as prompts and seeds, it is the shortest.
What is measured on a profile is a claim about that model alone.
A reference names the model that it was measured on and, unless its source prints it, where we have it from: read off a *figure*, read in *notes* on the source, *derived* from published numbers, or *unverified*.
"""  # noqa: E501


def rows(claims: Mapping[str, Claim], records: Iterable[Record]) -> list[tuple[Claim, Record]]:
    """Every claim on every profile, "not yet measured" where there is no record.

    The profiles are those that any claim bounds or any record names.
    """
    found = {(record.id, record.profile): record for record in records}
    profiles = {profile for claim in claims.values() for profile in claim.bounds}
    profiles |= {profile for _, profile in found}
    return [
        (
            claim,
            found.get((claim.id, profile))
            or Record(
                id=claim.id, profile=profile, verdict="not yet measured", notebook=claim.chapter
            ),
        )
        for claim in claims.values()
        for profile in sorted(profiles)
    ]


def claims_json(claims: Mapping[str, Claim], records: Iterable[Record]) -> str:
    """`rows` as JSON: the fields of `Record`, and of the claim what tells what was measured."""
    stated = ("kind", "statement", "chapter", "reference", "exact", "stays")
    entries = [
        record.model_dump(mode="json")
        | claim.model_dump(mode="json", include=set(stated))
        | {"source": claim.source.key, "compared_with": claim.control.model_dump(mode="json")}
        for claim, record in rows(claims, records)
    ]
    return json.dumps(entries, indent=1, ensure_ascii=False)


def number_text(value: float | None, interval: Interval | None) -> str:
    """A value and its interval, such as `0.4 [0.3, 0.5]`; empty where there is neither."""
    value_text = "" if value is None else f"{value:.3g}"
    interval_text = "" if interval is None else f"[{interval[0]:.3g}, {interval[1]:.3g}]"
    return " ".join(filter(None, (value_text, interval_text)))


def row_texts(record: Record) -> dict[str, str]:
    """A record as texts, one for each of `COLUMNS`; what was not measured is empty."""
    control, apart = record.control, record.difference
    return {
        "verdict": f"{MARKS[record.verdict]} {record.verdict}",
        "value": record.reason or number_text(record.value, record.interval),
        "control": number_text(control.value, control.interval) if control else "",
        "difference": f"{number_text(apart.value, apart.interval)}, {apart.pairing}"
        if apart
        else "",
        "n": "" if record.n is None else str(record.n),
    }


def scoreboard_markdown(claims: Mapping[str, Claim], records: Iterable[Record]) -> str:
    """The scoreboard as a MyST page: counts of verdicts, then a table of claims per source.

    Every claim is listed; profiles without a record for it share one line. Chapters are linked
    as documents `chapters/<chapter>`, from a page in the folder above.
    """
    every = rows(claims, records)
    counts = Counter((record.profile, record.verdict) for _, record in every)
    lines = [INTRODUCTION]
    lines += markdown_row("profile", *(f"{m} {verdict}" for verdict, m in MARKS.items()), head=True)
    for profile in sorted({record.profile for _, record in every}):
        lines += markdown_row(profile, *(str(counts[profile, verdict]) for verdict in MARKS))
    for source in {claim.source.key: claim.source for claim in claims.values()}.values():
        lines += ["", f"## {_escape(source.title)}", "", _byline(source), ""]
        lines += markdown_row("id", "claim", "reference", *COLUMNS, "chapter", head=True)
        for claim in (c for c in claims.values() if c.source.key == source.key):
            own = [record for stated, record in every if stated.id == claim.id]
            measured = [record for record in own if record.verdict != "not yet measured"]
            for record in measured or own[:1]:
                lines += markdown_row(*_cells(claim, record))
    return "\n".join(lines) + "\n"


def markdown_row(*cells: str, head: bool = False) -> list[str]:
    """Lines of one row of a Markdown table; a head brings the line that separates it."""
    line = "| " + " | ".join(cells) + " |"
    return [line, "|" + " --- |" * len(cells)] if head else [line]


def _cells(claim: Claim, record: Record) -> list[str]:
    texts = {column: _escape(text) for column, text in row_texts(record).items()}
    texts["verdict"] = row_texts(record)["verdict"]
    if texts["value"]:
        value = texts["value"] if record.reason else f"**{texts['value']}**"
        texts["value"] = f"{record.profile}: {value}"
    texts["control"] = " ".join(
        filter(None, (texts["control"], f"*{_escape(claim.control.text)}*"))
    )
    also = "".join(f" (also {_byline(source)})" for source in claim.also)
    # The number alone: the whole name would widen the table beyond the page.
    chapter = f"{{doc}}`{claim.chapter[:2]} <chapters/{claim.chapter}>`" if claim.chapter else ""
    stated = [claim.id, _escape(claim.statement) + also, _reference(claim)]
    return [*stated, *(texts[column] for column in COLUMNS), chapter]


def _byline(source: Source) -> str:
    text = f"{_escape(source.authors)}, {source.year}"
    return f"[{text}]({source.url})" if source.url else text


def _reference(claim: Claim) -> str:
    reference = claim.reference
    if reference is None:
        return f"open question: {_escape(claim.question or '')}"
    number = _escape(number_text(reference.value, reference.interval))
    basis = "" if reference.basis == "published" else f"; {reference.basis}"
    text = f"{_escape(reference.text)} *({_escape(reference.model)}{basis})*"
    return f"**{number}** {text}" if number else text


def _escape(text: str) -> str:
    """Text in one line, with the characters that Markdown would interpret escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|$~#])", r"\\\1", " ".join(text.split()))
