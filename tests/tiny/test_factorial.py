"""Norm, direction and pattern set apart, with a tiny pipeline and on hand-made outcomes."""

import numpy as np
import pytest

from t2i_lens.experiments import factorial
from t2i_lens.experiments.arms import Arm, Design, draw
from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.probes.text_attention import read_prompts

PROMPTS = [Prompt("a {} next to a man", ()), Prompt("a red {} and a friend", ())]
FEW = {"num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def word_row(shared_pipe):
    table = shared_pipe.text_encoder.get_input_embeddings().weight.detach().numpy()
    return table[shared_pipe.tokenizer.encode("toy")[1]].copy()


@pytest.fixture(scope="module")
def rows(word_row):
    learned = np.random.default_rng(3).normal(size=len(word_row))
    return factorial.placed_rows(learned, word_row, float(np.linalg.norm(word_row)), seed=0)


@pytest.fixture(scope="module")
def drawn(shared_pipe, rows):
    design = factorial.cells("toy", "toy", PROMPTS, [0, 1])
    found = factorial.draw_rows(shared_pipe, design, rows, **FEW)
    assert found["pictures"].shape == (1, 12, 2, 2, 16, 16, 3)
    # By row, and free or forced.
    shape = {"pictures": (6, 2, 2, 2, 16, 16, 3), "attention": (6, 2, 2)}
    return {name: found[name].values.reshape(size) for name, size in shape.items()}


def test_directions_come_at_both_norms(word_row, rows):
    learned = np.random.default_rng(3).normal(size=len(word_row))
    mean, own = np.linalg.norm(word_row), np.linalg.norm(learned)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [mean] * 3 + [own] * 3, rtol=1e-5)
    np.testing.assert_allclose(rows[3], learned, rtol=1e-5)
    np.testing.assert_allclose(rows[2], word_row, rtol=1e-5)
    np.testing.assert_allclose(rows[:3] / mean, rows[3:] / own, rtol=1e-4)


def test_the_words_own_row_is_drawn_as_the_word_itself_free_and_forced(shared_pipe, drawn):
    design = Design([Arm("toy", "class word", "toy")], PROMPTS, [0, 1])
    plain = draw(shared_pipe, design, **FEW).values[0, 0].astype(int)
    # Another batch, and attention computed eagerly: at most a grey level.
    for pattern in (0, 1):
        np.testing.assert_allclose(drawn["pictures"][2, pattern], plain, atol=1)


def test_forced_the_slot_attends_as_the_word_does(shared_pipe, drawn):
    reading = read_prompts(
        shared_pipe, ["a toy next to a man", "a red toy and a friend"], layers=[0]
    )
    own = [reading.patterns[i, 0, :, slot, slot].mean().item() for i, slot in ((0, 2), (1, 3))]
    # Sums in float32 over batches of another size.
    np.testing.assert_allclose(drawn["attention"][:, 1], np.tile(own, (6, 1)), rtol=1e-4)
    assert np.abs(drawn["attention"][3, 0] - own).max() > 1e-3


def test_forcing_the_pattern_of_another_row_changes_its_picture(drawn):
    assert (drawn["pictures"][3, 0] != drawn["pictures"][3, 1]).any()


def test_a_word_of_several_tokens_is_refused(shared_pipe, rows):
    with pytest.raises(ValueError, match="several tokens"):
        factorial.draw_rows(
            shared_pipe, factorial.cells("unicorn", "unicorn", PROMPTS, [0]), rows, **FEW
        )


def outcome(norm=0.0, direction=0.0, row=0.0, noise=0.0):
    """Losses [cell, prompt, seed] in which each factor does what it is told."""
    level = [
        norm * (n == "own") + direction * (d == "TI") + row * (r == "free")
        for n, d, r in factorial.CELLS
    ]
    spread = np.random.default_rng(0).normal(0, noise, (12, 4, 3))
    return np.array(level)[:, None, None] + spread


def test_each_effect_is_found_where_it_was_put():
    found = factorial.effects(outcome(norm=0.2, direction=0.5, row=-0.1).mean((1, 2)))
    expected = {"norm": 0.2, "direction": 0.5, "random": 0.0, "row": -0.1}
    assert found == pytest.approx(expected)
    assert factorial.lead(outcome(norm=0.2, direction=0.5).mean((1, 2))) == pytest.approx(0.3)
    assert factorial.lead(outcome(norm=0.9, direction=0.5).mean((1, 2))) == pytest.approx(-0.4)


def test_factors_become_axes_that_hold_what_the_cells_held():
    design = factorial.cells("toy", "toy", PROMPTS, [0, 1])
    values = np.random.default_rng(0).normal(size=(12, 2, 2))
    apart = factorial.by_factor(design.label(values))
    for place, (norm, direction, row) in enumerate(factorial.CELLS):
        cell = apart.sel(norm=norm, direction=direction, row=row).isel(concept=0)
        np.testing.assert_array_equal(cell.transpose("prompt", "seed"), values[place])


def test_the_analysis_of_variance_gives_each_factor_its_share():
    terms = factorial.analysis_of_variance(outcome(norm=1.0, row=0.3, noise=0.1))
    assert list(terms.index) == [
        "norm", "direction", "row", "norm × direction", "norm × row", "direction × row",
        "norm × direction × row",
    ]  # fmt: skip
    assert terms.loc["norm", "share"] > 0.9 > terms.loc["row", "share"] > 0.5
    assert terms.loc["direction", "share"] < 0.1 and terms.loc["direction", "df"] == 2
    assert terms.loc["norm", "p"] < 1e-6 < terms.loc["direction", "p"]


@pytest.mark.filterwarnings("error")
def test_an_outcome_that_never_varies_has_no_variance_to_share_out():
    assert factorial.analysis_of_variance(np.zeros((12, 3, 2))).empty
