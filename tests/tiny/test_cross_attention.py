"""Recording changes no bit of a picture, misses nothing, and leaves no trace."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from benchmarks.capture_tools import eager_cross_attention, operations
from t2i_lens.models.tokens import encode
from t2i_lens.probes import attention_kernels
from t2i_lens.probes.cross_attention import Keep, attention_pattern, record
from t2i_lens.probes.heat_maps import (
    daam_norm_cap,
    daam_norms,
    heat_map,
    heat_maps,
    renormalised,
    token_shares,
)
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.unet_hooks import cross_attention_layers, observed_cross_attention, short_name

PROMPTS = ["a cat", "a red toy next to a man"]
QUICK = {"num_inference_steps": 3, "guidance_scale": 5.0}
# Batches of other sizes round differently; seen 2e-7 in sums of three probabilities.
BATCHES = 1e-5


def recorded(pipe, keep=None, prompts=PROMPTS, seeds=(3,), **sampling):
    with record(pipe, keep or Keep()) as recorder:
        generate(pipe, prompts, list(seeds), recorder=recorder, **{**QUICK, **sampling})
    return recorder.maps()


def hook_count(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_observing_changes_no_bit(shared_pipe):
    def drawn():
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        return shared_pipe(PROMPTS[0], latents=latents, output_type="latent", **QUICK).images

    plain = drawn()
    with record(shared_pipe, Keep(per_head=True, branches=("unconditional", "conditional"))):
        observed = drawn()
    assert torch.equal(plain, observed)


def test_rows_sum_to_one_with_bos_and_padding_in_them(shared_pipe):
    maps = recorded(shared_pipe, Keep(per_head=True, per_step=True))
    assert len(maps.layers) == 4
    for layer in maps.layers.values():
        assert layer.shape[:4] == (2, 1, 3, 2)
        assert layer.shape[-1] == 77
        assert layer.dtype == torch.float32
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))
        assert (layer[..., 0] > 0).all()


def test_layers_are_all_found_in_the_order_in_which_they_run(shared_pipe):
    ran = []
    with observed_cross_attention(shared_pipe.unet, lambda call: ran.append(call.layer)) as layers:
        shared_pipe(PROMPTS[0], num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    assert ran == list(layers)
    assert [short_name(path) for path in ran] == ["down.0.0", "mid.0", "up.1.0", "up.1.1"]


def test_another_number_of_layers_than_expected_is_refused(shared_pipe):
    with record(shared_pipe, expected=4):
        pass
    with (
        pytest.raises(ValueError, match="4 cross-attention layers found, 5 expected"),
        record(shared_pipe, expected=5),
    ):
        pass


def test_a_model_without_cross_attention_is_refused(shared_pipe):
    with pytest.raises(ValueError, match="AutoencoderTiny has no cross-attention layers"):
        cross_attention_layers(shared_pipe.vae)


def test_hooks_vanish_also_after_an_error(shared_pipe):
    processors = dict(shared_pipe.unet.attn_processors)
    before = hook_count(shared_pipe.unet)
    with pytest.raises(RuntimeError, match="stop"), record(shared_pipe):
        assert hook_count(shared_pipe.unet) > before
        raise RuntimeError("stop")
    assert hook_count(shared_pipe.unet) == before
    assert shared_pipe.unet.attn_processors == processors


def test_halves_of_guidance_are_what_their_names_say(shared_pipe):
    """In the first step both halves see the same latents, as does a run without guidance."""
    first = {"steps": (0,)}
    prompts = PROMPTS[1:]
    both = recorded(
        shared_pipe, Keep(branches=("unconditional", "conditional"), **first), prompts=prompts
    )
    off = {"guidance_scale": 1.0}
    alone = recorded(shared_pipe, Keep(**first), prompts=prompts, **off)
    empty = recorded(shared_pipe, Keep(**first), prompts=[""], **off)
    named = recorded(shared_pipe, Keep(branches=("unconditional",), **first), prompts=prompts)
    for path, layer in both.layers.items():
        for ours, theirs in [
            (layer[:, 0], empty.layers[path][:, 0]),
            (layer[:, 1], alone.layers[path][:, 0]),
            (layer[:, 0], named.layers[path][:, 0]),
        ]:
            torch.testing.assert_close(ours, theirs, atol=BATCHES, rtol=0)
        assert (layer[:, 0] - layer[:, 1]).abs().max() > 100 * BATCHES


def test_there_is_no_unconditional_half_without_guidance(shared_pipe):
    with pytest.raises(ValueError, match="no unconditional half"):
        recorded(shared_pipe, Keep(branches=("unconditional",)), guidance_scale=1.0)


def test_every_picture_of_a_batch_gets_its_own_maps(shared_pipe):
    together = recorded(shared_pipe, seeds=(3, 4), batch_size=3)
    assert together.seeds == (3, 4, 3, 4)
    assert [row.prompt for row in together.rows] == [p for p in PROMPTS for _ in (3, 4)]
    for sample, (prompt, seed) in enumerate((p, s) for p in PROMPTS for s in (3, 4)):
        alone = recorded(shared_pipe, prompts=[prompt], seeds=[seed])
        for path, layer in alone.layers.items():
            torch.testing.assert_close(
                layer[0], together.layers[path][sample], atol=BATCHES, rtol=0
            )


def test_two_pictures_per_prompt_are_kept_apart_in_a_plain_call(shared_pipe):
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with record(shared_pipe) as recorder:
        shared_pipe(
            PROMPTS, latents=latents, num_images_per_prompt=2, output_type="latent", **QUICK
        )
    together = recorder.maps()
    for sample in range(4):
        with record(shared_pipe) as recorder:
            alone = latents[sample : sample + 1]
            shared_pipe(PROMPTS[sample // 2], latents=alone, output_type="latent", **QUICK)
        for path, layer in recorder.maps().layers.items():
            torch.testing.assert_close(
                layer[0], together.layers[path][sample], atol=BATCHES, rtol=0
            )


def test_pictures_need_not_be_square(shared_pipe):
    keep = Keep(per_head=True)
    maps = recorded(shared_pipe, keep, height=32, width=24)
    sizes = {short_name(path): tuple(m.shape[4:6]) for path, m in maps.layers.items()}
    assert sizes == {"down.0.0": (16, 12), "mid.0": (8, 6), "up.1.0": (16, 12), "up.1.1": (16, 12)}
    assert heat_maps(maps, (16, 12)).shape == (2, 77, 16, 12)


def test_rows_and_columns_of_a_map_are_those_of_the_latents(shared_pipe):
    """A change in one corner of the latents shows in that corner of the first layer's map."""
    latents = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(1))
    changed = latents.clone()
    changed[..., :4, 8:] = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(2))
    first, found = next(iter(cross_attention_layers(shared_pipe.unet))), []
    for each in (latents, changed):
        with record(shared_pipe, Keep(layers=(first,), steps=(0,))) as recorder:
            shared_pipe(
                PROMPTS[0], latents=each, height=32, width=24, output_type="latent", **QUICK
            )
        found.append(recorder.maps().layers[first][0, 0, 0, 0])
    difference = (found[1] - found[0]).abs().sum(-1)
    corner = difference[:4, 8:].mean()
    difference[:4, 8:] = 0
    assert corner > 3 * difference.sum() / (16 * 12 - 16)


