"""A simulated sweep of 10,000 runs: the engine's cost per run, the table's size, half of it lost.

    python tests/slurm/scale.py --runs 2000   # about 6 min on two cores
    python tests/slurm/scale.py               # 10,000 take over an hour: end it by Ctrl-C

An interrupted sweep is timed as far as it came, beside the last whole one.

Plan, engine and table are the real ones; a run is a script that leaves a finished run's files, so
that all time is that of scheduling. Writes `data/results/scale.json`, which the book shows.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from unittest import mock

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import REPOSITORY, make_project

RUNS, ROWS = 10_000, 10  # rows: values of a second parameter
TRIAL = 100  # runs whose time the estimate is made from
ENGINE = REPOSITORY / ".venv-sweep" / "bin"
# A finished run without a kernel: what `t2i-lens` leaves, by the names in the plan.
FAKE = """\
import json, pathlib, sys
plan, cell = json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2]
target = pathlib.Path(plan["waiting"][cell]).parent
target.mkdir(parents=True, exist_ok=True)
claim = {"id": "B01", "profile": "toybox", "notebook": "01_tiny", "verdict": "not measurable",
         "reason": "simulated"}
(target / "run.json").write_text(json.dumps({"seconds": 60.0, "results": {}}))
(target / "claims.json").write_text(json.dumps([claim]))
(target / "stamp.json").write_text("{}")
journal = pathlib.Path(sys.argv[1]).parent / "attempts" / f"{cell}.jsonl"
journal.parent.mkdir(exist_ok=True)
with journal.open("a") as stream:
    for event in ("began", "done"):
        stream.write(json.dumps({"event": event, "seconds": 0.0, "error": None}) + "\\n")
"""
FILE = REPOSITORY / "data" / "results" / "scale.json"


def engine(grid, plan, fake: Path) -> tuple[float, int]:
    """Seconds of the engine on a plan with simulated runs, and its peak memory in bytes."""
    real, sizes, done = grid._for_engine, [0], threading.Event()

    def simulated(some, file):
        return real(some, file) | {"command": f"{sys.executable} -S {fake} {file}"}

    # The system's own peak of a child counts what it had of its parent before it became the engine.
    def watch():
        while not done.wait(0.5):
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    sizes.append(child.memory_info().rss)

    watcher, began = threading.Thread(target=watch, daemon=True), time.monotonic()
    watcher.start()
    with mock.patch.object(grid, "_for_engine", simulated):
        grid.launch(plan, ["--quiet", "all"])
    seconds = time.monotonic() - began
    done.set()
    watcher.join()
    return seconds, max(sizes)


def marked(plan) -> dict[str, int]:
    """When each run of a plan was made."""
    from t2i_lens.study.execute import STAMP

    stamps = {cell: job.target / STAMP for cell, job in plan.jobs.items()}
    return {cell: f.stat().st_mtime_ns for cell, f in stamps.items() if f.exists()}


def keep_pace(plan) -> None:
    """Add to the file how fast a sweep was that is too long to wait for."""
    made = sorted(marked(plan).values())
    if len(made) < 2:
        raise SystemExit("ended before two runs: nothing to time")
    larger = {
        "runs": len(plan.jobs), "timed": len(made) - 1, "seconds": (made[-1] - made[0]) / 1e9,
    }  # fmt: skip
    FILE.write_text(json.dumps(json.loads(FILE.read_text()) | {"larger": larger}, indent=1) + "\n")
    print(json.dumps(larger))


def main(runs: int) -> None:
    work = Path(tempfile.mkdtemp(prefix="sweep-scale-"))
    project = make_project(work / "project")
    os.environ |= {"T2I_LENS_ROOT": str(project.root), "T2I_LENS_BUILD": str(project.build)}
    sys.path.insert(0, str(REPOSITORY / "lib"))
    from benchmarks.bench import machine
    from t2i_lens.study import execute, sweep, sweep_table

    os.environ["PATH"] = f"{ENGINE}{os.pathsep}{os.environ['PATH']}"
    fake = work / "fake_run.py"
    fake.write_text(FAKE)

    def planned(count: int):
        file = project.root / f"scale{count}.yaml"
        overrides = [{"rows": 20 + row} for row in range(ROWS)]
        seeds = list(range(count // ROWS))
        file.write_text(json.dumps({"notebooks": ["01_tiny"], "seeds": seeds,
                                    "overrides": overrides}))  # fmt: skip

        # A simulated run has no fingerprint: it stands if it has a stamp.
        def outdated(job, now):
            return None if (job.target / execute.STAMP).exists() else "not run yet"

        with mock.patch.object(execute, "outdated", outdated):
            began = time.monotonic()
            plan = sweep.plan(file)
            return plan, time.monotonic() - began

    trial, _ = planned(TRIAL)
    each = engine(sweep, trial, fake)[0] / TRIAL
    print(
        f"{runs:,} runs, and half of them again: about {1.5 * runs * each / 60:.0f} min", flush=True
    )
    for job in trial.jobs.values():
        (job.target / execute.STAMP).unlink()

    plan, plan_seconds = planned(runs)
    try:
        engine_seconds, peak = engine(sweep, plan, fake)
    except KeyboardInterrupt:
        keep_pace(plan)
        raise SystemExit(130) from None
    before = marked(plan)
    began = time.monotonic()
    rows = sweep_table.gather(plan)
    table, _ = sweep_table.save(rows, plan)
    gather_seconds = time.monotonic() - began
    assert len(before) == runs and (rows["status"] == "done").all()

    lost = [job for number, job in enumerate(plan.jobs.values()) if number % 2]
    for job in lost:
        (job.target / execute.STAMP).unlink()
    again, replan_seconds = planned(runs)
    lost_seconds, _ = engine(sweep, again, fake)
    after = marked(plan)
    kept = [cell for cell in before if cell not in again.waiting]
    assert set(after) == set(before) and len(again.waiting) == len(lost)

    found = {
        "runs": runs, "cores": os.cpu_count(), "processor": machine()["processor"],
        "plan_seconds": plan_seconds, "engine_seconds": engine_seconds, "engine_mb": peak / 1e6,
        "gather_seconds": gather_seconds, "table_rows": len(rows),
        "table_kb": table.stat().st_size / 1e3, "replan_seconds": replan_seconds,
        "lost_waiting": len(again.waiting), "lost_seconds": lost_seconds,
        "repeated": sum(after[cell] != before[cell] for cell in kept),
    }  # fmt: skip
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="in all")
    main(parser.parse_args().runs)
