"""Text self-attention is read as it is, from either class of encoder, and leaves no trace."""

import pytest
import torch
from transformers import CLIPTextModelWithProjection

from t2i_lens.models.tokens import add_placeholder, encode
from t2i_lens.probes import text_attention
from t2i_lens.probes.edits import Force, Patch, Scale, Slerp, Swap, Value
from t2i_lens.probes.sampling import text_states
from t2i_lens.probes.text_attention import read_ids, read_prompts
from t2i_lens.probes.text_encoder_hooks import eager_attention, layer_weights, traced_text_encoder

PROMPTS = ["a photo of a cat", "a red toy next to a man"]
# Kernels sum in another order; states are of order 1.
KERNELS = 1e-5


def hook_count(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def embedding_of(pipe, word):
    (place,) = encode(pipe, word).positions(word)
    table = pipe.text_encoder.get_input_embeddings().weight
    return Value(word, table[encode(pipe, word).ids[place]])


def test_patterns_are_the_models_own_causal_and_sum_to_one(shared_pipe):
    reading = read_prompts(shared_pipe, PROMPTS)
    assert reading.patterns.shape == (2, 2, 4, 77, 77)
    encoder = shared_pipe.text_encoder
    with eager_attention(encoder), torch.no_grad():
        ids = torch.tensor([row.ids for row in reading.rows])
        reference = torch.stack(encoder(ids, output_attentions=True).attentions, 1)
    assert torch.equal(reading.patterns, reference)
    torch.testing.assert_close(reading.patterns.sum(-1), torch.ones(2, 2, 4, 77))
    assert reading.patterns.triu(1).abs().max() == 0
    assert (reading.patterns[..., 0] > 0).all()  # BOS is there


def test_scores_become_the_pattern_under_mask_and_softmax(shared_pipe):
    reading = read_prompts(shared_pipe, PROMPTS)
    ahead = torch.ones(77, 77, dtype=torch.bool).triu(1)
    softmax = reading.scores.masked_fill(ahead, -torch.inf).softmax(-1)
    torch.testing.assert_close(softmax, reading.patterns)


def test_scores_follow_from_the_layers_weights_and_inputs(shared_pipe):
    reading = read_prompts(shared_pipe, PROMPTS)
    for layer in (0, 1):
        w = layer_weights(shared_pipe.text_encoder, layer)
        x = torch.nn.functional.layer_norm(reading.inputs[:, layer], (32,), *w.norm, w.eps)
        query = torch.einsum("btd,hcd->bhtc", x, w.query_weight) + w.query_bias[:, None]
        key = torch.einsum("btd,hcd->bhtc", x, w.key_weight) + w.key_bias[:, None]
        torch.testing.assert_close(query @ key.mT * w.scale, reading.scores[:, layer])
    ids = torch.tensor([row.ids for row in reading.rows])
    table = shared_pipe.text_encoder.get_input_embeddings().weight
    first = layer_weights(shared_pipe.text_encoder)
    torch.testing.assert_close(reading.inputs[:, 0], table[ids].detach() + first.positions)


def test_states_run_from_layer_to_layer_to_the_output(shared_pipe):
    reading = read_prompts(shared_pipe, PROMPTS)
    assert torch.equal(reading.outputs[:, 0], reading.inputs[:, 1])
    final = shared_pipe.text_encoder.final_layer_norm(reading.outputs[:, -1])
    assert torch.equal(final, reading.states)
    plain = text_states(shared_pipe, PROMPTS)
    torch.testing.assert_close(reading.states, plain, atol=KERNELS, rtol=0)


def test_an_encoder_with_projection_is_read_alike(shared_pipe):
    flat = shared_pipe.text_encoder
    nested = CLIPTextModelWithProjection(flat.config).eval()
    nested.text_model.load_state_dict(flat.state_dict())
    ids = torch.tensor([encode(shared_pipe, p).ids for p in PROMPTS])
    assert torch.equal(read_ids(nested, ids).patterns, read_ids(flat, ids).patterns)
    assert hook_count(nested) == 0


def test_a_layer_can_be_read_alone(shared_pipe):
    every, second = (
        read_prompts(shared_pipe, PROMPTS),
        read_prompts(shared_pipe, PROMPTS, layers=[1]),
    )
    assert second.layers == (1,)
    assert torch.equal(second.patterns, every.patterns[:, 1:])
    with pytest.raises(ValueError, match="no layer 2: the text encoder has 2"):
        read_prompts(shared_pipe, PROMPTS, layers=[2])


def test_hooks_and_kernel_are_restored_after_an_error(shared_pipe):
    encoder = shared_pipe.text_encoder
    before, hooks = encoder.config._attn_implementation, hook_count(encoder)
    assert before == "sdpa"
    with pytest.raises(RuntimeError, match="stop"), traced_text_encoder(encoder):
        assert hook_count(encoder) > hooks
        assert encoder.config._attn_implementation == "eager"
        raise RuntimeError("stop")
    assert hook_count(encoder) == hooks
    assert encoder.config._attn_implementation == before


def test_something_else_than_clip_is_refused(shared_pipe):
    with pytest.raises(ValueError, match="AutoencoderTiny is not a CLIP text encoder"):
        read_ids(shared_pipe.vae, torch.zeros(1, 77, dtype=torch.long))


def test_swapping_an_embedding_is_writing_the_other_word(shared_pipe):
    edit = Swap(
        embedding_of(shared_pipe, "dog"), positions=encode(shared_pipe, "a cat").positions("cat")
    )
    swapped = text_states(shared_pipe, ["a cat", "a cat"], edits=[[edit], []])
    assert torch.equal(swapped, text_states(shared_pipe, ["a dog", "a cat"]))


def test_all_vectors_of_a_placeholder_can_be_edited(pipe):
    ids = add_placeholder(pipe, "<toy>", 2)
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[list(ids)] = torch.eye(32)[:2]
    positions = encode(pipe, "a <toy> cat").positions("<toy>")
    edit = Scale(3.0, positions=positions)
    inputs = [read_prompts(pipe, ["a <toy> cat"], edits=[e]).inputs[0, 0] for e in ([], [edit])]
    change = inputs[1] - inputs[0]
    torch.testing.assert_close(change[list(positions)], 2 * torch.eye(32)[:2])
    assert change.abs().sum() == pytest.approx(4)


@pytest.mark.parametrize("layer", [0, 1])
def test_patching_a_layer_everywhere_is_the_other_prompt_from_there(shared_pipe, layer):
    source, target = read_prompts(shared_pipe, PROMPTS[:1]), read_prompts(shared_pipe, PROMPTS[1:])
    patch = Patch(Value("other", target.outputs[0, layer]), layer, tuple(range(77)))
    patched = read_prompts(shared_pipe, PROMPTS[:1], edits=[[patch]])
    assert torch.equal(patched.states, target.states)
    assert torch.equal(patched.patterns[:, : layer + 1], source.patterns[:, : layer + 1])


def test_a_text_edit_acts_after_the_final_norm(shared_pipe):
    edit = Scale(2.0, positions=(3,), stage="text")
    edited = text_states(shared_pipe, PROMPTS, edits=[[], [edit]])
    plain = text_states(shared_pipe, PROMPTS)
    assert torch.equal(edited[1, 3], 2 * plain[1, 3])
    assert torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1, 4:], plain[1, 4:])


