"""Safe guidance: the equations by hand, and what they do to a pipeline of real classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from t2i_lens.methods.safe_guidance import CONFIGURATIONS, Safety, correction, draw_safely
from t2i_lens.probes.sampling import generate

SAMPLING = {"num_inference_steps": 4, "guidance_scale": 3.0}
PROMPTS, SEEDS = ["a red cat", "a dog"], [0, 1]


def drawn(pipe, safety, unwanted=("a red cat", "a frog"), **changed):
    return draw_safely(pipe, PROMPTS, unwanted, safety, SEEDS, **(SAMPLING | changed))


def test_the_correction_is_that_of_the_equations():
    safety = Safety(scale=2.0, warmup=0.0, threshold=0.1, momentum=0.5, decay=0.6)
    empty = torch.zeros(4)
    prompt = torch.tensor([0.0, 0.0, 0.0, 1.0])
    unwanted = torch.tensor([0.25, 2.0, 0.0, 0.5])
    momentum = torch.full((4,), 0.2)
    gamma, after = correction(safety, empty, prompt, unwanted, momentum)
    # by hand: weight 0.5 of 0.25; cut at 1 of 2; no difference; moves away from the concept
    expected = torch.tensor([0.125, 2.0, 0.0, 0.0]) + 0.1
    torch.testing.assert_close(gamma, expected)
    torch.testing.assert_close(after, 0.6 * momentum + 0.4 * expected)


def test_a_correction_without_scale_and_momentum_changes_nothing(shared_pipe):
    safety = Safety(scale=0.0, warmup=0.0, threshold=1.0, momentum=0.0, decay=0.5)
    expected = generate(shared_pipe, PROMPTS, SEEDS, **SAMPLING)
    np.testing.assert_array_equal(drawn(shared_pipe, safety), expected)


def test_a_warm_up_of_all_steps_changes_nothing(shared_pipe):
    expected = generate(shared_pipe, PROMPTS, SEEDS, **SAMPLING)
    longest = replace(CONFIGURATIONS["max"], warmup=1.0)
    np.testing.assert_array_equal(drawn(shared_pipe, longest), expected)


def test_the_published_configurations_change_the_picture_and_differ(shared_pipe):
    found = [generate(shared_pipe, PROMPTS, SEEDS, **SAMPLING)]
    found += [drawn(shared_pipe, safety) for safety in CONFIGURATIONS.values()]
    assert len({pictures.tobytes() for pictures in found}) == 4


def test_each_picture_has_its_own_unwanted_text(shared_pipe):
    one = drawn(shared_pipe, CONFIGURATIONS["max"])
    other = drawn(shared_pipe, CONFIGURATIONS["max"], unwanted=("a red cat", "a blue chair"))
    assert np.abs(one[0].astype(int) - other[0]).max() <= 1 and (one[1] != other[1]).any()


def test_the_picture_does_not_depend_on_its_batch(shared_pipe):
    alone = drawn(shared_pipe, CONFIGURATIONS["strong"], batch_size=2)
    # batched sums round differently: one grey level at most, as for `generate`
    assert np.abs(alone.astype(int) - drawn(shared_pipe, CONFIGURATIONS["strong"])).max() <= 1


def test_without_guidance_there_is_nothing_to_correct(pipe):
    with pytest.raises(ValueError, match="guidance scale must be above 1"):
        drawn(pipe, CONFIGURATIONS["max"], guidance_scale=1.0)
    assert not any(len(m._forward_hooks) for m in pipe.unet.modules())
