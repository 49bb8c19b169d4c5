"""Prompt-to-Prompt: whose attention maps the target reads, with a pipeline of real classes."""

import numpy as np
import pytest
import torch

from t2i_lens.methods.prompt_to_prompt import Replacement, draw_replaced, token_mapping
from t2i_lens.models.tokens import encode
from t2i_lens.probes.sampling import generate

SAMPLING = {"num_inference_steps": 5, "guidance_scale": 3.0}
PAIR, SEEDS = ("a red cat", "a blue cat"), [0, 1]


def drawn(pipe, *replacements, pair=PAIR, **changed):
    return draw_replaced(pipe, [pair], replacements, SEEDS, **(SAMPLING | changed))[:, 0]


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_without_steps_the_target_prompt_is_drawn_as_it_is(shared_pipe, guidance):
    (found,) = drawn(shared_pipe, Replacement(0.0, 0.0), guidance_scale=guidance)
    sampling = SAMPLING | {"guidance_scale": guidance}
    (expected,) = generate(shared_pipe, [PAIR[1]], SEEDS, **sampling)
    # another batch rounds differently: one grey level at most, as for `generate`
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_prompt_replaced_by_itself_is_its_own_picture(shared_pipe):
    (found,) = drawn(shared_pipe, Replacement(1.0, 1.0), pair=("a red cat", "a red cat"))
    (expected,) = generate(shared_pipe, ["a red cat"], SEEDS, **SAMPLING)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_each_share_changes_the_picture(shared_pipe):
    found = drawn(shared_pipe, Replacement(0.0, 0.0), Replacement(1.0, 0.0), Replacement(0.0, 1.0))
    assert all((found[a] != found[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))


def test_rows_do_not_see_the_other_settings(shared_pipe):
    both = drawn(shared_pipe, Replacement(1.0, 0.0), Replacement(0.4, 0.4))
    (alone,) = drawn(shared_pipe, Replacement(0.4, 0.4))
    assert np.abs(both[1].astype(int) - alone).max() <= 1


def test_hooks_are_removed_after_an_error(pipe):
    before = generate(pipe, ["a red cat"], SEEDS, **SAMPLING)
    with pytest.raises(ValueError, match="number of words"):
        drawn(pipe, Replacement(), pair=("a red cat", "a cat"))
    np.testing.assert_array_equal(generate(pipe, ["a red cat"], SEEDS, **SAMPLING), before)
    assert not any(len(m._forward_hooks) for m in pipe.unet.modules())


def test_other_sizes_are_drawn(shared_pipe):
    assert drawn(shared_pipe, Replacement(), height=24, width=16).shape[2:] == (24, 16, 3)


def test_words_of_as_many_tokens_are_paired_in_order(shared_pipe):
    source, target = (encode(shared_pipe, text) for text in PAIR)
    torch.testing.assert_close(token_mapping(source, target), torch.eye(77))


def test_a_word_of_more_tokens_shares_the_map_of_the_old_one(shared_pipe):
    source, target = (encode(shared_pipe, text) for text in ("a cat on a toy", "a zebra on a toy"))
    mapping, spread = token_mapping(source, target), len(target.words[1].positions)
    assert spread > 1
    (cat,) = source.positions("cat")
    shares = mapping[cat, list(target.positions("zebra"))].tolist()
    assert shares == pytest.approx([1 / spread] * spread)
    (old,), (new,) = source.positions("toy"), target.positions("toy")
    assert mapping[old, new] == 1 and mapping[source.eos, target.eos] == 1
    torch.testing.assert_close(mapping.sum(1), torch.ones(77))


@pytest.mark.parametrize("shares", [(-0.1, 0.0), (0.0, 1.2)])
def test_a_share_outside_the_run_is_refused(shares):
    with pytest.raises(ValueError, match="from 0 to 1"):
        Replacement(*shares)