def test_what_is_kept_is_a_part_of_everything(shared_pipe):
    every = recorded(shared_pipe, Keep(per_head=True, per_step=True))
    path = list(every.layers)[1]
    part = recorded(
        shared_pipe,
        Keep(layers=(path,), heads=(1,), steps=(0, 2), per_step=True, tokens=(0, 2, 76)),
    )
    assert list(part.layers) == [path]
    assert part.steps == (0, 2) and part.tokens == (0, 2, 76)
    expected = every.layers[path][:, :, [0, 2]][:, :, :, [1]][..., [0, 2, 76]]
    assert torch.equal(part.layers[path], expected)
    summed = recorded(shared_pipe)
    for path, layer in summed.layers.items():
        mean = every.layers[path].mean(3, keepdim=True).sum(2, keepdim=True)
        torch.testing.assert_close(layer, mean)
    assert summed.summed_steps == 3


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (Keep(layers=("down.0.0",)), "no cross-attention layer 'down.0.0'"),
        (Keep(heads=(2,)), "has 2 heads, asked for"),
    ],
)
def test_what_is_not_there_cannot_be_kept(shared_pipe, keep, message):
    with pytest.raises(ValueError, match=message), record(shared_pipe, keep):
        pass


def test_the_state_does_not_grow_with_the_steps(shared_pipe):
    def size(keep, steps):
        with record(shared_pipe, keep) as recorder:
            generate(shared_pipe, PROMPTS, [1], recorder=recorder, num_inference_steps=steps)
        return recorder.state_size

    assert size(Keep(), 2) == size(Keep(), 5) == 2 * 77 * (3 * 64 + 16)
    assert size(Keep(per_step=True), 5) == 5 * size(Keep(), 2)


def operations_per_layer(pipe, keep, **options):
    """Most operations of a cross-attention layer with its recording, over layers and steps."""
    with record(pipe, keep, **options) as recorder:
        counts = operations(
            pipe.unet, lambda: generate(pipe, PROMPTS[:1], [1], recorder=recorder, **QUICK)
        )
    assert len(counts) == 4 * 3
    return max(counts)


