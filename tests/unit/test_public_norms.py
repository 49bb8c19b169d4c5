"""Public tokens: where a norm lies among them and on the law, and what their series say."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import public_tokens
from t2i_lens.inversion import public_norms
from t2i_lens.inversion.public_norms import place
from t2i_lens.stats.metrics import norm_ceiling, predicted_norm

RECIPE = {"learning_rate": 2e-3, "weight_decay": 1e-2}


def test_the_ceiling_is_where_the_law_ends():
    ceiling = norm_ceiling(768, 5e-3, 1e-2)
    assert ceiling == pytest.approx(13.856, abs=1e-3)  # √(768 · 0.005 / 0.02)
    # After 10 / (2·lr·wd) steps e⁻¹⁰ of the way is left.
    assert predicted_norm(np.array([1e5]), 0.4, 768, 5e-3, 1e-2)[0] == pytest.approx(
        ceiling, rel=1e-4
    )
    assert norm_ceiling(128, 5e-3, 0.1) == pytest.approx(1.789, abs=1e-3)


def test_the_blogs_norm_is_that_of_its_recipe():
    found = place(3.1, 768, steps=3000, **RECIPE)
    assert found.expected == pytest.approx(2.97, abs=0.01)
    assert 0.4 < found.quantile < 0.7 and found.repositories > 30
    assert "1.04 of the law's 2.97" in str(found)


def test_the_quantile_rises_with_the_norm_from_none_to_all():
    quantiles = [place(norm, 768).quantile for norm in (0.1, 1.0, 3.0, 14.0, 100.0)]
    assert quantiles[0] == 0 and quantiles[-1] == 1 and quantiles == sorted(quantiles)


def test_a_width_of_few_public_runs_has_no_quantile():
    found = place(1.5, 128, steps=600, learning_rate=5e-3, initial=0.5)
    assert found.quantile is None and found.expected is not None and "too few" in str(found)


def test_without_a_rate_the_steps_say_which_rate_the_law_needs():
    found = place(3.0, 768, steps=3000)
    start = public_norms.vocabulary_norm(768)
    again = predicted_norm(np.array([3000]), start, 768, found.rate, 0.0)[0]
    assert again == pytest.approx(3.0) and found.expected is None and found.ceiling is None


def test_without_decay_there_is_no_ceiling():
    assert place(3.0, 768, steps=9, learning_rate=2e-3, weight_decay=0.0).ceiling is None


@pytest.mark.parametrize(
    "given",
    [{"norm": float("nan")}, {"norm": -1.0}, {"steps": -1}, {"learning_rate": 0.0},
     {"weight_decay": -0.1}, {"learning_rate": float("nan")}, {"learning_rate": float("inf")},
     {"weight_decay": float("nan")}, {"weight_decay": float("inf")}],
)  # fmt: skip
def test_numbers_that_no_training_has_are_refused(given):
    norm = given.pop("norm", 3.0)
    with pytest.raises(ValueError, match="give a|steps from 0"):
        place(norm, 768, **given)


def test_every_series_is_of_a_listed_run_and_ends_at_its_norm():
    tokens, series = public_norms.tokens().set_index("run_id"), public_norms.series()
    last = series.sort_values("step").groupby("run_id").tail(1).set_index("run_id")
    assert set(last.index) <= set(tokens.index) and len(last) == 41
    alone = last[last["n_vectors"] == 1]
    # The last file of some runs was saved up to a hundred steps after its last numbered one.
    np.testing.assert_allclose(alone["norm"], tokens.loc[alone.index, "norm_mean"], rtol=0.03)


def test_a_rate_of_which_nobody_knows_whether_it_was_scaled_is_no_rate():
    tokens = public_norms.tokens().set_index("run_id")
    assert np.isnan(tokens.loc["textual_inversion#400", "lr"])
    assert not tokens.loc["textual_inversion#361", "known"]  # its rate was inferred
    assert set(tokens["way"]) == {"plain", "delta", "factor", "other loss"}


def series_of(squares, repo="a", rate=1e-2):
    steps = np.arange(1, len(squares) + 1) * 100
    table = {"run_id": repo, "repo": repo, "way": "plain", "known": True, "d": 100, "lr": rate}
    figures = {"step": steps, "norm": np.sqrt(squares), "displacement": 1.0, "n_vectors": 1}
    return pd.DataFrame(table | figures | {"cosine_of_displacements": 0.5})


def test_a_run_on_the_law_has_a_slope_of_one_and_a_straight_line_of_squares():
    steps = np.arange(1, 9) * 100
    found = public_tokens.fits(series_of(0.2 + 100 * 1e-4 * steps)).iloc[0]
    assert found["ratio"] == pytest.approx(1) and found["r2"] == pytest.approx(1)
    assert found["r2_straight"] < 0.99 and found["turning"] == 0.5
    assert found["moved"] == pytest.approx(1.0)  # 1² over 100 · 1e-4 · 100


def test_a_run_of_few_checkpoints_is_not_fitted():
    assert (
        len(
            public_tokens.fits(
                pd.concat([series_of([1.0] * 3, "a"), series_of([1.0, 2, 3, 4], "b")])
            )
        )
        == 1
    )


def test_intervals_are_over_repositories_and_not_over_files():
    table = pd.DataFrame({"repo": ["a"] * 100 + ["b"], "x": [0.0] * 100 + [1.0]})
    found = public_tokens.over_repositories(table, lambda rows: rows["x"].max())
    assert found.n == 2 and (found.low, found.high) == (0.0, 1.0)


def test_an_exponent_is_the_slope_of_logarithms():
    x = np.array([1.0, 10.0, 100.0])
    assert public_tokens.exponent(x, 3 * x**0.5) == pytest.approx(0.5)
    assert np.isnan(public_tokens.exponent(np.ones(3), x))


def test_random_walks_do_not_turn():
    table = pd.concat([series_of(np.arange(1.0, 40.0), name) for name in "ab"])
    walk = public_tokens.random_turning(table, public_tokens.fits(table), seed=0)
    assert walk.abs().max() < 0.1  # 37 cosines of 100 coordinates: a spread of 0.016 each mean
