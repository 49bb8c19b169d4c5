"""Rotation of the row in a slot towards another row, and the first layer's self-attention."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from t2i_lens.experiments.arms import Arm, Design, placed
from t2i_lens.probes.edits import Scale, Slerp, Value
from t2i_lens.probes.text_attention import read_prompts, self_mass

BATCH = 64  # sentences read at once; bounds memory, changes no result


def turned(
    arm: Arm,
    toward: Float[np.ndarray, " d_model"],
    ts: Sequence[float],
    *,
    factor: float = 1.0,
    path: str,
) -> list[Arm]:
    """Arms along a path: the row is scaled, then rotated by SLERP, one arm for each t.

    Args:
        arm: Whose row is turned.
        toward: Where t = 1 arrives, with the norm it is to have there.
        ts: Shares of the way; below 0 goes away from the goal, above 1 beyond it.
        factor: The row is multiplied by it first.
        path: Name of the path; the arms are called `<path> t=<t>`.
    """
    goal = Value(path, torch.from_numpy(np.ascontiguousarray(toward, dtype=np.float32)))
    scale = Scale(float(factor), positions=())
    edits = [(scale, Slerp(goal, t, positions=())) for t in ts]
    names = [f"{path} t={t:g}" for t in ts]
    return [replace(arm, name=n, edits=of_arm) for n, of_arm in zip(names, edits, strict=True)]


def same_angle(
    row: Float[np.ndarray, " d_model"],
    toward: Float[np.ndarray, " d_model"],
    count: int,
    seed: int = 0,
) -> Float[np.ndarray, "direction d_model"]:
    """Random rows that make the same angle with a row as another does, and have its norm.

    Raises:
        ValueError: one of the two rows is zero.
    """
    norm, goal = np.linalg.norm(row), np.linalg.norm(toward)
    if norm == 0 or goal == 0:
        raise ValueError("a row of zeros makes no angle")
    unit, cosine = row / norm, float(row @ toward / (norm * goal))
    drawn = np.random.default_rng(seed).normal(size=(count, len(row)))
    across = drawn - (drawn @ unit)[:, None] * unit
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return goal * (cosine * unit + np.sqrt(max(1 - cosine**2, 0.0)) * across)


def slot_attention(pipe, design: Design) -> xr.DataArray:
    """Self-attention of the slot in the text encoder's first layer, mean over heads.

    Args:
        design: Its seeds do not count; words of several tokens count with their mean.

    Returns:
        [concept, arm, prompt], in [0, 1].

    Shown in: notebooks/07_bos_slerp.ipynb
    """
    sentences, edits = placed(pipe, design.arms, design.prompts)
    words = [arm.word for arm in design.arms for _ in design.prompts]
    at_slots = []
    for start in range(0, len(sentences), BATCH):
        batch = slice(start, start + BATCH)
        reading = read_prompts(pipe, sentences[batch], layers=[0], edits=edits[batch])
        selves = self_mass(reading.patterns[:, 0]).mean(1)  # sentence, token
        for of_tokens, row, word in zip(selves, reading.rows, words[batch], strict=True):
            at_slots.append(of_tokens[list(row.positions(word))].mean().item())
    return replace(design, seeds=()).label(np.array(at_slots), name="attention")


def attention_at_half(
    attention: Float[np.ndarray, " t"], presence: Float[np.ndarray, " t"]
) -> float:
    """Attention at the first point of a path at which presence is half of its first value.

    Args:
        attention: At every place of the path, from where the concept is whole.
        presence: Share of pictures with the concept, at the same places.

    Returns:
        Interpolated between places; the last attention if presence never falls so far.
    """
    below = np.flatnonzero(presence <= presence[0] / 2)
    if not len(below):
        return float(attention[-1])
    end = below[0]
    if end == 0:
        return float(attention[0])
    start = end - 1
    share = (presence[start] - presence[0] / 2) / (presence[start] - presence[end])
    return float(attention[start] + share * (attention[end] - attention[start]))
