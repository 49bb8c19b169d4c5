"""The gated rank-one edit: what the equation says at i*, away from it, and for several concepts."""

import numpy as np
import pytest
import torch

from t2i_lens.methods.perfusion import equations
from t2i_lens.methods.perfusion.concept_edits import counted

BETA, TAU = 0.75, 0.1
# Sums of 24 products in float64 round to a few times 1e-15 of their size.
TOLERANCE = 1e-10


@pytest.fixture
def layer():
    torch.manual_seed(0)
    states = torch.randn(200, 24, dtype=torch.float64) @ torch.randn(24, 24, dtype=torch.float64)
    weight = torch.randn(10, 24, dtype=torch.float64)
    return equations.inverse_covariance(states), weight, torch.randn(3, 24, dtype=torch.float64)


def edited(inverse, weight, target, wanted, states):
    direction = inverse @ target
    ratio = equations.similarity(states, target, direction)
    return equations.gated(states @ weight.T, weight @ target, ratio, wanted, BETA, TAU)


def test_at_its_target_input_the_edit_gives_the_target_output_times_the_gate(layer):
    inverse, weight, (target, wanted, _) = layer
    wanted = wanted[:10]
    output = edited(inverse, weight, target, wanted, target[None])[0]
    share = 1 / (1 + np.exp(-(1 - BETA) / TAU))
    assert torch.allclose(output, share * wanted, atol=TOLERANCE)


def test_states_orthogonal_under_the_inverse_covariance_keep_their_output(layer):
    inverse, weight, (target, wanted, other) = layer
    wanted = wanted[:10]
    direction = inverse @ target
    across = other - (other @ direction) / (target @ direction) * target
    output = edited(inverse, weight, target, wanted, across[None])[0]
    # What the closed gate lets through is all that is added.
    leak = 1 / (1 + np.exp(BETA / TAU))
    assert torch.allclose(output - leak * wanted, weight @ across, atol=TOLERANCE)
    assert leak < 1e-3
    plain = edited(inverse, weight, target, wanted, other[None])[0]
    assert not torch.allclose(plain, weight @ other, atol=1e-3)


def test_the_scale_of_the_covariance_cancels(layer):
    inverse, weight, (target, wanted, other) = layer
    once = edited(inverse, weight, target, wanted[:10], other[None])
    scaled = edited(7 * inverse, weight, target, wanted[:10], other[None])
    assert torch.allclose(once, scaled, atol=TOLERANCE)


def test_the_joint_projection_is_that_of_cholesky_and_an_orthonormal_basis(layer):
    inverse, _, rows = layer
    targets, states = rows[:2], rows[2:]
    root = torch.linalg.cholesky(inverse)
    basis, _ = torch.linalg.qr(root.T @ targets.T)
    by_basis = torch.linalg.solve(root.T, basis @ (basis.T @ (root.T @ states.T))).T
    ours = equations.coefficients(states, targets, targets @ inverse) @ targets
    assert torch.allclose(ours, by_basis, atol=1e-8)


def test_two_concepts_at_right_angles_are_taken_out_alike_in_both_versions(layer):
    inverse, _, (one, two, state) = layer
    two = two - (two @ inverse @ one) / (one @ inverse @ one) * one
    targets = torch.stack([one, two])
    joint = equations.coefficients(state[None], targets, targets @ inverse)[0]
    apart = [equations.similarity(state[None], t, inverse @ t)[0] for t in targets]
    assert torch.allclose(joint, torch.stack(apart), atol=TOLERANCE)
    assert (joint[0] - apart[0]).abs() < TOLERANCE < (joint[0] - joint[1]).abs()


def test_too_few_states_are_refused():
    with pytest.raises(ValueError, match="give more captions"):
        equations.inverse_covariance(torch.zeros(3, 24))


def test_a_concept_of_stable_diffusion_one_is_counted_as_the_paper_counts_it():
    found = counted("sd1")
    assert (found["layers"], found["outputs"], found["published"]) == (16, 24960, 26496)
    assert 4 * found["numbers"] < found["bytes"] < 4 * found["numbers"] + 8192  # names and sizes


def test_a_concept_of_sdxl_has_the_rows_of_both_text_encoders():
    found = counted("sdxl")
    assert found["layers"] == 70
    assert found["numbers"] == found["outputs"] + 2 * 2048 + 768 + 1280
