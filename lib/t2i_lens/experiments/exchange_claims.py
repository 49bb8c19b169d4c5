"""What the tables of exchanged words say: advantages at equal change, and losses with size.

Shown in: notebooks/26_word_editing.ipynb
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2i_lens.experiments.word_exchange import EVERY, LOCALISED, NONE
from t2i_lens.judging.protocols import FOUND
from t2i_lens.stats.bootstrap import Estimate, crossed_bootstrap, over_cells, paired_difference
from t2i_lens.stats.sign_metrics import harmonic_mean

WRITES = 0.5  # of the score at the trained size, or with one word, at which a model writes at all
RANDOM = "random layers"
P2P = "P2P"

Cells = Float[np.ndarray, "pair seed"]


def cells(table: pd.DataFrame, column: str) -> dict[str, Cells]:
    """Way -> values of a column, [pair, seed], in the order of the table.

    Raises:
        ValueError: a pair was not drawn with every seed.
    """
    found = {}
    for way, rows in table.groupby("way", sort=False):
        wide = rows.pivot(index="pair", columns="seed", values=column)
        if len(rows) != wide.size:
            raise ValueError(f"{way}: {len(rows)} pictures of {wide.size} pairs and seeds")
        found[str(way)] = wide.to_numpy(float)
    return found


def read_as(table: pd.DataFrame, word: str) -> dict[str, Cells]:
    """Way -> whether the judge reads the "old" or the "new" word, [pair, seed]."""
    return {way: (chance > FOUND).astype(float) for way, chance in cells(table, word).items()}


def named(ways: Mapping[str, Cells], start: str) -> dict[str, Cells]:
    """The ways whose name begins so."""
    return {way: values for way, values in ways.items() if way.startswith(start)}


def best_within(
    shown: Float[np.ndarray, " way"], changed: Float[np.ndarray, " way"], most: float, other: float
) -> float:
    """Largest score among ways that change no more than `most`; `other` if there is none."""
    allowed = shown[changed <= most]
    return float(allowed.max()) if len(allowed) else other


def advantages(
    shown: Mapping[str, Cells], changed: Mapping[str, Cells], seed: int = 0
) -> tuple[Estimate, Estimate, Estimate]:
    """Text score of two injections minus that of Prompt-to-Prompt at no more change than theirs.

    Args:
        shown: Way -> whether the new word is read.
        changed: Way -> change of the background.
        seed: Of resampling.

    Returns:
        Of the localised layers, of all layers, and the first minus the second.
    """
    rivals = list(named(shown, P2P))
    names = [LOCALISED, EVERY, NONE, *rivals]
    values = np.stack([of[name] for of in (shown, changed) for name in names])

    def advantage(means: np.ndarray, place: int) -> float:
        scores, changes = means.reshape(2, -1)
        rival = best_within(scores[3:], changes[3:], changes[place], scores[2])
        return scores[place] - rival

    statistics: list[Callable[[np.ndarray], float]] = [
        lambda means: advantage(means, 0),
        lambda means: advantage(means, 1),
        lambda means: advantage(means, 0) - advantage(means, 1),
    ]
    first, second, apart = (over_cells(values, statistic, seed) for statistic in statistics)
    return first, second, apart


def best_rival(shown: Mapping[str, Cells], changed: Mapping[str, Cells], edit: str) -> str:
    """The setting of Prompt-to-Prompt that `advantages` compares an injection with."""
    allowed = {
        way: values.mean()
        for way, values in named(shown, P2P).items()
        if changed[way].mean() <= changed[edit].mean()
    }
    return max(allowed, key=allowed.__getitem__) if allowed else NONE


def groups(table: pd.DataFrame, column: str) -> dict[str, dict[str, Cells]]:
    """Group -> way -> values of a column, [pair, seed]."""
    return {str(name): cells(rows, column) for name, rows in table.groupby("group", sort=False)}


def counted(scores: Mapping[str, Mapping[str, Cells]], trained: str, names: Sequence[str]):
    """The groups in which the model itself, told the target in all layers, still writes."""
    least = WRITES * scores[trained][EVERY].mean()
    return [name for name in names if scores[name][EVERY].mean() >= least]


def largest_loss(
    scores: Mapping[str, Mapping[str, Cells]],
    trained: str,
    names: Sequence[str],
    way: str = LOCALISED,
    seed: int = 0,
) -> Estimate:
    """Score in the trained group minus the lowest of the others, the lowest anew each time."""
    values = np.stack([scores[name][way] for name in (trained, *names)])
    return over_cells(values, lambda means: means[0] - means[1:].min(), seed)


def loss_with_length(
    scores: Mapping[str, Mapping[str, Cells]], shortest: str, longest: str, seed: int = 0
) -> tuple[Estimate, Estimate, Estimate]:
    """Score of the longest texts minus that of the shortest.

    Returns:
        Of the localised layers, of the target prompt in all layers, and the first minus the second.
    """
    lost = {way: scores[longest][way] - scores[shortest][way] for way in (LOCALISED, EVERY)}
    value, control = (crossed_bootstrap(cells, seed=seed) for cells in lost.values())
    return value, control, paired_difference(lost[LOCALISED], lost[EVERY], seed=seed)


def avoided(
    shown: Mapping[str, Cells], seed: int = 0
) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """How much more of an unwanted word other ways leave than the localised layers.

    Args:
        shown: Way -> whether the unwanted word is read.
        seed: Of resampling.

    Returns:
        "negative": share with the better negative prompt minus with the localised layers; its
        control takes random layers in place of the localised ones. "exchange": share with the
        target prompt in all layers minus with the localised ones; its control takes no edit in
        their place. Each with the difference of value and control.
    """
    at_random = np.mean(list(named(shown, RANDOM).values()), axis=0)
    ways = [shown[LOCALISED], shown[EVERY], shown[NONE], at_random]
    values = np.stack([*ways, *named(shown, "negative").values()])

    def of(statistic: Callable[[np.ndarray], float]) -> Estimate:
        return over_cells(values, statistic, seed)

    return {
        "negative": (
            of(lambda means: means[4:].min() - means[0]),
            of(lambda means: means[4:].min() - means[3]),
            of(lambda means: means[3] - means[0]),
        ),
        "exchange": (
            of(lambda means: means[1] - means[0]),
            of(lambda means: means[1] - means[2]),
            of(lambda means: means[2] - means[0]),
        ),
    }


def published_scores(rows: pd.DataFrame, old: bool = False) -> dict[str, float]:
    """Scores of one way as published, and the corrected ones beside them.

    Args:
        rows: Of one way, from `word_exchange.measure`; letters count where the OCR engine read.
        old: Whether the F1 is that of the old word.
    """
    prefix = "old_" if old else ""
    means = rows[[f"{prefix}precision", f"{prefix}recall"]].mean()
    return {
        "wrapped error": rows["wrapped"].mean(),
        "true error": rows["error"].mean(),
        "background": rows["background"].mean(),
        "SSIM": rows["ssim"].mean(),
        "F1 of letters": harmonic_mean(*means),
        "word read": float((rows["old" if old else "new"] > FOUND).mean()),
    }
