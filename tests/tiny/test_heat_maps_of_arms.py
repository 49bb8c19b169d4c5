"""Heat maps of every token of drawn arms, with a tiny pipeline."""

import numpy as np
import pytest

from t2i_lens.experiments import dominance
from t2i_lens.experiments.arms import Arm, Design
from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.probes.edits import Scale

PROMPTS = [Prompt("a {} next to a man", ()), Prompt("a red {} and a friend", ())]
FEW = {"num_inference_steps": 2, "guidance_scale": 3.0}


def arm(word, name="class word", **more):
    return Arm("pinata", name, word, **more)


@pytest.fixture(scope="module")
def tokens(shared_pipe):
    arms = [arm("toy"), arm("dog", "other noun"), arm("toy", "again")]
    return dominance.measure_tokens(shared_pipe, Design(arms, PROMPTS, [0, 1]), **FEW)


def test_every_token_of_every_picture_is_measured(tokens):
    sizes = {"concept": 1, "arm": 3, "prompt": 2, "seed": 2, "position": 77}
    assert dict(tokens.sizes) == sizes
    # Shares are means of probabilities in float32.
    np.testing.assert_allclose(tokens["share"].sum("position"), 1, atol=1e-5)
    assert ((tokens["norm"] >= 0) & (tokens["norm"] <= 64 * 2)).all()  # the cap of two steps


def test_the_slot_is_found_where_it_stands(tokens):
    slot = tokens["role"] == "slot"
    assert set(tokens["piece"].values[slot.values]) == {"toy</w>", "dog</w>"}
    first, second = (slot.isel(prompt=i).any(("concept", "arm", "seed")) for i in (0, 1))
    assert (np.flatnonzero(first), np.flatnonzero(second)) == ([2], [3])  # "a {}" and "a red {}"


def test_arms_that_draw_the_same_are_measured_alike(tokens):
    first, again, other = (
        tokens["norm"].sel(arm=name).values for name in ("class word", "again", "other noun")
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_norms_of_one_picture_do_not_depend_on_the_others(shared_pipe, tokens):
    design = Design([arm("dog")], PROMPTS[1:], [1])
    alone = dominance.measure_tokens(shared_pipe, design, **FEW)["norm"]
    there = tokens["norm"].sel(arm="other noun", seed=1, prompt=PROMPTS[1].text)
    # Batches of another size change the order of float32 sums.
    np.testing.assert_allclose(alone.squeeze(), there.squeeze(), rtol=1e-4)


def test_an_edit_at_the_slot_changes_the_maps(shared_pipe):
    longer = arm("toy", "scaled", edits=(Scale(5.0, positions=()),))
    design = Design([arm("toy"), longer], PROMPTS, [0])
    norms = dominance.measure_tokens(shared_pipe, design, **FEW)["norm"]
    assert np.abs(norms.sel(arm="class word") - norms.sel(arm="scaled")).max() > 1e-4


def test_maps_come_with_their_pictures_and_end_at_eos(shared_pipe):
    arms = [arm("toy"), arm("dog", "other noun")]
    drawn = dominance.draw_with_maps(shared_pipe, arms, PROMPTS[0].text, [0, 1], **FEW)
    assert drawn["pictures"].shape == (2, 2, 16, 16, 3)
    assert drawn["maps"].shape == (2, 2, 8, 64, 64)  # BOS, six words, EOS
    assert drawn["pieces"][0].tolist()[1:7] == ["a", "toy", "next", "to", "a", "man"]
    assert drawn["maps"].min() >= 0


def test_steps_and_layers_apart_are_those_of_the_whole(shared_pipe):
    arms = [arm("toy"), arm("dog", "other noun")]
    trace = dominance.trace_norms(shared_pipe, arms, PROMPTS[0].text, [0], **FEW)
    assert trace["norms"].shape[:3] == (2, 1, 2) and trace["norms"].shape[-1] == 8
    assert trace["roles"].tolist() == ["bos", "word", "slot", *["word"] * 4, "eos"]
    assert (trace["norms"] <= 64 * 1.001).all()
    # A sum's norm is at most the sum of norms, so steps and layers together bound the whole.
    whole = dominance.draw_with_maps(shared_pipe, arms, PROMPTS[0].text, [0], **FEW)["maps"]
    total = np.linalg.norm(whole[:, 0], axis=(-2, -1)) * 2
    bound = trace["norms"][:, 0].sum(1).mean(1)
    assert (total <= bound * 1.001).all() and (total > 0.5 * bound).all()


def test_arms_of_different_length_are_refused(shared_pipe):
    arms = [arm("toy"), arm("red dog", "two words")]
    with pytest.raises(ValueError, match="different numbers of tokens"):
        dominance.draw_with_maps(shared_pipe, arms, PROMPTS[0].text, [0], **FEW)


def test_the_package_daam_finds_the_same_maps(pipe):
    both = dominance.beside_daam(pipe, "a toy next to a man", 0, **FEW)
    assert both["daam"].shape == both["recorder"].shape
    # Float32 sums in another order; maps are of order 0.1 to 2.
    np.testing.assert_allclose(both["recorder"], both["daam"], atol=2e-5)
    assert both["daam"].max() > 0.01


def test_maps_of_single_steps_add_up_to_the_map_of_all(shared_pipe):
    arms, sentence = [arm("toy"), arm("dog", "other noun")], PROMPTS[0].text
    alone = dominance.maps_by_step(shared_pipe, arms, sentence, 0, (0, 1), **FEW)
    together = dominance.draw_with_maps(shared_pipe, arms, sentence, [0], **FEW)
    assert alone["pieces"].tolist() == together["pieces"].tolist()
    assert alone["pieces"][1].tolist() == ["BOS", "a", "dog", "next", "to", "a", "man", "EOS"]
    np.testing.assert_array_equal(alone["pictures"], together["pictures"][:, 0])
    shares = together["maps"][:, 0].mean((-2, -1))
    # Resizing to 16 and to 64 pixels clips other negative values of the bicubic filter.
    np.testing.assert_allclose(alone["maps"].mean((1, -2, -1)), shares, atol=2e-3)


def test_only_the_steps_that_were_asked_for_are_kept(shared_pipe):
    first, last = (
        dominance.maps_by_step(shared_pipe, [arm("toy")], PROMPTS[0].text, 0, kept, **FEW)["maps"]
        for kept in ((0,), (1,))
    )
    both = dominance.maps_by_step(shared_pipe, [arm("toy")], PROMPTS[0].text, 0, (0, 1), **FEW)
    np.testing.assert_array_equal(both["maps"], np.concatenate([first, last], axis=1))
    assert not np.array_equal(first, last)
