"""Text self-attention of whole prompts: patterns, BOS mass and self-attention per layer."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from t2i_lens.models.tokens import TokenRow, encode
from t2i_lens.probes.text_attention import TextReading, bos_mass, rank_in_map, read_ids, self_mass

Patterns = Float[np.ndarray, "prompt layer head query key"]


def read_patterns(pipe, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Text self-attention of some prompts in all layers and heads.

    Args:
        pipe: A pipeline to which every placeholder in the prompts is attached.

    Returns:
        `patterns` float32 [prompt, layer, head, query, key], cut after the last EOS of
        all; `eos` [prompt], the position of each prompt's own; `pieces` [prompt, token], its
        tokens up to there, without the mark of a word's end.

    Raises:
        ValueError: a prompt is too long.

    Shown in: notebooks/06_clip_attention.ipynb
    """
    rows = [encode(pipe, prompt) for prompt in prompts]
    return _cut(read_ids(pipe.text_encoder, _ids(rows)), rows)


def read_untrained_patterns(pipe, prompts: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """As `read_patterns`, of an encoder of the same shape whose weights are random.

    Args:
        seed: Of the weights, which are drawn as before training.
    """
    rows = [encode(pipe, prompt) for prompt in prompts]
    return _cut(read_ids(untrained_encoder(pipe.text_encoder, seed), _ids(rows)), rows)


def untrained_encoder(encoder: nn.Module, seed: int) -> nn.Module:
    """A text encoder of the same class and shape, as it was before training."""
    with torch.random.fork_rng(devices=[]):  # the caller's random state is left alone
        torch.manual_seed(seed)
        return type(encoder)(encoder.config).eval().to(encoder.device)


def layer_profile(patterns: Patterns, eos: Int[np.ndarray, " prompt"]) -> dict[str, np.ndarray]:
    """What each layer and head looks at, averaged over a prompt's tokens.

    Args:
        patterns: Text self-attention of some prompts.
        eos: Position of each prompt's EOS.

    Returns:
        `bos`, the BOS mass, and `own`, the mean attention of a word to itself, both
        [prompt, layer, head] in [0, 1]; `other` [prompt], the largest mean share of any token
        but BOS, over all layers and heads and the same queries as the BOS mass.
    """
    bos, own, other = [], [], []
    for pattern, end in zip(torch.from_numpy(patterns), eos.tolist(), strict=True):
        bos.append(bos_mass(pattern, end))
        own.append(self_mass(pattern)[..., 1:end].mean(-1))
        other.append(pattern[:, :, 1 : end + 1, 1 : end + 1].mean((0, 1, 2)).max())
    measured = {"bos": bos, "own": own, "other": other}
    return {name: torch.stack(values).numpy() for name, values in measured.items()}


def self_attention_ranks(
    patterns: Patterns, eos: Int[np.ndarray, " prompt"], position: int, layer: int = 0
) -> Int[np.ndarray, " prompt"]:
    """Place of one token's attention to itself among all entries of the head-averaged map.

    Args:
        position: Of the token, the same in all prompts.

    Returns:
        1 for the largest; the map ends at EOS and [0, 0], always 1, is left out.

    Raises:
        ValueError: the position is after EOS.
    """
    ranks = []
    for pattern, end in zip(torch.from_numpy(patterns[:, layer]), eos.tolist(), strict=True):
        averaged = pattern.mean(0)
        averaged[0, 0] = 0
        ranks.append(rank_in_map(averaged, end, position, position))
    return np.array(ranks)


def _ids(rows: Sequence[TokenRow]) -> Int[torch.Tensor, "prompt token"]:
    return torch.tensor([row.ids for row in rows])


def _cut(reading: TextReading, rows: Sequence[TokenRow]) -> dict[str, np.ndarray]:
    eos = np.array([row.eos for row in rows])
    length = int(eos.max()) + 1
    pieces = [
        [piece.removesuffix("</w>") for piece in row.pieces[: row.eos + 1]]
        + [""] * (length - row.eos - 1)
        for row in rows
    ]
    patterns = reading.patterns[..., :length, :length].float().cpu().numpy()
    return {"patterns": patterns, "eos": eos, "pieces": np.array(pieces)}
