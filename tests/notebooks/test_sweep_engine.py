"""A sweep with the real engine, on the fixture notebook."""

import os
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from t2i_lens.study.sweep import ENGINE

INSTALLED = shutil.which("snakemake", path=os.pathsep.join([str(ENGINE), os.environ["PATH"]]))

pytestmark = [
    pytest.mark.notebooks,
    pytest.mark.skipif(INSTALLED is None, reason="make test installs snakemake in .venv-sweep"),
]

# Fails where the run before it, with the same seed, did not leave a mark.
ONCE = (
    "import pathlib\nmark = pathlib.Path('../build') / f'mark-{seed}'\n"
    "first = not mark.exists()\nmark.touch()\n"
    "assert not (first and seed == 1), 'the first attempt'\nassert seed != 2, 'always'"
)


@pytest.fixture
def engine(monkeypatch):
    """Found on the path, since the project of the test has no environment of its own."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{Path(INSTALLED).parent}")


def test_four_runs_are_made_once_and_gathered(project, engine):
    config = project.root / "four.yaml"
    config.write_text(
        "notebooks: [01_tiny]\nprofiles: [toybox]\nseeds: [0, 1]\noverrides: [{}, {rows: 20}]\n"
    )
    first = project.cli("sweep", str(config))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "four: 4 runs, 0 done, 4 to do" in first.stdout
    table = pd.read_parquet(project.build / "sweeps" / "four" / "table.parquet")
    assert (table["status"] == "done").all() and (table["attempts"] == 1).all()
    assert table["value"].nunique() == 4 and set(table["claim"]) == {"B01"}
    stamps = {f: f.stat().st_mtime_ns for f in project.build.rglob("stamp.json")}
    assert len(stamps) == 4
    again = project.cli("sweep", str(config))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "four: 4 runs, 4 done, 0 to do" in again.stdout
    assert {f: f.stat().st_mtime_ns for f in project.build.rglob("stamp.json")} == stamps


def test_a_failed_run_is_tried_again_and_reported_and_the_others_stand(project, engine):
    project.notebook("02_moody", ONCE, parameters="seed: int = 0  # of nothing")
    config = project.root / "moody.yaml"
    config.write_text("notebooks: [02_moody]\nseeds: [0, 1, 2]\nretries: 1\n")
    result = project.cli("sweep", str(config))
    assert result.returncode == 1
    assert "1 of 3 runs are missing" in result.stderr
    table = pd.read_parquet(project.build / "sweeps" / "moody" / "table.parquet")
    assert table["status"].tolist() == ["done", "done", "failed"]
    assert table["attempts"].tolist() == [1, 2, 2]
    assert "AssertionError: always" in table["error"].tolist()[2]
    page = (project.build / "sweeps" / "moody" / "summary.md").read_text()
    assert "3 runs: 2 done, 1 failed, 0 not run." in page and "AssertionError: always" in page


def test_an_axis_that_a_notebook_lacks_is_refused_before_anything_runs(project, engine):
    config = project.root / "lacking.yaml"
    config.write_text("notebooks: [01_tiny]\nconcepts: [duck]\n")
    result = project.cli("sweep", str(config))
    assert result.returncode == 1
    assert result.stderr.strip().startswith("error: 01_tiny has no parameter 'concept'")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(project.build.rglob("*.ipynb"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_sweep_that_is_ended_leaves_no_run_behind_and_goes_on_later(project, engine, how):
    slow = "import pathlib, time\nonce = pathlib.Path('../once')\nif not once.exists():\n"
    slow += "    once.touch()\n    time.sleep(600)"
    project.notebook("02_slow", slow, parameters="seed: int = 0  # s")
    config = project.root / "slow.yaml"
    config.write_text("notebooks: [02_slow]\nseeds: [0]\nretries: 0\n")
    sweep = project.start("-m", "t2i_lens.study.cli", "sweep", str(config))
    end = time.monotonic() + 120
    while not (project.root / "once").exists():
        assert time.monotonic() < end and sweep.poll() is None
        time.sleep(0.2)
    children = psutil.Process(sweep.pid).children(recursive=True)
    assert len(children) >= 3
    os.kill(sweep.pid, how)
    sweep.communicate(timeout=30)
    end = time.monotonic() + 15
    while any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children):
        assert time.monotonic() < end
        time.sleep(0.2)
    again = project.cli("sweep", str(config))
    assert again.returncode == 0, again.stdout + again.stderr
