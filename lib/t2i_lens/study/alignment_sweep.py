"""The sweep of test-time optimisation: its tables, where they lie and how they are read.

Three tables: trials of step sizes, all methods on annotated sentences, and learned tokens. The
second and the third use the step sizes that the trials choose.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from t2i_lens.base.lazy import Cache, Lazy
from t2i_lens.base.paths import BUILD, DATA
from t2i_lens.experiments import alignment, faithfulness, token_alignment
from t2i_lens.experiments.kept_table import load_table, save_table
from t2i_lens.experiments.prompt_sets import load_prompts
from t2i_lens.inversion.embeddings import Inversion, with_tokens
from t2i_lens.study.subject import Subject

TRIALS, METHODS, TOKENS = "step_sizes.parquet", "methods.parquet", "tokens.parquet"
# A picture drawn in another batch differs by rounding, which moves can enlarge in single ones.
TOLERANCES = {"doubt": 0.05}
REMEDY = "run `t2i-lens alignment`"


class Table(NamedTuple):
    """What a table is measured with: `alignment.carry_out`'s arguments of these names."""

    measure: Callable[..., pd.DataFrame]
    subjects: dict[str, Lazy]
    sentences: list[alignment.Sentence]
    seeds: tuple[int, ...]


def table_of(subject: Subject, file: str) -> Table:
    """What is drawn for one of the tables, all of it.

    Args:
        file: `TRIALS`, `METHODS` or `TOKENS`.
    """
    if file == TOKENS:
        concepts = [inversion.concept for inversion in learned(subject)]
        prompts = load_prompts(token_alignment.PROMPT_SET)[: token_alignment.PROMPTS]
        subjects = {"pipe": with_tokens(subject.pipe, learned(subject)), "judge": subject.judge}
        sentences = token_alignment.sentences(concepts, prompts)
        return Table(token_alignment.measure, subjects, sentences, token_alignment.SEEDS)
    subjects = {"pipe": subject.pipe, "judge": subject.judge, "clip": subject.clip}
    sets = {name: subject.pairs(name) for name in alignment.SENTENCES}
    compared, trials = alignment.sentences(sets)
    if file == TRIALS:
        return Table(faithfulness.measure, subjects, trials, alignment.TRIAL_SEEDS)
    return Table(faithfulness.measure, subjects, compared, alignment.SEEDS)


def learned(subject: Subject) -> list[Inversion]:
    """The tokens that are measured: objects that the model was not chosen on, the hero first."""
    held_out = [
        inversion
        for inversion in subject.tokens
        if inversion.concept.kind == "object" and not inversion.concept.development
    ]
    return held_out[: token_alignment.CONCEPTS]


def multiples(trials: pd.DataFrame) -> dict[str, float]:
    """For each loss the multiple of its step size with most right answers in the trials."""
    scores = faithfulness.score(trials).groupby(trials["method"]).mean()
    return alignment.chosen_multiples(scores)


def carry_out(store: Cache, subject: Subject, share: float = 1) -> list[Path]:
    """Make the tables; return their files.

    Args:
        store: Keeps each part as it is done.
        share: Of the sentences, for a trial; spread over all sets, both orders of each.
    """
    files = []

    def make(file: str, methods: Sequence[alignment.Method]) -> pd.DataFrame:
        of = table_of(subject, file)
        sentences = _spread(of.sentences, share)
        name = f"alignment_{file.removesuffix('.parquet')}"
        table = alignment.carry_out(
            store, name, of.measure, of.subjects, sentences, methods, of.seeds
        )
        files.append(save_table(table, _marks(of, methods), _folder(subject) / file))
        return table

    chosen = multiples(make(TRIALS, alignment.trial_methods()))
    make(METHODS, alignment.methods(chosen))
    make(TOKENS, token_alignment.methods(chosen))
    return files


def load(subject: Subject, file: str, methods: Sequence[alignment.Method]) -> pd.DataFrame:
    """One of the tables.

    Args:
        file: `TRIALS`, `METHODS` or `TOKENS`.
        methods: All that it should hold.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    marks = _marks(table_of(subject, file), methods)
    return load_table(_folder(subject) / file, marks, REMEDY)


def _spread(sentences: list[alignment.Sentence], share: float) -> list[alignment.Sentence]:
    pairs = len(sentences) // 2  # both orders stand one after the other
    numbers = np.linspace(0, pairs - 1, max(1, round(share * pairs))).round().astype(int)
    return [sentences[2 * number + order] for number in numbers for order in (0, 1)]


def _folder(subject: Subject) -> Path:
    root = DATA / "results" if subject.folder.is_relative_to(DATA) else BUILD
    return root / "alignment" / subject.model.name


def _marks(of: Table, methods: Sequence[alignment.Method]) -> dict[str, str]:
    sentences = alignment.fields_of(of.sentences)
    parts = {method.name: [asdict(method), sentences, list(of.seeds)] for method in methods}
    return alignment.marks(list(of.subjects.values()), parts)