def with_heads(pipe, heads):
    config = {**pipe.unet.config, "attention_head_dim": heads}
    pipe.unet = UNet2DConditionModel.from_config(config).eval()
    return pipe


def test_operations_per_layer_do_not_grow_with_the_heads(pipe):
    both = ("unconditional", "conditional")
    keeps = [Keep(), Keep(per_head=True), Keep(tokens=(0, 1, 2)), Keep(branches=both)]
    few, many = (
        [operations_per_layer(with_heads(pipe, heads), keep) for keep in keeps] for heads in (2, 8)
    )
    assert few == many
    assert max(few) <= 13, few


def test_sharing_needs_no_more_operations_whatever_the_heads(pipe):
    keeps = [Keep(), Keep(per_head=True)]
    few, many = (
        [operations_per_layer(with_heads(pipe, heads), keep, shared=True) for keep in keeps]
        for heads in (2, 8)
    )
    assert few == many
    assert max(few) <= 13, few


def latents_drawn(pipe, keep=None, **options):
    """Latents of a picture, bare or with a recorder around; and its maps."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    draw = lambda: pipe(PROMPTS[1], latents=latents, output_type="latent", **QUICK).images  # noqa: E731
    if keep is None:
        return draw(), None
    with record(pipe, keep, **options) as recorder:
        drawn = draw()
    return drawn, recorder.maps()


@pytest.mark.parametrize(
    "keep",
    [
        Keep(),
        Keep(per_head=True, per_step=True),
        Keep(branches=("unconditional",), tokens=(0, 3)),
        Keep(branches=("unconditional", "conditional"), heads=(1,)),
        Keep(steps=(1,)),
    ],
)
def test_sharing_records_the_same_and_draws_the_same_up_to_rounding(shared_pipe, keep):
    plain, maps = latents_drawn(shared_pipe, keep)
    shared, ours = latents_drawn(shared_pipe, keep, shared=True)
    # Kernels sum in another order, and guidance magnifies it; latents are of order 1.
    torch.testing.assert_close(shared, plain, atol=1e-5, rtol=0)
    for path, layer in maps.layers.items():
        torch.testing.assert_close(ours.layers[path], layer, atol=1e-5, rtol=0)


def test_sharing_uses_what_it_records(shared_pipe, monkeypatch):
    """With other probabilities the recorded half is drawn otherwise, the other is not."""
    real = attention_kernels.probabilities
    monkeypatch.setattr(attention_kernels, "probabilities", lambda *a: real(*a).flip(-1))
    layer = next(iter(cross_attention_layers(shared_pipe.unet).values()))
    seen = []
    handle = layer.register_forward_hook(lambda *call: seen.append(call[-1]))
    first = Keep(steps=(0,))
    for options in ({}, {"shared": True}):
        latents_drawn(shared_pipe, first, **options)
    handle.remove()
    plain, changed = seen[0], seen[3]
    torch.testing.assert_close(changed[0], plain[0], atol=1e-5, rtol=0)
    assert (changed[1] - plain[1]).abs().max() > 1e-3


def test_sharing_leaves_no_trace_also_after_an_error(shared_pipe):
    layers = cross_attention_layers(shared_pipe.unet).values()
    with pytest.raises(RuntimeError, match="stop"), record(shared_pipe, shared=True):
        assert all("forward" in vars(layer) for layer in layers)
        raise RuntimeError("stop")
    assert not any("forward" in vars(layer) for layer in layers)


def test_an_eager_layers_own_probabilities_are_recorded_and_no_bit_changes(pipe):
    with eager_cross_attention(pipe.unet):
        plain, _ = latents_drawn(pipe)
        observed, maps = latents_drawn(pipe, Keep(per_head=True))
        layers = cross_attention_layers(pipe.unet).values()
        assert not any("get_attention_scores" in vars(layer) for layer in layers)
        with record(pipe) as recorder:
            counts = operations(pipe.unet, lambda: pipe(PROMPTS[1], **QUICK))
        bare = operations(pipe.unet, lambda: pipe(PROMPTS[1], **QUICK))
    assert torch.equal(plain, observed)
    _, beside = latents_drawn(pipe, Keep(per_head=True))
    for path, layer in beside.layers.items():
        torch.testing.assert_close(maps.layers[path], layer, atol=1e-5, rtol=0)
        assert maps.layers[path].untyped_storage().nbytes() == maps.layers[path].nbytes
    assert recorder.state_size and max(counts) == max(bare) + 1  # mean and sum in one


def test_the_pattern_is_the_one_the_layer_computes_itself(pipe):
    """With diffusers' own eager scores as reference: a scale, a mask and upcasting included."""
    layer = cross_attention_layers(pipe.unet)["mid_block.attentions.0.transformer_blocks.0.attn2"]
    layer.scale, layer.upcast_attention, layer.upcast_softmax = 0.9, True, True
    seen, reference = [], []

    class Spy(AttnProcessor):
        def __call__(self, attn, *args, **kwargs):
            scores = attn.get_attention_scores
            attn.get_attention_scores = lambda q, k, m: (
                reference.append(scores(q, k, m)) or scores(q, k, m)
            )
            output = super().__call__(attn, *args, **kwargs)
            del attn.get_attention_scores
            return output

    layer.set_processor(Spy())
    mask = torch.ones(2, 77)
    mask[:, 70:] = 0
    with torch.no_grad(), observed_cross_attention(pipe.unet, seen.append):
        sample = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        states = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(2))
        pipe.unet(sample, 10, states, encoder_attention_mask=mask)
    (call,) = (c for c in seen if c.layer.startswith("mid"))
    pattern = attention_pattern(call)
    torch.testing.assert_close(pattern.flatten(0, 1), reference[0])
    assert pattern[..., 70:].max() == 0
    torch.testing.assert_close(attention_pattern(call, slice(1, 2)), pattern[1:])


