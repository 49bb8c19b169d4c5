"""Verdicts and their numbers as text: one row a claim and profile, as JSON or in a table.

Notebooks, the command line and the book show a record by `row_texts` alone.
"""

import json
from collections.abc import Iterable, Mapping

from t2i_lens.study.verdicts import MARKS, Claim, Interval, Record

# Columns of a record wherever it is shown.
COLUMNS = ("verdict", "value", "control", "difference", "n")


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
    value_text = "" if value is None else _short(value)
    interval_text = "" if interval is None else f"[{_short(interval[0])}, {_short(interval[1])}]"
    return " ".join(filter(None, (value_text, interval_text)))


def _short(value: float) -> str:
    """Three digits; what differs from zero by rounding alone is zero."""
    return f"{round(value, 12) + 0.0:.3g}"


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
