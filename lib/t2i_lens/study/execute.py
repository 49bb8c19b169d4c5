"""Driver of notebooks: executes those that are out of date, in parallel processes.

A run is a folder with the executed notebook, `run.json` and `claims.json`. It is built in a
temporary folder and moved to its place when it has succeeded, with a stamp: the hash of its inputs,
and the sha256 of all its files. A run whose stamp no longer matches is made again.

Kernels and workers end with the driver, and the user's settings of IPython, Jupyter and matplotlib
do not reach them.
"""

import ast
import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from t2i_lens.base.files import digest, file_digest, replace_folder, write
from t2i_lens.base.paths import BUILD, DATA, ROOT
from t2i_lens.study.closure import closure, imports
from t2i_lens.study.processes import end_with_parent, temporary_folder

NOTEBOOKS = ROOT / "notebooks"
EXECUTED = "notebook.ipynb"
STAMP = "stamp.json"
# Recorded claims are what a run is compared with, and the manifest only describes the rest.
NOT_INPUTS = ("results", "manifest.yaml")
# The engine of sweeps decides where and when a notebook runs, not what it measures.
NOT_LOCKS = ("requirements-sweep.lock",)
# Settings of the user that would change what a notebook shows, or how it is run.
UNSET = (
    "JUPYTER_CONFIG_PATH", "JUPYTER_PATH", "MATPLOTLIBRC", "PYTHONINSPECT", "PYTHONSTARTUP",
)  # fmt: skip
# Run by every kernel as it starts.
STARTUP = """\
import os
from t2i_lens.study.processes import end_with_parent
end_with_parent(int(os.environ["JPY_PARENT_PID"]))
del os, end_with_parent
"""


class RunError(RuntimeError):
    """A notebook that could not be executed; the message is one line."""


@dataclass(frozen=True, eq=False)
class Job:
    """One notebook to execute.

    Attributes:
        notebook: Source file.
        target: Folder of the run.
        parameters: Those that differ from the notebook's own.
    """

    notebook: Path
    target: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def executed(self) -> Path:
        return self.target / EXECUTED


def chapters(profile: str = "toybox") -> list[Job]:
    """A job for every notebook of the book, with the parameters that are written in it."""
    return [
        Job(notebook, BUILD / "runs" / profile / notebook.stem)
        for notebook in sorted(NOTEBOOKS.glob("*.ipynb"))
    ]


def find(name: str) -> Path:
    """The notebook of a name, or of a path to one of the book's notebooks.

    Raises:
        RunError: there is no such notebook or file, or the file is not one of the book's.
    """
    file = NOTEBOOKS / f"{name.removesuffix('.ipynb')}.ipynb"
    # The name of a file that lies here is a path, or an edited copy would pass for the book's.
    if Path(name).name != name or (name.endswith(".ipynb") and Path(name).exists()):
        file = Path(name).resolve()
        if not file.is_file():
            raise RunError(f"no file '{name}'")
        if file.parent != NOTEBOOKS.resolve() or file.suffix != ".ipynb":
            raise RunError(f"'{name}' is not one of the book's notebooks")
    if not file.is_file():
        known = ", ".join(file.stem for file in sorted(NOTEBOOKS.glob("*.ipynb")))
        raise RunError(f"no notebook '{name}'; there are: {known}")
    return NOTEBOOKS / file.name


def trial(notebook: Path, parameters: Mapping[str, Any]) -> Job:
    """A job apart from the book, in a folder of its own for each choice of parameters."""
    choice = digest(json.dumps(parameters, sort_keys=True).encode())[:8]
    return Job(notebook, BUILD / "trials" / f"{notebook.stem}-{choice}", parameters)


