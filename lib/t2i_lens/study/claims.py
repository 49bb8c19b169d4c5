"""Claims in files and tables: stated once, recorded by notebooks, compared, shown.

`data/claims.yaml` holds the statements; a record holds what one notebook measured for one claim
on one profile. Records that count are committed below `data/results/claims`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from t2i_lens.base.files import write
from t2i_lens.base.paths import DATA
from t2i_lens.study.verdicts import MARKS, Claim, ClaimError, Record, Source, inside


def load_claims(path: Path = DATA / "claims.yaml") -> dict[str, Claim]:
    """All claims by id, in the order of the file, each with its sources filled in.

    Raises:
        ClaimError: the file is no YAML, a field is missing, unknown or of a wrong kind, an id
            occurs twice, or a source is not listed.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        sources = {key: Source(key=key, **fields) for key, fields in raw["sources"].items()}
        entries = list(raw["claims"])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ClaimError(f"{path.name} is not valid YAML{where}") from error
    except ValidationError as error:
        raise ClaimError(f"{path.name}: sources: {_first(error)}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ClaimError(f"{path.name} needs a map `sources` and a list `claims`") from error
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(entries, start=1):
        name = entry.get("id") if isinstance(entry, dict) else None
        try:
            if name in claims:
                raise ClaimError(f"{path.name}: claim {name} is listed twice")
            keys = [entry.get("source"), *entry.get("also", [])]
            known = [sources[key] for key in keys]
            claims[name] = Claim.model_validate(entry | {"source": known[0], "also": known[1:]})
        except KeyError as error:
            raise ClaimError(f"{path.name}: claim {name}: source {error} is not listed") from error
        except (AttributeError, TypeError) as error:
            raise ClaimError(
                f"{path.name}: claim number {number} is not a map of fields"
            ) from error
        except ValidationError as error:
            raise ClaimError(f"{path.name}: claim {name}: {_first(error)}") from error
    return claims


def compare_records(recorded: Iterable[Record], fresh: Iterable[Record]) -> list[str]:
    """Differences between a new run's records and the kept records, a message each.

    A message for each claim whose verdict changed, whose value left the recorded interval, which
    was recorded and is not measured any more, or which is measured and was never recorded.
    """
    old = {(r.id, r.profile): r for r in recorded}
    new = {(r.id, r.profile): r for r in fresh}
    messages = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{key[0]} on {key[1]}"
        before, now = old.get(key), new.get(key)
        if before is None:
            messages.append(f"{name}: measured ({now.verdict}) but not recorded; record it")
        elif now is None:
            messages.append(f"{name}: recorded ({before.verdict}) but no longer measured")
        elif before.verdict != now.verdict:
            messages.append(f"{name}: verdict was '{before.verdict}', is now '{now.verdict}'")
        elif before.value is not None and not inside(now.value, before.interval):
            messages.append(
                f"{name}: value {now.value:.6g} left the recorded interval"
                f" [{before.interval[0]:.6g}, {before.interval[1]:.6g}]"
            )
    return messages


def write_records(records: Sequence[Record], path: Path) -> None:
    """Write records as JSON, ordered by id; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(records, key=lambda record: (record.profile, record.id))
    text = json.dumps([r.model_dump(mode="json") for r in ordered], indent=1, ensure_ascii=False)
    write(path, (text + "\n").encode())


def load_records(path: Path, claims: Mapping[str, Claim] | None = None) -> list[Record]:
    """Records of one JSON file, or of all JSON files below a folder (none if it is not there).

    Args:
        claims: The claims that records may be about; those of `load_claims` by default.

    Raises:
        ClaimError: a file is damaged, a record is incomplete, its claim is unknown, or a claim is
            recorded twice on one profile.
    """
    claims = load_claims() if claims is None else claims
    records: dict[tuple[str, str], Record] = {}
    for file in sorted(path.rglob("*.json")) if not path.is_file() else [path]:
        try:
            entries = [
                Record.model_validate(entry) for entry in json.loads(file.read_text("utf-8"))
            ]
        except ValidationError as error:
            raise ClaimError(f"{file}: {_first(error)}") from error
        except (ValueError, TypeError) as error:
            raise ClaimError(f"{file} is no list of records; delete it and run again") from error
        for record in entries:
            if record.id not in claims:
                raise ClaimError(f"{file}: no claim {record.id} in data/claims.yaml")
            if records.setdefault((record.id, record.profile), record) is not record:
                raise ClaimError(f"{file}: {record.id} is recorded twice on {record.profile}")
    return list(records.values())


def table(claims: Mapping[str, Claim], records: Iterable[Record]) -> list[dict]:
    """One row per claim and profile, "not yet measured" where there is no record.

    The profiles are those that any claim bounds or any record names. A row holds the fields of
    `Record` and the claim's `source` key, `kind`, `statement`, `chapter` and `reference`.
    """
    found = {(record.id, record.profile): record for record in records}
    profiles = {profile for claim in claims.values() for profile in claim.bounds}
    profiles |= {profile for _, profile in found}
    rows = []
    for claim in claims.values():
        stated = {
            "source": claim.source.key,
            "kind": claim.kind,
            "statement": claim.statement,
            "chapter": claim.chapter,
            "reference": claim.reference and claim.reference.model_dump(mode="json"),
        }
        for profile in sorted(profiles):
            record = found.get((claim.id, profile)) or Record(
                id=claim.id, profile=profile, verdict="not yet measured", notebook=claim.chapter
            )
            rows.append(record.model_dump(mode="json") | stated)
    return rows


def claims_json(claims: Mapping[str, Claim], records: Iterable[Record]) -> str:
    """The rows of `table` as JSON."""
    return json.dumps(table(claims, records), indent=1, ensure_ascii=False)


def scoreboard_markdown(claims: Mapping[str, Claim], records: Iterable[Record]) -> str:
    """The scoreboard as a MyST page: counts of verdicts, then a table of claims per source.

    Every claim is listed; profiles without a record for it share one line. Chapters are linked
    as documents `chapters/<chapter>`, from a page in the folder above.
    """
    rows = table(claims, records)
    counts = Counter((row["profile"], row["verdict"]) for row in rows)
    lines = [
        "(scoreboard)=",
        "# Scoreboard",
        "",
        "Each line is one claim on one profile: what the source says, what we measured, and the"
        " verdict that follows from our interval and a bound stated before the measurement."
        " What is measured on a profile is a claim about that model alone. A reference names the"
        " model that it was measured on and, unless its source prints it, where we have it from:"
        " read off a *figure*, read in *notes* on the source, *derived* from published numbers, or"
        " *unverified*.",
        "",
        *markdown_row(
            "profile", *(f"{mark} {verdict}" for verdict, mark in MARKS.items()), head=True
        ),
    ]
    for profile in sorted({row["profile"] for row in rows}):
        lines += markdown_row(profile, *(str(counts[profile, verdict]) for verdict in MARKS))
    for source in {claim.source.key: claim.source for claim in claims.values()}.values():
        lines += ["", f"## {_escape(source.title)}", "", _byline(source), ""]
        lines += markdown_row(
            "id", "claim", "reference", "measured", "verdict", "chapter", head=True
        )
        for claim in (c for c in claims.values() if c.source.key == source.key):
            own = [row for row in rows if row["id"] == claim.id]
            measured = [row for row in own if row["verdict"] != "not yet measured"]
            for row in measured or own[:1]:
                lines += markdown_row(
                    claim.id,
                    _escape(claim.statement) + "".join(f" (also {_byline(s)})" for s in claim.also),
                    _reference(claim),
                    _measured(row),
                    f"{MARKS[row['verdict']]} {row['verdict']}",
                    # The number alone: the whole name would widen the table beyond the page.
                    f"{{doc}}`{claim.chapter[:2]} <chapters/{claim.chapter}>`"
                    if claim.chapter
                    else "",
                )
    return "\n".join(lines) + "\n"


def markdown_row(*cells: str, head: bool = False) -> list[str]:
    """Lines of one row of a Markdown table; a head brings the line that separates it."""
    line = "| " + " | ".join(cells) + " |"
    return [line, "|" + " --- |" * len(cells)] if head else [line]


def _byline(source: Source) -> str:
    text = f"{_escape(source.authors)}, {source.year}"
    return f"[{text}]({source.url})" if source.url else text


def _reference(claim: Claim) -> str:
    reference = claim.reference
    if reference is None:
        return f"open question: {_escape(claim.question or '')}"
    number = _number(reference.value, reference.interval)
    basis = "" if reference.basis == "published" else f"; {reference.basis}"
    text = f"{_escape(reference.text)} *({_escape(reference.model)}{basis})*"
    return f"**{number}** {text}" if number else text


def _measured(row: dict) -> str:
    if row["verdict"] == "not yet measured":
        return ""
    if row["verdict"] == "not measurable":
        return f"{row['profile']}: {_escape(row['reason'])}"
    control = row["control"]
    control = _escape(control) if isinstance(control, str) else f"{control:.3g}"
    seeds = row["seeds"] if not isinstance(row["seeds"], list) else len(row["seeds"])
    parts = [f"**{_number(row['value'], row['interval'])}**", f"n = {row['n']}"]
    parts += [f"{seeds} seeds"] * (seeds is not None) + [f"control: {control}"]
    return f"{row['profile']}: " + "; ".join(parts)


def _number(value: float | None, interval: Sequence[float] | None) -> str:
    value_text = "" if value is None else f"{value:.3g}"
    interval_text = "" if interval is None else f"[{interval[0]:.3g}, {interval[1]:.3g}]"
    return _escape(" ".join(filter(None, (value_text, interval_text))))


def _escape(text: str) -> str:
    """Text as it stands, whatever Markdown would read into it; one line."""
    return re.sub(r"([\\`*_{}\[\]<>|$~#])", r"\\\1", " ".join(text.split()))


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
