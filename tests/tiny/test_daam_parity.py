"""The maps are those of daam 0.2.0, where daam is right; where it is wrong, the error is shown."""

import warnings
from contextlib import contextmanager

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from t2i_lens.models import profiles
from t2i_lens.models.tokens import add_placeholder, encode
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.heat_maps import heat_map, heat_maps

PROMPT = "a red toy next to a man"
# daam's kernel is eager, ours runs beside the model's own: float32 noise in sums of
# probabilities, seen up to 4e-7.
RAW = 1e-6


def tiny_xl(pipe):
    """A Stable Diffusion XL pipeline around the parts of the tiny one."""
    torch.manual_seed(0)
    config = {**pipe.text_encoder.config.to_dict(), "projection_dim": 32}
    second = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        cross_attention_dim=64,
        norm_num_groups=4,
    )
    xl = StableDiffusionXLPipeline(
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        text_encoder_2=second.eval(),
        tokenizer=pipe.tokenizer,
        tokenizer_2=pipe.tokenizer,
        unet=unet.eval(),
        scheduler=pipe.scheduler,
        add_watermarker=False,
    )
    xl.set_progress_bar_config(disable=True)
    return xl


@pytest.fixture(scope="module", params=["tiny", "tiny XL", "toybox"])
def model(request, make_pipe):
    if request.param == "toybox":
        return profiles.load(profiles.get("toybox"))
    return make_pipe() if request.param == "tiny" else tiny_xl(make_pipe())


def drawn(pipe, prompt, steps=4):
    return pipe(
        prompt,
        num_inference_steps=steps,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).images


@contextmanager
def recording(pipe, prompt):
    with record(pipe, Keep(per_head=True)) as recorder:
        recorder.begin([encode(pipe, prompt)], [7])
        yield recorder


def daam_beside_ours(pipe, prompt, folder):
    """Of one run: daam's raw maps by (path, head), its global heat map, and our maps."""
    with warnings.catch_warnings():
        # It calls a deprecated autocast for every map.
        warnings.simplefilter("ignore", FutureWarning)
        from daam import trace

        paths = {module: path for path, module in pipe.unet.named_modules()}
        with trace(pipe, data_dir=folder) as tracer, recording(pipe, prompt) as recorder:
            hooked = {
                h.layer_idx: paths[h.module] for h in tracer.module if hasattr(h, "layer_idx")
            }
            drawn(pipe, prompt)
            # It takes latents of 16x16 for a sixth of 96x96, its own size of heat maps.
            every = tracer.compute_global_heat_map(factors={6, 12, 24})
    raw = {(hooked[layer], head): m for (_, layer, head), m in tracer.all_heat_maps}
    return raw, every, recorder.maps()


def test_raw_and_global_maps_are_daams(model, tmp_path):
    raw, every, maps = daam_beside_ours(model, PROMPT, tmp_path)
    for (path, head), reference in raw.items():
        recorded = maps.layers[path][0, 0, 0, head].movedim(-1, 0)
        torch.testing.assert_close(recorded, reference, atol=RAW, rtol=0)
    paths = tuple({path: None for path, _ in raw})
    assert len(raw) == sum(maps.layers[path].shape[3] for path in paths) > 4
    middle = [path for path in maps.layers if path.startswith("mid_block")]
    assert {*paths, *middle} == set(maps.layers) and middle  # daam leaves the middle out
    resized = heat_maps(maps, (96, 96), layers=paths)[0]
    tokens = len(every.heat_maps)
    torch.testing.assert_close(resized[:tokens], every.heat_maps, atol=RAW, rtol=0)
    word = heat_map(maps, "toy", (96, 96), layers=paths)[0]
    reference = every.compute_word_heat_map("toy").heatmap
    torch.testing.assert_close(word, reference, atol=RAW, rtol=0)
    whole = heat_maps(maps, (96, 96), layers=paths, clamp=False).sum(1)
    torch.testing.assert_close(whole, torch.full_like(whole, 4.0))


def test_our_maps_are_the_same_with_and_without_daam(model, tmp_path):
    # In float32 two runs drift apart where daam's kernel rounds differently from the model's own,
    # and guidance magnifies it.
    model.to(torch.float64)
    try:
        _, _, beside = daam_beside_ours(model, PROMPT, tmp_path)
        with recording(model, PROMPT) as recorder:
            drawn(model, PROMPT)
    finally:
        model.to(torch.float32)
    for path, layer in recorder.maps().layers.items():
        torch.testing.assert_close(layer, beside.layers[path], atol=RAW, rtol=0)


def with_three_vectors(pipe):
    ids = add_placeholder(pipe, "<sks>", 3)
    with torch.no_grad():
        rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(5))
        pipe.text_encoder.get_input_embeddings().weight[list(ids)] = rows
    return pipe


def test_a_multi_vector_word_is_where_daam_does_not_look(make_pipe, tmp_path):
    pipe, prompt = with_three_vectors(make_pipe()), "a photo of <sks> cat"
    row = encode(pipe, prompt)
    assert row.positions("<sks>") == (4, 5, 6) and row.positions("cat") == (7,)
    raw, every, maps = daam_beside_ours(pipe, prompt, tmp_path)
    paths = tuple({path: None for path, _ in raw})
    tokens = heat_maps(maps, (96, 96), layers=paths)[0]
    cat = heat_map(maps, "cat", (96, 96), layers=paths)[0]
    assert torch.equal(cat, tokens[7])
    placeholder = heat_map(maps, "<sks>", (96, 96), layers=paths)[0]
    torch.testing.assert_close(placeholder, tokens[4:7].mean(0))
    # daam counts the placeholder as one token: its "cat" is the placeholder's second vector.
    theirs = every.compute_word_heat_map("cat").heatmap
    torch.testing.assert_close(theirs, tokens[5], atol=RAW, rtol=0)
    assert (theirs - cat).abs().max() > 100 * RAW
    assert len(every.heat_maps) == 7  # of the 9 from BOS to EOS


def test_attention_map_diffusers_agrees_on_raw_maps_and_mislabels_a_multi_vector_word(
    make_pipe, tmp_path
):
    from attention_map_diffusers import AttentionCapture

    pipe, prompt = with_three_vectors(make_pipe()), "a photo of <sks> cat"
    capture = AttentionCapture(pipe, relations="image->text", timesteps="all", heads="all")
    with capture, recording(pipe, prompt) as recorder:
        drawn(pipe, prompt)
    theirs = capture.compute()
    ours = recorder.maps()
    for path, layer in ours.layers.items():
        steps = [r.data for r in theirs.records if r.layer_id == f"unet.{path}"]
        assert len(steps) == 4
        # Both halves of guidance are kept; the second is the conditional one.
        summed = torch.stack([step[-1] for step in steps]).sum(0)
        torch.testing.assert_close(layer[0, 0, 0].flatten(1, 2), summed, atol=RAW, rtol=0)
    theirs.save(str(tmp_path), tokenizer=pipe.tokenizer, prompts=[prompt])
    named = {file.stem for file in tmp_path.rglob("token-*.png")}
    # "cat" is token 7, and 5 is the placeholder's second vector.
    assert encode(pipe, prompt).positions("cat") == (7,)
    assert any(name.startswith("token-5") and "cat" in name for name in named), named
