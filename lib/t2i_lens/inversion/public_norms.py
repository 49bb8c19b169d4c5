"""Norms of public TI embeddings, the optimiser's law, and the place of a norm on both.

The tables of `data/public_tokens` hold figures about public files, not the files.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from t2i_lens.base.paths import DATA
from t2i_lens.stats.metrics import norm_ceiling, predicted_norm

FOLDER = DATA / "public_tokens"
DECAY = 0.01  # of AdamW in torch and in the published training scripts
# What `lr_source` says of a run that is no plain textual inversion, and of a rate that was guessed.
WAYS = {"delta_mode": "delta", "gamma": "factor", "steering loss": "other loss"}
GUESSED = r"taken as|not stated"
FEWEST = 10  # runs of one width below which no quantile is given


@dataclass(frozen=True)
class NormPlace:
    """Place of a norm among public tokens and on the law.

    Attributes:
        norm: Of the token, the mean over its vectors.
        width: d, coordinates of a row.
        quantile: Share of public runs of this width with a smaller norm, in [0, 1]; None where
            fewer than `FEWEST` are known.
        runs: Public runs of this width.
        repositories: From which they come.
        expected: The law's norm for the recipe; None where steps or rate are unknown.
        ceiling: The norm that the law approaches; None where the rate is unknown or the decay 0.
        rate: Learning rate without decay with which the law gives this norm in these steps; None
            where the steps are unknown.
    """

    norm: float
    width: int
    quantile: float | None
    runs: int
    repositories: int
    expected: float | None = None
    ceiling: float | None = None
    rate: float | None = None

    def __str__(self) -> str:
        """The place in one sentence."""
        parts = [f"norm {self.norm:.3g}"]
        if self.quantile is None:
            parts.append(f"{self.runs} public runs of width {self.width}, too few for a quantile")
        else:
            parts.append(
                f"longer than {self.quantile:.0%} of {self.runs} public runs of width "
                f"{self.width} ({self.repositories} repositories)"
            )
        if self.expected is not None:
            share = self.norm / self.expected
            parts.append(f"{share:.2f} of the law's {self.expected:.3g}")
        if self.ceiling is not None:
            parts.append(f"the law ends at {self.ceiling:.3g}")
        if self.expected is None and self.rate is not None:
            parts.append(f"the law without decay needs a rate of {self.rate:.2g} for its steps")
        return "; ".join(parts)


@cache
def tokens(folder: Path = FOLDER) -> pd.DataFrame:
    """Public tokens, a row per run (see `data/public_tokens/README.md`), with two more columns.

    Returns:
        The table's columns, and `way` ("plain", "delta", "factor", "other loss") and `known`,
        whether the learning rate is documented and not guessed.
    """
    table = pd.read_csv(folder / "tokens.csv")
    said = table["lr_source"].fillna("")
    way = pd.Series("plain", table.index)
    for mark, name in WAYS.items():
        way[said.str.contains(mark, regex=False)] = name
    # One run has a rate of which nobody knows whether it was scaled: a text, and no number.
    rate = pd.to_numeric(table["lr"], errors="coerce")
    return table.assign(lr=rate, way=way, known=rate.notna() & ~said.str.contains(GUESSED))


@cache
def series(folder: Path = FOLDER) -> pd.DataFrame:
    """Checkpoints of public runs, with `repo`, `way` and `known` of their run in `tokens`."""
    about = tokens(folder).set_index("run_id")[["repo", "way", "known"]]
    return pd.read_csv(folder / "series.csv").join(about, on="run_id")


def vocabulary_norm(width: int, file: Path = DATA / "published_embeddings.yaml") -> float:
    """Mean norm of the trained rows of a public model's table; 0 for a width of no known model."""
    models = yaml.safe_load(Path(file).read_text())["models"].values()
    return next((m["trained_mean_norm"] for m in models if m["width"] == width), 0.0)


def place(
    norm: float,
    width: int,
    *,
    steps: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float = DECAY,
    initial: float | None = None,
) -> NormPlace:
    """Place of a token's norm among public tokens of its width, and on the optimiser's law.

    Args:
        norm: Mean over the token's vectors, in units of the embedding table; above 0.
        width: d, coordinates of a row.
        steps: Optimiser steps taken, where known.
        learning_rate: That reached the optimiser, where known.
        weight_decay: Of AdamW.
        initial: Norm before training; by default the mean of the vocabulary, see
            `vocabulary_norm`.

    Raises:
        ValueError: a number that no norm, count of steps or rate can be.

    Shown in: notebooks/21_real_token_norms.ipynb
    """
    if not (np.isfinite(norm) and norm >= 0 and width > 0):
        raise ValueError(f"norm {norm} at width {width}: give a finite norm of at least 0")
    rate_fails = learning_rate is not None and not 0 < learning_rate < np.inf
    if rate_fails or (steps is not None and steps < 0):
        raise ValueError(f"steps {steps}, rate {learning_rate}: steps from 0, rate above 0")
    if not 0 <= weight_decay < np.inf:
        raise ValueError(f"decay {weight_decay}: give a decay of at least 0")
    start = vocabulary_norm(width) if initial is None else initial
    alike = tokens()[tokens()["d"] == width]
    enough = len(alike) >= FEWEST
    quantile = float((alike["norm_mean"] < norm).mean()) if enough else None
    expected = ceiling = rate = None
    if learning_rate is not None:
        ceiling = norm_ceiling(width, learning_rate, weight_decay) if weight_decay else None
        if steps is not None:
            law = predicted_norm(np.array([steps]), start, width, learning_rate, weight_decay)
            expected = float(law[0])
    if steps and norm > start:
        rate = float(np.sqrt((norm**2 - start**2) / (width * steps)))
    repositories = alike["repo"].nunique()
    return NormPlace(norm, width, quantile, len(alike), repositories, expected, ceiling, rate)
