"""Self-attention of a slot under turned rows, with a tiny text encoder."""

import numpy as np
import pytest

from t2i_lens.experiments import rotation
from t2i_lens.experiments.arms import Arm, Design
from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.probes.text_attention import read_prompts

PROMPTS = [Prompt("a {} next to a man", ()), Prompt("a red {} and a friend", ())]
ARM = Arm("pinata", "class word", "toy")


def test_it_is_the_diagonal_at_the_slot(shared_pipe):
    found = rotation.slot_attention(shared_pipe, Design([ARM], PROMPTS))
    assert found.dims == ("concept", "arm", "prompt")
    reading = read_prompts(shared_pipe, ["a toy next to a man", "a red toy and a friend"])
    for value, prompt, slot in zip(found.values[0, 0], (0, 1), (2, 3), strict=True):
        # Batches of another size change the order of float32 sums.
        expected = reading.patterns[prompt, 0, :, slot, slot].mean().item()
        assert value == pytest.approx(expected, rel=1e-4)


def test_a_path_starts_at_the_unturned_row_and_moves(shared_pipe):
    width = shared_pipe.text_encoder.get_input_embeddings().embedding_dim
    goal = np.random.default_rng(0).normal(size=width)
    arms = [ARM, *rotation.turned(ARM, goal, [0.0, 1.0], path="random")]
    plain, start, end = rotation.slot_attention(shared_pipe, Design(arms, PROMPTS)).values[0]
    np.testing.assert_allclose(start, plain, rtol=1e-4)
    assert np.abs(end - plain).max() > 1e-4