def test_forced_rows_are_used_and_only_later_tokens_feel_them(shared_pipe):
    to_bos = Force(Value("to BOS", torch.eye(77)[0]), 0, (2,), heads=(1, 3))
    plain = read_prompts(shared_pipe, PROMPTS)
    forced = read_prompts(shared_pipe, PROMPTS, edits=[[to_bos], []])
    assert torch.equal(forced.patterns[0, 0, [1, 3], 2], torch.eye(77)[[0, 0]])
    rest = torch.ones(4, 77, dtype=torch.bool)
    rest[[1, 3], 2] = False
    assert torch.equal(forced.patterns[0, 0, rest], plain.patterns[0, 0, rest])
    changed = (forced.states != plain.states).any(-1)
    assert changed[0, 2] and not changed[0, :2].any() and changed[0, 3:].any()
    assert not changed[1].any()


def test_forcing_a_row_to_what_it_is_changes_no_bit(shared_pipe):
    plain = read_prompts(shared_pipe, PROMPTS[:1])
    own = Force(Value("own", plain.patterns[0, 1, :, 4]), 1, (4,))
    assert torch.equal(read_prompts(shared_pipe, PROMPTS[:1], edits=[[own]]).states, plain.states)


def test_a_forced_row_mixes_the_values_as_it_says(shared_pipe):
    """All attention of a query on itself leaves its value alone, through the output matrix."""
    itself = Force(Value("itself", torch.eye(77)[2]), 0, (2,))
    forced = read_prompts(shared_pipe, PROMPTS[:1], edits=[[itself]])
    layer = shared_pipe.text_encoder.encoder.layers[0]
    with torch.no_grad():
        x = forced.inputs[0, 0, 2]
        attended = layer.self_attn.out_proj(layer.self_attn.v_proj(layer.layer_norm1(x)))
        expected = x + attended
        expected = expected + layer.mlp(layer.layer_norm2(expected))
    torch.testing.assert_close(forced.outputs[0, 0, 2], expected)


