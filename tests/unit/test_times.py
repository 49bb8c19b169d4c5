"""The table of times is read from what runs left."""

import json

import pytest

from t2i_lens.study.execute import Job
from t2i_lens.study.times import chapter_times


def test_chapters_are_listed_by_their_time_with_their_slowest_cells(tmp_path):
    jobs = []
    for name, seconds in (("01_quick", 10.0), ("02_slow", 30.0)):
        job = Job(tmp_path / f"{name}.ipynb", tmp_path / name)
        job.target.mkdir()
        (job.target / "run.json").write_text(json.dumps({"seconds": seconds}))
        took = {"draw": 0.8 * seconds, "read": 0.1 * seconds, "say": None, "plot": 1.0}
        cells = [{"id": n, "metadata": {"papermill": {"duration": t}}} for n, t in took.items()]
        job.executed.write_text(json.dumps({"cells": [*cells, {"id": "text", "metadata": {}}]}))
        jobs.append(job)
    table = chapter_times([*jobs, Job(tmp_path / "03_not_run.ipynb", tmp_path / "03")])
    assert table["chapter"].tolist() == ["02_slow", "01_quick"]
    assert table["share"].tolist() == pytest.approx([0.75, 0.25])
    assert table["cells"].tolist() == ["draw 24, read 3, plot 1", "draw 8, read 1, plot 1"]
