"""The driver's parts that need no kernel: which notebook is meant, plans, times, settings."""

import io
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from t2i_lens.base.paths import BUILD
from t2i_lens.study import execute
from t2i_lens.study.execute import NOTEBOOKS, Job, RunError, find

HERO = NOTEBOOKS / "01_hero.ipynb"


@pytest.mark.parametrize("name", ["01_hero", "01_hero.ipynb", str(HERO)])
def test_a_notebook_is_found_by_its_name_or_its_path(name):
    assert find(name) == HERO


def test_a_path_is_read_from_where_the_user_is(monkeypatch):
    monkeypatch.chdir(NOTEBOOKS.parent)
    assert find("notebooks/01_hero.ipynb") == HERO
    monkeypatch.chdir(NOTEBOOKS)
    assert find("./01_hero.ipynb") == HERO


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere/01_hero.ipynb", "no file 'nowhere/01_hero.ipynb'"),
        ("nowhere/01_hero", "no file"),
        ("01_hero.py", "no notebook '01_hero.py'; there are: 01_hero, "),
        ("02_hero", "no notebook '02_hero'"),
        ("", "no notebook ''"),
    ],
)
def test_what_is_no_notebook_is_refused_in_one_line(name, reason):
    with pytest.raises(RunError, match=re.escape(reason)) as error:
        find(name)
    assert "\n" not in str(error.value)


def test_a_notebook_of_another_folder_is_refused_even_if_its_name_is_known(tmp_path):
    copy = tmp_path / HERO.name
    copy.write_bytes(HERO.read_bytes())
    with pytest.raises(RunError, match="not one of the book's notebooks"):
        find(str(copy))


def test_a_file_that_lies_here_never_passes_for_the_books_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(HERO.name) == find(HERO.stem) == HERO
    (tmp_path / HERO.name).write_bytes(HERO.read_bytes())
    with pytest.raises(RunError, match="not one of the book's notebooks"):
        find(HERO.name)
    assert find(HERO.stem) == HERO


def job(folder, name, seconds=None):
    made = Job(NOTEBOOKS / f"{name}.ipynb", folder / name)
    if seconds is not None:
        made.target.mkdir()
        (made.target / "run.json").write_text(json.dumps({"seconds": seconds}))
    return made


def test_the_plan_counts_and_estimates_from_the_last_times(tmp_path):
    jobs = [job(tmp_path, "a", 60.0), job(tmp_path, "b", 180.0), job(tmp_path, "c")]
    plan = execute._plan(jobs, jobs[1:], workers=1)
    assert plan == (
        "3 notebooks: 1 up to date, 2 to execute, 1 at a time; about 6.0 min, "
        "by the last times of 1 of them"
    )
    # Side by side it takes as long as the longest.
    assert "about 3.0 min" in execute._plan(jobs[:2], jobs[:2], workers=2)


def test_the_plan_says_when_nothing_is_to_do_and_when_no_time_is_known(tmp_path):
    jobs = [job(tmp_path, "a")]
    assert execute._plan(jobs, [], workers=0) == "1 notebook: 1 up to date"
    assert "1 to execute, 1 at a time; their time is not known" in execute._plan(jobs, jobs, 1)


def test_the_time_shown_is_the_notebooks_own_also_without_a_terminal(tmp_path):
    jobs = {HERO: Job(HERO, tmp_path / "x"), find("02_norms"): Job(find("02_norms"), tmp_path)}
    first, second = jobs.values()
    folders = {first: tmp_path / "0", second: tmp_path / "1"}

    def work(some, wait):
        time.sleep(wait)
        folders[some].mkdir()
        time.sleep(0.5)

    output = io.StringIO()
    with ThreadPoolExecutor(2) as pool:
        futures = {first: pool.submit(work, first, 0), second: pool.submit(work, second, 4)}
        execute._watch(futures, folders, Console(file=output, width=200), lambda job: None)
    lines = output.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["01_hero", "02_norms"]
    seconds = [int(re.search(r"done, (\d+) s", line)[1]) for line in lines]
    assert max(seconds) < 3, lines
    assert lines[1].endswith("(2 of 2)")


def test_the_settings_of_the_user_do_not_reach_a_kernel(tmp_path, monkeypatch):
    own = str(tmp_path / "own")
    names = ("MPLBACKEND", "MPLCONFIGDIR", "MATPLOTLIBRC", "IPYTHONDIR", "JUPYTER_CONFIG_DIR",
             "JUPYTER_PATH", "JUPYTER_RUNTIME_DIR", "PYTHONSTARTUP")  # fmt: skip
    for name in (*names, "HF_HOME"):
        monkeypatch.setenv(name, own)
    told = execute._environment(tmp_path / "run", tmp_path / "home", threads=1)
    assert {name for name, value in told.items() if value == own} == {"HF_HOME"}
    assert told["MPLBACKEND"].endswith("backend_inline")
    assert told["MPLCONFIGDIR"] == str(BUILD / "matplotlib")