def test_an_edit_for_a_missing_layer_or_too_few_lists_are_refused(shared_pipe):
    force = Force(Value("to BOS", torch.eye(77)[0]), 2, (2,))
    with pytest.raises(ValueError, match="has layers 0 to 1"):
        text_states(shared_pipe, PROMPTS[:1], edits=[[force]])
    with pytest.raises(ValueError, match="2 prompts need as many lists of edits, not 1"):
        text_states(shared_pipe, PROMPTS, edits=[[]])


def test_hooks_vanish_after_an_edit_that_fails(shared_pipe):
    before = hook_count(shared_pipe.text_encoder)
    parallel = Slerp(embedding_of(shared_pipe, "cat"), 0.5, positions=(5,))
    force = Force(Value("to BOS", torch.eye(77)[0]), 1, (2,))
    with pytest.raises(ValueError, match="parallel"):
        text_states(shared_pipe, PROMPTS[:1], edits=[[parallel, force]])
    assert hook_count(shared_pipe.text_encoder) == before
    assert shared_pipe.text_encoder.config._attn_implementation == "sdpa"


# Two layers of one head; BOS, two words, EOS, one padding token.
HAND = torch.tensor(
    [
        [[1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.2, 0.2, 0.6, 0, 0], [0.7, 0.1, 0.1, 0.1, 0]],
        [[1, 0, 0, 0, 0], [0.9, 0.1, 0, 0, 0], [0.4, 0.4, 0.2, 0, 0], [1.0, 0.0, 0.0, 0.0, 0]],
    ]
)
HAND = torch.cat([HAND, torch.full((2, 1, 5), 0.2)], 1)[:, None]


def test_numbers_of_a_pattern_made_by_hand():
    mass = text_attention.bos_mass(HAND, eos=3)
    torch.testing.assert_close(mass, torch.tensor([[1.4 / 3], [2.3 / 3]]))
    own = text_attention.self_mass(HAND)[:, 0, :4]
    torch.testing.assert_close(own, torch.tensor([[1, 0.5, 0.6, 0.1], [1, 0.1, 0.2, 0]]))
    nats = text_attention.entropy(HAND, eos=3)
    assert nats.shape == (2, 1, 4)
    assert nats[0, 0, 0] == 0 and nats[1, 0, 3] == 0
    assert nats[0, 0, 1].item() == pytest.approx(0.6931, abs=1e-4)
    assert text_attention.rank_in_map(HAND[0, 0], 3, 0, 0) == 1
    assert text_attention.rank_in_map(HAND[0, 0], 3, 2, 2) == 3
    with pytest.raises(ValueError, match="not among the causal entries"):
        text_attention.rank_in_map(HAND[0, 0], 3, 1, 2)


def test_the_two_matrices_of_tsam_differ_as_paper_and_code_do():
    # Mean over the layers, words only: rows (0.3) and (0.3, 0.4).
    paper = text_attention.tsam_matrix(HAND, eos=3)
    torch.testing.assert_close(paper, torch.tensor([[1, 0], [3 / 7, 4 / 7]]))
    powered = text_attention.tsam_matrix(HAND, eos=3, gamma=4.0)
    torch.testing.assert_close(powered[1], torch.tensor([(3 / 7) ** 4, (4 / 7) ** 4]))
    released = text_attention.tsam_matrix_as_released(HAND, eos=3)
    torch.testing.assert_close(released[1], torch.tensor([27 / 91, 64 / 91]))
