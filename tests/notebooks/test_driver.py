"""The driver on a small project of its own: a failure leaves nothing, what stands stays."""

import json
import shutil

import pytest

from t2i_lens.base.paths import ROOT

pytestmark = pytest.mark.notebooks


def last_line(result) -> str:
    return (result.stderr or result.stdout).strip().splitlines()[-1]


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
    assert row["value"] > 0.2 and row["interval"] and row["n"] == 40 and row["control"] == 0.25
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
