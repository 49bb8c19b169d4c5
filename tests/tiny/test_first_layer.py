"""Parts of a first layer's scores add up to what the encoder itself computes."""

import numpy as np
import pytest
import torch

from t2i_lens.experiments import first_layer, prompt_attention
from t2i_lens.probes.edits import Swap, Value
from t2i_lens.probes.text_attention import read_prompts
from t2i_lens.probes.text_encoder_hooks import layer_weights, text_core

PROMPT, POSITION = "a toy next to a man", 2
# Random weights of a fresh encoder are small; grown, scores are of the size of trained ones.
GROWN = 6
# The encoder's sums have 32 bits, and its largest scores here are about ten.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def lively_pipe(make_pipe):
    """Its first layer has large weights, and biases, which a fresh encoder lacks."""
    pipe = make_pipe()
    layer = text_core(pipe.text_encoder).encoder.layers[0]
    modules = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.layer_norm1)
    with torch.no_grad():
        for number, module in enumerate(modules):
            generator = torch.Generator().manual_seed(number)
            module.bias += 0.5 * torch.randn(module.bias.shape, generator=generator)
            module.weight *= GROWN if number < 2 else 1.5
    return pipe


def rows(count=5, width=32, scale=0.3):
    return np.random.default_rng(1).normal(0, scale, (count, width)).astype(np.float32)


def split(pipe, prompt=PROMPT):
    """Parts of every place of a prompt, in 64 bits, with the encoder's own reading."""
    reading = read_prompts(pipe, [prompt], layers=[0])
    weights = layer_weights(pipe.text_encoder)
    tokens = text_core(pipe.text_encoder).embeddings.token_embedding.weight.detach()
    ids = list(reading.rows[0].ids)
    parts = first_layer.split_norm(weights, tokens[ids].double(), weights.positions.double())
    return weights, parts, reading


def test_the_parts_of_the_norm_add_up_to_the_norm(lively_pipe):
    weights, parts, reading = split(lively_pipe)
    norm = text_core(lively_pipe.text_encoder).encoder.layers[0].layer_norm1
    torch.testing.assert_close(parts.sum(0), norm(reading.inputs[0, 0]).detach().double(), **CLOSE)


@pytest.mark.parametrize("key", [0, 1, 3])
def test_the_parts_of_a_score_add_up_to_the_encoders_score(lively_pipe, key):
    weights, parts, reading = split(lively_pipe)
    found = first_layer.score_parts(weights, parts, parts[:, [key]]).sum((-2, -1))
    measured = reading.scores[0, 0, :, :, key].T.double()
    assert measured.abs().max() > 1  # else anything would be close
    torch.testing.assert_close(found, measured, **CLOSE)


def test_paired_scores_are_the_diagonal(lively_pipe):
    weights, parts, reading = split(lively_pipe)
    found = first_layer.score_parts(weights, parts, parts).sum((-2, -1))
    measured = reading.scores[0, 0].diagonal(dim1=-2, dim2=-1).T.double()
    torch.testing.assert_close(found, measured, **CLOSE)


def test_terms_add_up_and_keep_query_before_key():
    parts = np.arange(9.0).reshape(3, 3)
    terms = first_layer.named_terms(parts)
    np.testing.assert_array_equal(terms[:4], [0, 1, 3, 4])
    assert terms[4] == 2 + 5 + 6 + 7 + 8 and terms.sum() == parts.sum()
    assert first_layer.TERMS[1] == "token–position" and len(terms) == len(first_layer.TERMS)


def test_without_position_only_token_and_bias_are_left(lively_pipe):
    weights = layer_weights(lively_pipe.text_encoder)
    tokens = torch.from_numpy(rows())
    parts = first_layer.split_norm(weights, tokens, torch.zeros_like(tokens))
    scores = first_layer.score_parts(weights, parts, parts)
    assert scores[..., 1, :].eq(0).all() and scores[..., :, 1].eq(0).all()
    assert scores[..., 0, 0].abs().max() > 0


def test_a_placed_row_attends_as_in_the_encoder(lively_pipe):
    some = rows()
    placed = first_layer.place_rows(lively_pipe, PROMPT, POSITION, some)
    edits = [[Swap(Value("row", torch.from_numpy(r)), positions=(POSITION,))] for r in some]
    reading = read_prompts(lively_pipe, [PROMPT] * len(some), layers=[0], edits=edits)
    measured = reading.patterns[:, 0, :, POSITION, : POSITION + 1].numpy()
    assert measured.std() > 0.1
    np.testing.assert_allclose(placed["attention"], measured, **CLOSE)
    scores = reading.scores[:, 0, :, POSITION].numpy()
    np.testing.assert_allclose(placed["own"].sum((-2, -1)), scores[..., POSITION], **CLOSE)
    np.testing.assert_allclose(placed["bos"].sum((-2, -1)), scores[..., 0], **CLOSE)


