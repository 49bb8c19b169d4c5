"""Other text states reach exactly the layers, steps and pictures that they are meant for."""

import numpy as np
import pytest
import torch

from t2i_lens.models.tokens import encode
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.edits import Inject, Scale, Slerp, Value
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.probes.unet_hooks import cross_attention_layers, edited_cross_attention

PROMPT, OTHER = "a cat", "a red toy next to a man"
QUICK = {"num_inference_steps": 3, "guidance_scale": 5.0}
# Arms of one call are compared by their pictures; in batches of other sizes these may turn by
# one grey level (see test_sampling).
GREY_LEVELS = 1


@pytest.fixture(scope="module")
def other(shared_pipe):
    return Value(OTHER, text_states(shared_pipe, [OTHER])[0])


@pytest.fixture(scope="module")
def layers(shared_pipe):
    return list(cross_attention_layers(shared_pipe.unet))


def drawn(pipe, edits, prompt=PROMPT, **sampling):
    prompts = [prompt] * len(edits)
    return generate(pipe, prompts, [3], edits=edits, **{**QUICK, **sampling})[:, 0].astype(int)


def states_fed(pipe, edits, **sampling):
    """What every layer's keys and values are made of: {(layer, part): [call, batch, ...]}."""
    seen, handles = {}, []
    for path, layer in cross_attention_layers(pipe.unet).items():
        for part, projection in (("key", layer.to_k), ("value", layer.to_v)):

            def keep(module, inputs, output, at=(path, part)):
                seen.setdefault(at, []).append(output)

            handles.append(projection.register_forward_hook(keep))
    drawn(pipe, edits, **sampling)
    for handle in handles:
        handle.remove()
    return {at: torch.stack(calls) for at, calls in seen.items()}


def test_injecting_everywhere_draws_the_other_prompt(shared_pipe, other):
    pictures = drawn(shared_pipe, [[Inject(other)], []])
    theirs = drawn(shared_pipe, [[], []], prompt=OTHER)
    assert np.array_equal(pictures[0], theirs[0])
    assert np.abs(pictures[0] - pictures[1]).max() > GREY_LEVELS


@pytest.mark.parametrize(
    "edit",
    [
        lambda other: [],
        lambda other: [Inject(other, layers=())],
        lambda other: [Inject(other, into=())],
        lambda other: [Scale(1.0, positions=(1, 2))],
        lambda other: [Slerp(Value("row", other.tensor[0]), 0.0, positions=(2,))],
    ],
)
def test_identity_edits_change_no_bit(shared_pipe, other, edit):
    assert np.array_equal(drawn(shared_pipe, [edit(other)]), drawn(shared_pipe, [[]]))


@pytest.mark.parametrize(
    "edit",
    [
        lambda other: Inject(other, into=("key",)),
        lambda other: Inject(other, into=("value",)),
        lambda other: Inject(other, positions=(1, 2)),
        lambda other: Inject(other, steps=(0, 1)),
        lambda other: Inject(other, branches=("unconditional",)),
        lambda other: Scale(0.0, positions=(2,), stage="text"),
        lambda other: Slerp(Value("row", other.tensor[0]), 0.5, positions=(2,)),
    ],
)
def test_real_edits_change_the_picture(shared_pipe, other, edit):
    edited, plain, again = drawn(shared_pipe, [[edit(other)], [], []])
    assert np.array_equal(plain, again)  # so that any difference is the edit's
    assert not np.array_equal(edited, plain)


def test_each_arm_of_a_batch_has_edits_of_its_own(shared_pipe, other, layers):
    """All single-layer settings in one pass are the same as each drawn alone."""
    arms = [[], *([Inject(other, layers=(path,))] for path in layers)]
    together = drawn(shared_pipe, arms)
    for arm, picture in zip(arms, together, strict=True):
        assert np.abs(drawn(shared_pipe, [arm])[0] - picture).max() <= GREY_LEVELS
    assert len({picture.tobytes() for picture in together}) == len(arms)


