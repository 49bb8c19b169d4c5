"""The result of a sweep: one table of all claims, and one page that summarises it."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from t2i_lens.base.files import write
from t2i_lens.base.paths import BUILD
from t2i_lens.study.claims import load_records
from t2i_lens.study.execute import STAMP, Job
from t2i_lens.study.render import render
from t2i_lens.study.sweep import Plan
from t2i_lens.study.verdicts import Record

TABLE, PAGE = "table.parquet", "summary.md"
LOST = "ended without a word: killed, or its machine was lost"
NUMBERS = tuple(
    f"{what}{end}" for what in ("value", "control", "difference") for end in ("", "_low", "_high")
)
CLAIM = ("claim", "verdict", *NUMBERS, "n")


def gather(plan: Plan) -> pd.DataFrame:
    """One row per run and claim; a run without claims, or without success, has one row.

    Columns: `cell`, `notebook`, `status` (done, failed, not run), `attempts` and how many of them
    `failures`, `seconds`, `error`, `param_NAME` for each parameter that the grid sets, `folder`,
    and of the claim `claim`, `verdict`, `n` and three numbers, each with the ends of its
    interval: `value`, `control` and `difference`, as in `value_low` and `value_high`.

    Raises:
        ClaimError: the claims of a run are damaged.
    """
    rows = [row for cell, job in plan.jobs.items() for row in _rows(plan.folder, cell, job)]
    names = {name for job in plan.jobs.values() for name in job.parameters}
    given = [f"param_{name}" for name in sorted(names)]
    first = ["cell", "notebook", "status", "attempts", "failures", "seconds", "error"]
    table = pd.DataFrame(rows, columns=[*first, *given, "folder", *CLAIM], dtype=object)
    # Two notebooks may give one name two types, and a column has one.
    mixed = [c for c in given if table[c].dropna().map(type).nunique() > 1]
    table[mixed] = table[mixed].map(lambda value: value if pd.isna(value) else str(value))
    floats = dict.fromkeys(("seconds", *NUMBERS), "float64")
    return table.convert_dtypes().astype(floats | {"n": "Int64"})


def _rows(folder: Path, cell: str, job: Job) -> list[dict[str, Any]]:
    events = _attempts(folder / "attempts" / f"{cell}.jsonl")
    began = [event for event in events if event["event"] == "began"]
    ended = [event for event in events if event["event"] == "done"]
    done = (job.target / STAMP).exists()
    about = {
        "cell": cell,
        "notebook": job.notebook.stem,
        "status": "done" if done else "failed" if began else "not run",
        "attempts": len(began),
        "failures": len(began) - len(ended),
        "folder": job.target.relative_to(BUILD).as_posix(),
    }
    about |= {f"param_{name}": value for name, value in job.parameters.items()}
    if not done:
        return [about | {"error": (events[-1]["error"] or LOST) if events else None}]
    run = json.loads((job.target / "run.json").read_text(encoding="utf-8"))
    about["seconds"] = run.get("seconds")
    claims = [
        {"claim": record.id, "verdict": record.verdict, "n": record.n} | _numbers(record)
        for record in load_records(job.target / "claims.json")
    ]
    return [about | claim for claim in claims or [{}]]


def _numbers(record: Record) -> dict[str, float | None]:
    found = {"value": record.found, "control": record.control, "difference": record.difference}
    parts = (number and (number.value, *number.interval) for number in found.values())
    return dict(zip(NUMBERS, [x for part in parts for x in part or (None,) * 3], strict=True))


def _attempts(file: Path) -> list[dict[str, Any]]:
    """The events of a run's journal, without a last line that a kill cut off."""
    events = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def summary(table: pd.DataFrame, name: str) -> str:
    """The table as a page in Markdown: how many runs, what failed, and the claims."""
    runs = table.drop_duplicates("cell")
    counts = runs["status"].value_counts()
    missing, again, claims = [], [], []
    for row in runs.to_dict("records"):
        cells = [row["cell"], _parameters(row), row["attempts"]]
        if row["status"] != "done":
            missing.append([*cells, row["error"] if row["status"] == "failed" else row["status"]])
        elif row["failures"] > 0:
            again.append(cells)
    for claim, group in table.dropna(subset="claim").groupby("claim"):
        verdicts = ", ".join(f"{n} {v}" for v, n in group["verdict"].value_counts().items())
        spread = [group["value"].min(), group["value"].median(), group["value"].max()]
        claims.append([claim, len(group), verdicts, *(f"{x:.4g}" for x in spread)])
    every = {status: counts.get(status, 0) for status in ("done", "failed", "not run")}
    tables = {"missing": missing, "again": again, "claims": claims}
    return render("sweep.md", name=name, runs=len(runs), counts=every, **tables)


def save(table: pd.DataFrame, plan: Plan) -> tuple[Path, Path]:
    """Write the table (Parquet) and the page (Markdown) into the sweep's folder."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    payload = io.BytesIO()
    table.to_parquet(payload, index=False)
    write(plan.folder / TABLE, payload.getvalue())
    write(plan.folder / PAGE, summary(table, plan.name).encode())
    return plan.folder / TABLE, plan.folder / PAGE


def _parameters(row: Mapping[str, Any]) -> str:
    given = {k.removeprefix("param_"): v for k, v in row.items() if k.startswith("param_")}
    return " ".join(f"{name}={value}" for name, value in given.items() if pd.notna(value))
