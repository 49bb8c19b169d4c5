"""Factorial experiment on a learned row: norm, direction and the first layer's attention.

A learned row differs from a word's row in its norm, in its direction, and in the first layer's
attention. Here each factor is set by itself while all else stays equal.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from t2i_lens.base.prompts import Prompt
from t2i_lens.experiments.arms import PICTURE, Arm, Design
from t2i_lens.probes.edits import Force, Swap, Value
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.text_attention import read_prompts, self_mass
from t2i_lens.stats.metrics import unit_rows

NORMS = ("mean", "own")
DIRECTIONS = ("TI", "random", "class")
ROWS = ("free", "forced")
CELLS = tuple(product(NORMS, DIRECTIONS, ROWS))


def placed_rows(
    learned: Float[np.ndarray, " d_model"],
    word: Float[np.ndarray, " d_model"],
    mean_norm: float,
    seed: int,
) -> Float[np.ndarray, "row d_model"]:
    """The three directions at the two norms, in the order of `NORMS` x `DIRECTIONS`.

    Args:
        learned: TI embedding, whose own norm is the second.
        word: The class word's row.
        mean_norm: Of the vocabulary.
        seed: Of the random direction.
    """
    random = np.random.default_rng(seed).normal(size=len(learned))
    units = unit_rows(np.stack([learned, random, word]))
    norms = np.array([mean_norm, np.linalg.norm(learned)])
    rows = norms[:, None, None] * units
    return rows.reshape(-1, len(learned)).astype(np.float32)


def cells(concept: str, word: str, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Design:
    """The design of one concept: `CELLS` as arms, all with its class word in the slot."""
    arms = [Arm(concept, "; ".join(cell), word, concept) for cell in CELLS]
    return Design(arms, prompts, seeds)


def by_factor(values: xr.DataArray) -> xr.DataArray:
    """The arms of `cells` apart by factor: axes norm, direction and row in place of arm."""
    factors = pd.MultiIndex.from_tuples(CELLS, names=["norm", "direction", "row"])
    index = xr.Coordinates.from_pandas_multiindex(factors, "arm")
    return values.drop_vars("arm").assign_coords(index).unstack("arm")


def draw_rows(
    pipe, design: Design, rows: Float[np.ndarray, "row d_model"], **sampling
) -> xr.Dataset:
    """Draws each row in a word's place, with the first layer's attention from there free or forced.

    Forced, the place attends as the word itself does in the same prompt, in every head.

    Args:
        design: From `cells`; its word names the place and gives the ordinary pattern.
        rows: Token embeddings, from `placed_rows`.
        sampling: Passed to `sampling.generate`.

    Returns:
        `pictures`, bytes [concept, arm, prompt, seed, height, width, channel]; `attention`
        [concept, arm, prompt], from the place to itself in the first layer, mean over heads.

    Raises:
        ValueError: the word has several tokens.

    Shown in: notebooks/10_destruction.ipynb
    """
    word = design.arms[0].word
    with_word = [prompt.text.replace("{}", word) for prompt in design.prompts]
    reading = read_prompts(pipe, with_word, layers=[0])
    slots = [row.positions(word) for row in reading.rows]
    if any(len(slot) != 1 for slot in slots):
        raise ValueError(f"{word!r} is several tokens, a row takes the place of one")
    patterns = [
        Value("ordinary pattern", pattern[0, :, slot[0]])
        for pattern, slot in zip(reading.patterns, slots, strict=True)
    ]
    edits = []
    for row, forced in product(rows, (False, True)):
        put = Value("row", torch.from_numpy(np.ascontiguousarray(row)))
        for slot, pattern in zip(slots, patterns, strict=True):
            force = Force(pattern, layer=0, queries=slot if forced else ())
            edits.append([Swap(put, positions=slot), force])
    sentences = with_word * len(design.arms)
    patterns = read_prompts(pipe, sentences, layers=[0], edits=edits).patterns[:, 0]
    positions = torch.tensor(slots).repeat(len(design.arms), 1)
    at_slot = self_mass(patterns).mean(1).cpu().take_along_dim(positions, 1).numpy()
    pictures = generate(pipe, sentences, list(design.seeds), edits=edits, **sampling)
    attention = replace(design, seeds=()).label(at_slot)
    return xr.Dataset({"pictures": design.label(pictures, *PICTURE), "attention": attention})


def effects(means: Float[np.ndarray, " 12"]) -> dict[str, float]:
    """Main effect of each factor on an outcome, from its means in the order of `CELLS`.

    Returns:
        `norm`, own minus mean; `direction`, TI minus class; `random`, random minus class;
        `row`, free minus forced; each averaged over the other factors.
    """
    cube = np.reshape(means, (len(NORMS), len(DIRECTIONS), len(ROWS)))
    norm, direction, row = (cube.mean(axis) for axis in ((1, 2), (0, 2), (0, 1)))
    return {
        "norm": float(norm[1] - norm[0]),
        "direction": float(direction[0] - direction[2]),
        "random": float(direction[1] - direction[2]),
        "row": float(row[0] - row[1]),
    }


def lead(means: Float[np.ndarray, " 12"]) -> float:
    """Direction's main effect minus the larger of norm's and the row's."""
    main = effects(means)
    return main["direction"] - max(main["norm"], main["row"])


def analysis_of_variance(
    outcome: Float[np.ndarray, "12 *cell"],
) -> pd.DataFrame:
    """Share of an outcome's variance that each factor and each interaction explains.

    Every prompt and seed is a block, drawn in all cells of the design.

    Args:
        outcome: In the order of `CELLS`.

    Returns:
        A row per term: `df`, `F`, `p` and `share`, partial eta squared (of what the
        other terms and the blocks leave), 0 to 1. No row if the outcome is the same in all
        pictures, so that there is no variance to share out.
    """
    flat = outcome.reshape(len(CELLS), -1)
    if np.ptp(flat) == 0:
        return pd.DataFrame(columns=["df", "F", "p", "share"])
    table = pd.DataFrame(CELLS, columns=["norm", "direction", "row"])
    table = table.loc[np.repeat(table.index, flat.shape[1])].reset_index(drop=True)
    table = table.assign(outcome=flat.ravel(), block=np.tile(np.arange(flat.shape[1]), len(CELLS)))
    fitted = ols("outcome ~ C(norm) * C(direction) * C(row) + C(block)", data=table).fit()
    terms = anova_lm(fitted, typ=2)
    residual = terms.loc["Residual", "sum_sq"]
    terms = terms.drop(["Residual", "C(block)"])
    return pd.DataFrame(
        {
            "df": terms["df"].astype(int).to_numpy(),
            "F": terms["F"].to_numpy(),
            "p": terms["PR(>F)"].to_numpy(),
            "share": (terms["sum_sq"] / (terms["sum_sq"] + residual)).to_numpy(),
        },
        index=[name.replace("C(", "").replace(")", "").replace(":", " × ") for name in terms.index],
    )
