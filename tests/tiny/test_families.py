"""SD 2, SDXL and SD3 load through a profile, and draw where the study can draw with them."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, IFPipeline
from diffusers.models.attention_processor import Attention
from families import FAMILIES, tiny_sdxl

from t2i_lens.inversion.embeddings import attach_rows
from t2i_lens.models import profiles
from t2i_lens.models.architectures import denoiser, text_layers
from t2i_lens.models.tokens import add_placeholder, encode_with
from t2i_lens.probes.sampling import generate, text_states

LAYERS = {"sd21": 4, "sdxl": 8, "sd3": 3}
STEPS = 3
# As in test_sampling: batches of other sizes may turn the rounding of a grey level.
GREY_LEVELS = 1


@pytest.fixture(scope="module")
def loaded(make_pipe, tmp_path_factory):
    """Each family, saved and loaded again through a profile."""
    pipes = {}
    for name, build in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name)
        build(make_pipe).save_pretrained(folder)
        profile = profiles.ModelProfile(
            name, str(folder), None, "float32", 16, 16, STEPS, 5.0, LAYERS[name],
            "sd" if name == "sd21" else name,
        )  # fmt: skip
        pipes[name] = profiles.load(profile), profile
    return pipes


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_a_folder_with_the_weights_saved(loaded, make_pipe, family):
    pipe, profile = loaded[family]
    assert isinstance(pipe, profiles.PIPELINES[profile.family])
    saved = denoiser(FAMILIES[family](make_pipe)).state_dict()
    assert all(torch.equal(saved[key], value) for key, value in denoiser(pipe).state_dict().items())


def test_ddim_replaces_the_sampler_where_it_is_defined_and_nowhere_else(loaded):
    assert isinstance(loaded["sdxl"][0].scheduler, DDIMScheduler)
    assert isinstance(loaded["sd3"][0].scheduler, FlowMatchEulerDiscreteScheduler)
    assert loaded["sd21"][0].scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_count_of_layers_is_refused_in_every_family(loaded, family):
    wrong = dataclasses.replace(loaded[family][1], cross_attention_layers=99)
    with pytest.raises(ValueError, match=f"has {LAYERS[family]} cross-attention layers"):
        profiles.load(wrong)


def test_a_layer_that_the_configuration_does_not_state_is_refused(loaded):
    other = dataclasses.replace(loaded["sdxl"][1], config="sdxl")
    with pytest.raises(
        ValueError, match="layer 2 of 'sdxl' is mid_block.*sdxl.json says down_blocks"
    ):
        profiles.load(other)


@pytest.mark.parametrize("family", ["sd21", "sdxl"])
def test_layers_are_listed_in_the_order_in_which_they_run(loaded, family):
    pipe, ran = loaded[family][0], []
    hooks = [
        pipe.unet.get_submodule(path).register_forward_pre_hook(
            lambda module, inputs, path=path: ran.append(path)
        )
        for path in reversed(text_layers(pipe.unet))
    ]
    generate(pipe, ["a cat"], [0], num_inference_steps=1, guidance_scale=1.0)
    for hook in hooks:
        hook.remove()
    assert ran == text_layers(pipe.unet)
    assert all(isinstance(pipe.unet.get_submodule(path), Attention) for path in ran)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("family", ["sd21", "sdxl"])
def test_a_picture_is_the_one_that_the_familys_pipeline_draws(loaded, family, guidance_scale):
    pipe = loaded[family][0]
    quick = {"num_inference_steps": STEPS, "guidance_scale": guidance_scale}
    ours = generate(pipe, ["a red toy", "a cat"], [7], **quick)
    for picture, prompt in zip(ours[:, 0], ["a red toy", "a cat"], strict=True):
        generator = torch.Generator().manual_seed(7)
        theirs = pipe(prompt, generator=generator, output_type="np", **quick).images[0]
        assert np.abs(picture - theirs * 255.0).max() <= 0.5 + GREY_LEVELS


def test_both_text_encoders_stand_side_by_side(loaded):
    states = text_states(loaded["sdxl"][0], ["a cat", "a dog"])
    assert states.shape == (2, 77, 32 + 48)


def test_the_second_tokenizer_pads_as_it_is_told(loaded):
    pipe = loaded["sdxl"][0]
    one, two = (encode_with(t, "a cat") for t in (pipe.tokenizer, pipe.tokenizer_2))
    assert one.ids[: one.eos + 1] == two.ids[: two.eos + 1]
    assert set(one.ids[one.padding]) == {pipe.tokenizer.eos_token_id}
    assert set(two.ids[two.padding]) == {pipe.tokenizer_2.convert_tokens_to_ids("!")}


def pooled_at(pipe, prompt):
    """Position whose state the second encoder projects, found by comparing all."""
    encoder = pipe.text_encoder_2
    ids = torch.tensor([encode_with(pipe.tokenizer_2, prompt).ids])
    with torch.no_grad():
        output = encoder(ids)
        projected = encoder.text_projection(output.last_hidden_state[0])
    distance = (projected - output.text_embeds).abs().amax(dim=1)
    return int(distance.argmin())


def test_sdxl_pools_at_eos_also_behind_a_placeholder(make_pipe, tmp_path):
    raw = tiny_sdxl(make_pipe)
    raw.save_pretrained(tmp_path)
    profile = profiles.ModelProfile(
        "sdxl", str(tmp_path), None, "float32", 16, 16, STEPS, 5.0, LAYERS["sdxl"], "sdxl"
    )
    pipe, places = profiles.load(profile), []
    for some in (raw, pipe):
        rows = [torch.ones(2, 32), torch.ones(2, 48)]
        attach_rows(some, "<t>", rows)
        places.append(pooled_at(some, "a <t> cat"))
    row = encode_with(pipe.tokenizer_2, "a <t> cat")
    # As configured, the checkpoint would pool at the placeholder's last vector.
    assert places == [row.positions("<t>")[-1], row.eos]


def test_a_placeholder_enters_both_towers_with_the_same_ids(make_pipe):
    pipe = tiny_sdxl(make_pipe)
    rows = [torch.full((2, 32), 2.0), torch.full((2, 48), 3.0)]
    ids = attach_rows(pipe, "EasyToy", rows)
    for encoder, some in zip((pipe.text_encoder, pipe.text_encoder_2), rows, strict=True):
        assert torch.equal(encoder.get_input_embeddings().weight[list(ids)], some)
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        assert encode_with(tokenizer, "a EasyToy").ids[2:4] == ids


def test_rows_for_one_tower_are_refused_by_a_model_with_two(make_pipe):
    with pytest.raises(ValueError, match=r"width 32, the model needs 32 \+ 48"):
        attach_rows(tiny_sdxl(make_pipe), "<t>", [torch.ones(1, 32)])


def test_what_cannot_be_drawn_is_refused(loaded):
    with pytest.raises(ValueError, match="not StableDiffusion3Pipeline"):
        generate(loaded["sd3"][0], ["a cat"], [0])


def test_a_model_without_clip_takes_no_placeholder():
    pipe = IFPipeline(*[None] * 6, watermarker=None, requires_safety_checker=False)
    with pytest.raises(ValueError, match="IFPipeline has no CLIP towers"):
        add_placeholder(pipe, "<t>")
