"""Pictures depend on prompt and seed, and on nothing else."""

import numpy as np
import pytest
import torch

from t2i_lens.models.tokens import add_placeholder
from t2i_lens.probes.sampling import generate, initial_latents, text_states

PROMPTS = ["a cat", "a red toy next to a man", "a dog"]
QUICK = {"num_inference_steps": 3, "guidance_scale": 5.0}
# Matrix products round differently in batches of other sizes; over three steps of the
# tiny model that stays far below half a grey level, so rounding may turn by one.
GREY_LEVELS = 1


def test_a_grid_has_a_picture_for_each_prompt_and_seed(shared_pipe):
    pictures = generate(shared_pipe, PROMPTS, [3, 4], **QUICK)
    assert pictures.shape == (3, 2, 16, 16, 3)
    assert pictures.dtype == np.uint8
    assert pictures.std() > 1


def test_a_picture_does_not_depend_on_its_batch(shared_pipe):
    together = generate(shared_pipe, PROMPTS, [3, 4], batch_size=6, **QUICK)
    uneven = generate(shared_pipe, PROMPTS, [3, 4], batch_size=4, **QUICK)
    alone = generate(shared_pipe, PROMPTS[1:2], [4], batch_size=1, **QUICK)[0, 0]
    for grid in (together, uneven):
        assert np.abs(grid[1, 1].astype(int) - alone).max() <= GREY_LEVELS


def test_prompt_and_seed_change_the_picture(shared_pipe):
    pictures = generate(shared_pipe, PROMPTS, [3, 4], **QUICK).astype(int)
    assert np.abs(pictures[0, 0] - pictures[0, 1]).max() > 10
    assert np.abs(pictures[0, 0] - pictures[1, 0]).max() > GREY_LEVELS


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_a_picture_is_the_one_the_pipeline_itself_draws(shared_pipe, guidance_scale):
    ours = generate(
        shared_pipe, PROMPTS[:1], [7], num_inference_steps=3, guidance_scale=guidance_scale
    )
    theirs = shared_pipe(
        PROMPTS[0],
        num_inference_steps=3,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).images
    assert np.abs(ours[0, 0] - theirs[0] * 255.0).max() <= 0.5 + GREY_LEVELS


def test_latents_depend_on_the_seed_alone(shared_pipe):
    row = initial_latents(shared_pipe, [5, 6, 7])
    assert row.shape == (3, 4, 8, 8)
    assert torch.equal(row[1:2], initial_latents(shared_pipe, [6]))
    assert not torch.equal(row[0], row[1])


def test_drawing_leaves_the_global_generator_alone(shared_pipe):
    state = torch.get_rng_state()
    generate(shared_pipe, PROMPTS[:1], [1], **QUICK)
    assert torch.equal(state, torch.get_rng_state())


def test_latents_need_not_be_square(shared_pipe):
    assert initial_latents(shared_pipe, [5], height=32, width=24).shape == (1, 4, 16, 12)


def test_each_prompt_is_encoded_once(shared_pipe):
    encoded = []
    hook = shared_pipe.text_encoder.register_forward_pre_hook(
        lambda module, inputs: encoded.append(len(inputs[0]))
    )
    generate(shared_pipe, ["a cat", "a dog", "a cat"], [1, 2], batch_size=2, **QUICK)
    hook.remove()
    assert sum(encoded) == 3  # two prompts and the empty one


def test_every_vector_of_a_placeholder_reaches_the_text_states(pipe):
    ids = add_placeholder(pipe, "EasyToy", 3)
    before = text_states(pipe, ["a EasyToy"])
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[ids[2]] = 1
    assert not torch.allclose(before, text_states(pipe, ["a EasyToy"]))


def test_nothing_to_draw_is_refused(shared_pipe):
    with pytest.raises(ValueError, match="at least one"):
        generate(shared_pipe, [], [1])
    with pytest.raises(ValueError, match="at least one"):
        generate(shared_pipe, ["a cat"], [])
