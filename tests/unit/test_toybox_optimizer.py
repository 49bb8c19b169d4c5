"""The optimizer of the toybox's training: which weights Muon moves, how far, and how it resumes."""

import copy

import pytest
import torch
from torch import nn

from t2i_lens.toybox.training.optimizer import Optimizer, as_matrix

RATE = 1e-2


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 5, 1)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def kernels(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.ndim == 4]


def step(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
    draw = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    model(draw).square().mean().backward()
    optimizer.step(RATE)


def test_a_step_of_muon_is_a_nearly_orthogonal_matrix_as_long_as_a_step_of_adam():
    model = network()
    before = [as_matrix(weight.detach().clone()) for weight in kernels(model)]
    step(model, Optimizer(model, 0.0, kernels(model)), 1)
    for old, weight in zip(before, kernels(model), strict=True):
        moved = as_matrix(weight.detach()) - old
        singular = torch.linalg.svdvals(moved) / (RATE * 0.2 * max(moved.shape) ** 0.5)
        # Five Newton-Schulz steps leave singular values between about 0.7 and 1.2; the second
        # kernel's gradient is of full rank too.
        assert singular.min() > 0.5 and singular.max() < 1.4


def test_weights_that_muon_does_not_get_move_as_they_do_with_adam_alone():
    model, alone = network(), network()
    step(model, Optimizer(model, 0.1, kernels(model)), 1)
    step(alone, Optimizer(alone, 0.1), 1)
    assert torch.equal(model[0].bias, alone[0].bias)
    assert torch.equal(model[1].weight, alone[1].weight)
    assert not torch.equal(model[0].weight, alone[0].weight)


def test_gradients_are_cleared_and_a_resumed_optimizer_goes_on_as_if_never_stopped():
    model = network()
    optimizer = Optimizer(model, 0.1, kernels(model))
    step(model, optimizer, 1)
    assert all(weight.grad is None for weight in model.parameters())
    resumed = copy.deepcopy(model)
    other = Optimizer(resumed, 0.1, kernels(resumed))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, 2)
    step(resumed, other, 2)
    for kept, again in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(kept, again)


def test_a_weight_that_would_be_copied_is_refused():
    model = nn.Conv2d(4, 6, 3)  # not channels last: as a matrix it is other memory
    with pytest.raises(ValueError, match=r"\[6, 4, 3, 3\] is not channels last"):
        Optimizer(model, 0.0, [model.weight])
