"""24 runs on Slurm, one of them killed half-way and recovered, and a second call that repeats none.

Called by run.sh, which starts the cluster: `prove.py WORK`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import REPOSITORY, make_project

RUNS = 24
GRID = f"""
notebooks: [02_share]
seeds: {list(range(RUNS // 2))}
overrides: [{{rows: 20}}, {{rows: 80}}]
threads: 1
retries: 2
"""
# Cheap: no torch. It waits, so that there is something to kill.
SHARE = """
import time
import numpy as np
from t2i_lens.study.claims import load_claims, write_records
from t2i_lens.study.verdicts import Difference, Number, Record, judge_claim
table = np.random.default_rng(seed).normal(size=(rows, 4)) * [3, 1, 1, 1]
spread = table.var(axis=0)
share = float(spread.max() / spread.sum())
time.sleep(5)
"""
LEAVE = """
import pathlib, os
found = Number(value=share, interval=(share - 0.01, share + 0.01))
control = Number(value=0.25, interval=(0.25, 0.25))
apart = share - 0.25
difference = Difference(value=apart, interval=(apart - 0.01, apart + 0.01), pairing="independent")
verdict = judge_claim(load_claims()["B01"], "toybox", found, difference)
record = Record(id="B01", profile="toybox", notebook="02_share", verdict=verdict, value=share,
                interval=found.interval, n=rows, control=control, difference=difference)
write_records([record], pathlib.Path(os.environ["T2I_LENS_RUN"]) / "claims.json")
"""
SLURM = (
    "--executor slurm --jobs 4 --slurm-status-command squeue --slurm-no-account "
    "--slurm-init-seconds-before-status-checks 5 "
    "--default-resources slurm_partition=local mem_mb=500 runtime=60"
).split()


def events(journal: Path) -> list[dict]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def running(project, folder: Path) -> str | None:
    """The Slurm job of a run that has begun and not ended."""
    for journal in sorted((folder / "attempts").glob("*.jsonl")):
        last = events(journal)[-1]
        stamp = project.build / "trials" / journal.stem / "stamp.json"
        if last["event"] == "began" and not stamp.exists():
            return last["slurm_job"]
    return None


def stamps(project) -> dict[Path, int]:
    found = (project.build / "trials").glob("*/stamp.json")
    return {file: file.stat().st_mtime_ns for file in found}


def main(work: Path) -> None:
    project = make_project(work / "project")
    leave = project.notebook(
        "02_share", SHARE, parameters="rows: int = 40  # n\nseed: int = 0  # s"
    )
    # The last cell of the fixture writes an empty list of claims; ours comes after it.
    content = json.loads(leave.read_text())
    content["cells"].append(content["cells"][1] | {"id": "leave", "source": LEAVE})
    leave.write_text(json.dumps(content))
    grid = project.root / "share.yaml"
    grid.write_text(GRID)
    environment = os.environ | {"T2I_LENS_ROOT": str(project.root), "NO_COLOR": "1"}
    environment |= {"PYTHONPATH": str(REPOSITORY / "lib")}
    command = [sys.executable, "-m", "t2i_lens.study.cli", "sweep", str(grid), *SLURM]
    folder = project.build / "sweeps" / "share"

    began = time.monotonic()
    sweep = subprocess.Popen(command, cwd=project.root, env=environment)
    while len(stamps(project)) < RUNS // 2 or (job := running(project, folder)) is None:
        assert sweep.poll() is None, "the sweep ended before half of it was done"
        time.sleep(0.5)
    print(f"\n*** {len(stamps(project))} of {RUNS} done: scancel {job}\n", flush=True)
    subprocess.run(["scancel", job], check=True)
    assert sweep.wait() == 0, "the sweep reports missing runs"
    print(f"\n*** first call: {time.monotonic() - began:.0f} s", flush=True)

    table = pd.read_parquet(folder / "table.parquet")
    journals = {f.stem: events(f) for f in (folder / "attempts").glob("*.jsonl")}
    for key in ("slurm_job", "host"):
        tried = {
            cell: [e[key] for e in ev if e["event"] == "began"] for cell, ev in journals.items()
        }
        table[key] = table["cell"].map(tried).map(lambda each: ", ".join(dict.fromkeys(each)))
    shown = [
        "cell",
        "param_seed",
        "param_rows",
        "status",
        "attempts",
        "slurm_job",
        "verdict",
        "value",
    ]
    print(table[shown].to_string(index=False), flush=True)
    (killed,) = (cell for cell, some in journals.items() if len(some) > 2)
    assert [e["event"] for e in journals[killed]] == ["began", "began", "done"]
    assert journals[killed][0]["slurm_job"] == job
    assert len(table) == RUNS and (table["status"] == "done").all()
    assert int(table["attempts"].sum()) == RUNS + 1
    used = {job for jobs in table["slurm_job"] for job in jobs.split(", ")}
    assert len(used) == RUNS + 1, "each attempt was a Slurm job of its own"

    before = stamps(project)
    again = subprocess.run(
        command, cwd=project.root, env=environment, capture_output=True, text=True
    )
    print(f"\n*** second call:\n{again.stdout}", flush=True)
    assert again.returncode == 0, again.stderr
    assert f"{RUNS} runs, {RUNS} done, 0 to do" in again.stdout
    assert stamps(project) == before
    assert {f.stem: events(f) for f in (folder / "attempts").glob("*.jsonl")} == journals
    print((folder / "summary.md").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
