"""Patching writes what it says where it says, in cross-attention and in joint attention."""

import numpy as np
import pytest
import torch
from families import FAMILIES

from t2i_lens.methods.patching import (
    Arm,
    _elsewhere,
    draw_arms,
    draw_rows,
    encode_texts,
    single_heads,
)
from t2i_lens.probes.joint_attention import injected_text, joint_layers
from t2i_lens.probes.patches import (
    PARTS,
    Patch,
    Recording,
    Write,
    _where,
    attention_sites,
    patched_attention,
    recorded_attention,
)

PAIRS = [("a cat", "a red toy next to a man"), ("a good dog", "a blue chair")]
QUICK = {"num_inference_steps": 3, "guidance_scale": 4.0}
# Pictures of batches of other sizes may turn by one grey level (see test_sampling).
GREY_LEVEL = 1 / 255
# Pictures in [0, 1] of runs whose matrix products have the same shapes: they differ by rounding.
ROUNDING = 1e-5
KINDS = ("unet", "joint")


@pytest.fixture(scope="module")
def pipes(shared_pipe, make_pipe):
    return {"unet": shared_pipe, "joint": FAMILIES["sd3"](make_pipe)}


@pytest.fixture(params=KINDS)
def pipe(request, pipes):
    pipes[request.param].set_progress_bar_config(disable=True)
    return pipes[request.param]


def draw(pipe, arms, pairs=PAIRS, seeds=(1, 2), **others):
    pictures = draw_arms(pipe, pairs, arms, seeds, **{**QUICK, **others})
    return dict(zip((arm.name for arm in arms), pictures, strict=True))


def every(pipe):
    return tuple(attention_sites(pipe))


def distance(first, second):
    return np.abs(first - second).max()


def test_recording_changes_no_bit_and_keeps_every_step(pipe):
    texts, said = encode_texts(pipe, ["a cat"]), (["a cat"] * 2, [1, 2])
    plain = draw_rows(pipe, texts, *said, **QUICK)
    with recorded_attention(pipe, every(pipe)) as recording:
        recorded = draw_rows(pipe, texts, *said, **QUICK)
    assert np.array_equal(plain, recorded)
    assert set(recording.steps) == {(path, part) for path in every(pipe) for part in PARTS}
    assert {len(steps) for steps in recording.steps.values()} == {QUICK["num_inference_steps"]}
    assert {len(step) for steps in recording.steps.values() for step in steps} == {2}


def test_own_activations_written_back_change_nothing(pipe):
    own = Arm("own", layers=every(pipe), parts=PARTS, donor="source")
    drawn = draw(pipe, [Arm("source"), own])
    assert distance(drawn["source"], drawn["own"]) <= ROUNDING


@pytest.mark.parametrize("parts", [("key",), ("value",), ("key", "value"), ("output",)])
def test_patching_changes_the_picture(pipe, parts):
    drawn = draw(pipe, [Arm("source"), Arm("patched", layers=every(pipe), parts=parts)])
    assert distance(drawn["source"], drawn["patched"]) > 100 * ROUNDING


def test_strength_zero_and_no_layers_and_no_heads_change_nothing(pipe):
    layers = every(pipe)
    arms = [
        Arm("none"),
        Arm("zero", layers=layers, strength=0.0),
        Arm("no", layers=layers, heads=()),
    ]
    drawn = draw(pipe, [Arm("source"), *arms])
    for arm in arms:
        assert distance(drawn["source"], drawn[arm.name]) <= ROUNDING, arm


def test_all_heads_singly_named_are_the_whole_layer(pipe):
    layers = every(pipe)[:1]
    heads = attention_sites(pipe)[layers[0]].layer.heads
    arm = Arm("whole", layers=layers)
    named = Arm("named", layers=layers, heads=tuple(range(heads)))
    drawn = draw(pipe, [arm, named, *single_heads(arm, heads)])
    assert np.array_equal(drawn["whole"], drawn["named"])
    singles = [drawn[single.name] for single in single_heads(arm, heads)]
    assert len(singles) == heads
    assert all(distance(single, drawn["whole"]) > 10 * ROUNDING for single in singles)


