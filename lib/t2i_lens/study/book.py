"""The book as static HTML, built from executed notebooks, generated pages and those of `book/`."""

import base64
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from rich.console import Console

from t2i_lens.base.files import file_digest, replace_folder, write
from t2i_lens.base.paths import BUILD, DATA, ROOT
from t2i_lens.study.claims import compare_records, load_claims, load_records, without_room
from t2i_lens.study.execute import STAMP, Job, RunError, chapters
from t2i_lens.study.processes import die_with_parent, temporary_folder
from t2i_lens.study.verdicts import DEFAULT, Record

SOURCE = ROOT / "book"
SITE = BUILD / "book"
RECORDED = DATA / "results" / "claims"
# What a page with formulas needs of MathJax, out of the twenty times larger package.
MATHJAX = ("tex-mml-chtml.js", "output/chtml/fonts/woff-v2")
# The README's picture: a cell of the first chapter.
HERO = ("01_hero", "figure-pictures", SOURCE / "hero.png")
# What the toybox's page shows of the models' cards, by their place in `data/models`.
CARD = (
    "toybox/README.md", "toybox/training.md", "toybox/selection.md", "toybox/takeover.md",
    "toybox/world.png", "toybox/concepts.png", "toybox/contact_sheet.png", "toybox/failures.png",
    "toybox/training/curves.png", "toybox-mm/quality.md", "toybox-mm/sheet.png",
)  # fmt: skip


def build(jobs: list[Job], console: Console) -> bool:
    """Build the site from finished runs, unless its inputs are unchanged.

    Returns:
        Whether it was built.

    Raises:
        RunError: a warning or an error of the build; the site that was there stays.
    """
    _stage(jobs)
    now = {path.relative_to(ROOT).as_posix(): file_digest(path) for path in _files(SOURCE)}
    now |= {file.name: file_digest(file) for file in sorted((ROOT / "lib").glob("*.lock"))}
    stamp = BUILD / "book.json"
    if _stands(stamp, now):
        return False
    log = BUILD / "book.log"
    with (
        temporary_folder(BUILD / "tmp") as temporary,
        console.status("building the book"),
        log.open("w") as output,
    ):
        # By its path, since the environment need not be activated.
        jupyter_book = Path(sys.executable).with_name("jupyter-book")
        command = [jupyter_book, "build", SOURCE, "--all", "-W", "--keep-going"]
        command += ["--path-output", temporary]
        result = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=die_with_parent
        )
        site = temporary / "_build" / "html"
        if result.returncode or not (site / "index.html").exists():
            raise RunError(f"the book does not build: {_complaint(log)}")
        replace_folder(site, SITE)
    left = {path.relative_to(SITE).as_posix(): file_digest(path) for path in _files(SITE)}
    write(stamp, json.dumps({"from": now, "files": left}).encode())
    return True


def fresh(jobs: list[Job]) -> list[Record]:
    """The claims that finished runs measured."""
    claims = load_claims()
    found = (load_records(job.target / "claims.json", claims) for job in jobs)
    return [record for records in found for record in records]


def drift(jobs: list[Job]) -> list[str]:
    """Differences between the claims of finished runs and the records, a message each.

    Records of profiles and of chapters that the runs do not measure are left out; those of a
    chapter that is no longer there are not.
    """
    profiles = {job.target.parent.name for job in jobs}
    others = {job.notebook.stem for job in chapters()} - {job.notebook.stem for job in jobs}
    recorded = load_records(RECORDED)
    kept = [r for r in recorded if r.profile in profiles and r.notebook not in others]
    return compare_records(kept, fresh(jobs))


def roomless(jobs: list[Job]) -> list[str]:
    """Claims of finished runs that had no room and do not say why they stay, a message each."""
    return without_room(load_claims(), fresh(jobs))


def figure(job: Job, cell: str) -> bytes:
    """The picture that a cell of a finished run shows, as PNG.

    Raises:
        RunError: there is no such cell, or it shows none.
    """
    for found in json.loads(job.executed.read_text(encoding="utf-8"))["cells"]:
        for output in found.get("outputs", []) if found["id"] == cell else []:
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"])
    raise RunError(f"{job.notebook.stem}: cell {cell} shows no picture")


