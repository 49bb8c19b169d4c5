"""Geometry of small tables, and the published norms."""

import json

import numpy as np
import pytest

from t2i_lens.experiments import embedding_geometry
from t2i_lens.inversion import embedding_table
from t2i_lens.stats import metrics

RNG = np.random.default_rng(0)


def table():
    rows = RNG.normal(size=(6, 4)).astype(np.float32)
    return {
        "rows": rows,
        "pieces": np.array(["a", "cat</w>", "x", "toy</w>", "<bos>", "<eos>"]),
        "bos": np.asarray(4),
        "eos": np.asarray(5),
    }


def test_rows_that_no_caption_used_are_never_trained():
    some = table()
    vocabulary = embedding_table.sort_vocabulary(some, np.array([3, 1, 0, 2, 9, 9]))
    np.testing.assert_array_equal(vocabulary.trained_ids, [0, 1, 3])
    np.testing.assert_array_equal(vocabulary.trained, some["rows"][[0, 1, 3]])
    np.testing.assert_array_equal(vocabulary.never, some["rows"][[2]])
    assert vocabulary.pieces == ["a", "cat", "toy"]


def test_bos_and_eos_are_no_vocabulary_even_if_counted():
    some = table()
    vocabulary = embedding_table.sort_vocabulary(some, np.ones(6, dtype=int))
    assert len(vocabulary.trained) == 4 and len(vocabulary.never) == 0
    np.testing.assert_array_equal(vocabulary.bos, some["rows"][4])
    np.testing.assert_array_equal(vocabulary.eos, some["rows"][5])


def test_without_counts_rows_at_zero_are_never_trained():
    some = table()
    some["rows"][2] = 1e-5
    assert len(embedding_table.sort_vocabulary(some, None).never) == 1


def test_counts_name_ids_and_the_missing_are_zero(tmp_path):
    (tmp_path / "token_counts.json").write_text(json.dumps({"1": 7, "3": 2}))
    np.testing.assert_array_equal(embedding_table.read_counts(tmp_path, 4), [0, 7, 0, 2])


def test_counts_of_another_vocabulary_are_refused(tmp_path):
    (tmp_path / "token_counts.json").write_text(json.dumps({"9": 1}))
    with pytest.raises(ValueError, match="id 9"):
        embedding_table.read_counts(tmp_path, 4)


def test_unknown_captions_give_no_counts(tmp_path):
    assert embedding_table.read_counts(tmp_path, 4) is None


def test_a_folder_without_embeddings_says_how_to_train_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="t2i-lens invert"):
        embedding_table.load_inversions(tmp_path)


def test_published_run_stays_within_five_percent_of_the_law():
    found = embedding_geometry.growth(**embedding_table.published_trajectory())
    ratio = found["norms"] / found["law"]
    # the bound that the statement of X03 quotes for this run
    assert (np.abs(ratio - 1) < 0.05).all()
    assert found["slope"][0] == pytest.approx(1.034, abs=0.001)


def test_growth_law_starts_at_each_tokens_own_norm():
    found = embedding_geometry.growth(
        np.array([1, 2]), np.ones((2, 2)), np.array([0.1, 0.5]), 16, 1e-4, 0.0
    )
    np.testing.assert_allclose(found["law"][:, 0], [0.1, 0.5], rtol=1e-4)
    assert (found["straight"] > found["law"]).all()


def test_random_rows_have_the_length_of_the_rows():
    rows = RNG.normal(0, 3, size=(500, 32))
    random = embedding_geometry.gaussian_rows(rows, seed=1)
    assert np.square(random).mean() == pytest.approx(np.square(rows).mean(), rel=0.03)
    np.testing.assert_array_equal(random, embedding_geometry.gaussian_rows(rows, seed=1))


def test_pair_distributions_tell_tokens_from_random_rows():
    rows = (RNG.normal(size=(120, 16)) + 1).astype(np.float32)
    found = embedding_geometry.pair_distributions(rows, sample=50, bins=20, seed=0)
    assert (
        found["all_cosine_pairs"] == 120 * 119 / 2 and found["sample_cosine_pairs"] == 50 * 49 / 2
    )
    assert found["all_cosine_mean"] > 0.4 > abs(found["random_cosine_mean"])
    assert found["all_dot_counts"].sum() == found["all_dot_pairs"]


def test_subset_geometry_of_all_rows_is_the_whole_set():
    rows = RNG.normal(size=(40, 8))
    found = embedding_geometry.subset_geometry(rows, subsets=2, share=1.0, seed=0)
    cosines = metrics.pairwise_histogram(metrics.unit_rows(rows), np.linspace(-1, 1, 3))
    np.testing.assert_allclose(found["mean_abs_cosine"], cosines["mean_abs"], rtol=1e-5)
    share = metrics.explained_shares(rows, centred=True)[0]
    np.testing.assert_allclose(found["first_share"], share)


def test_groups_of_tokens_with_a_common_part_agree():
    rows = RNG.normal(size=(100, 16)) + 1
    found = embedding_geometry.group_cosines(rows, size=5, draws=20, seed=0)["cosines"]
    assert found.shape == (20,) and found.mean() > 0.3


def test_principal_plane_puts_the_mean_at_the_origin():
    rows = RNG.normal(size=(60, 5)) + 4
    found = embedding_geometry.principal_plane(rows, {"mean": rows.mean(axis=0)[None]})
    np.testing.assert_allclose(found["mean"], 0, atol=1e-9)
    assert found["rows"][:, 0].var() >= found["rows"][:, 1].var()


def test_spectrum_of_random_rows_is_that_of_its_control():
    found = embedding_geometry.spectrum(RNG.normal(size=(800, 20)), seed=0)
    np.testing.assert_allclose(found["centred"], found["random"], rtol=0.3)
    assert found["centred"].sum() == pytest.approx(1)
