"""The bench compares like with like: the plain loop trains the same token as ours does."""

import pytest
import torch

from benchmarks import attention_trials as trials
from benchmarks import bench
from benchmarks.plain_inversion import train_plainly
from t2i_lens.inversion import training
from t2i_lens.inversion.training_data import InversionConfig
from t2i_lens.probes.attention_kernels import probabilities

CONFIG = InversionConfig(steps=3, learning_rate=1e-2, batch_size=2)


def test_the_plain_loop_moves_one_row_and_no_other_weight(pipe, make_concept):
    concept = make_concept("pinata")
    before = {n: p.clone() for n, p in pipe.unet.named_parameters()}
    table = pipe.text_encoder.get_input_embeddings().weight.detach().clone()
    row = train_plainly(pipe, concept, CONFIG)
    after = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[: len(table)], table)
    (start,) = pipe.tokenizer(concept.initializer_token, add_special_tokens=False).input_ids
    moved = (row[0] - table[start]).abs().max()
    assert 0 < moved <= 1.1 * CONFIG.steps * CONFIG.learning_rate  # Adam: at most a rate per step
    assert all(torch.equal(before[n], p) for n, p in pipe.unet.named_parameters())
    assert all(p.requires_grad for p in pipe.unet.parameters())


def test_the_plain_loop_and_ours_move_a_row_equally_far(pipe, make_concept):
    """Different draws, one optimiser: the same length of the way, roughly, from the same start."""
    concept, longer = make_concept("pinata"), InversionConfig(30, 1e-2, 2)
    (ours,) = training.train(pipe, [concept], longer, progress=False)
    plain = train_plainly(pipe, concept, longer)
    start = torch.as_tensor(ours.trajectory["vector"].iloc[0])
    ways = [(row[0] - start).norm() for row in (ours.embedding, plain)]
    assert 0.5 < ways[0] / ways[1] < 2


def test_rates_count_units_per_second_and_ratios_go_round_by_round():
    calls = []
    measured = bench.rates({"a": (10, lambda: calls.append("a")), "b": (1, calls.clear)}, rounds=3)
    assert {name: len(each) for name, each in measured.items()} == {"a": 3, "b": 3}
    compared = bench.ratio({"fast": [4.0, 6.0, 9.0], "slow": [2.0, 2.0, 3.0]}, "fast", "slow")
    assert compared == pytest.approx({"median": 3, "low": 2, "high": 3, "rounds": 3})


def test_the_floor_of_inversion_is_a_pass_of_the_unet_that_moves_no_weight(pipe):
    passes = []

    def count(_, __, output) -> None:
        passes.append("forward")
        output.sample.register_hook(lambda _: passes.append("backward"))

    pipe.unet.register_forward_hook(count)
    bench.unet_passes(pipe, 2)
    assert passes.count("forward") == passes.count("backward") == 2
    assert all(weight.grad is None for weight in pipe.unet.parameters())


def test_every_way_to_have_the_maps_of_a_fused_layer_draws_the_same_and_has_them():
    query, key, value, total = trials._inputs(64, 16)
    plain = trials.alone(query, key, value, total)
    exact = probabilities(query[1:], key[1:], 0.25, None)[0].mean(0)
    for name, way in trials.WAYS.items():
        torch.testing.assert_close(way(query, key, value, total.zero_()), plain)
        # Eight bits of bfloat16's fraction; the others round in single precision.
        near = {"atol": 1e-2, "rtol": 0} if name == "half_precision" else {}
        if way is not trials.alone:
            torch.testing.assert_close(total, exact, **near)
    assert set(trials.seconds(rounds=1, repeats=1)) == set(trials.WAYS)
