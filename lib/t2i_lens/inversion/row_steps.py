"""Optimiser steps of embedding rows: AdamW or SGD, penalties, fixed norms, differences, rounding.

Every run of a batch has its own rows and its own settings; none sees another's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from t2i_lens.inversion.training_data import InversionConfig

Rows = Sequence[Float[Tensor, "vector d_model"]]


def optimizer_for(rows: Rows, configs: Sequence[InversionConfig]) -> torch.optim.Optimizer:
    """The optimiser that all runs of a batch share, each with its own rate and decay."""
    groups = [
        {"params": [row], "lr": c.learning_rate, "weight_decay": c.weight_decay}
        for row, c in zip(rows, configs, strict=True)
    ]
    if configs[0].optimizer == "sgd":
        for group, config in zip(groups, configs, strict=True):
            group["momentum"] = config.momentum
        return torch.optim.SGD(groups)
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)


def penalties(
    rows: Float[Tensor, "run vector d_model"], configs: Sequence[InversionConfig]
) -> Float[Tensor, " run"]:
    """Penalty of each run on the size of its rows: l1·Σ|e| + l2·Σe²."""
    l1, l2 = rows.new_tensor([(c.l1_penalty, c.l2_penalty) for c in configs]).T
    return l1 * rows.abs().sum((1, 2)) + l2 * rows.square().sum((1, 2))


@torch.no_grad()
def take(
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    initial: Float[Tensor, "run vector d_model"],
    configs: Sequence[InversionConfig],
) -> None:
    """One step of all runs, in place; rows of a fixed norm move on their sphere.

    Such a row loses the part of its gradient that points along it, which only Adam's estimate
    of the gradient's size would see, and is brought back to the sphere after its step. Of a
    relative row only the difference from its start decays: the start's share is given back.
    """
    fixed = [i for i, config in enumerate(configs) if config.fixed_norm]
    for i in fixed:
        units = functional.normalize(rows[i], dim=-1)
        rows[i].grad -= (rows[i].grad * units).sum(-1, keepdim=True) * units
    optimizer.step()
    for i in fixed:
        norms = initial[i].norm(dim=-1, keepdim=True)
        rows[i].copy_(functional.normalize(rows[i], dim=-1) * norms)
    for i, config in enumerate(configs):
        if config.relative:
            rows[i].add_(initial[i], alpha=config.learning_rate * config.weight_decay)
        if config.half_rows:
            rows[i].copy_(rows[i].half())
