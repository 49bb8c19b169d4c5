"""The shipped picture tower as an eye: alike pictures are nearer than others."""

import numpy as np
import pytest

from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.toybox import likeness


@pytest.fixture(scope="module")
def eye():
    return likeness.load_eye()


def test_pictures_are_seen_as_unit_vectors_whatever_the_batch(eye):
    images = load_concepts()[0].images[:3]
    seen = eye.embed(images)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-5)
    # Batches of another size change the order of float32 sums.
    np.testing.assert_allclose(eye.embed(images, batch_size=2), seen, atol=1e-4)


def test_a_concept_is_more_like_its_own_pictures_than_others_are(eye):
    first, second = load_concepts()[:2]
    found = likeness.likeness(eye, np.stack([first.images[:2], second.images[:2]]), first.images)
    assert found["likeness"].shape == (2, 2)
    assert found["likeness"][0].min() > found["likeness"][1].max()


def test_a_missing_tower_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="picture_tower"):
        likeness.load_eye(tmp_path)