def test_only_the_named_places_get_the_other_states(shared_pipe, other, layers):
    edit = Inject(other, layers=(layers[1],), steps=(1, 3), into=("value",), positions=(0, 2))
    plain, fed = states_fed(shared_pipe, [[], []]), states_fed(shared_pipe, [[], [edit]])
    ours = fed[layers[1], "value"]
    before = plain[layers[1], "value"]
    value = shared_pipe.unet.get_submodule(layers[1]).to_v
    with torch.no_grad():
        expected = value(other.tensor)
    # The batch is unconditional, unconditional, conditional, conditional.
    for step in (1, 2):
        torch.testing.assert_close(ours[step, 3, [0, 2]], expected[[0, 2]])
    ours[1:, 3, [0, 2]] = before[1:, 3, [0, 2]]
    for at, states in plain.items():
        assert torch.equal(states, fed[at]), at


def test_both_halves_can_be_fed(shared_pipe, other, layers):
    edit = Inject(other, branches=("conditional", "unconditional"))
    fed = states_fed(shared_pipe, [[edit]])[layers[0], "key"]
    assert torch.equal(fed[:, 0], fed[:, 1])
    alone = states_fed(shared_pipe, [[Inject(other)]], guidance_scale=1.0)[layers[0], "key"]
    assert alone.shape[1] == 1
    torch.testing.assert_close(alone[:, 0], fed[:, 1])


def test_what_is_injected_is_what_is_recorded(shared_pipe, other, layers):
    """Keys of the other prompt give its attention in the first step, in that layer only."""
    keep = Keep(steps=(0,))
    maps = []
    for prompt, edits in [(PROMPT, []), (OTHER, []), (PROMPT, [Inject(other, (layers[0],))])]:
        with record(shared_pipe, keep) as recorder:
            generate(shared_pipe, [prompt], [3], edits=[edits], recorder=recorder, **QUICK)
        maps.append(recorder.maps().layers)
    plain, theirs, injected = maps
    assert torch.equal(injected[layers[0]], theirs[layers[0]])
    assert not torch.equal(injected[layers[0]], plain[layers[0]])
    assert not torch.equal(injected[layers[1]], theirs[layers[1]])


def test_arms_share_their_latents(shared_pipe, other):
    """The unconditional half of the first step sees nothing of prompt or edits."""
    keep = Keep(steps=(0,), branches=("unconditional",))
    with record(shared_pipe, keep) as recorder:
        edits = [[], [Inject(other)], [Scale(3.0, positions=(2,))]]
        generate(shared_pipe, [PROMPT] * 3, [3], edits=edits, recorder=recorder, **QUICK)
    for layer in recorder.maps().layers.values():
        assert torch.equal(layer[0], layer[1]) and torch.equal(layer[0], layer[2])


def test_an_edit_for_a_layer_that_is_not_there_is_refused(shared_pipe, other):
    with pytest.raises(ValueError, match="no cross-attention layer 'down.0.0'"):
        drawn(shared_pipe, [[Inject(other, layers=("down.0.0",))]])


def test_hooks_vanish_also_after_an_error(shared_pipe, other):
    def hook_count():
        modules = shared_pipe.unet.modules()
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = hook_count()
    short = Value("short", torch.ones(3, 32))
    with pytest.raises(RuntimeError):
        drawn(shared_pipe, [[Inject(short)]])
    assert hook_count() == before
    with edited_cross_attention(shared_pipe, [[Inject(other)]]):
        # The U-Net's step and rows; keys, values and a check in each layer.
        assert hook_count() == before + 2 + 3 * 4
    assert hook_count() == before


def test_words_of_edited_rows_are_found_where_they_are_fed(shared_pipe):
    (position,) = encode(shared_pipe, OTHER).positions("toy")
    edit = Scale(4.0, positions=(position,), stage="text")
    changed, plain = text_states(shared_pipe, [OTHER] * 2, edits=[[edit], []])
    assert (changed != plain).any(-1).nonzero().flatten().tolist() == [position]
