"""Numbers from arrays, on arrays whose answer is known."""

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from sklearn.decomposition import PCA

from t2i_lens.stats import metrics

RNG = np.random.default_rng(0)


def test_norm_grows_as_the_differential_equation_says():
    steps, lr, decay, width = np.array([10, 500, 3000]), 2e-3, 0.05, 768
    solved = solve_ivp(
        lambda _, n2: width * lr**2 - 2 * lr * decay * n2,
        (0, 3000), [0.4**2], t_eval=steps, rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    law = metrics.predicted_norm(steps, 0.4, width, lr, decay)
    np.testing.assert_allclose(law, np.sqrt(solved.y[0]), rtol=1e-7)


def test_without_decay_squared_norm_is_linear_in_steps():
    law = metrics.predicted_norm(np.array([0, 100]), 0.5, 128, 5e-3)
    np.testing.assert_allclose(law**2, [0.25, 0.25 + 100 * 128 * 5e-3**2])


def test_tiny_decay_changes_nothing_and_loses_no_digits():
    steps = np.array([1000])
    with_decay = metrics.predicted_norm(steps, 0.4, 768, 2e-3, 1e-14)
    np.testing.assert_allclose(with_decay, metrics.predicted_norm(steps, 0.4, 768, 2e-3), rtol=1e-9)


def test_adam_on_pure_noise_follows_the_law():
    # Gradients of random sign at a right angle to the row on average: what the law assumes.
    import torch

    torch.manual_seed(0)
    row = torch.nn.Parameter(torch.full((512,), 0.01))
    adam = torch.optim.AdamW([row], lr=1e-3, betas=(0.0, 0.0), weight_decay=1e-2)
    start = row.norm().item()
    for _ in range(300):
        row.grad = torch.randn(512)
        adam.step()
    law = metrics.predicted_norm(np.array([300]), start, 512, 1e-3, 1e-2)[0]
    # a walk of 512 coordinates: its squared length has a relative sd of about sqrt(2/512)
    assert row.norm().item() == pytest.approx(law, rel=0.1)


def test_pairs_in_blocks_equal_pairs_at_once(monkeypatch):
    rows, edges = RNG.normal(size=(50, 8)), np.linspace(-20, 20, 11)
    monkeypatch.setattr(metrics, "BLOCK_ROWS", 7)
    found = metrics.pairwise_histogram(rows, edges)
    products = (rows @ rows.T)[np.triu_indices(50, k=1)]
    np.testing.assert_array_equal(found["counts"], np.histogram(products, edges)[0])
    assert found["pairs"] == len(products) == found["counts"].sum()
    assert found["mean"] == pytest.approx(products.mean())
    assert found["sd"] == pytest.approx(products.std())
    assert found["mean_abs"] == pytest.approx(np.abs(products).mean())


def test_products_beyond_the_edges_are_counted_in_the_end_bins():
    found = metrics.pairwise_histogram(np.array([[3.0], [3.0], [-3.0]]), np.array([-1.0, 0, 1.0]))
    np.testing.assert_array_equal(found["counts"], [2, 1])


def test_one_row_has_no_pairs():
    with pytest.raises(ValueError, match="two rows"):
        metrics.pairwise_histogram(np.ones((1, 3)), np.linspace(-1, 1, 3))


def test_zero_row_has_no_direction():
    with pytest.raises(ValueError, match="1 rows are zero"):
        metrics.unit_rows(np.array([[1.0, 0], [0, 0]]))


def test_mean_cosine_leaves_pairs_of_one_group_out():
    rows = np.array([[1.0, 0], [1, 0], [0, 1]])
    assert metrics.mean_pairwise_cosine(rows) == pytest.approx(1 / 3)
    assert metrics.mean_pairwise_cosine(rows, np.array(["a", "a", "b"])) == 0


def test_percentile_counts_ties_half():
    assert metrics.percentile(2.0, np.array([1.0, 2, 3, 4])) == pytest.approx(37.5)


def test_centred_shares_are_those_of_scikit_learn():
    rows = RNG.normal(size=(40, 6)) @ np.diag([5, 3, 2, 1, 1, 0.1]) + 3
    shares = metrics.explained_shares(rows, centred=True)
    np.testing.assert_allclose(shares, PCA().fit(rows).explained_variance_ratio_, atol=1e-9)


def test_uncentred_shares_hold_the_mean_direction():
    rows = RNG.normal(size=(40, 6)) + 10
    assert metrics.explained_shares(rows, centred=False)[0] > 0.9
    assert metrics.explained_shares(rows, centred=True)[0] < 0.5


def test_effective_rank_of_equal_shares_is_their_number():
    assert metrics.effective_rank(np.full(7, 1 / 7)) == pytest.approx(7)
    assert metrics.effective_rank(np.array([1.0, 0, 0])) == pytest.approx(1)


def test_growth_slope_is_the_measured_part_of_the_predicted_growth():
    predicted = np.array([1.0, 2, 3])
    assert metrics.growth_slope(0.5 * predicted, predicted) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="later steps"):
        metrics.growth_slope(np.zeros(2), np.zeros(2))


def test_marchenko_pastur_density_integrates_to_one_with_mean_one():
    low, high = metrics.marchenko_pastur_edges(1400, 128)
    mass = quad(lambda x: metrics.marchenko_pastur_density(np.array([x]), 1400, 128)[0], low, high)
    mean = quad(
        lambda x: x * metrics.marchenko_pastur_density(np.array([x]), 1400, 128)[0], low, high
    )
    assert mass[0] == pytest.approx(1, abs=1e-4) and mean[0] == pytest.approx(1, abs=1e-4)


def test_random_eigenvalues_stay_inside_the_edges():
    shares = metrics.explained_shares(RNG.normal(size=(2000, 100)), centred=True) * 100
    low, high = metrics.marchenko_pastur_edges(2000, 100)
    # the extreme eigenvalues of a finite matrix wander by about 100 ** (-2/3)
    assert low - 0.05 < shares.min() and shares.max() < high + 0.05


def test_fewer_rows_than_coordinates_are_refused():
    with pytest.raises(ValueError, match="rows >= width"):
        metrics.marchenko_pastur_edges(10, 20)
