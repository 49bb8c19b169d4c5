"""Attention probabilities: computed next to a layer, or taken from the layer's own computation."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


def probabilities(
    query: Float[Tensor, "batch head pixel channel"],
    key: Float[Tensor, "batch head token channel"],
    scale: float,
    mask: Float[Tensor, "batch #head #pixel token"] | None,
) -> Float[Tensor, "batch head pixel token"]:
    """Softmax of the scores, in float32 whatever the dtype; keeps gradients.

    Args:
        scale: What scores are multiplied by.
        mask: Added to the scaled scores.
    """
    query, key = query.float(), key.float()
    # One operation for product and scale; with beta 0 the empty tensor is not read.
    scores = torch.baddbmm(
        query.new_empty(1, 1, 1),
        query.flatten(0, 1),
        key.flatten(0, 1).transpose(1, 2),
        beta=0,
        alpha=scale,
    ).unflatten(0, query.shape[:2])
    return (scores if mask is None else scores + mask).softmax(-1)


def keep_eager(hooks: ExitStack, layer: nn.Module, keep: Callable[[int, Tensor], None]) -> None:
    """Hands on the probabilities of an eager layer, unless they are rounded to half precision.

    Args:
        layer: With diffusers' `AttnProcessor`.
        keep: Gets the row they begin with, 0, and they, [batch, head, pixel, token].
    """
    own = layer.get_attention_scores

    def scores(query: Tensor, *others) -> Tensor:
        found = own(query, *others)
        if found.dtype == torch.float32:
            keep(0, found.unflatten(0, (-1, layer.heads)))
        return found

    replace(hooks, layer, "get_attention_scores", scores)


def share(
    hooks: ExitStack,
    layer: nn.Module,
    rows: Callable[[int], slice | None],
    keep: Callable[[int, Tensor], None],
) -> None:
    """Draws some rows of a layer's batch with probabilities that are handed on.

    They are computed once and the fused kernel is left to the other rows; without gradients.

    Args:
        layer: One that calls the fused kernel.
        rows: Which, of a batch of that size; None for none of them.
        keep: Gets the row they begin with and they, [row, head, pixel, token].
    """
    forward = layer.forward

    def shared(states: Tensor, *inputs, **named):
        some = rows(len(states))
        with nullcontext() if some is None else _Shared(some, keep):
            return forward(states, *inputs, **named)

    replace(hooks, layer, "forward", shared)


class _Shared(TorchFunctionMode):
    def __init__(self, rows: slice, keep: Callable[[int, Tensor], None]):
        super().__init__()
        self.rows, self.keep, self.seen = rows, keep, False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # A layer reads its text first; an adapter reads further states after it.
        if function is not scaled_dot_product_attention or self.seen:
            return function(*args, **kwargs)
        self.seen = True
        query, key, value = args
        mask, scale = kwargs.get("attn_mask"), kwargs.get("scale")
        begin, end, _ = self.rows.indices(len(query))
        pattern = probabilities(
            query[begin:end],
            key[begin:end],
            query.shape[-1] ** -0.5 if scale is None else scale,
            None if mask is None else mask[begin:end],
        )
        self.keep(begin, pattern)
        explicit = pattern.to(value.dtype) @ value[begin:end]
        if len(explicit) == len(query):
            return explicit
        # Heads before channels in memory, as the fused kernel leaves them: joining them is free.
        drawn = value.new_empty(*query.transpose(1, 2).shape[:3], value.shape[-1]).transpose(1, 2)
        drawn[begin:end] = explicit
        for rest in (slice(0, begin), slice(end, len(query))):
            if rest.start < rest.stop:
                there = None if mask is None else mask[rest]
                parts = (query[rest], key[rest], value[rest])
                drawn[rest] = function(*parts, **kwargs | {"attn_mask": there})
        return drawn


def replace(hooks: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets an attribute of one object until the stack closes."""
    if name in vars(owner):
        hooks.callback(setattr, owner, name, vars(owner)[name])
    else:
        hooks.callback(delattr, owner, name)
    setattr(owner, name, value)
