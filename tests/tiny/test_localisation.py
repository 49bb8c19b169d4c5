"""All single-layer settings in one pass draw what one plain run per layer draws."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from benchmarks import bench
from t2i_lens.methods import localisation
from t2i_lens.methods.localisation import NONE, Setting, draw_settings, single_layers
from t2i_lens.models import profiles
from t2i_lens.probes.sampling import generate, initial_latents, text_states
from t2i_lens.probes.unet_hooks import cross_attention_layers

SOURCE, TARGET = "a cat", "a red toy next to a man"
SEED = 3
SAMPLING = {"num_inference_steps": 3, "guidance_scale": 3.0}
# Sums run in another order in batches of another size, so latents differ by roundings of float32
# (6e-8 of the largest), which guidance and three steps multiply: this share of the largest latent
# is allowed. Bytes may then fall on either side of one half.
LATENTS, GREY_LEVELS = 1e-5, 1


@pytest.fixture(scope="module", params=["tiny", "toybox"])
def any_pipe(request, shared_pipe):
    """Tiny SD with random weights, and the trained toybox."""
    return shared_pipe if request.param == "tiny" else profiles.load(profiles.get("toybox"))


def hook_count(pipe):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules())


def assert_same(latents, expected):
    assert (latents - expected).abs().max() <= LATENTS * expected.abs().max()


@contextmanager
def final_latents(pipe):
    """What the decoder is given, all batches, while the context is open."""
    seen = []
    handle = pipe.vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def plain_run(pipe, layer, start, source=SOURCE, target=TARGET):
    """One layer, one picture: the layer's own `encoder_hidden_states`, written by hand."""
    empty, before, after = text_states(pipe, ["", source, target])
    step = -1

    def next_step(*_):
        nonlocal step
        step += 1

    def exchange(_, inputs, named):
        if step < start:
            return None
        states = torch.stack([named["encoder_hidden_states"][0], after])  # the empty prompt stays
        return inputs, named | {"encoder_hidden_states": states}

    handles = [
        pipe.unet.register_forward_pre_hook(next_step),
        pipe.unet.get_submodule(layer).register_forward_pre_hook(exchange, with_kwargs=True),
    ]
    with final_latents(pipe) as seen:
        image = pipe(
            prompt_embeds=before[None],
            negative_prompt_embeds=empty[None],
            latents=initial_latents(pipe, [SEED]),
            output_type="np",
            **SAMPLING,
        ).images[0]
    for handle in handles:
        handle.remove()
    return seen[0][0], np.round(image * 255).astype(int)


def drawn(pipe, settings, pairs=((SOURCE, TARGET),), seeds=(SEED,), **changed):
    """Latents [setting * pair * seed, ...] and pictures of one batched pass."""
    with final_latents(pipe) as seen:
        result = draw_settings(pipe, pairs, settings, seeds, **(SAMPLING | changed))
    return torch.cat(seen), result["pictures"].astype(int)


@pytest.mark.parametrize("start", [0, 1])
def test_one_pass_over_all_layers_equals_one_plain_run_per_layer(any_pipe, start):
    layers = list(cross_attention_layers(any_pipe.unet))
    settings = [Setting((path,), start) for path in layers]
    latents, pictures = drawn(any_pipe, settings)
    for place, path in enumerate(layers):
        expected, picture = plain_run(any_pipe, path, start)
        assert_same(latents[place], expected)
        assert np.abs(pictures[place, 0, 0] - picture).max() <= GREY_LEVELS
    distances = torch.cdist(latents.flatten(1), latents.flatten(1))
    assert distances[~torch.eye(len(layers), dtype=bool)].min() > 1e-3  # no two layers alike


def test_settings_without_effect_change_no_bit(any_pipe):
    """No layer, or a start after the last step: rows of one batch go through the same kernels."""
    layers = tuple(cross_attention_layers(any_pipe.unet))
    late = Setting(layers, SAMPLING["num_inference_steps"])
    latents, _ = drawn(any_pipe, [NONE, late])
    assert torch.equal(latents[0], latents[1])
    with final_latents(any_pipe) as seen:
        generate(any_pipe, [SOURCE] * 2, [SEED], **SAMPLING)
    assert torch.equal(latents, seen[0])


