"""The sweep of mediation: what it draws, where its table lies and how it is read."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from t2i_lens.base.files import digest
from t2i_lens.base.lazy import Cache, Lazy, canonical
from t2i_lens.base.paths import BUILD, DATA
from t2i_lens.experiments import mediation
from t2i_lens.experiments.kept_table import load_table, save_table
from t2i_lens.experiments.mediation import Exchange, Sentence
from t2i_lens.inversion.embeddings import Inversion, with_tokens
from t2i_lens.study.subject import Subject

TABLE, REMEDY = "mediation.parquet", "run `t2i-lens mediation`"
CONCEPTS = 12  # held-out objects, the hero first
SEEDS = (0, 1)
SAMPLING = {"num_inference_steps": 12, "guidance_scale": 7.5}
# A picture drawn in another batch differs by rounding, which guidance can enlarge in single ones.
TOLERANCES = {"doubt": 0.05}


def learned(subject: Subject) -> list[Inversion]:
    """The tokens that are measured: objects that the model was not chosen on, the hero first."""
    held_out = [
        inversion
        for inversion in subject.tokens
        if inversion.concept.kind == "object" and not inversion.concept.development
    ]
    return held_out[:CONCEPTS]


def subjects_of(subject: Subject) -> dict[str, Lazy]:
    """The pipeline with the tokens, and the judge."""
    return {"pipe": with_tokens(subject.pipe, learned(subject)), "judge": subject.judge}


def sentences(subject: Subject) -> list[Sentence]:
    """Everything that is drawn, without its exchanges."""
    return mediation.sentences_of([inversion.concept for inversion in learned(subject)])


def carry_out(
    store: Cache,
    subject: Subject,
    exchanges: Sequence[Exchange],
    tell: Callable[[str], None] = print,
) -> Path:
    """Print a time estimate, draw every exchange, and write the table; return its file.

    Args:
        store: Keeps each exchange as it is done, so an interrupted call can be resumed.
    """
    drawn, subjects = sentences(subject), subjects_of(subject)
    loaded = {name: part.get() for name, part in subjects.items()}
    drawing = {"seeds": list(SEEDS), **SAMPLING}
    began, few = time.perf_counter(), drawn[:4]
    mediation.measure(
        **loaded, sentences=mediation.fields_of(few), exchange=asdict(exchanges[-1]), **drawing
    )
    count = len(exchanges) * len(drawn)
    minutes = (time.perf_counter() - began) / len(few) * count / 60
    tell(f"{count * len(SEEDS)} pictures, at most {minutes:.0f} min")
    measured, began = [], time.perf_counter()
    for done, exchange in enumerate(exchanges, start=1):
        part = {"sentences": mediation.fields_of(drawn), "exchange": asdict(exchange)}
        measured.append(store.cached("mediation", mediation.measure, **subjects, **part, **drawing))
        left = (time.perf_counter() - began) / done * (len(exchanges) - done) / 60
        tell(f"{done} of {len(exchanges)} exchanges, about {left:.0f} min left")
    table = pd.concat(measured, ignore_index=True)
    return save_table(table, marks(subject, exchanges), _folder(subject) / TABLE)


def load(subject: Subject) -> pd.DataFrame:
    """The table of all exchanges that were drawn.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    return load_table(_folder(subject) / TABLE, marks(subject, mediation.exchanges()), REMEDY)


def marks(subject: Subject, exchanges: Sequence[Exchange]) -> dict[str, str]:
    """Hash of the weights and settings behind the rows of each exchange."""
    shared = {
        "weights": [part.fingerprint for part in subjects_of(subject).values()],
        "sentences": mediation.fields_of(sentences(subject)), "seeds": list(SEEDS),
        "sampling": SAMPLING,
    }  # fmt: skip

    def mark(exchange: Exchange) -> str:
        settings = canonical(shared | {"exchange": asdict(exchange)})
        return digest(json.dumps(settings).encode())

    return {exchange.name: mark(exchange) for exchange in exchanges}


def _folder(subject: Subject) -> Path:
    root = DATA / "results" if subject.folder.is_relative_to(DATA) else BUILD
    return root / "mediation" / subject.model.name
