"""A sweep's grid is checked and spread out before anything runs, and gathered afterwards."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from t2i_lens.study import execute, pages, sweep, sweep_table
from t2i_lens.study.parameters import ParameterError
from t2i_lens.study.sweep import Grid, Plan, SweepError, expand, read_grid

NORMS = "02_norms"


def test_a_grid_is_the_product_of_its_axes_and_overrides():
    grid = Grid(
        notebooks=[NORMS, "03_cosine_pca"],
        profiles=["toybox"],
        seeds=[0, 1, 2],
        overrides=[{}, {"bins": 30}],
    )
    jobs = expand(grid)
    assert len(jobs) == 2 * 1 * 3 * 2
    assert len({job.target for job in jobs.values()}) == len(jobs)
    points = [dict(job.parameters) for job in jobs.values() if job.notebook.stem == NORMS]
    assert {"profile": "toybox", "seed": 2, "bins": 30} in points
    assert {"profile": "toybox", "seed": 0} in points


def test_a_cell_is_the_run_that_one_would_start_by_hand():
    (job,) = expand(Grid(notebooks=[NORMS], seeds=[3])).values()
    assert job.target == execute.trial(job.notebook, {"seed": 3}).target


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        ({"concepts": ["duck"]}, ParameterError, "02_norms has no parameter 'concept'"),
        ({"overrides": [{"bin": 3}]}, ParameterError, "no parameter 'bin'"),
        ({"overrides": [{"bins": 2.5}]}, ParameterError, "'bins' of 02_norms is int"),
        ({"seeds": [0], "overrides": [{"seed": 1}]}, ParameterError, "'seed' is given twice"),
        ({"seeds": [0, 0]}, SweepError, "02_norms is in the grid twice with seed=0"),
        ({"profiles": ["toybax"]}, ValueError, "unknown profile 'toybax'"),
        ({"notebooks": ["09_none"]}, execute.RunError, "no notebook '09_none'"),
    ],
)
def test_what_a_notebook_cannot_do_is_refused_in_one_line(fields, error, told):
    with pytest.raises(error, match=told) as caught:
        expand(Grid(**({"notebooks": [NORMS]} | fields)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("notebooks: [02_norms]\nseed: [1]", "grid.yaml: seed: Extra inputs"),
        ("seeds: [1]", "grid.yaml: notebooks: Field required"),
        ("notebooks: []", "grid.yaml: notebooks: List should have at least 1"),
        ("notebooks: [02_norms]\nseeds: [one]", "grid.yaml: seeds.0: Input should be a valid int"),
        ("notebooks: [02_norms]\nseeds: [true]", "grid.yaml: seeds.0: Input should be a valid int"),
        ("notebooks: [02_norms", "grid.yaml is not valid YAML at line 1"),
        ("", "grid.yaml: the file: Input should be"),
    ],
)
def test_a_file_that_cannot_be_read_names_its_field(tmp_path, text, told):
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(SweepError) as caught:
        read_grid(file)
    assert str(caught.value).startswith(told)


def test_the_shipped_sweeps_can_be_spread_out():
    files = sorted((execute.NOTEBOOKS / "sweeps").glob("*.yaml"))
    assert files
    for file in files:
        assert expand(read_grid(file))


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """A plan of four runs: done, done at the second attempt, failed, and never begun."""
    monkeypatch.setattr(sweep, "BUILD", tmp_path)
    monkeypatch.setattr(sweep_table, "BUILD", tmp_path)
    grid = Grid(notebooks=[NORMS], seeds=[0, 1, 2, 3])
    jobs = {
        name: replace(job, target=tmp_path / "trials" / name) for name, job in expand(grid).items()
    }
    plan = Plan("four", grid, jobs, {})
    journals = plan.folder / "attempts"
    journals.mkdir(parents=True)
    events = [["began", "done"], ["began", "began", "done"], ["began", "failed", "began"], []]
    for number, (cell, some) in enumerate(zip(jobs, events, strict=True)):
        lines = [json.dumps({"event": event, "error": None}) for event in some]
        (journals / f"{cell}.jsonl").write_text("\n".join(lines) + '\n{"cut')
        if "done" in some:
            target = jobs[cell].target
            target.mkdir(parents=True)
            (target / "stamp.json").write_text("{}")
            (target / "run.json").write_text(json.dumps({"seconds": 2.0 + number}))
            record = {"id": "B01", "profile": "toybox", "notebook": NORMS}
            record |= {"verdict": "reproduced", "value": 1.0 + number, "interval": [0, 9]}
            record |= {"n": 5, "control": {"value": 0.5, "interval": [0, 1]}}
            apart = {"value": 0.5 + number, "interval": [-1, 9], "pairing": "paired"}
            record |= {"difference": apart}
            (target / "claims.json").write_text(json.dumps([record]))
    return plan


def test_claims_failures_and_attempts_are_gathered_into_one_table(swept):
    table = sweep_table.gather(swept)
    assert table["status"].tolist() == ["done", "done", "failed", "not run"]
    assert table["attempts"].tolist() == [1, 2, 2, 0]
    assert table["failures"].tolist() == [0, 1, 2, 0]
    assert table["value"].tolist()[:2] == [1.0, 2.0] and table["value"].isna().tolist()[2:]
    assert table["control"].tolist()[:2] == [0.5, 0.5]
    assert table["difference"].tolist()[:2] == [0.5, 1.5]
    assert table["difference_high"].tolist()[:2] == [9.0, 9.0]
    assert table["param_seed"].tolist() == [0, 1, 2, 3]
    assert table["error"].tolist()[2] == sweep_table.LOST


def test_the_table_is_parquet_and_the_page_says_what_failed(swept):
    table, page = sweep_table.save(sweep_table.gather(swept), swept)
    assert len(pd.read_parquet(table)) == 4
    text = page.read_text()
    assert "4 runs: 2 done, 1 failed, 1 not run." in text
    cells = list(swept.jobs)
    assert f"| {cells[2]} | seed=2 | 2 | {sweep_table.LOST} |" in text
    assert f"| {cells[3]} | seed=3 | 0 | not run |" in text
    assert f"| {cells[1]} | seed=1 | 2 |" in text
    assert "| B01 | 2 | 2 reproduced | 1 | 1.5 | 2 |" in text


def test_the_cost_counts_what_is_done_and_what_it_took(swept):
    cells = list(swept.jobs)
    waiting = replace(swept, waiting=dict.fromkeys(cells[2:], "not run yet"))
    told = waiting.cost()
    assert told.startswith("four: 4 runs, 2 done, 2 to do; 2 s each so far")


def test_the_page_on_large_sweeps_shows_what_was_measured(tmp_path):
    file = tmp_path / "scale.json"
    assert "it has not been run" in pages.scale_page(file)
    found = {
        "runs": 4000, "cores": 2, "processor": "some", "plan_seconds": 8.0,
        "engine_seconds": 240.0, "engine_mb": 123.4, "gather_seconds": 12.0, "table_rows": 4000,
        "table_kb": 56.7, "replan_seconds": 4.0, "lost_waiting": 2000, "lost_seconds": 100.0,
        "repeated": 0,
    }  # fmt: skip
    file.write_text(json.dumps(found))
    page = pages.scale_page(file)
    assert "A sweep of 4,000 runs was simulated on 2 cores (some)." in page
    assert "| engine, all runs | 240.0 | 60.0 |" in page
    # Of the runs that were lost, not of all.
    assert "| engine after half was lost | 100.0 | 50.0 |" in page
    assert "2,000 runs were made anew, and none of the 2,000 that were left." in page
    assert "take 67 hours of one core, and the engine adds 0.1 %" in page
    assert "was begun and ended" not in page
    larger = {"runs": 90000, "timed": 2000, "seconds": 500.0}
    file.write_text(json.dumps(found | {"larger": larger}))
    page = pages.scale_page(file)
    assert "A plan of 90,000 runs was begun and ended after 2,000 of them" in page
    assert "the engine takes 250 milliseconds a run" in page
    file.write_text(json.dumps(found | {"repeated": 3}))
    assert "anew, and 3 of the 2,000 that were left." in pages.scale_page(file)
