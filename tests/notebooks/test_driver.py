"""The driver on a small project of its own: a failure leaves nothing, what stands stays."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from t2i_lens.base.paths import ROOT

pytestmark = pytest.mark.notebooks


SLOW = "import pathlib, time\npathlib.Path('../began').touch()\ntime.sleep(600)"


def last_line(result) -> str:
    return (result.stderr or result.stdout).strip().splitlines()[-1]


def change(notebook, cell: str, source: str) -> None:
    """Give a cell of a notebook another source."""
    content = json.loads(notebook.read_text())
    (found,) = (c for c in content["cells"] if c["id"] == cell)
    found["source"] = source
    notebook.write_text(json.dumps(content))


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def runs(process) -> bool:
    """Whether a process is there; one that ended and waits to be collected is not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_failing_notebook_leaves_no_run_that_counts_as_done(project):
    project.notebook("02_broken", "1 / 0")
    result = project.cli("run", "02_broken")
    assert result.returncode == 1
    assert last_line(result).startswith("error: 02_broken, cell cell-0: ZeroDivisionError")
    assert not list(project.build.rglob("stamp.json"))
    assert list((project.build / "failed").glob("02_broken-*.ipynb"))
    again = project.cli("run", "02_broken")
    assert again.returncode == 1


def test_a_finished_notebook_is_in_its_place_while_others_still_run(project):
    waits = (
        "import os, pathlib, time\n"
        "runs = pathlib.Path(os.environ['T2I_LENS_ROOT']) / 'build' / 'runs'\n"
        "end = time.monotonic() + 120\n"
        "while not list(runs.glob('*/01_tiny/stamp.json')):\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.2)"
    )
    project.notebook("02_waits", waits)
    result = project.cli("record")
    assert result.returncode == 0, result.stdout + result.stderr


def test_one_chapter_can_be_recorded_without_the_others(project):
    project.notebook("02_other", "1 + 1")
    records = project.root / "data" / "results" / "claims" / "toybox"
    assert project.cli("record").returncode == 0
    before = {file.name: file.stat().st_mtime_ns for file in records.glob("*.json")}
    assert set(before) == {"01_tiny.json", "02_other.json"}
    result = project.cli("record", "01_tiny")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no longer measured" not in result.stdout
    after = {file.name: file.stat().st_mtime_ns for file in records.glob("*.json")}
    assert after["02_other.json"] == before["02_other.json"]
    assert after["01_tiny.json"] > before["01_tiny.json"]
    assert last_line(project.cli("record", "03_none")).startswith("error: no notebook '03_none'")


def test_an_unknown_parameter_stops_before_anything_runs(project):
    result = project.cli("run", "01_tiny", "-p", "rwos=3")
    assert result.returncode == 1
    assert last_line(result).startswith("error: 01_tiny has no parameter 'rwos'")
    assert not project.build.exists() or not list(project.build.rglob("*.ipynb"))


def test_a_notebook_that_stands_is_not_executed_again(project):
    first = project.cli("run", "01_tiny")
    assert first.returncode == 0, first.stderr
    (stamp,) = project.build.rglob("stamp.json")
    before = stamp.stat().st_mtime_ns
    again = project.cli("run", "01_tiny")
    assert again.returncode == 0 and "is up to date" in again.stdout
    assert stamp.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("kill", "how"),
    [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM), (os.kill, signal.SIGKILL)],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL"],
)
def test_no_worker_and_no_kernel_outlives_a_driver_that_is_killed(project, kill, how):
    project.notebook("02_slow", SLOW)
    driver = project.start("-m", "t2i_lens.study.cli", "run", "02_slow")
    until((project.root / "began").exists, 120)
    children = psutil.Process(driver.pid).children(recursive=True)
    (kernel,) = (c.cmdline() for c in children if "ipykernel_launcher" in c.cmdline())
    temporary = project.build / "tmp"
    assert Path(kernel[kernel.index("-f") + 1]).is_relative_to(temporary)
    kill(driver.pid, how)
    driver.communicate(timeout=30)
    assert driver.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    until(lambda: not any(map(runs, children)), 10)
    assert bool(list(temporary.iterdir())) == (how == signal.SIGKILL)
    project.notebook("03_quick", "1 + 1")
    result = project.cli("run", "03_quick")
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(temporary.iterdir()) == []
    assert not list(project.build.glob("trials/02_slow-*"))


