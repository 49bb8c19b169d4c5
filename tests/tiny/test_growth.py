"""What norm is expected of a training, and a training's beginning made anew."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import growth
from t2i_lens.inversion.training import train
from t2i_lens.inversion.training_data import InversionConfig
from t2i_lens.stats.metrics import predicted_norm

STEPS = np.array([0, 25, 100, 400])
PLAIN = {"learning_rate": 5e-3, "weight_decay": 1e-2}
NONE = np.full(4, np.nan)
CONFIG = InversionConfig(steps=40, learning_rate=1e-2, batch_size=2, record_every=10)


def test_without_penalties_it_is_the_law():
    found = growth.expected_norms(STEPS, NONE, 0.5, 128, PLAIN)
    # The law is of infinitely small steps; lr·wd is 5e-5 in each.
    np.testing.assert_allclose(found, predicted_norm(STEPS, 0.5, 128, **PLAIN), rtol=1e-4)


def test_a_fixed_norm_stays():
    fixed = growth.expected_norms(STEPS, NONE, 0.5, 128, PLAIN | {"fixed_norm": True})
    np.testing.assert_array_equal(fixed, 0.5)


def test_sgd_adds_its_own_steps_by_pythagoras():
    config = {"learning_rate": 2.0, "weight_decay": 0.0, "optimizer": "sgd"}
    gradients = np.array([np.nan, 0.01, 0.02, 0.01])
    found = growth.expected_norms(STEPS, gradients, 0.5, 128, config)
    squares = np.cumsum([0.25, 25 * 4e-4, 75 * 16e-4, 300 * 4e-4])
    np.testing.assert_allclose(found, np.sqrt(squares), rtol=1e-9)


def test_squared_penalty_is_a_decay_divided_by_the_gradient():
    gradients = np.array([np.nan, 0.02, 0.02, 0.02])
    penalty = growth.expected_norms(STEPS, gradients, 0.5, 128, PLAIN | {"l2_penalty": 1e-3})
    decay = 1e-2 + 2e-3 * np.sqrt(128) / 0.02
    same = growth.expected_norms(STEPS, NONE, 0.5, 128, PLAIN | {"weight_decay": decay})
    np.testing.assert_allclose(penalty, same, rtol=1e-9)
    weaker = growth.expected_norms(STEPS, gradients, 0.5, 128, PLAIN | {"l1_penalty": 1e-4})
    assert (weaker[1:] > penalty[1:]).all()
    assert (weaker[1:] < growth.expected_norms(STEPS, NONE, 0.5, 128, PLAIN)[1:]).all()


@pytest.fixture(scope="module")
def trained(shared_pipe, make_concept):
    settings = {
        "standard": {},
        "l2": {"l2_penalty": 0.05},
        "direction": {"fixed_norm": True},
        "rate": {"learning_rate": 2e-2},
    }
    configs = [replace(CONFIG, **some) for some in settings.values()]
    concept = make_concept("pinata")
    found = train(shared_pipe, [concept] * len(configs), configs, progress=False)
    return dict(zip(settings, found, strict=True))


def test_trainings_are_as_long_as_is_expected_of_them(trained):
    runs = pd.DataFrame(
        {
            "variant": variant, "concept": "pinata", "trajectory": each.trajectory,
            "vector": each.embedding[0].numpy(), "config": each.config,
        }
        for variant, each in trained.items()
    )  # fmt: skip
    table = growth.laws(runs)
    assert len(table) == 4 * 5
    last = table[table["step"] == 40].set_index("variant")
    # Forty steps of a tiny model are not quite orthogonal; without the pull of the penalty, or
    # with the standard rate in place of its own, a run would be off by more than its double.
    np.testing.assert_allclose(last["norm"], last["expected"], rtol=0.5)
    assert last["expected"].loc[["direction", "l2", "standard", "rate"]].is_monotonic_increasing
    assert last["norm"].loc[["direction", "l2", "standard", "rate"]].is_monotonic_increasing


def test_the_first_steps_made_anew_are_those_of_the_whole(shared_pipe, make_concept, trained):
    kept = trained["standard"]
    concept, config = make_concept("pinata"), kept.config
    again = growth.first_steps(shared_pipe, concept, config, 20)
    assert again["step"].tolist() == [0, 10, 20]
    found = growth.compare_trajectories(again, kept.trajectory)
    # In float32 another batch rounds in the seventh digit.
    assert found["norm"] < 1e-4 and found["cosine"] > 0.9999
    with pytest.raises(ValueError, match="differs from the one kept"):
        growth.compare_trajectories(again, trained["rate"].trajectory)
    moved = again.assign(vector=[row + 1 for row in again["vector"]])
    with pytest.raises(ValueError, match="start apart"):
        growth.compare_trajectories(moved, kept.trajectory)
