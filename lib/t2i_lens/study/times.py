"""Times of the chapters, from what their last runs left: which chapter, and which cells of it."""

import json
from collections.abc import Sequence

import pandas as pd

from t2i_lens.study.execute import Job, last_seconds

SHOWN = 3  # slowest cells of a chapter


def chapter_times(jobs: Sequence[Job]) -> pd.DataFrame:
    """One row per chapter that was run, the slowest first.

    Returns:
        Columns chapter, seconds, share (of all, 0 to 1) and cells, the slowest with their seconds.
        A chapter that found its results in the store shows the time of reading them.
    """
    rows = []
    for job in jobs:
        seconds = last_seconds(job)
        if seconds is not None and job.executed.exists():
            rows.append((job.notebook.stem, seconds, _slowest(job)))
    table = pd.DataFrame(rows, columns=["chapter", "seconds", "cells"])
    table.insert(2, "share", table["seconds"] / table["seconds"].sum())
    return table.sort_values("seconds", ascending=False, ignore_index=True)


def _slowest(job: Job) -> str:
    cells = json.loads(job.executed.read_text(encoding="utf-8"))["cells"]
    took = {c["id"]: c["metadata"].get("papermill", {}).get("duration") or 0.0 for c in cells}
    slowest = sorted(took, key=took.__getitem__, reverse=True)[:SHOWN]
    return ", ".join(f"{name} {took[name]:.0f}" for name in slowest)