def _stage(jobs: list[Job]) -> None:
    """Write the generated files to the folders of jupyter-book; unchanged files stay untouched."""
    # These load diffusers, which talks, and what draws.
    from t2i_lens.study.answers import answer
    from t2i_lens.study.board_page import Chapter, picture, scoreboard_page
    from t2i_lens.study.chapter_pages import arranged
    from t2i_lens.study.explanations import known_parts
    from t2i_lens.study.pages import capture_page, front_parts, profiles_page, scale_page
    from t2i_lens.study.published_numbers import published_page

    chapters = SOURCE / "chapters"
    for old in set(chapters.glob("*.ipynb")) - {chapters / job.notebook.name for job in jobs}:
        old.unlink()
    claims, measured = load_claims(), fresh(jobs)
    known = {(record.id, record.profile) for record in measured}
    every = measured + [r for r in load_records(RECORDED) if (r.id, r.profile) not in known]
    answers = {}
    for job in jobs:
        name, notebook = job.notebook.stem, json.loads(job.executed.read_text(encoding="utf-8"))
        if any(claim.chapter == name for claim in claims.values()):
            own = [record for record in every if record.profile == DEFAULT]
            answers[name] = answer(name, notebook, claims, own)
        page = arranged(notebook, answers.get(name))
        _update(chapters / job.notebook.name, json.dumps(page, indent=1))
    by_part = parts()
    here = {name: Chapter(a.title, by_part.get(name, "")) for name, a in answers.items()}
    _update(SOURCE / "scoreboard.md", scoreboard_page(claims, every, here))
    for name, page in front_parts(answers, by_part, picture(claims, every, here)).items():
        _update(SOURCE / "generated" / name, page)
    for name, page in known_parts(claims, every).items():
        _update(SOURCE / "generated" / name, page)
    _update(SOURCE / "published_numbers.md", published_page(claims, every))
    _update(SOURCE / "profiles.md", profiles_page({job.notebook.stem for job in jobs}))
    _update(SOURCE / "capture.md", capture_page())
    _update(SOURCE / "scale.md", scale_page())
    for name in CARD:
        shipped, staged = DATA / "models" / name, SOURCE / "toybox" / Path(name).name
        if shipped.exists():
            staged.parent.mkdir(exist_ok=True)
            if not staged.exists() or file_digest(staged) != file_digest(shipped):
                shutil.copyfile(shipped, staged)
    static = SOURCE / "_static" / "mathjax"
    if not static.exists():
        origin = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
        with temporary_folder(BUILD / "tmp") as temporary:
            for part in MATHJAX:
                source = origin / "static" / "mathjax" / part
                target = temporary / "mathjax" / part
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
            replace_folder(temporary / "mathjax", static)


def _update(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write(file, text.encode())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != STAMP)


def _stands(stamp: Path, now: dict[str, str]) -> bool:
    """Whether the site is up to date and unchanged since it was built."""
    try:
        made = json.loads(stamp.read_text(encoding="utf-8"))
        whole = all(file_digest(SITE / name) == value for name, value in made["files"].items())
        return whole and made["from"] == now
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _complaint(log: Path) -> str:
    """The first warning or error that the build printed, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    lines = [line for line in text.splitlines() if "WARNING" in line or "ERROR" in line]
    place = log.relative_to(BUILD.parent)
    return f"{lines[0].replace(f'{SOURCE}/', '')} (all in {place})" if lines else f"see {place}"


def parts() -> dict[str, str]:
    """The part of the book that each chapter is in, in the order of the book."""
    contents = yaml.safe_load((SOURCE / "_toc.yml").read_text(encoding="utf-8"))
    return {
        entry["file"].removeprefix("chapters/"): part["caption"]
        for part in contents["parts"]
        for entry in part["chapters"]
        if entry["file"].startswith("chapters/")
    }


def toc() -> list[str]:
    """Names of the chapters in the order of the book."""
    return list(parts())
