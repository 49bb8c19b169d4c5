"""Every chapter of the book, executed where it is out of date and compared with the records.

The runs are the project's own, so that `make book` finds them: a clean clone executes each chapter
once for both. What a run depends on is part of its stamp; a stamp that does not fit is no run.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from t2i_lens.study.book import RECORDED
from t2i_lens.study.claims import load_claims, load_records
from t2i_lens.study.execute import chapters, fingerprint, outdated

pytestmark = pytest.mark.notebooks

# In a process of its own, whose library is not instrumented for the tests.
EXECUTE = """
import json
from rich.console import Console
from t2i_lens.study import book, execute
if __name__ == "__main__":
    jobs = execute.chapters()
    execute.execute(jobs, Console(stderr=True))
    print(json.dumps({
        "drift": book.drift(jobs),
        "claims": [record.id for record in book.fresh(jobs)],
        "no room": book.roomless(jobs),
    }))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict:
    """What the runs of all chapters say; those that are out of date are executed first."""
    script = tmp_path_factory.mktemp("chapters") / "execute_all.py"
    script.write_text(EXECUTE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_chapter_ran_to_its_end_and_the_book_has_none_left_to_execute(measured):
    reasons = {job.notebook.stem: outdated(job, fingerprint(job)) for job in chapters()}
    assert reasons and set(reasons.values()) == {None}, reasons


def test_no_claim_changed_its_verdict_or_left_its_recorded_interval(measured):
    assert measured["drift"] == []


def test_no_chapter_rests_on_a_quantity_that_cannot_move(measured):
    assert measured["no room"] == []


def test_every_claim_that_a_chapter_owes_is_measured(measured):
    owed = {c.id for c in load_claims().values() if c.chapter}
    assert owed == set(measured["claims"])


def test_every_record_belongs_to_a_chapter():
    names = {job.notebook.stem for job in chapters()}
    records = load_records(RECORDED)
    assert records
    assert {record.notebook for record in records} <= names
    for file in Path(RECORDED).rglob("*.json"):
        assert file.stem in names, file