# Every layer of the U-Net makes keys and values of the same text states, which no step and no
# latent changes: what is recorded in the other run is what the injection computes.
def test_patching_equals_injection_in_a_unet(pipes):
    layers = every(pipes["unet"])
    for chosen in (layers[:1], layers[-1:], layers):
        arms = [Arm("patched", layers=chosen), Arm("injected", "inject", chosen)]
        drawn = draw(pipes["unet"], [Arm("source"), *arms])
        assert distance(drawn["patched"], drawn["injected"]) <= ROUNDING
        assert distance(drawn["source"], drawn["patched"]) > 100 * ROUNDING


# The states that a joint layer reads were changed by the layers before it.
def test_patching_is_not_injection_in_joint_attention(pipes):
    layers = every(pipes["joint"])
    arms = [Arm("patched", layers=layers[-1:]), Arm("injected", "inject", layers[-1:])]
    drawn = draw(pipes["joint"], arms)
    assert distance(drawn["patched"], drawn["injected"]) > 10 * ROUNDING


def test_injecting_a_joint_layer_with_its_own_prompt_changes_the_first_layer_alone_nothing(pipes):
    pipe, said = pipes["joint"], (["a cat"] * 2, [1, 2])
    texts = encode_texts(pipe, ["a cat"])
    states = torch.stack([texts.states["a cat"]] * 2)
    plain = draw_rows(pipe, texts, *said, **QUICK)
    first, *_, last = joint_layers(pipe)
    with injected_text(pipe, [(first,)] * 2, states):
        assert distance(plain, draw_rows(pipe, texts, *said, **QUICK)) <= ROUNDING
    with injected_text(pipe, [(last,)] * 2, states):
        assert distance(plain, draw_rows(pipe, texts, *said, **QUICK)) > 10 * ROUNDING


def test_an_unrelated_donor_is_a_third_prompt(pipe):
    arm = Arm("unrelated", layers=every(pipe), donor="unrelated")
    crossed = [(PAIRS[0][0], PAIRS[1][1])]
    others = [pair[1] for pair in (*PAIRS[1:], PAIRS[0])]
    there = draw(pipe, [arm], unrelated=others)["unrelated"][0]
    assert (
        distance(there, draw(pipe, [Arm("x", layers=every(pipe))], crossed)["x"][0]) <= GREY_LEVEL
    )


def test_the_other_direction_is_the_exchanged_pair(pipe):
    layers = every(pipe)
    back = Arm("back", layers=layers, recipient="target", donor="source")
    there = draw(pipe, [back], PAIRS[:1])["back"]
    exchanged = draw(pipe, [Arm("x", layers=layers)], [PAIRS[0][::-1]])["x"]
    assert distance(there, exchanged) <= ROUNDING


def test_the_unconditional_half_is_left_alone(pipe):
    layers = every(pipe)
    patched = Arm("patched", layers=layers)
    with recorded_attention(pipe, layers) as recording:
        texts = encode_texts(pipe, ["a cat"])
        draw_rows(pipe, texts, ["a cat"], [1], **QUICK)
    halves, site = [], attention_sites(pipe)[layers[0]]

    def keep(module, inputs, output):
        halves.append(output[0].clone())

    writes = [[Write(patched.patch, recording, 0)]]
    handle = site.key.register_forward_hook(keep)
    texts = encode_texts(pipe, ["a red toy"])
    draw_rows(pipe, texts, ["a red toy"], [1], **QUICK)
    alone = [halves.pop(0) for _ in range(len(halves))]
    with patched_attention(pipe, writes):
        handle.remove()
        handle = site.key.register_forward_hook(keep)
        draw_rows(pipe, texts, ["a red toy"], [1], **QUICK)
    handle.remove()
    assert torch.equal(alone[0], halves[0])


@pytest.mark.parametrize("failing", [False, True])
def test_hooks_are_removed_also_after_an_error(pipe, failing):
    def hooks():
        network = getattr(pipe, "unet", None) or pipe.transformer
        modules = list(network.modules())
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before, step = hooks(), pipe.scheduler.step
    texts = encode_texts(pipe, ["a cat"])
    patch = Patch(every(pipe))
    writes = [[Write(patch, Recording(), 0)]]
    try:
        with patched_attention(pipe, writes if failing else [[]]):
            draw_rows(pipe, texts, ["a cat"], [1], **QUICK)
    except ValueError as error:
        assert failing and "recorded" in str(error)
    assert hooks() == before and pipe.scheduler.step == step


