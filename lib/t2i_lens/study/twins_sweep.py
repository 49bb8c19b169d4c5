"""The sweep over twins of the toybox: train, learn tokens, draw, and keep four small tables.

Twins stay in `build/twins`. The tables ship; they carry hashes of all settings and of the weights
that twins start from, so that they can be replayed without the twins.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from t2i_lens.base.paths import DATA
from t2i_lens.experiments import arms, mediation, twin_paths, twins
from t2i_lens.experiments.kept_table import load_table, save_table
from t2i_lens.inversion.embeddings import Concept, load_concepts
from t2i_lens.study.store import Store
from t2i_lens.study.subject import Subject

FOLDER = DATA / "results" / "twins"
OUTCOMES, TWINS, PICTURES = "outcomes.parquet", "twins.parquet", "pictures.parquet"
PATHS = "paths.parquet"
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
    tables: dict[str, list[pd.DataFrame]] = {OUTCOMES: [], TWINS: [], PICTURES: [], PATHS: []}
    for name in names:
        for file, table in _of_twin(store, subject, name, tell).items():
            tables[file].append(table.assign(twin=name))
        done.append(name)
        written = [_write(subject, file, parts, done) for file, parts in tables.items()]
        tell(f"{name} is done")
    return written


def load(subject: Subject, file: str) -> pd.DataFrame:
    """One of the tables.

    Args: file: `OUTCOMES`, `TWINS`, `PICTURES` or `PATHS`.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    return load_table(FOLDER / file, _marks(subject, file, tuple(twins.TWINS)), REMEDY)


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
    tell(f"{name}: paths")
    paths = store.cached("twin_paths", twin_paths.measure, pipe=pipe, judge=judge,
                         **_paths(chosen))  # fmt: skip
    return {OUTCOMES: pd.concat(outcomes), TWINS: own, PICTURES: pd.concat(kept), PATHS: paths}


def _paths(chosen: Sequence[Concept]) -> dict:
    return {
        "sentences": mediation.fields_of(mediation.sentences_of(chosen)),
        "exchanges": mediation.fields_of(twin_paths.exchanges()),
        "seeds": list(twin_paths.SEEDS), **twins.SAMPLING,
    }  # fmt: skip


def _write(subject: Subject, file: str, parts: list[pd.DataFrame], done: list[str]) -> Path:
    table = pd.concat(parts, ignore_index=True)
    return save_table(table, _marks(subject, file, done), FOLDER / file)


def _marks(subject: Subject, file: str, names: Sequence[str]) -> dict[str, str]:
    chosen, weights = twins.concepts(load_concepts()), _weights(subject)
    more = _paths(chosen) if file == PATHS else {}
    return {name: twins.mark(name, weights, chosen, more) for name in names}


def _weights(subject: Subject) -> list[str]:
    return [subject.pipe.fingerprint, subject.judge.fingerprint]
