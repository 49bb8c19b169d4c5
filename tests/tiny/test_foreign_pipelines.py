"""Pipelines as others set them up: recorded and edited right, or refused in one line."""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionSAGPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from t2i_lens.inversion.embedding_table import read_table
from t2i_lens.inversion.embeddings import attach_rows
from t2i_lens.inversion.training import train
from t2i_lens.inversion.training_data import InversionConfig, encoded_pictures
from t2i_lens.methods.prompt_to_prompt import Replacement, draw_replaced
from t2i_lens.models.tokens import encode
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.edits import Inject, Scale, Value
from t2i_lens.probes.projections import replaced_projections
from t2i_lens.probes.sampling import generate, initial_latents, text_states
from t2i_lens.probes.text_attention import read_prompts
from t2i_lens.probes.text_encoder_hooks import layer_weights
from t2i_lens.probes.unet_hooks import cross_attention_layers, edited_cross_attention

QUICK = {"num_inference_steps": 2, "guidance_scale": 5.0}
STATES = Value("states", torch.ones(77, 32))


def with_compiled_forward(*parts):
    for part in parts:
        part.forward = torch.compile(part.forward, backend="eager")


COMPILE = {
    "as a whole": lambda network: torch.compile(network, backend="eager"),
    "in place": lambda network: network.compile(backend="eager") or network,
    "in part": lambda network: (
        [part.compile(backend="eager") for part in list(network.children())[-1:]] and network
    ),
    "by its forward": lambda network: with_compiled_forward(network) or network,
    "by a part's forward": lambda network: (
        with_compiled_forward(*list(network.children())[-1:]) or network
    ),
}
compiled = pytest.mark.parametrize("compiled", COMPILE.values(), ids=COMPILE)


@compiled
def test_a_compiled_unet_is_neither_edited_nor_recorded(pipe, compiled):
    pipe.unet = compiled(pipe.unet)
    with pytest.raises(ValueError, match="the U-Net is compiled"):
        generate(pipe, ["a cat"], [0], edits=[[Inject(STATES)]], **QUICK)
    with pytest.raises(ValueError, match="the U-Net is compiled"), record(pipe):
        pass


@compiled
def test_a_compiled_text_encoder_is_neither_edited_nor_read(pipe, compiled):
    pipe.text_encoder = compiled(pipe.text_encoder)
    with pytest.raises(ValueError, match="the text encoder is compiled"):
        text_states(pipe, ["a cat"], edits=[[Scale(2.0, positions=(2,))]])
    with pytest.raises(ValueError, match="the text encoder is compiled"):
        read_prompts(pipe, ["a cat"])


def test_a_compiled_pipeline_still_draws(pipe):
    plain = generate(pipe, ["a cat"], [0], **QUICK)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    pipe.text_encoder = torch.compile(pipe.text_encoder, backend="eager")
    assert np.array_equal(generate(pipe, ["a cat"], [0], **QUICK), plain)


class Reader:
    """A processor that does not go through the layer's projections."""

    def __call__(self, layer, states, *others, **named):
        return torch.zeros_like(states)


def test_a_processor_past_the_projections_is_refused_instead_of_edited_in_vain(pipe):
    (path, *_) = cross_attention_layers(pipe.unet)
    pipe.unet.get_submodule(path).set_processor(Reader())
    with pytest.raises(ValueError, match="Reader does not use a layer's to_k and to_v"):
        generate(pipe, ["a cat"], [0], edits=[[Inject(STATES)]], **QUICK)
    with pytest.raises(ValueError, match="Reader does not use"), record(pipe) as recorder:
        generate(pipe, ["a cat"], [0], recorder=recorder, **QUICK)


def test_keys_and_maps_are_not_replaced_in_vain_either(pipe):
    (path, *_) = cross_attention_layers(pipe.unet)
    pipe.unet.get_submodule(path).set_processor(Reader())
    with (
        pytest.raises(ValueError, match="Reader does not use a layer's to_k and to_v"),
        replaced_projections(pipe.unet, lambda layer, stage, states, output: output),
    ):
        generate(pipe, ["a cat"], [0], **QUICK)
    with pytest.raises(ValueError, match="Reader does not use a layer's to_k and to_v"):
        draw_replaced(pipe, [("a cat", "a dog")], [Replacement(1.0, 0.0)], [0], **QUICK)


def perturbed(pipe):
    return StableDiffusionPAGPipeline(
        **pipe.components, pag_applied_layers=["mid"], requires_safety_checker=False
    )


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("prompts", [["a cat"], ["a cat", "a dog"]])
def test_perturbed_attention_guidance_is_refused_not_mixed(pipe, guidance_scale, prompts):
    pag = perturbed(pipe)
    pag.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 1, "guidance_scale": guidance_scale, "pag_scale": 3.0}
    for watch in (record(pag), edited_cross_attention(pag, [[Inject(STATES)]] * len(prompts))):
        with pytest.raises(ValueError, match="only plain guidance|two halves|another size"), watch:
            pag(prompts, output_type="latent", **call)