def test_tokens_that_a_run_fetched_do_not_make_it_out_of_date(project):
    fetch = (
        "import pathlib\n"
        "token = pathlib.Path('../build/embeddings/sd15/toy/provenance.json')\n"
        "token.parent.mkdir(parents=True, exist_ok=True)\n"
        "token.write_text('fetched')"
    )
    project.notebook("03_fetch", fetch, parameters="profile: str = 'toybox'")
    command = ("run", "03_fetch", "-p", "profile=sd15")
    assert "not run yet" in project.cli(*command).stdout
    assert "is up to date" in project.cli(*command).stdout
    # One that the user brings afterwards was not measured.
    another = project.build / "embeddings" / "sd15" / "dog" / "provenance.json"
    another.parent.mkdir()
    another.write_text("brought")
    assert "its notebook, library or data changed" in project.cli(*command).stdout


def test_the_settings_of_the_user_do_not_reach_a_run(project, tmp_path):
    settings = tmp_path / "settings"
    startup = settings / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-intruder.py").write_text("intruder = 1")
    (settings / "matplotlibrc").write_text("figure.facecolor: red")
    change(
        project.root / "notebooks" / "01_tiny.ipynb",
        "measure",
        "table = np.random.default_rng(seed).normal(size=(rows, 4)) * [scale, 1, 1, 1]\n"
        "spectrum = run.cached('spectrum', embedding_geometry.spectrum, rows=table, seed=seed)\n"
        "share = spectrum['centred'][0].item()\n"
        "assert 'intruder' not in globals() and 'os' not in globals()\n"
        "assert plt.rcParams['figure.facecolor'] == 'white'",
    )
    result = project.cli(
        "run", "01_tiny", MPLBACKEND="agg", IPYTHONDIR=str(settings), MPLCONFIGDIR=str(settings),
        MATPLOTLIBRC=str(settings), JUPYTER_CONFIG_DIR=str(settings),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (executed,) = project.build.glob("trials/01_tiny-*/notebook.ipynb")
    cells = {c["id"]: c for c in json.loads(executed.read_text())["cells"]}
    assert any("image/png" in output["data"] for output in cells["figure"]["outputs"])


def test_a_figure_cell_without_a_picture_fails_the_chapter(project):
    change(project.root / "notebooks" / "01_tiny.ipynb", "figure", "1 + 1")
    result = project.cli("run", "01_tiny")
    assert result.returncode == 1
    assert last_line(result).startswith("error: 01_tiny, cell figure: the figure shows no picture")
    assert not list(project.build.rglob("stamp.json"))


def test_a_file_that_does_not_exist_is_not_taken_for_a_notebook_of_its_name(project):
    result = project.cli("run", "elsewhere/01_tiny.ipynb")
    assert result.returncode == 1
    assert result.stderr == "error: no file 'elsewhere/01_tiny.ipynb'\n"


def test_a_second_book_executes_nothing_and_says_so(recorded):
    stamps = {f: f.stat().st_mtime_ns for f in recorded.build.rglob("stamp.json")}
    assert stamps
    result = recorded.cli("book")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "1 notebook: 1 up to date"
    assert result.stdout.splitlines()[-1] == "0 of 1 executed, 1 up to date"
    assert {f: f.stat().st_mtime_ns for f in recorded.build.rglob("stamp.json")} == stamps


def test_the_driver_says_before_it_starts_what_it_will_do_and_for_how_long(recorded, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(recorded.root, root)
    project = type(recorded)(root)
    (run,) = project.build.glob("runs/*/01_tiny/run.json")
    run.write_text(json.dumps(json.loads(run.read_text()) | {"seconds": 120.0}))
    result = project.cli("book")
    plan, reason, done, *_ = result.stdout.splitlines()
    assert plan == (
        "1 notebook: 0 up to date, 1 to execute, 1 at a time; about 2.0 min, "
        "by the last times of 1 of them"
    )
    assert "run.json is damaged" in reason
    assert re.fullmatch(r"01_tiny: done, \d+ s \(1 of 1\)", done)
    assert result.stdout.splitlines()[-1] == "1 of 1 executed, 0 up to date"


def test_a_damaged_result_is_computed_anew(project):
    assert project.cli("run", "01_tiny").returncode == 0
    (payload,) = (project.build / "results").glob("*.npz")
    whole = payload.read_bytes()
    payload.write_bytes(whole[:-20])
    result = project.cli("run", "01_tiny")
    assert result.returncode == 0
    assert f"{payload.name} is damaged" in result.stdout
    assert payload.read_bytes() == whole


def test_only_what_depends_on_a_changed_function_is_executed_again(project, tmp_path):
    """`metrics` is behind `embedding_geometry`, which one notebook uses and the other does not."""
    library = tmp_path / "lib"
    shutil.copytree(ROOT / "lib" / "t2i_lens", library / "t2i_lens")
    project.library = library
    project.notebook("02_apart", "1 + 1")
    for name in ("01_tiny", "02_apart"):
        assert project.cli("run", name).returncode == 0
    metrics = library / "t2i_lens" / "stats" / "metrics.py"
    metrics.write_text(metrics.read_text() + "\nCHANGED = True\n")
    assert "changed" in project.cli("run", "01_tiny").stdout
    assert "is up to date" in project.cli("run", "02_apart").stdout


def test_what_a_user_brings_for_a_profile_outdates_its_runs_and_no_others(project):
    sd = ("-p", "profile=sd15")
    project.notebook("02_any", "1 + 1", parameters='profile: str = "toybox"  # model')
    for some in ((), sd):
        assert project.cli("run", "02_any", *some).returncode == 0
    token = project.build / "embeddings" / "sd15" / "mine" / "learned_embeds.safetensors"
    token.parent.mkdir(parents=True)
    token.write_bytes(b"rows")
    assert "is up to date" in project.cli("run", "02_any").stdout
    assert "changed" in project.cli("run", "02_any", *sd).stdout
    assert "is up to date" in project.cli("run", "02_any", *sd).stdout


def test_a_changed_verdict_fails_the_build(recorded):
    kept = recorded.root / "data" / "results" / "claims" / "toybox" / "01_tiny.json"
    whole = kept.read_text()
    assert recorded.cli("book").returncode == 0
    records = json.loads(whole)
    records[0]["verdict"] = "opposite"
    kept.write_text(json.dumps(records))
    result = recorded.cli("book")
    kept.write_text(whole)
    assert result.returncode == 1
    assert "verdict was 'opposite'" in result.stderr


def test_the_claims_are_printed_as_json(recorded):
    result = recorded.cli("claims", "--json")
    (row,) = json.loads(result.stdout)
    assert row["id"] == "B01" and row["profile"] == "toybox" and row["verdict"] == "reproduced"
    assert row["value"] > 0.2 and row["interval"] and row["n"] == 40
    assert row["control"]["value"] == 0.25
    assert row["difference"]["pairing"] == "independent"
    assert row["result"].startswith("spectrum-")


def test_the_book_holds_the_glued_number_and_the_scoreboard(recorded):
    site = recorded.build / "book"
    page = (site / "chapters" / "01_tiny.html").read_text()
    share = json.loads(recorded.cli("claims", "--json").stdout)[0]["value"]
    assert f"{share:.3f}" in page
    assert "B01" in (site / "scoreboard.html").read_text()


LOAD = "from t2i_lens.models import profiles\npipe = profiles.load(profiles.get('toybox'))"
ATTACH = (
    "from dataclasses import replace\nimport torch\nfrom t2i_lens.inversion import embeddings\n"
    "token = embeddings.load(next(path for path in SHIPPED.iterdir() if path.is_dir()))\n"
    "embeddings.attach(pipe, replace(token, embedding=torch.zeros(1, 3)))"
)


def with_models(project):
    """The project with a copy of the shipped toybox."""
    target = project.root / "data" / "models" / "toybox"
    shutil.rmtree(target)
    shutil.copytree(ROOT / "data" / "models" / "toybox", target)
    return target


def test_a_truncated_weight_file_is_named_in_one_line(project):
    weights = with_models(project) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    project.notebook("02_load", LOAD)
    result = project.cli("run", "02_load")
    assert result.returncode == 1
    assert "diffusion_pytorch_model.safetensors is damaged" in last_line(result)
    assert not list(project.build.rglob("stamp.json"))


def test_an_embedding_of_the_wrong_width_is_named_in_one_line(project):
    with_models(project)
    shipped = ROOT / "data" / "embeddings" / "toybox"
    project.notebook(
        "02_attach", LOAD, f"from pathlib import Path\nSHIPPED = Path({str(shipped)!r})", ATTACH
    )
    result = project.cli("run", "02_attach")
    assert result.returncode == 1
    assert "has rows of width 3, the model needs 128" in last_line(result)
    assert not list(project.build.rglob("stamp.json"))
