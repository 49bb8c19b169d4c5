"""Text self-attention of a CLIP text encoder: patterns, scores, and numbers derived from them."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2i_lens.base.shapes import TextPattern, TextStates, TokenIds
from t2i_lens.models.tokens import TokenRow, encode
from t2i_lens.probes.edits import Edit
from t2i_lens.probes.hookable import execution_device
from t2i_lens.probes.text_encoder_hooks import edited_text_encoder, traced_text_encoder

TRACED = ("patterns", "scores", "values", "inputs", "outputs")


@dataclass(frozen=True)
class TextReading:
    """Activations of a text encoder for a batch of prompts.

    Attributes:
        patterns: Self-attention after softmax, in the layers that were read; causal, rows sum
            to 1 over keys.
        scores: The same before mask and softmax; keys after the query are not masked.
        values: What the pattern mixes; a head's output is pattern @ value.
        inputs: Residual stream before each of these layers; for layer 0 the sum of token and
            position embedding, [prompt, layer, token, d_model].
        outputs: Residual stream after each of them, before the final norm.
        states: Output of the text encoder after its final norm, what the U-Net is fed.
        layers: Their numbers, from 0.
        rows: Token row of each prompt; empty if ids were read.
    """

    patterns: TextPattern
    scores: TextPattern
    values: Float[Tensor, "prompt layer head key channel"]
    inputs: Float[Tensor, "prompt layer token d_model"]
    outputs: Float[Tensor, "prompt layer token d_model"]
    states: TextStates
    layers: tuple[int, ...]
    rows: tuple[TokenRow, ...] = ()


@torch.no_grad()
def read_ids(
    encoder: nn.Module,
    ids: TokenIds,
    *,
    layers: Sequence[int] | None = None,
    edits: Sequence[Sequence[Edit]] | None = None,
) -> TextReading:
    """Runs any CLIP text encoder on ids and reads its attention.

    Args:
        layers: Numbers from 0 of the layers to read; all if None.
        edits: A list for each row of ids.

    Raises:
        ValueError: not a CLIP text encoder, a layer it does not have, or as the edits do.
    """
    edited = edited_text_encoder(encoder, edits) if edits is not None else nullcontext()
    with edited, traced_text_encoder(encoder, layers) as trace:
        states = encoder(ids.to(execution_device(encoder))).last_hidden_state
    stacked = {
        name: torch.stack([activations[name] for activations in trace.values()], 1)
        for name in TRACED
    }
    return TextReading(**stacked, states=states, layers=tuple(trace))


def read_prompts(
    pipe,
    prompts: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    edits: Sequence[Sequence[Edit]] | None = None,
) -> TextReading:
    """As `read_ids`, for prompts of a pipeline, placeholders expanded; `rows` are filled in.

    Raises:
        ValueError: as `read_ids`, or a prompt that is too long.
    """
    rows = tuple(encode(pipe, prompt) for prompt in prompts)
    ids = torch.tensor([row.ids for row in rows])
    reading = read_ids(pipe.text_encoder, ids, layers=layers, edits=edits)
    return TextReading(**{**vars(reading), "rows": rows})


def bos_mass(pattern: Float[Tensor, "*axes query key"], eos: int) -> Float[Tensor, "*axes"]:
    """Mean attention paid to BOS by the queries after BOS up to EOS. Padding does not count.

    Args:
        pattern: Text self-attention, of any number of layers and heads.
        eos: Position of the first EOS, from `TokenRow.eos`.

    Returns:
        Share in [0, 1]; 1 means that only BOS is looked at.
    """
    return pattern[..., 1 : eos + 1, 0].mean(-1)


def self_mass(pattern: Float[Tensor, "*axes query key"]) -> Float[Tensor, "*axes query"]:
    """Attention that each query pays to its own position, in [0, 1]; 1 for BOS."""
    return pattern.diagonal(dim1=-2, dim2=-1)


def entropy(pattern: Float[Tensor, "*axes query key"], eos: int) -> Float[Tensor, "*axes token"]:
    """Entropy of the attention of each real token, BOS to EOS, in nats.

    0 where one key gets all; at most the logarithm of the query's position + 1. Its
    exponential is the effective number of keys.
    """
    return torch.special.entr(pattern[..., : eos + 1, : eos + 1]).sum(-1)


def rank_in_map(pattern: Float[Tensor, "query key"], eos: int, query: int, key: int) -> int:
    """Place of one entry among all entries of the real tokens, BOS to EOS; 1 is the largest.

    Args:
        pattern: Of one layer, e.g. the mean over its heads.

    Raises:
        ValueError: the entry is not one of them.
    """
    if not 0 <= key <= query <= eos:
        raise ValueError(f"[{query}, {key}] is not among the causal entries up to EOS at {eos}")
    real = pattern[: eos + 1, : eos + 1]
    return int((real > real[query, key]).sum()) + 1


def tsam_matrix(
    pattern: Float[Tensor, "layer head query key"], eos: int, gamma: float = 1.0
) -> Float[Tensor, "token token"]:
    """T of T-SAM (Kim et al., 2411.15236): mean over layers and heads, BOS and EOS dropped.

    Rows are normalised first and raised to the power gamma after; the paper's loss uses
    gamma 4.

    Args:
        pattern: Of one prompt, all layers and heads.
        eos: Position of the first EOS; the tokens between BOS and it remain.

    Returns:
        Lower triangle; rows sum to 1 if gamma is 1.
    """
    content = pattern.mean((0, 1))[1:eos, 1:eos]
    return (content / content.sum(-1, keepdim=True)) ** gamma


def tsam_matrix_as_released(
    pattern: Float[Tensor, "layer head query key"], eos: int, power: float = 3.0
) -> Float[Tensor, "token token"]:
    """T as in T-SAM's released code: raised to the power first, normalised after.

    Args:
        As `tsam_matrix`.

    Returns:
        Lower triangle; rows sum to 1.
    """
    content = pattern.mean((0, 1))[1:eos, 1:eos] ** power
    return content / content.sum(-1, keepdim=True)
