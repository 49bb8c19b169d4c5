"""AdamW, and Muon for the weights that are matrices at heart.

Shown in: book/toybox.md
"""

from collections.abc import Sequence

import torch
from torch import nn


class Optimizer:
    """AdamW for a model, but Muon (Jordan et al. 2024) for some of its weights.

    Muon steps along the orthogonalised momentum of a matrix, here as long as a step of AdamW
    (Liu et al. 2025, eq. 4), so that both share one learning rate. A convolution's weight is the
    matrix ``[out, in * height * width]``.
    """

    def __init__(self, model: nn.Module, weight_decay: float, by_muon: Sequence[nn.Parameter] = ()):
        """Args:
            model: On its device already.
            weight_decay: Decoupled, of all weights of two axes or more.
            by_muon: Weights of two or four axes that Muon trains, none by default.
        Raises: ValueError: a convolution's weight is not channels last, so that its matrix
            would be a copy.
        """
        chosen = {id(weight) for weight in by_muon}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
        self._parts: list[torch.optim.Optimizer] = [adamw]
        self._pairs = [(weight, nn.Parameter(as_matrix(weight.detach()))) for weight in by_muon]
        for weight, matrix in self._pairs:
            if matrix.data_ptr() != weight.data_ptr():
                raise ValueError(f"a weight {list(weight.shape)} is not channels last")
        if self._pairs:
            matrices = [matrix for _, matrix in self._pairs]
            self._parts.append(
                torch.optim.Muon(
                    matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        self._model = model

    def step(self, learning_rate: float) -> None:
        """Move the weights along their gradients, which are cleared."""
        for weight, matrix in self._pairs:
            matrix.grad = as_matrix(weight.grad)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
        self._model.zero_grad(set_to_none=True)

    def state_dict(self) -> dict:
        """States of AdamW and of Muon, by number."""
        return {str(number): part.state_dict() for number, part in enumerate(self._parts)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
        for number, part in enumerate(self._parts):
            part.load_state_dict(state[str(number)])


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """A weight or gradient as ``[out, rest]``: of four axes, the same memory if channels last."""
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)
