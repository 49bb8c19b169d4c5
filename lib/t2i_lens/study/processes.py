"""Child processes and temporary folders that do not outlive the command that made them."""

import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
from filelock import FileLock, Timeout

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
INTERVAL = 0.5  # seconds between two looks at the parent


def die_with_parent() -> None:
    """Have Linux kill this process when the thread that started it ends; elsewhere nothing.

    A program that the process turns into inherits it, so it can be a command's `preexec_fn`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def end_with_parent(parent: int) -> None:
    """End this process when its parent ends, however the parent ended.

    Linux kills it at once. A thread looks after the parent as well, for other systems and for a
    parent that ended before Linux was asked.

    Args:
        parent: Process id of the parent.
    """

    die_with_parent()
    _end_when(lambda: os.getppid() != parent)


def end_without(process: int) -> None:
    """End this process when another one of this machine has ended.

    Args:
        process: Its process id.
    """

    def gone() -> bool:
        try:  # a process that nobody has waited for is there, but has ended
            return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    _end_when(gone)


def _end_when(gone: Callable[[], bool]) -> None:
    def watch() -> None:
        while not gone():
            time.sleep(INTERVAL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch", daemon=True).start()


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """A new folder in `place` that is removed at the end of the block.

    Folders that killed processes left in `place` are removed first: a process holds a lock on its
    own. Inside the block SIGTERM raises KeyboardInterrupt, as Ctrl-C does, so that the folder is
    removed then too.
    """
    place.mkdir(parents=True, exist_ok=True)
    for lock in place.glob("*.lock"):
        _remove(lock.with_suffix(""))
    folder = place / uuid4().hex[:12]
    # The lock comes first: a folder without one is nobody's.
    lock = FileLock(f"{folder}.lock")
    with lock, terminable():
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                Path(lock.lock_file).unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    lock = FileLock(f"{folder}.lock")
    try:
        with lock.acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        pass  # it is in use


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside the block; only the main thread can ask for it."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
