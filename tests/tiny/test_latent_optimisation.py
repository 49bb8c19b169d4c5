"""Test-time optimisation on tiny pipelines of the real classes."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from families import FAMILIES

from t2i_lens.experiments.alignment import Method, Sentence, draw, fields_of, losses_of, target
from t2i_lens.methods import attention_losses as losses
from t2i_lens.methods.latent_optimisation import Updates, draw_optimised, optimised
from t2i_lens.models.tokens import encode
from t2i_lens.probes.sampling import generate

TEXTS = ["a red cat and a blue chair", "a dog and a frog"]
SAMPLING = {"num_inference_steps": 3, "guidance_scale": 3.0}
RED_CAT = Sentence(
    "objects", 0, 0, TEXTS[0], (("red", "cat"), ("blue", "chair")),
    (("red", "chair"), ("blue", "cat"), ("cat", "chair")),
)  # fmt: skip
DOG = Sentence("animals", 1, 0, TEXTS[1], (), (("dog", "frog"),))
LOSSES = ("paper", "code", "attend-and-excite", "SynGen")


def hook_count(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def drawn(pipe, loss, step_size, **options):
    updates = Updates(step_size, 2)
    each = losses_of(pipe, [RED_CAT, DOG], Method(loss, loss))
    return draw_optimised(pipe, TEXTS, each, [0, 1], updates, **options, **SAMPLING)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_size_of_0_draws_the_plain_picture_bit_for_bit(shared_pipe, loss):
    before, own = hook_count(shared_pipe.unet), vars(shared_pipe.scheduler).get("step")
    plain = generate(shared_pipe, TEXTS, [0, 1], **SAMPLING)
    still, _ = drawn(shared_pipe, loss, 0.0)
    np.testing.assert_array_equal(still, plain)
    moved, (trace,) = drawn(shared_pipe, loss, 1e4)
    assert (moved != plain).any()
    assert trace.passes.tolist() == [2] * 4
    assert hook_count(shared_pipe.unet) == before
    assert vars(shared_pipe.scheduler).get("step") is own


@pytest.mark.parametrize("loss", LOSSES)
def test_a_move_lowers_the_loss_that_it_follows(shared_pipe, loss):
    each = losses_of(shared_pipe, [RED_CAT], Method(loss, loss))

    def first_losses(step_size):
        # The same threshold step twice: the loss before any move, and after one inner update.
        updates = Updates(step_size, 1, thresholds=((0, -1e9),), inner=1)
        with optimised(shared_pipe, each, updates) as trace:
            generate(shared_pipe, TEXTS[:1], [0], **SAMPLING)
        return trace.losses[0].item(), trace.moved[0].item()

    start, _ = first_losses(0.0)
    _, length = first_losses(1.0)
    after, _ = first_losses(0.02 / length)  # a move of a few per cent of the latents
    assert after < start


@pytest.mark.parametrize("family", ["sd21", "sdxl"])
def test_other_families_with_a_unet_are_moved_too(make_pipe, family):
    pipe = FAMILIES[family](make_pipe)
    each = losses_of(pipe, [RED_CAT], Method("paper", "paper"))
    plain = generate(pipe, TEXTS[:1], [0], **SAMPLING)
    still, _ = draw_optimised(pipe, TEXTS[:1], each, [0], Updates(0.0, 2), **SAMPLING)
    moved, (trace,) = draw_optimised(pipe, TEXTS[:1], each, [0], Updates(1e4, 2), **SAMPLING)
    np.testing.assert_array_equal(still, plain)
    assert (moved != plain).any() and len(trace.losses) == 2


def test_a_picture_does_not_depend_on_the_others_of_its_batch(shared_pipe):
    together, _ = drawn(shared_pipe, "paper", 1e3)
    each = losses_of(shared_pipe, [DOG], Method("paper", "paper"))
    alone, _ = draw_optimised(shared_pipe, TEXTS[1:], each, [1], Updates(1e3, 2), **SAMPLING)
    # One grey level, as for plain pictures in batches of another size.
    assert np.abs(together[1, 1].astype(int) - alone[0, 0]).max() <= 1


def test_a_random_direction_has_the_length_of_the_gradient(shared_pipe):
    each = losses_of(shared_pipe, [RED_CAT], Method("paper", "paper"))
    moves, pictures = [], []
    for random_seeds in (None, [5]):
        updates = Updates(1e3, 1)
        with optimised(shared_pipe, each, updates, random_seeds=random_seeds) as trace:
            pictures.append(generate(shared_pipe, TEXTS[:1], [0], **SAMPLING))
        moves.append(trace.moved[0].item())
    assert moves[0] == pytest.approx(moves[1], rel=1e-4)  # float32 norms
    assert moves[0] > 0 and (pictures[0] != pictures[1]).any()


def test_a_picture_under_its_threshold_gets_no_inner_updates(shared_pipe):
    each = losses_of(shared_pipe, [RED_CAT], Method("paper", "paper"))
    for threshold, passes in ((1e9, 3), (-1e9, 6)):  # one check, or four inner updates
        updates = Updates(1.0, 2, thresholds=((1, threshold),), inner=4)
        with optimised(shared_pipe, each, updates) as trace:
            generate(shared_pipe, TEXTS[:1], [0], **SAMPLING)
        assert trace.passes.tolist() == [passes]


def test_unusable_input_is_refused_in_one_line(shared_pipe, make_pipe):
    row = encode(shared_pipe, TEXTS[1])
    with pytest.raises(ValueError, match="no pairs of words are annotated"):
        losses.words_of_pairs(row, (), ())
    with pytest.raises(ValueError, match="no word 'chair'"):
        losses.words_of_pairs(row, (), (("dog", "chair"),))
    joint = FAMILIES["sd3"](make_pipe)
    with (
        pytest.raises(ValueError, match="has no U-Net") as refused,
        optimised(joint, [], Updates(1.0, 1)),
    ):
        pass
    assert "\n" not in str(refused.value)
    each = losses_of(shared_pipe, [RED_CAT], Method("paper", "paper"))
    with (
        pytest.raises(ValueError, match="1 losses for 2 pictures"),
        optimised(shared_pipe, each, Updates(1.0, 1)),
    ):
        generate(shared_pipe, TEXTS[:1], [0, 1], **SAMPLING)
    longer = Sentence("x", 0, 0, "a dog", (), (("dog", "a"),), plain="a good dog")
    with pytest.raises(ValueError, match="differ in their numbers of tokens"):
        target(shared_pipe, longer, Method("T", "paper", target="class word"))


def test_targets_are_causal_and_rows_sum_to_1(shared_pipe):
    for loss in ("paper", "code"):
        for kind in ("own", "untrained", "identity"):
            found = target(shared_pipe, RED_CAT, Method("T", loss, target=kind))
            torch.testing.assert_close(found.sum(-1), torch.ones(len(found)))
            assert (found.triu(1) == 0).all() and len(found) == 7


def test_a_plain_method_is_generate(shared_pipe):
    plain = generate(shared_pipe, [DOG.text], [3], **SAMPLING)
    asked = {"sentences": fields_of([DOG]), "seeds": [3]}
    drawn = draw(shared_pipe, method=asdict(Method("plain")), **asked, **SAMPLING)
    np.testing.assert_array_equal(drawn["pictures"], plain)
    assert (drawn["calls"], drawn["backward"], drawn["moved"]) == (6, 0, 0)
    moved = draw(shared_pipe, method=asdict(Method("T", "code", 1e3)), **asked, **SAMPLING)
    # Three guided steps of two rows each, and a pass with gradients before each of them.
    assert (moved["calls"], moved["backward"]) == (9, 3)
    assert moved["moved"] > 0 and (moved["pictures"] != plain).any()
