"""Every chapter of the book, executed anew from nothing and compared with the records."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t2i_lens.base.paths import ROOT
from t2i_lens.study.book import RECORDED
from t2i_lens.study.claims import load_claims, load_records
from t2i_lens.study.execute import chapters

pytestmark = pytest.mark.notebooks

# In a process of its own, since where runs are put is settled when the library is imported.
EXECUTE = """
import json
from rich.console import Console
from t2i_lens import book, execute
if __name__ == "__main__":
    jobs = execute.chapters()
    done = execute.execute(jobs, Console(stderr=True))
    print(json.dumps({
        "executed": [job.notebook.stem for job in done],
        "drift": book.drift(jobs),
        "claims": [record.id for record in book.fresh(jobs)],
    }))
"""


@pytest.fixture(scope="module")
def anew(tmp_path_factory) -> dict:
    """What a run of all chapters says that finds no earlier run and no stored result."""
    build = tmp_path_factory.mktemp("build")
    script = build / "execute_all.py"
    script.write_text(EXECUTE)
    environment = os.environ | {"T2I_LENS_BUILD": str(build), "T2I_LENS_ROOT": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_chapter_runs_to_its_end(anew):
    assert set(anew["executed"]) == {job.notebook.stem for job in chapters()}


def test_no_claim_changed_its_verdict_or_left_its_recorded_interval(anew):
    assert anew["drift"] == []


def test_every_claim_that_a_chapter_owes_is_measured(anew):
    owed = {c.id for c in load_claims().values() if c.chapter}
    assert owed == set(anew["claims"])


def test_every_record_belongs_to_a_chapter():
    names = {job.notebook.stem for job in chapters()}
    records = load_records(RECORDED)
    assert records
    assert {record.notebook for record in records} <= names
    for file in Path(RECORDED).rglob("*.json"):
        assert file.stem in names, file