def test_a_pipeline_that_does_not_say_whether_it_is_guided_is_refused(pipe):
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    sag = StableDiffusionSAGPipeline(**parts, requires_safety_checker=False)
    sag.set_progress_bar_config(disable=True)
    refused = pytest.raises(ValueError, match="SAGPipeline does not say whether it is guided")
    with refused, record(sag):
        sag("a cat", num_inference_steps=1, output_type="latent")


def test_perturbed_guidance_that_is_off_is_recorded(pipe):
    pag = perturbed(pipe)
    pag.set_progress_bar_config(disable=True)
    with record(pag) as recorder:
        pag("a cat", num_inference_steps=1, guidance_scale=5.0, pag_scale=0.0)
    assert recorder.maps().summed_steps == 1


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_pipeline_guided_by_a_picture_is_refused_not_mixed(make_pipe, pictures):
    pipe = make_pipe("kl")
    torch.manual_seed(0)
    config = {name: value for name, value in pipe.unet.config.items() if name[0] != "_"}
    unet = UNet2DConditionModel(**config | {"in_channels": 8}).eval()
    editing = StableDiffusionInstructPix2PixPipeline(
        **pipe.components | {"unet": unet}, requires_safety_checker=False
    )
    editing.set_progress_bar_config(disable=True)
    image = torch.rand(pictures, 3, 16, 16)
    refused = pytest.raises(ValueError, match="only plain guidance|two halves")
    with refused, record(editing):
        editing(["a cat"] * pictures, image=image, num_inference_steps=1, output_type="latent")


def test_two_drawings_of_one_step_are_not_taken_for_one_of_two(pipe):
    with pytest.raises(ValueError, match="a second drawing began"), record(pipe):
        for _ in range(2):
            pipe("a cat", num_inference_steps=1, output_type="latent")


def test_the_sampler_is_as_before_after_recording_and_after_an_error(pipe):
    before = dict(vars(pipe.scheduler))
    with record(pipe), edited_cross_attention(pipe, [[Inject(STATES)]]):
        assert set(vars(pipe.scheduler)) - set(before) == {"step", "set_timesteps"}
    assert vars(pipe.scheduler) == before
    with pytest.raises(ZeroDivisionError), record(pipe):
        raise ZeroDivisionError
    assert vars(pipe.scheduler) == before


def test_an_adapters_picture_is_not_recorded_as_words(pipe):
    """IP-Adapter reads its picture's tokens after the text, in the same layer."""
    for layer in cross_attention_layers(pipe.unet).values():
        torch.manual_seed(0)
        adapter = IPAdapterAttnProcessor2_0(layer.to_q.in_features, 32, num_tokens=(4,))
        layer.set_processor(adapter)
    states, picture = torch.randn(2, 77, 32), torch.randn(2, 1, 4, 32)
    latents = torch.randn(2, 4, 8, 8)
    pipe._guidance_scale = 1.0
    maps = {}
    for shared in (False, True):
        with torch.no_grad(), record(pipe, Keep(per_head=True), shared=shared) as recorder:
            pipe.unet(latents, 10, encoder_hidden_states=(states, [picture]))
        maps[shared] = recorder.maps()
    for path, layer in maps[False].layers.items():
        assert layer.shape[-1] == 77
        torch.testing.assert_close(maps[True].layers[path], layer)


def offloaded(pipe):
    for name in ("unet", "text_encoder", "vae"):
        cpu_offload(getattr(pipe, name), execution_device=torch.device("cpu"))
    return pipe


def test_an_offloaded_pipeline_draws_records_and_edits_as_before(make_pipe):
    pipes = [make_pipe(), make_pipe()]
    for pipe in pipes:
        attach_rows(pipe, "<t>", [torch.ones(2, 32)])
    offloaded(pipes[1])
    results = []
    for pipe in pipes:
        with record(pipe) as recorder:
            pictures = generate(pipe, ["a <t> cat"], [0], recorder=recorder, **QUICK)
        edited = generate(
            pipe, ["a <t> cat"], [0], edits=[[Scale(3.0, positions=(2,)), Inject(STATES)]], **QUICK
        )
        pattern = read_prompts(pipe, ["a cat"]).patterns
        results.append([pictures, edited, *recorder.maps().layers.values(), pattern])
    for plain, offload in zip(*results, strict=True):
        assert np.array_equal(plain, offload)


def test_the_weights_of_an_offloaded_encoder_are_refused_and_it_still_draws(pipe):
    offloaded(pipe)
    for change in (
        lambda: attach_rows(pipe, "<t>", [torch.ones(1, 32)]),
        lambda: read_table(pipe),
        lambda: layer_weights(pipe.text_encoder),
    ):
        with pytest.raises(ValueError, match="the text encoder is offloaded"):
            change()
    assert "<t>" not in pipe.tokenizer.get_vocab()
    assert generate(pipe, ["a cat"], [0], **QUICK).std() > 1


