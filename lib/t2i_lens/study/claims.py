"""Claims and records in files: stated once, recorded by notebooks, compared with new runs.

`data/claims.yaml` holds the statements; a record holds what one notebook measured for one claim
on one profile. Records that count are committed below `data/results/claims`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from t2i_lens.base.files import write
from t2i_lens.base.paths import DATA
from t2i_lens.study.verdicts import Claim, ClaimError, Record, Source, inside


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
        raise ClaimError(f"{path.name}: sources: {first_message(error)}") from error
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
            raise ClaimError(f"{path.name}: claim {name}: {first_message(error)}") from error
    return claims


def compare_records(recorded: Iterable[Record], fresh: Iterable[Record]) -> list[str]:
    """Differences between a new run's records and the kept records, a message each.

    A message for each claim that was recorded and is not measured any more, or is measured and
    was never recorded, or whose verdict changed; where the verdict is the same, for each of
    value, control and difference that left its recorded interval, was dropped or is new.
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
        else:
            messages += [f"{name}: {moved}" for moved in _moved(before, now)]
    return messages


def _moved(before: Record, now: Record) -> Iterator[str]:
    for what in ("found", "control", "difference"):
        kept, number = getattr(before, what), getattr(now, what)
        if (kept is None) != (number is None):
            yield f"{what} is {'new' if kept is None else 'no longer measured'}"
        elif kept is not None and not inside(number.value, kept.interval):
            yield (
                f"{'value' if what == 'found' else what} {number.value:.6g} left the recorded"
                f" interval [{kept.interval[0]:.6g}, {kept.interval[1]:.6g}]"
            )


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
            raise ClaimError(f"{file}: {first_message(error)}") from error
        except (ValueError, TypeError) as error:
            raise ClaimError(f"{file} is no list of records; delete it and run again") from error
        for record in entries:
            if record.id not in claims:
                raise ClaimError(f"{file}: no claim {record.id} in data/claims.yaml")
            if records.setdefault((record.id, record.profile), record) is not record:
                raise ClaimError(f"{file}: {record.id} is recorded twice on {record.profile}")
    return list(records.values())


def without_room(claims: Mapping[str, Claim], records: Iterable[Record]) -> list[str]:
    """Records without room, a message each, except for claims that state why they stay."""
    return [
        f"{r.id} on {r.profile}: no room in {r.notebook}: the quantity cannot move there; measure"
        " where it can, or say in data/claims.yaml why the claim stays"
        for r in records
        if r.verdict == "no room" and not claims[r.id].stays
    ]


def first_message(error: ValidationError) -> str:
    """The first validation error, with its place, in one line."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
