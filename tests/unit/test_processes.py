"""Temporary folders and child processes end with what made them."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from t2i_lens.study.processes import temporary_folder

HOLD = """
import sys, time
from pathlib import Path
from t2i_lens.study.processes import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "file").touch()
    time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
code = "import os, time; from t2i_lens.study import processes as p; {}; time.sleep(60)"
call = sys.argv[1]
child = subprocess.Popen([sys.executable, "-c", code.format(call)])
print(child.pid, flush=True)
time.sleep(60)
"""


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(process_id: int) -> bool:
    """Whether it runs; one that has ended and waits to be collected does not."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def holder(tmp_path):
    """A process that holds a temporary folder in `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)])
    until(lambda: list(tmp_path.glob("*/file")))
    yield process
    process.kill()
    process.wait()


def test_a_temporary_folder_is_removed_also_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), temporary_folder(tmp_path) as folder:
        (folder / "file").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_holds_is_left_alone(tmp_path, holder):
    (held,) = tmp_path.glob("*/file")
    with temporary_folder(tmp_path):
        assert held.exists()
    assert held.exists()


def test_a_terminated_process_removes_its_folder(tmp_path, holder):
    holder.send_signal(signal.SIGTERM)
    assert holder.wait(30) != 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, holder):
    holder.kill()
    holder.wait()
    (left,) = tmp_path.glob("*/file")
    with temporary_folder(tmp_path) as folder:
        assert not left.exists()
        assert {path.name.removesuffix(".lock") for path in tmp_path.iterdir()} == {folder.name}
    assert list(tmp_path.iterdir()) == []


def test_the_meaning_of_sigterm_is_restored(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with temporary_folder(tmp_path):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


# The second is what is left where the system cannot be asked.
@pytest.mark.parametrize(
    "call",
    [
        "p.end_with_parent(os.getppid())",
        "p.end_without(os.getppid())",
        "p.die_with_parent = bool; p.end_with_parent(0)",
    ],
)
def test_a_child_ends_when_its_parent_is_killed_or_was_gone_before(call):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, call], stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    if "getppid" in call:
        time.sleep(2)
        assert alive(child)
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not alive(child), 15)
    parent.kill()
    parent.wait()