def test_injecting_a_prompt_into_itself_draws_the_prompt(any_pipe):
    """Its states are encoded in another batch, where matrix products may round otherwise."""
    layers = tuple(cross_attention_layers(any_pipe.unet))
    latents, _ = drawn(any_pipe, [NONE, Setting(layers)], [(SOURCE, SOURCE)])
    assert_same(latents[1], latents[0])


def test_all_layers_from_the_first_step_draw_the_target(any_pipe):
    none, *_, every = single_layers(list(cross_attention_layers(any_pipe.unet)))
    latents, _ = drawn(any_pipe, [none, every])
    target, _ = drawn(any_pipe, [NONE], [(TARGET, TARGET)])
    assert_same(latents[1], target[0])
    assert (latents[0] - latents[1]).abs().max() > 1e-3


def test_every_pair_gets_its_own_target_and_every_seed_its_own_latents(shared_pipe):
    layer = next(iter(cross_attention_layers(shared_pipe.unet)))
    pairs, seeds = [(SOURCE, TARGET), ("a dog", "a blue chair"), (SOURCE, "a frog")], [3, 4]
    settings = [NONE, Setting((layer,))]
    latents, pictures = drawn(shared_pipe, settings, pairs, seeds)
    latents = latents.unflatten(0, pictures.shape[:3])
    for place, pair in enumerate(pairs):
        for column, seed in enumerate(seeds):
            alone, _ = drawn(shared_pipe, settings, [pair], [seed])
            assert_same(latents[:, place, column], alone)
    assert torch.equal(latents[0, 0], latents[0, 2]) and not torch.equal(
        latents[1, 0], latents[1, 2]
    )


def test_without_guidance_the_only_half_is_injected(shared_pipe):
    layers = tuple(cross_attention_layers(shared_pipe.unet))
    latents, _ = drawn(shared_pipe, [NONE, Setting(layers)], guidance_scale=1.0)
    target, _ = drawn(shared_pipe, [NONE], [(TARGET, TARGET)], guidance_scale=1.0)
    assert_same(latents[1], target[0])


@pytest.mark.parametrize(
    ("pairs", "settings", "message"),
    [
        ([(SOURCE, TARGET)], [Setting(("down.0.0",))], "no cross-attention layer 'down.0.0'"),
        ([(SOURCE, "a " * 100)], [NONE], "shorten"),
        ([], [NONE], "at least one prompt"),
    ],
)
def test_a_bad_call_says_why_and_leaves_no_hook(shared_pipe, pairs, settings, message):
    before = hook_count(shared_pipe)
    with pytest.raises(ValueError, match=message):
        drawn(shared_pipe, settings, pairs)
    assert hook_count(shared_pipe) == before


def test_hooks_are_gone_after_an_error_in_the_middle_of_drawing(shared_pipe):
    layers, before = tuple(cross_attention_layers(shared_pipe.unet)), hook_count(shared_pipe)
    calls = []

    def fail(*_):
        calls.append(hook_count(shared_pipe))
        if len(calls) == 2:
            raise ArithmeticError("second step")

    handle = shared_pipe.unet.register_forward_hook(fail)
    with pytest.raises(ArithmeticError):
        drawn(shared_pipe, [Setting(layers)])
    handle.remove()
    assert min(calls) > before + 1 and hook_count(shared_pipe) == before


def test_sizes_are_those_of_key_and_value_matrices(shared_pipe):
    sizes, unet = localisation.layer_sizes(shared_pipe), shared_pipe.unet
    assert list(sizes["path"]) == list(cross_attention_layers(unet))
    names = [n for n, _ in unet.named_parameters() if ".attn2.to_k." in n or ".attn2.to_v." in n]
    assert sizes["parameters"].sum() == sum(unet.get_parameter(name).numel() for name in names)
    total = sum(parameter.numel() for parameter in unet.parameters())
    assert sizes["share"].sum() == pytest.approx(100 * sizes["parameters"].sum() / total)


def test_the_bench_draws_the_same_number_of_pictures_both_ways(shared_pipe, monkeypatch):
    monkeypatch.setattr(bench, "SAMPLING_STEPS", 2)
    measured = bench.localisation_rates(shared_pipe, rounds=1)
    assert set(measured) == {"one run per layer", "all layers in one pass"}
    assert all(rate > 0 for each in measured.values() for rate in each)