def test_rows_measured_without_what_follows_are_those_of_the_whole_prompt(lively_pipe):
    some = rows()
    placed = first_layer.place_rows(lively_pipe, PROMPT, POSITION, some)
    found = first_layer.measure_rows(lively_pipe, PROMPT, POSITION, some)
    np.testing.assert_allclose(found["attention"], placed["attention"], **CLOSE)
    np.testing.assert_allclose(found["scores"][..., 0], placed["bos"].sum((-2, -1)), **CLOSE)
    alone = first_layer.place_attention(lively_pipe, PROMPT, POSITION, some)
    np.testing.assert_array_equal(alone["attention"], placed["attention"])


@pytest.mark.parametrize("position", [0, 7])
def test_rows_are_placed_between_bos_and_eos_only(shared_pipe, position):
    with pytest.raises(ValueError, match="not between BOS and EOS"):
        first_layer.place_rows(shared_pipe, PROMPT, position, rows())


def test_the_position_part_shrinks_and_the_token_part_settles_with_the_norm(lively_pipe):
    long = first_layer.at_norms(rows(1), np.array([1.0, 1e2, 1e4]))[0]
    weights = layer_weights(lively_pipe.text_encoder)
    places = weights.positions[POSITION].expand(3, -1)
    token, position, _ = first_layer.split_norm(weights, torch.from_numpy(long), places)
    lengths = position.norm(dim=-1)
    # As one over the norm, once the norm is far above the position's.
    assert lengths[1] / lengths[2] == pytest.approx(100, rel=1e-2)
    torch.testing.assert_close(token[1], token[2], rtol=1e-2, atol=1e-2)


def test_a_direction_is_kept_at_every_norm():
    some = rows()
    forced = first_layer.at_norms(some, np.array([0.5, 4.0]))
    np.testing.assert_allclose(np.linalg.norm(forced, axis=-1), [[0.5, 4.0]] * 5, rtol=1e-6)
    cosines = (forced * some[:, None]).sum(-1) / np.linalg.norm(some, axis=1)[:, None]
    np.testing.assert_allclose(cosines, [[0.5, 4.0]] * 5, rtol=1e-5)


def test_positions_are_read_from_short_tokens_and_not_from_long_or_shuffled_ones(shared_pipe):
    # Scaled so that norms are multiples of the position embeddings' own.
    unit = layer_weights(shared_pipe.text_encoder).positions.norm(dim=-1).mean().item()
    found = first_layer.probe_positions(
        shared_pipe, rows(120, scale=0.5 * unit / 32**0.5), unit * np.array([0.5, 1e3]), 60, seed=0
    )
    assert found["fixed"].shape == (2, 60, 77) and found["shuffled"].shape == (60, 77)
    short, long = found["fixed"].mean((1, 2))
    assert short > 0.9 > 0.1 > long
    assert found["shuffled"].mean() < 0.1
    # A reader trained anew knows at least as much of what is left.
    assert found["refitted"][0].mean() > 0.9


def test_a_probe_needs_tokens_to_be_tested_on(shared_pipe):
    with pytest.raises(ValueError, match="120 are trained on and tested"):
        first_layer.probe_positions(shared_pipe, rows(), np.array([1.0]), 60, seed=0)


def test_read_patterns_are_the_encoders_and_end_at_the_last_eos(shared_pipe):
    prompts = [PROMPT, "a man"]
    found = prompt_attention.read_patterns(shared_pipe, prompts)
    reading = read_prompts(shared_pipe, prompts)
    np.testing.assert_array_equal(found["eos"], [7, 3])
    assert found["patterns"].shape == (2, 2, 4, 8, 8)
    np.testing.assert_array_equal(found["patterns"], reading.patterns[..., :8, :8].numpy())
    assert found["pieces"][1].tolist()[1:3] == ["a", "man"]
    assert found["pieces"][1].tolist()[4:] == [""] * 4


def test_an_untrained_encoder_has_other_weights_and_leaves_the_random_state_alone(shared_pipe):
    before = torch.random.get_rng_state()
    first, second = (
        prompt_attention.read_untrained_patterns(shared_pipe, [PROMPT], seed)["patterns"]
        for seed in (0, 0)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, second)
    other = prompt_attention.read_untrained_patterns(shared_pipe, [PROMPT], 1)["patterns"]
    assert np.abs(other - first).max() > 0