def inputs(notebook: Path) -> str:
    """Hash of everything that all runs of a notebook depend on, except their parameters.

    The notebook, the library modules that it imports, directly or not, the pinned versions, and
    the files below `data/`.

    Raises:
        RunError: the notebook is not readable.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = [ast.parse("".join(c["source"])) for c in cells if c["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        raise RunError(f"{notebook.name} cannot be read as a notebook: {error}") from None
    modules = closure(set().union(*(imports(ast.unparse(tree)) for tree in code)))
    locks = [f for f in sorted((ROOT / "lib").glob("*.lock")) if f.name not in NOT_LOCKS]
    data = [
        path
        for path in sorted(DATA.rglob("*"))
        if path.is_file() and path.relative_to(DATA).parts[0] not in NOT_INPUTS
    ]
    total = hashlib.sha256()
    for file in [notebook, *modules, *locks, *data]:
        total.update(f"{file.name} {file_digest(file)}\n".encode())
    return total.hexdigest()


def fingerprint(job: Job, made_from: str | None = None) -> str:
    """Hash of all that a run depends on: the notebook's `inputs`, the job's parameters, and the
    TI embeddings that the user trained or brought for the job's profile.

    Args:
        made_from: The `inputs`, where they are known already: many jobs share them.

    Raises:
        RunError: the notebook is not readable.
    """
    parameters = json.dumps(dict(job.parameters), sort_keys=True)
    brought = " ".join(f"{f.relative_to(BUILD)} {file_digest(f)}" for f in _own(job))
    return digest(f"{made_from or inputs(job.notebook)} {parameters} {brought}".strip().encode())


def _own(job: Job) -> list[Path]:
    """Files of the TI embeddings that the user trained or brought, or that a run fetched."""
    own = sorted((BUILD / "embeddings").glob(f"{job.parameters.get('profile')}*/**/*"))
    return [file for file in own if file.is_file()]


def outdated(job: Job, now: str) -> str | None:
    """Reason why a run is out of date, or None if it is up to date.

    Args:
        now: The job's `fingerprint`.
    """
    if not (job.target / STAMP).exists():
        return "not run yet"
    try:
        stamp = json.loads((job.target / STAMP).read_text(encoding="utf-8"))
        if stamp["fingerprint"] != now:
            return "its notebook, library or data changed"
        for name, expected in stamp["files"].items():
            file = BUILD / name
            if not file.exists() or file_digest(file) != expected:
                return f"{name} is damaged or missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{STAMP} is damaged"
    return None


def execute(jobs: Sequence[Job], console: Console, threads: int | None = None) -> list[Job]:
    """Execute every run that is out of date, in parallel, and report progress.

    Args:
        threads: Of each notebook; by default, the machine's cores are shared out.

    Returns:
        The jobs that were executed.

    Raises:
        RunError: some failed. Those that succeeded are kept; of a failed one nothing is, but its
            notebook for reading, below `build/failed`.
    """
    made_from = {job.target: inputs(job.notebook) for job in jobs}
    prints = {job.target: fingerprint(job, made_from[job.target]) for job in jobs}
    reasons = {job.target: outdated(job, prints[job.target]) for job in jobs}
    waiting = [job for job in jobs if reasons[job.target]]
    workers = min(len(waiting), os.cpu_count() or 1)
    console.print(_plan(jobs, waiting, workers), highlight=False, soft_wrap=True)
    if not waiting:
        return []
    for job in waiting:
        console.print(f"{job.notebook.stem}: {reasons[job.target]}", style="dim", highlight=False)
    (BUILD / "failed").mkdir(parents=True, exist_ok=True)
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    visitors = {job.target for job in waiting if not _own(job)}

    def settle(job: Job) -> None:
        # A run that began without tokens measured those that it fetched.
        began = job.target not in visitors
        now = prints[job.target] if began else fingerprint(job, made_from[job.target])
        _settle(job, folders[job], now)

    with temporary_folder(BUILD / "tmp") as temporary, _pool(workers) as pool:
        folders = {job: temporary / str(number) for number, job in enumerate(waiting)}
        futures = {
            job: pool.submit(_papermill, job.notebook, folders[job], dict(job.parameters), threads)
            for job in waiting
        }
        _watch(futures, folders, console, settle)
        errors = []
        for job, future in futures.items():
            if message := _outcome(future):
                errors.append(message)
                kept = BUILD / "failed" / f"{job.target.name}.ipynb"
                if (folders[job] / EXECUTED).exists():
                    os.replace(folders[job] / EXECUTED, kept)
                    errors[-1] += f" (see {kept.relative_to(BUILD.parent)})"
    if errors:
        raise RunError("\n".join(errors))
    return waiting


def last_seconds(job: Job) -> float | None:
    """How long the job's last run took, out of date or not; None if there is no record."""
    try:
        return json.loads((job.target / "run.json").read_text(encoding="utf-8"))["seconds"]
    except (OSError, ValueError, KeyError):
        return None


