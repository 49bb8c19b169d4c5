"""A small project of its own, for tests of the driver: it must not touch the real one."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).parent / "fixtures"
NUMBERS = ("public_tokens.yaml", "published_embeddings.yaml", "published_text_editing.yaml")
TOC = "format: jb-book\nroot: intro\nparts:\n  - caption: Chapters\n    chapters:\n"


@dataclass
class Project:
    """A root with `data/`, `notebooks/` and `book/`, driven through the command line."""

    root: Path
    library: Path = REPOSITORY / "lib"

    @property
    def build(self) -> Path:
        return self.root / "build"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """Begin a python process as a user of the project would."""
        given = os.environ | {
            "T2I_LENS_ROOT": str(self.root),
            "PYTHONPATH": str(self.library),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        given.pop("T2I_LENS_BUILD", None)
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=self.root, env=given | environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # As in a terminal of its own, where Ctrl-C is not ignored.
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        with self.start(*arguments, **environment) as process:
            try:
                output, errors = process.communicate(timeout=1500)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return self.python("-m", "t2i_lens.study.cli", *arguments, **environment)

    def notebook(self, name: str, *cells: str, parameters: str = "") -> Path:
        """Write a notebook of code cells that leaves what the driver expects of a run."""
        finish = (
            "import os, pathlib\nfolder = pathlib.Path(os.environ['T2I_LENS_RUN'])\n"
            "(folder / 'run.json').write_text('{\"results\": {}}')\n"
            "(folder / 'claims.json').write_text('[]')"
        )
        first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        first.id = "parameters"
        code = [nbformat.v4.new_code_cell(cell, id=f"cell-{i}") for i, cell in enumerate(cells)]
        last = nbformat.v4.new_code_cell(finish, id="finish")
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=[first, *code, last])
        notebook.metadata.kernelspec = kernel
        file = self.root / "notebooks" / f"{name}.ipynb"
        nbformat.write(notebook, file)
        return file


def make_project(root: Path) -> Project:
    """A project whose one chapter is the fixture notebook, with the real book's settings."""
    shutil.copytree(FIXTURES / "project", root)
    for name in ("_config.yml", "references.bib", "glossary.md", "_ext"):
        source, target = REPOSITORY / "book" / name, root / "book" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    (root / "book" / "_static").mkdir()
    for name in ("book.css", "book.js"):
        shutil.copy(REPOSITORY / "book" / "_static" / name, root / "book" / "_static")
    for name in NUMBERS:
        shutil.copy(REPOSITORY / "data" / name, root / "data")
    shutil.copy(REPOSITORY / "notebooks" / "Snakefile", root / "notebooks")
    pages = ("chapters/01_tiny", "scoreboard", "glossary", "bibliography")
    contents = "".join(f"      - file: {name}\n" for name in pages)
    (root / "book" / "_toc.yml").write_text(TOC + contents)
    return Project(root)


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path / "project")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A small project whose book is built and whose claims are recorded; do not change it."""
    project = make_project(tmp_path_factory.mktemp("recorded") / "project")
    for command in ("record", "book"):
        result = project.cli(command)
        assert result.returncode == 0, result.stdout + result.stderr
    return project
