"""Sweeps: a notebook at every point of a grid, on this machine or on a cluster.

A YAML file states the grid. Snakemake (`notebooks/Snakefile`) decides where and when a run is made;
the driver decides how, and whether it is up to date, so that a run of a sweep and the same
`t2i-lens run` by hand are one run.
"""

import itertools
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from t2i_lens.base.files import write
from t2i_lens.base.paths import BUILD, ROOT
from t2i_lens.study import execute
from t2i_lens.study.execute import STAMP, Job, RunError
from t2i_lens.study.parameters import check, declared
from t2i_lens.study.processes import die_with_parent, end_without, terminable

SNAKEFILE = execute.NOTEBOOKS / "Snakefile"
ENGINE = ROOT / ".venv-sweep" / "bin"
# An axis of the file, and the parameter that a notebook must have to be swept along it.
AXES = {"profiles": "profile", "concepts": "concept", "seeds": "seed"}

Value = str | int | float | bool


class SweepError(ValueError):
    """A sweep's file that cannot be used; the message names the file and the field."""


class Grid(BaseModel):
    """Fields of a sweep's file.

    Attributes:
        notebooks: Names, such as `02_norms`.
        profiles, concepts, seeds: Values of the parameters `profile`, `concept` and `seed`; an
            axis left out stays at the notebook's own value.
        overrides: Each a map of further parameters; one run per map.
        threads: Of one run.
        retries: How often a failed run is tried again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    notebooks: list[str] = Field(min_length=1)
    profiles: list[str] = []
    concepts: list[str] = []
    seeds: list[int] = []
    overrides: list[dict[str, Value]] = Field(default=[{}], min_length=1)
    threads: int = Field(default=1, ge=1)
    retries: int = Field(default=2, ge=0)


@dataclass(frozen=True)
class Plan:
    """All runs of a grid.

    Attributes:
        name: Of the sweep, from its file.
        grid: What the file says.
        jobs: One per cell of the grid, by the name of its folder.
        waiting: Why a cell has to be run, for those that have to.
    """

    name: str
    grid: Grid
    jobs: Mapping[str, Job]
    waiting: Mapping[str, str]

    @property
    def folder(self) -> Path:
        return BUILD / "sweeps" / self.name

    def cost(self) -> str:
        """Number of runs, those done and those to do, and how long one took before."""
        done = len(self.jobs) - len(self.waiting)
        text = f"{self.name}: {len(self.jobs)} runs, {done} done, {len(self.waiting)} to do"
        stand = [job for cell, job in self.jobs.items() if cell not in self.waiting]
        took = [execute.last_seconds(job) or 0.0 for job in stand]
        if took and self.waiting:
            each = sum(took) / len(took)
            text += f"; {each:.0f} s each so far, {each * len(self.waiting) / 60:.0f} min in all"
            text += ", divided by how many run at a time"
        return text


def read_grid(file: Path) -> Grid:
    """A sweep's file, checked.

    Raises:
        SweepError: no YAML, or a field is missing, unknown or of a wrong kind.
        FileNotFoundError: no such file.
    """
    try:
        return Grid.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SweepError(f"{file.name} is not valid YAML{where}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SweepError(f"{file.name}: {place}: {first['msg']}") from None


def expand(grid: Grid) -> dict[str, Job]:
    """A job for every notebook, profile, concept, seed and override, by the name of its folder.

    Raises:
        RunError: no such notebook.
        ParameterError: a notebook lacks the parameter of an axis or override, or it is not of
            its type, or an axis and an override both set it.
        SweepError: two cells are the same run.
        ValueError: no such profile.
    """
    if grid.profiles:
        from t2i_lens.models import profiles  # brings torch along

        for name in grid.profiles:
            profiles.get(name)
    axes = [[(AXES[a], value) for value in getattr(grid, a)] for a in AXES if getattr(grid, a)]
    jobs: dict[str, Job] = {}
    for notebook in map(execute.find, grid.notebooks):
        types = declared(notebook)
        for *point, override in itertools.product(*axes, grid.overrides):
            given = [f"{name}={value}" for name, value in [*point, *override.items()]]
            job = execute.trial(notebook, check(notebook, given, types))
            if jobs.setdefault(job.target.name, job) is not job:
                raise SweepError(f"{notebook.stem} is in the grid twice with {' '.join(given)}")
    return jobs


def plan(file: Path) -> Plan:
    """The plan of a grid's file, with the runs that are already up to date.

    Raises:
        as `read_grid` and `expand`.
    """
    grid = read_grid(file)
    jobs = expand(grid)
    made_from = {
        notebook: execute.inputs(notebook) for notebook in {j.notebook for j in jobs.values()}
    }
    waiting = {}
    for cell, job in jobs.items():
        reason = execute.outdated(job, execute.fingerprint(job, made_from[job.notebook]))
        if reason:
            waiting[cell] = reason
    return Plan(file.stem, grid, jobs, waiting)


def launch(plan: Plan, options: Sequence[str] = ()) -> None:
    """Execute the pending runs with the engine; `gather` reports failures.

    Args:
        options: Of Snakemake, such as `--executor slurm --jobs 20`; by default it uses the cores of
            this machine.

    Its runs on this machine end with this process, however it ends.

    Raises:
        RunError: Snakemake is not installed, or the sweep runs already.
    """
    places = os.pathsep.join([str(ENGINE), os.environ.get("PATH", "")])
    engine = shutil.which("snakemake", path=places)
    if engine is None:
        raise RunError("snakemake is not installed: `make sweep` installs it in .venv-sweep")
    for reason, number in Counter(plan.waiting.values()).items():
        print(f"{number} runs: {reason}", flush=True)
    if not plan.waiting:
        return
    plan.folder.mkdir(parents=True, exist_ok=True)
    for cell in plan.waiting:
        # The engine takes a stamp for a run that stands, so one that waits must have none.
        (plan.jobs[cell].target / STAMP).unlink(missing_ok=True)
    file = plan.folder / "plan.json"
    write(file, json.dumps(_for_engine(plan, file), indent=1).encode())
    command = [engine, "--snakefile", SNAKEFILE, "--directory", plan.folder, "--keep-going"]
    command += ["--retries", str(plan.grid.retries), "--quiet", "host", "reason", "rules"]
    cores = {"--cores", "--jobs", "-c", "-j"} & {option.split("=")[0] for option in options}
    command += [*options, *([] if cores else ["--cores", "all"]), "--config", f"plan={file}"]
    # The engine's own lock would outlive it: ours is the system's.
    lock = FileLock(plan.folder / "sweep.lock")
    try:
        with lock.acquire(timeout=0), terminable():
            _run([*map(str, command), "--nolock"])
    except Timeout:
        raise RunError(f"the sweep {plan.name} runs already") from None


def _run(command: Sequence[str]) -> None:
    with subprocess.Popen(command, preexec_fn=die_with_parent) as engine:
        try:
            engine.wait()
        except BaseException:
            engine.kill()
            raise


def _for_engine(plan: Plan, file: Path) -> dict[str, Any]:
    paths = [f"T2I_LENS_ROOT={ROOT}", f"T2I_LENS_BUILD={BUILD}"]
    command = ["env", *paths, sys.executable, "-m", "t2i_lens.study.sweep", str(file)]
    runs = {
        cell: {"notebook": job.notebook.stem, "parameters": dict(job.parameters)}
        for cell, job in plan.jobs.items()
    }
    return {
        "command": shlex.join(command),
        "threads": plan.grid.threads,
        "cells": runs,
        "waiting": {cell: str(plan.jobs[cell].target / STAMP) for cell in plan.waiting},
        "launcher": {"host": socket.gethostname(), "process": os.getpid()},
    }


def run_cell(file: Path, cell: str) -> str | None:
    """Execute one run of a plan for the engine, and write the attempt to the plan's journal.

    Returns:
        What went wrong, or None.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    entry, launcher = content["cells"][cell], content["launcher"]
    if launcher["host"] == socket.gethostname() and "SLURM_JOB_ID" not in os.environ:
        end_without(launcher["process"])
    job = execute.trial(execute.find(entry["notebook"]), entry["parameters"])
    journal = file.parent / "attempts" / f"{cell}.jsonl"
    journal.parent.mkdir(exist_ok=True)
    began = time.time()
    error = None

    def note(event: str) -> None:
        about = {"event": event, "seconds": round(time.time() - began, 1), "error": error}
        about |= {"host": socket.gethostname(), "slurm_job": os.environ.get("SLURM_JOB_ID")}
        with journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(about) + "\n")

    # One that is killed cannot say so: it leaves a beginning without an end.
    note("began")
    try:
        execute.execute([job], Console(stderr=True), content["threads"])
    except (RunError, ValueError, OSError) as reason:
        error = str(reason)
    note("failed" if error else "done")
    return error


if __name__ == "__main__":
    if problem := run_cell(Path(sys.argv[1]), sys.argv[2]):
        sys.exit(problem)
