"""The sweep over twins of the toybox: train, learn tokens, draw, and keep three small tables.

Twins stay in `build/twins`. The tables ship; they carry hashes of all settings and of the weights
that twins start from, so that they can be replayed without the twins.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from t2i_lens.base.paths import DATA
from t2i_lens.experiments import arms, twins
from t2i_lens.experiments.kept_table import load_table, save_table
from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.study.store import Store
from t2i_lens.study.subject import Subject

FOLDER = DATA / "results" / "twins"
OUTCOMES, TWINS, PICTURES = "outcomes.parquet", "twins.parquet", "pictures.parquet"
REMEDY = "run `t2i-lens twins`"


def carry_out(
    store: Store, names: Sequence[str] = tuple(twins.TWINS), tell: Callable[[str], None] = print
) -> list[Path]:
    """Print an estimate of the time, then do what is missing, twin after twin.

    The tables are written anew after each twin, with all twins that are done.

    Args:
        names: Of the twins.

    Returns: The files of the tables.
    """
    subject, chosen = Subject("toybox"), twins.concepts(load_concepts())
    tell(f"{len(names)} twins, about {twins.minutes(len(names), chosen):.0f} min if none is done")
    done: list[str] = []
    tables: dict[str, list[pd.DataFrame]] = {OUTCOMES: [], TWINS: [], PICTURES: []}
    for name in names:
        for file, table in _of_twin(store, subject, name, tell).items():
            tables[file].append(table.assign(twin=name))
        done.append(name)
        written = [_write(subject, file, parts, done) for file, parts in tables.items()]
        tell(f"{name} is done")
    return written


def load(subject: Subject, file: str) -> pd.DataFrame:
    """One of the tables.

    Args: file: `OUTCOMES`, `TWINS` or `PICTURES`.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    return load_table(FOLDER / file, _marks(subject, tuple(twins.TWINS)), REMEDY)


def _of_twin(
    store: Store, subject: Subject, name: str, tell: Callable[[str], None]
) -> dict[str, pd.DataFrame]:
    chosen, judge = twins.concepts(load_concepts()), subject.judge
    pipe, learned = twins.prepare(name, chosen)
    tell(f"{name}: pictures")
    outcomes, kept = [], []
    for number, design in enumerate(twins.designs(chosen)):
        pictures = store.cached("twin_pictures", arms.draw, pipe=pipe, design=design,
                                **twins.SAMPLING)  # fmt: skip
        outcomes.append(twins.answers(judge.get(), pictures, design))
        if number < twins.SHOWN_CONCEPTS:
            kept.append(twins.shown(pictures))
    own = store.cached("twin_character", twins.character, pipe=pipe, judge=judge)
    lengths = [inversion.embedding.norm(dim=-1).mean() for inversion in learned]
    losses = [inversion.trajectory["loss"].iloc[-1] for inversion in learned]
    own = own.assign(norm=float(np.mean(lengths)), loss=float(np.mean(losses)))
    return {OUTCOMES: pd.concat(outcomes), TWINS: own, PICTURES: pd.concat(kept)}


def _write(subject: Subject, file: str, parts: list[pd.DataFrame], done: list[str]) -> Path:
    table = pd.concat(parts, ignore_index=True)
    return save_table(table, _marks(subject, done), FOLDER / file)


def _marks(subject: Subject, names: Sequence[str]) -> dict[str, str]:
    chosen, weights = twins.concepts(load_concepts()), _weights(subject)
    return {name: twins.mark(name, weights, chosen) for name in names}


def _weights(subject: Subject) -> list[str]:
    return [subject.pipe.fingerprint, subject.judge.fingerprint]
