"""The command `t2i-lens remedies`."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Annotated

import typer

from t2i_lens.base.paths import BUILD
from t2i_lens.study.processes import end_with_parent


def remedies(
    count: Annotated[int, typer.Option(help="held-out concepts", min=2)] = 12,
    processes: Annotated[int, typer.Option(help="batches of concepts side by side", min=1)] = 1,
) -> None:
    """Train and draw every way of teaching and every remedy once, and store the results.

    Prints a time estimate first, and resumes after an interruption. It runs on the toybox, whose
    judge and captions are known.
    """
    from t2i_lens.experiments import remedy_sweep as sweep
    from t2i_lens.experiments import remedy_tables
    from t2i_lens.study import manifest
    from t2i_lens.study.store import Store
    from t2i_lens.study.subject import Subject

    subject = Subject("toybox")
    sweep.estimate(subject.pipe.get(), count, _say)
    if processes > 1:
        with ProcessPoolExecutor(
            processes, get_context("spawn"), end_with_parent, (os.getpid(),)
        ) as pool:
            batches = range(len(sweep.shares(count)))
            for done in [pool.submit(_share, number, count, processes) for number in batches]:
                done.result()
    seen, tokens = (subject.pipe, subject.judge, subject.eye), subject.variants
    tables, files = sweep.carry_out(Store(BUILD / "results"), *seen, tokens, count, _say)
    marked = remedy_tables.mark(*seen, tokens)
    print(remedy_tables.save(tables, files, marked, remedy_tables.folder_of(subject.folder)))
    manifest.update()


def _share(number: int, count: int, processes: int) -> None:
    """Measure one batch of concepts into the store."""
    import torch

    from t2i_lens.experiments import remedy_sweep as sweep
    from t2i_lens.study.store import Store
    from t2i_lens.study.subject import Subject

    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    subject = Subject("toybox")
    seen = (subject.pipe, subject.judge, subject.eye, subject.variants)
    sweep.measure_share(Store(BUILD / "results"), *seen, number, count, _say)


def _say(text: str) -> None:
    print(text, flush=True)