def test_no_token_is_trained_on_an_offloaded_model(make_pipe, make_concept):
    pipe, config = offloaded(make_pipe()), InversionConfig(1, 1e-3, batch_size=1)
    with pytest.raises(ValueError, match="the text encoder is offloaded: load the model whole"):
        train(pipe, [make_concept("cat")], config)


def test_pictures_are_encoded_as_before_by_an_offloaded_autoencoder(make_pipe, make_concept):
    plain, _ = encoded_pictures(make_pipe(), make_concept("cat"))
    again, _ = encoded_pictures(offloaded(make_pipe()), make_concept("cat"))
    assert all(map(torch.equal, plain, again))


def test_a_unet_that_states_its_size_as_a_pair_draws_it(pipe, make_concept):
    square = generate(pipe, ["a cat"], [0], **QUICK)
    pipe.unet.register_to_config(sample_size=(8, 8))
    assert np.array_equal(generate(pipe, ["a cat"], [0], **QUICK), square)
    pipe.unet.register_to_config(sample_size=(8, 12))
    assert initial_latents(pipe, [0]).shape == (1, 4, 8, 12)
    mean, _ = encoded_pictures(pipe, make_concept("cat"))
    assert mean[0].shape[-2:] == (8, 12)


def test_projections_that_were_fused_and_unfused_are_recorded_again(pipe):
    pipe.unet.fuse_qkv_projections()
    with pytest.raises(ValueError, match="call unfuse_qkv_projections first"), record(pipe):
        pass
    pipe.unet.unfuse_qkv_projections()
    with record(pipe) as recorder:
        generate(pipe, ["a cat"], [0], recorder=recorder, **QUICK)
    assert len(recorder.maps().layers) == 4


def test_an_end_of_text_spelled_out_in_a_prompt_is_its_first(pipe):
    row = encode(pipe, "a cat <|endoftext|> dog")
    assert row.eos == 3 == row.ids.index(pipe.tokenizer.eos_token_id)
    assert encode(pipe, "a cat").eos == 3


@pytest.mark.parametrize("large", [1e6, float("nan"), float("inf")])
def test_rows_beyond_the_models_precision_are_refused_when_attached(pipe, large):
    pipe.text_encoder.half()
    with pytest.raises(ValueError, match="not finite in the model's float16"):
        attach_rows(pipe, "<t>", [torch.full((1, 32), large)])
    assert "<t>" not in pipe.tokenizer.get_vocab()


def test_an_edit_beyond_the_models_precision_is_refused(pipe):
    pipe.text_encoder.half()
    with pytest.raises(ValueError, match="embedding states are not finite after the edit"):
        text_states(pipe, ["a cat"], edits=[[Scale(1e9, positions=(2,))]])


def test_pictures_that_are_no_numbers_are_refused_instead_of_black(pipe):
    with torch.no_grad():
        next(pipe.vae.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="the pictures are not finite numbers"):
        generate(pipe, ["a cat"], [0], **QUICK)


@pytest.mark.parametrize(
    "wrong",
    [{"guidance_scale": float("nan")}, {"guidance_scale": float("inf")}, {"num_inference_steps": 0},
     {"batch_size": 0}],
)  # fmt: skip
def test_settings_of_a_drawing_out_of_range_are_refused(shared_pipe, wrong):
    with pytest.raises(ValueError, match="generate needs a step"):
        generate(shared_pipe, ["a cat"], [0], **wrong)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"height": -8}, "-8 by None pixels"), ({"width": 0}, "None by 0 pixels"),
     ({"height": 1}, "a side has at least")],
)  # fmt: skip
def test_a_picture_without_room_for_a_latent_is_refused(shared_pipe, wrong, told):
    with pytest.raises(ValueError, match=told):
        generate(shared_pipe, ["a cat"], [0], **QUICK, **wrong)


@pytest.mark.parametrize("seed", [-1, 2**64, 2**70])
def test_a_seed_that_no_generator_takes_is_named(shared_pipe, seed):
    with pytest.raises(ValueError, match=f"seed {seed} is not from 0"):
        generate(shared_pipe, ["a cat"], [seed], **QUICK)


@pytest.mark.parametrize("name", ["cat", "Cat", "photo", "a", "cat,", "(dog)", "*", "...", ","])
def test_a_placeholder_never_takes_an_ordinary_word(pipe, name):
    before = encode(pipe, "a photo of a cat, dog").ids
    with pytest.raises(ValueError, match="ordinary word|already in the vocabulary"):
        attach_rows(pipe, name, [torch.ones(2, 32)])
    assert encode(pipe, "a photo of a cat, dog").ids == before


@pytest.mark.parametrize("name", ["<cat>", "cat-toy", "EasyCat", "<*>", "cat_v2"])
def test_names_of_published_tokens_are_no_ordinary_words(pipe, name):
    ids = attach_rows(pipe, name, [torch.ones(2, 32)])
    assert encode(pipe, f"a {name}").ids[2:4] == ids