def test_what_cannot_be_patched_is_refused_in_one_line(pipe, pipes):
    layers = every(pipe)
    refusals = {
        "no attention layer": lambda: draw(pipe, [Arm("x", layers=("nowhere",))]),
        "no head": lambda: draw(pipe, [Arm("x", layers=layers, heads=(99,))]),
        "needs at least": lambda: draw(pipe, []),
        "find": lambda: draw(pipe, [Arm("x", layers=layers, place="object")]),
        "a prompt for each pair": lambda: draw(pipe, [Arm("x", layers=layers, donor="unrelated")]),
        "joint attention": lambda: joint_layers(pipes["unet"]),
        "U-Net": lambda: attention_sites(object()),
        "expected": lambda: attention_sites(pipe, expected=99),
    }
    for words, act in refusals.items():
        with pytest.raises(ValueError, match=words) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_batch_of_another_size_is_refused(pipe):
    texts = encode_texts(pipe, ["a cat"])
    writes = [[Write(Patch(every(pipe)), Recording(), 0)]]
    with patched_attention(pipe, writes), pytest.raises(ValueError, match="another size"):
        draw_rows(pipe, texts, ["a cat"] * 2, [1, 2], **QUICK)


def test_a_step_that_calls_the_transformer_twice_is_refused_not_mixed(pipes):
    pipe = pipes["joint"]
    pipe.set_progress_bar_config(disable=True)
    (first, *_) = joint_layers(pipe)
    skipping = {"skip_guidance_layers": [0], "skip_layer_guidance_start": -1.0,
                "skip_layer_guidance_stop": 1.0, "output_type": "latent"}  # fmt: skip
    states = torch.zeros(1, *pipe.encode_prompt("a cat", None, None)[0].shape[1:])
    for watch in (recorded_attention(pipe, [first]), injected_text(pipe, [[first]], states)):
        with pytest.raises(ValueError, match="only plain guidance|another size|two halves"), watch:
            pipe("a cat", **QUICK, **skipping)


def test_fused_projections_of_joint_layers_are_refused(pipes):
    pipe = pipes["joint"]
    before = pipe.transformer.attn_processors
    pipe.transformer.fuse_qkv_projections()
    try:
        with pytest.raises(ValueError, match="unfuse"):
            joint_layers(pipe)
    finally:
        pipe.transformer.unfuse_qkv_projections()
    assert pipe.transformer.attn_processors.keys() == before.keys()


def test_a_region_limits_the_outputs_to_its_places():
    own, recorded = torch.zeros(16, 4), torch.ones(16, 4)
    fine, coarse = np.zeros((8, 8), bool), np.zeros((2, 2), bool)
    fine[0, 0], coarse[1, 1] = True, True
    assert _where(fine, "output", recorded, own)[:, 0].nonzero().flatten().tolist() == [0]
    found = _where(coarse, "output", recorded, own)[:, 0].nonzero().flatten().tolist()
    assert found == [10, 11, 14, 15]
    assert _where(coarse, "key", recorded, own) is recorded


def test_elsewhere_is_as_large_and_apart_or_all_that_is_left():
    region = np.zeros((4, 4), bool)
    region[:2, :2] = True
    other = _elsewhere(region)
    assert other.sum() == 4 and not (other & region).any() and other[3, 3]
    region[:3] = True
    assert np.array_equal(_elsewhere(region), ~region)
    assert not _elsewhere(np.zeros((4, 4), bool)).any()


def test_a_patch_mixes_and_permutes_inside_heads():
    own, recorded = torch.zeros(3, 8), torch.arange(24.0).reshape(3, 8)
    assert torch.equal(Patch(("l",))(own, recorded, 2), recorded)
    assert torch.equal(Patch(("l",), strength=0.5)(own, recorded, 2), recorded / 2)
    one = Patch(("l",), heads=(1,))(own, recorded, 2)
    assert torch.equal(one[:, :4], own[:, :4]) and torch.equal(one[:, 4:], recorded[:, 4:])
    mixed = Patch(("l",), permutation=2)(own, recorded, 2)
    assert not torch.equal(mixed, recorded)
    for head in (slice(0, 4), slice(4, 8)):
        assert torch.equal(mixed[:, head].sort(1).values, recorded[:, head])
