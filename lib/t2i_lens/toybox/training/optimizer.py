"""AdamW, and Muon for the weights that are matrices at heart.

Shown in: book/toybox.md
"""

from collections.abc import Iterable, Sequence

import torch
from torch import distributed, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: five steps bring 0.1 to about 1
STEPS = 5
MOMENTUM = 0.95
RMS = 0.2  # of a step of AdamW's entries (Liu et al. 2025, eq. 4)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it faster than float32, else float32.

    A processor needs units for it: without them bfloat16 is up to five times slower.
    """
    if device.type != "cpu":
        return torch.bfloat16
    has = torch.cpu.get_capabilities()
    units = has.get("amx_bf16", False) or has.get("avx512_bf16", False)
    return torch.bfloat16 if units else torch.float32


def orthogonalised(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly: singular values between 0.7 and 1.2.

    Newton-Schulz iteration of Jordan et al. 2024. `torch.optim.Muon` always computes it in
    bfloat16, which takes 10 of 13 seconds of a step on a processor without units for it.

    Args: matrix: `[rows, columns]`.
    Returns: `[rows, columns]` in `dtype`.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix.to(dtype) if wide else matrix.T.to(dtype)
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum of a matrix (Jordan et al. 2024).

    A step is as long as one of AdamW (Liu et al. 2025, eq. 4), so that both share one learning
    rate. Weight decay is decoupled, momentum is Nesterov's. In a group of processes, whose
    gradients are equal, each orthogonalises its share of the matrices.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], weight_decay: float):
        super().__init__(matrices, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix that has a gradient."""
        group = distributed.is_initialized()
        rank = distributed.get_rank() if group else 0
        processes = distributed.get_world_size() if group else 1
        for settings in self.param_groups:
            moved = [matrix for matrix in settings["params"] if matrix.grad is not None]
            # Each share about as much work: the largest first, in turn.
            moved.sort(key=lambda matrix: -matrix.numel() * min(matrix.shape))
            directions = [
                self._direction(matrix, number % processes == rank)
                for number, matrix in enumerate(moved)
            ]
            if processes > 1:  # of each matrix all but one process hold zeros
                flat = torch.cat([direction.flatten() for direction in directions])
                distributed.all_reduce(flat)
                parts = flat.split([matrix.numel() for matrix in moved])
                directions = [p.view(m.shape) for p, m in zip(parts, moved, strict=True)]
            for matrix, direction in zip(moved, directions, strict=True):
                length = RMS * max(matrix.shape) ** 0.5
                matrix.mul_(1 - settings["lr"] * settings["weight_decay"])
                matrix.add_(direction, alpha=-settings["lr"] * length)

    def _direction(self, matrix: nn.Parameter, mine: bool) -> torch.Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - MOMENTUM)
        if not mine:
            return torch.zeros_like(matrix)
        ahead = matrix.grad.lerp(momentum, MOMENTUM)
        return orthogonalised(ahead, fast_dtype(matrix.device)).to(matrix.dtype).contiguous()


class Optimizer:
    """AdamW for a model, but Muon for some of its weights.

    A convolution's weight is the matrix `[out, in * height * width]`.
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
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
        self._parts: list[torch.optim.Optimizer] = [adamw]
        self._pairs = [(weight, nn.Parameter(as_matrix(weight.detach()))) for weight in by_muon]
        for weight, matrix in self._pairs:
            if matrix.data_ptr() != weight.data_ptr():
                raise ValueError(f"a weight {list(weight.shape)} is not channels last")
        if self._pairs:
            self._parts.append(Muon([matrix for _, matrix in self._pairs], weight_decay))
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
    """A weight or gradient as `[out, rest]`: of four axes, the same memory if channels last."""
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)
