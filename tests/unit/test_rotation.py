"""Paths of rows and the numbers read off them, on hand-made curves."""

import numpy as np
import pytest

from t2i_lens.experiments import rotation
from t2i_lens.experiments.arms import Arm
from t2i_lens.probes.edits import Site

ROW, GOAL = np.array([3.0, 0, 0, 0]), np.array([0.0, 2, 0, 0])


def test_random_goals_keep_angle_and_norm():
    tilted = np.array([1.0, 1, 0, 0])
    for row in rotation.same_angle(ROW, tilted, 5):
        assert np.linalg.norm(row) == pytest.approx(np.sqrt(2))
        assert row @ ROW / (3 * np.sqrt(2)) == pytest.approx(np.sqrt(0.5))
    assert np.linalg.matrix_rank(rotation.same_angle(ROW, tilted, 3)) == 3


def test_a_zero_row_makes_no_angle():
    with pytest.raises(ValueError, match="zeros"):
        rotation.same_angle(ROW * 0, GOAL, 1)


def test_a_path_begins_at_the_scaled_row_and_ends_at_the_goal():
    import dataclasses

    import torch

    arm = Arm("hero", "TI token", "<t>")
    arms = rotation.turned(arm, GOAL, [0.0, 0.5, 1.0], factor=2 / 3, path="to goal")
    assert [a.name for a in arms] == ["to goal t=0", "to goal t=0.5", "to goal t=1"]
    ends = []
    for each in arms:
        rows = torch.tensor(ROW, dtype=torch.float32)[None]
        for edit in each.edits:
            rows = dataclasses.replace(edit, positions=(0,))(rows, Site("embedding"))
        ends.append(rows[0].numpy())
    half = [np.sqrt(2), np.sqrt(2), 0, 0]
    np.testing.assert_allclose(ends, [[2, 0, 0, 0], half, [0, 2, 0, 0]], atol=1e-6)


def test_half_of_the_presence_is_found_between_places():
    attention, presence = np.array([0.9, 0.7, 0.3]), np.array([0.8, 0.6, 0.2])
    assert rotation.attention_at_half(attention, presence) == pytest.approx(0.5)


def test_a_presence_that_never_falls_gives_the_last_attention():
    assert rotation.attention_at_half(np.array([0.9, 0.1]), np.array([0.8, 0.5])) == 0.1