def _plan(jobs: Sequence[Job], waiting: Sequence[Job], workers: int) -> str:
    """Counts of runs in words, with a time estimate from the last runs."""
    noun = "notebook" if len(jobs) == 1 else "notebooks"
    text = f"{len(jobs)} {noun}: {len(jobs) - len(waiting)} up to date"
    if not waiting:
        return text
    text += f", {len(waiting)} to execute, {workers} at a time"
    known = [seconds for job in waiting if (seconds := last_seconds(job)) is not None]
    if not known:
        return f"{text}; their time is not known yet"
    # Every notebook without a record is taken for an average one.
    total = sum(known) * len(waiting) / len(known)
    text += f"; about {max(total / workers, max(known)) / 60:.1f} min"
    return f"{text}, by the last times of {len(known)} of them"


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes; an exception, Ctrl-C among them, ends them at once."""
    others = set(active_children())
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    )
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(active_children()) - others:
            child.kill()
            child.join()
        raise
    pool.shutdown()


def _begin(driver: int) -> None:
    """Begin a worker: it ends with the driver, to which alone Ctrl-C is said."""
    end_with_parent(driver)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _environment(folder: Path, home: Path, threads: int) -> dict[str, str]:
    """What a worker's kernel is told: nothing of it depends on the user's settings.

    Args:
        folder: Of the run.
        home: For IPython, Jupyter and temporary files, in place of the user's.
    """
    kept = {key: value for key, value in os.environ.items() if key not in UNSET}
    return kept | {
        "T2I_LENS_RUN": str(folder),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # Remarks on packages that nothing here needs would stand in every chapter.
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore:IProgress not found",
        "TMPDIR": str(home),
        "IPYTHONDIR": str(home),
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTER_RUNTIME_DIR": str(home),
        "JUPYTER_NO_CONFIG": "1",
        # Without it a kernel of the same name in the user's home would be taken.
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # Kept from run to run, since a list of the fonts is made there first.
        "MPLCONFIGDIR": str(BUILD / "matplotlib"),
    }


def _papermill(notebook: Path, folder: Path, parameters: dict, threads: int) -> str | None:
    """Execute one notebook in this process's kernel; what went wrong, in one line, or None."""
    home = folder.with_name(f"{folder.name}-home")
    startup = home / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-end-with-parent.py").write_text(STARTUP)
    folder.mkdir()
    # The kernel inherits standard error, and chats there.
    log = os.open(folder / "kernel.log", os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(log, 2)
    os.close(log)
    environment = _environment(folder, home, threads)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it is known by now, and was another
    import papermill  # reads the environment
    from papermill.exceptions import PapermillExecutionError

    try:
        papermill.execute_notebook(
            str(notebook),
            str(folder / EXECUTED),
            parameters=parameters,
            cwd=str(notebook.parent),
            kernel_name="python3",
            progress_bar=False,
        )
    except PapermillExecutionError as error:
        cells = json.loads((folder / EXECUTED).read_text(encoding="utf-8"))["cells"]
        failed = [c["id"] for c in cells if c["metadata"].get("papermill", {}).get("exception")]
        return f"{notebook.stem}, cell {failed[0]}: {error.ename}: {_line(error.evalue)}"
    except Exception as error:  # a dead kernel, a full disk: whatever it is, one line
        return f"{notebook.stem}: {type(error).__name__}: {_line(str(error))}"
    if not (folder / "run.json").exists():
        return f"{notebook.stem} did not call run.finish() in its last cell"
    if bare := _without_picture(folder / EXECUTED):
        return f"{notebook.stem}, cell {bare[0]}: the figure shows no picture"
    return None


def _without_picture(executed: Path) -> list[str]:
    """Figure cells of an executed notebook that show no picture, by id."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    figures = [c for c in cells if "figure" in c["metadata"].get("mystnb", {})]
    shown = {c["id"]: {kind for o in c["outputs"] for kind in o.get("data", {})} for c in figures}
    return [name for name, kinds in shown.items() if not any("image/" in k for k in kinds)]


def _outcome(future: Future) -> str | None:
    """Error of a worker, also if the worker itself died."""
    return f"a worker died: {_line(str(e))}" if (e := future.exception()) else future.result()


def _line(text: str) -> str:
    return text.strip().split("\n")[0]


def _settle(job: Job, folder: Path, made_from: str) -> None:
    """Stamp a finished run and put it in its place."""
    left = {job.target / file.name: file_digest(file) for file in folder.iterdir()}
    results = json.loads((folder / "run.json").read_text(encoding="utf-8"))["results"]
    left |= {BUILD / "results" / name: value for name, value in results.items()}
    files = {path.relative_to(BUILD).as_posix(): value for path, value in left.items()}
    stamp = {"fingerprint": made_from, "files": files}
    write(folder / STAMP, json.dumps(stamp, indent=1).encode())
    replace_folder(folder, job.target)


def _watch(
    futures: Mapping[Job, Future],
    folders: Mapping[Job, Path],
    console: Console,
    settle: Callable[[Job], None],
) -> None:
    """Show how far each notebook is, until all are done; `settle` each that succeeded, at once.

    The times are of each notebook itself: it begins when its folder is made.
    """
    began: dict[Job, float] = {}
    ended: dict[Job, float] = {}
    totals = {job: job.notebook.read_text(encoding="utf-8").count('"cell_type"') for job in futures}

    def took(job: Job) -> float:
        now = time.monotonic()
        return ended.get(job, now) - began.get(job, now)

    def table() -> Table:
        grid = Table.grid(padding=(0, 2))
        for job in futures:
            executed = job.executed if job in ended else folders[job] / EXECUTED
            # papermill saves the notebook after each cell.
            done = executed.read_text().count('"status": "completed"') if executed.exists() else 0
            seconds = f"{took(job):4.0f} s" if job in began else "waits"
            grid.add_row(job.notebook.stem, f"cell {done} of {totals[job]}", seconds)
        return grid

    with Live(table(), console=console, auto_refresh=False, transient=True) as live:
        while len(ended) < len(futures):
            time.sleep(0.2)
            for job, future in futures.items():
                if job not in began and folders[job].exists():
                    began[job] = time.monotonic()
                if future.done() and job not in ended:
                    ended[job] = time.monotonic()
                    how = "failed" if _outcome(future) else "done"
                    if how == "done":
                        settle(job)
                    console.print(
                        f"{job.notebook.stem}: {how}, {took(job):.0f} s"
                        f" ({len(ended)} of {len(futures)})",
                        highlight=False,
                    )
            if console.is_terminal:
                live.update(table(), refresh=True)