@pytest.mark.parametrize("kernel", ["fused", "shared", "eager"])
def test_half_precision_is_summed_in_full(pipe, kernel):
    pipe.to(torch.bfloat16)
    eager = eager_cross_attention(pipe.unet) if kernel == "eager" else nullcontext()
    with eager, record(pipe, shared=kernel == "shared") as recorder:
        generate(pipe, PROMPTS[:1], [3], recorder=recorder, **QUICK)
    maps = recorder.maps()
    for layer in maps.layers.values():
        assert layer.dtype == torch.float32
        # float32 sums; in bfloat16 the rows would be wrong by 1e-2.
        torch.testing.assert_close(layer.sum(-1), torch.full(layer.shape[:-1], 3.0))


def test_patterns_carry_gradients_to_the_latents(shared_pipe):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    latents.requires_grad_()
    calls = []
    with observed_cross_attention(shared_pipe.unet, calls.append):
        shared_pipe.unet(latents, 10, torch.ones(1, 77, 32))
    (gradient,) = torch.autograd.grad(attention_pattern(calls[-1])[..., 0].sum(), latents)
    assert gradient.abs().max() > 0


def test_a_second_drawing_is_never_mixed_into_the_first(shared_pipe):
    with pytest.raises(ValueError, match="give the recorder to generate"), record(shared_pipe):
        generate(shared_pipe, PROMPTS, [1], batch_size=1, **QUICK)


def test_prompts_and_pictures_must_agree_in_number(shared_pipe):
    with (
        pytest.raises(ValueError, match="1 prompts announced for 2 pictures"),
        record(shared_pipe) as recorder,
    ):
        recorder.begin([encode(shared_pipe, PROMPTS[0])])
        shared_pipe(PROMPTS, **QUICK)


def test_nothing_recorded_is_said(shared_pipe):
    with record(shared_pipe) as recorder:
        pass
    with pytest.raises(ValueError, match="nothing was recorded"):
        recorder.maps()


def test_a_words_heat_map_is_the_mean_of_its_tokens(shared_pipe):
    maps = recorded(shared_pipe, prompts=["a man next to a man"])
    positions = encode(shared_pipe, "a man next to a man").positions("man")
    assert len(positions) == 2
    every = heat_maps(maps, (8, 8))
    word = heat_map(maps, "man", (8, 8))
    torch.testing.assert_close(word, every[:, list(positions)].mean(1))
    with pytest.raises(ValueError, match="no word 'dog'"):
        heat_map(maps, "dog")


def test_shares_sum_to_one_and_agree_with_unresized_maps(shared_pipe):
    maps = recorded(shared_pipe)
    shares = token_shares(maps)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2))
    means = [layer[:, 0, 0, 0].mean((1, 2)) / 3 for layer in maps.layers.values()]
    torch.testing.assert_close(shares, torch.stack(means).mean(0))
    words = renormalised(shares, range(1, 4))
    torch.testing.assert_close(words.sum(-1), torch.ones(2))
    torch.testing.assert_close(words[0, 0] / words[0, 1], shares[0, 1] / shares[0, 2])


def test_norms_stay_below_their_cap_and_follow_their_definition(shared_pipe):
    maps = recorded(shared_pipe)
    norms = daam_norms(maps)
    assert daam_norm_cap(maps) == 64 * 3
    assert norms.max() < 64 * 3
    np.testing.assert_allclose(
        norms[1, 4], np.linalg.norm(heat_maps(maps, (64, 64))[1, 4].numpy()), rtol=1e-5
    )
