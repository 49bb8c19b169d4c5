"""The sweep of test-time optimisation: its tables, where they lie and how they are read.

Three tables: trials of step sizes, all methods on annotated sentences, and learned tokens. The
second and the third use the step sizes that the trials choose.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from t2i_lens.base.lazy import Cache
from t2i_lens.base.paths import BUILD, DATA
from t2i_lens.experiments import alignment, token_alignment
from t2i_lens.experiments.kept_table import load_table, save_table
from t2i_lens.experiments.prompt_sets import load_prompts
from t2i_lens.inversion.embeddings import Inversion, with_tokens
from t2i_lens.study.subject import Subject

AGAIN = "run `t2i-lens alignment`"


def folder_of(subject: Subject) -> Path:
    """Folder of the tables: shipped for a model that is shipped itself."""
    root = DATA / "results" if subject.folder.is_relative_to(DATA) else BUILD
    return root / "alignment" / subject.model.name


def learned(subject: Subject) -> list[Inversion]:
    """The tokens that are measured: objects that the model was not chosen on, the hero first."""
    objects = [
        each for each in subject.tokens
        if each.concept.kind == "object" and not each.concept.development
    ]  # fmt: skip
    return objects[: token_alignment.CONCEPTS]


def said_of(subject: Subject) -> tuple[list[alignment.Sentence], list[alignment.Sentence]]:
    """Sentences of the comparison, and those that step sizes are chosen on."""
    return alignment.sentences({name: subject.pairs(name) for name in alignment.SENTENCES})


def slots_of(subject: Subject) -> list[alignment.Sentence]:
    """Sentences with a slot for a learned token or its class word."""
    prompts = load_prompts(token_alignment.PROMPT_SET)[: token_alignment.PROMPTS]
    return token_alignment.sentences([each.concept for each in learned(subject)], prompts)


def carry_out(store: Cache, subject: Subject, share: float = 1) -> list[Path]:
    """Make the tables; return their files.

    Args:
        store: Keeps each part as it is done.
        share: Of the sentences, for a trial.
    """
    files = []

    def make(file: str, ways: Sequence[alignment.Method]) -> pd.DataFrame:
        function, subjects, said, seeds = _table(subject, file)
        # Both orders of a sentence stand one after the other; a share is spread over all sets.
        places = np.linspace(0, len(said) / 2 - 1, max(1, round(share * len(said) / 2)))
        some = [said[2 * round(at) + order] for at in places for order in (0, 1)]
        name = file.removesuffix(".parquet")
        table = alignment.carry_out(store, name, function, subjects, some, ways, seeds)
        files.append(save_table(table, _marked(subject, file, ways), folder_of(subject) / file))
        return table

    best = alignment.chosen_multiples(make(alignment.TRIALS, alignment.trial_methods()))
    make(alignment.FILE, alignment.methods(best))
    make(token_alignment.FILE, token_alignment.methods(best))
    return files


def load(subject: Subject, file: str, ways: Sequence[alignment.Method]) -> pd.DataFrame:
    """One of the tables.

    Args:
        file: `alignment.TRIALS`, `alignment.FILE` or `token_alignment.FILE`.
        ways: Its methods.

    Raises:
        FileNotFoundError, ValueError: as `kept_table.load_table`.
    """
    return load_table(folder_of(subject) / file, _marked(subject, file, ways), AGAIN)


def _table(subject: Subject, file: str):
    """Function, subjects, sentences and seeds of a table."""
    if file == token_alignment.FILE:
        taught = with_tokens(subject.pipe, learned(subject))
        subjects = {"pipe": taught, "judge": subject.judge}
        return token_alignment.measure, subjects, slots_of(subject), token_alignment.SEEDS
    subjects = {"pipe": subject.pipe, "judge": subject.judge, "clip": subject.clip}
    said, tried = said_of(subject)
    if file == alignment.TRIALS:
        return alignment.measure, subjects, tried, alignment.TRIED_SEEDS
    return alignment.measure, subjects, said, alignment.SEEDS


def _marked(subject: Subject, file: str, ways: Sequence[alignment.Method]) -> dict[str, str]:
    _, subjects, said, seeds = _table(subject, file)
    parts = {way.name: [asdict(way), alignment.fields_of(said), list(seeds)] for way in ways}
    return alignment.marks(list(subjects.values()), parts)
