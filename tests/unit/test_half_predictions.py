"""Predictions that are fitted on half of the groups and tested on the other half."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import half_predictions as halved

GROUPS = np.repeat([f"concept {n}" for n in range(10)], 6)


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("resample", [False, True])
def test_no_group_is_in_both_halves(resample):
    for here, there in halved.splits(GROUPS, 20, 0, resample):
        assert not set(GROUPS[here]) & set(GROUPS[there])


def test_a_cause_of_tokens_carries_over_and_one_of_concepts_does_not():
    cause = rng().normal(size=len(GROUPS))
    outcome = cause + 0.1 * np.random.default_rng(1).normal(size=len(GROUPS))
    (carries,) = halved.transferred([halved.signed(cause, outcome)], GROUPS, 50)
    assert carries.low > 0.9 and carries.n == 10
    both = [halved.fitted(cause[:, None], cause), halved.signed(-cause, cause)]
    # A regression and a sign order the same rows alike.
    assert halved.transferred(both, GROUPS, 50)[-1].value == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(2).normal(size=len(GROUPS))
    (nothing,) = halved.transferred([halved.signed(noise, cause)], GROUPS, 50)
    assert nothing.low < 0.1 and nothing.value < 0.3


def test_a_shared_direction_is_taken_from_the_other_half_alone():
    vectors = rng().normal(size=(len(GROUPS), 16))
    outcome = rng().random(len(GROUPS))
    vectors += 3 * outcome[:, None] * np.eye(16)[0]
    (found,) = halved.transferred([halved.toward_shared(vectors, outcome)], GROUPS, 50)
    assert found.value > 0.4


def test_the_strongest_cause_is_chosen_on_every_half():
    first, second = rng().random((2, len(GROUPS)))
    table = pd.DataFrame({"a": first, "b": second, "group": GROUPS})
    table["lost"] = table["b"] ** 3
    assert halved.chosen(table, ["a", "b"], "lost", "group", 20)["b"] == 1


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match="four are needed"):
        halved.splits(np.array(["a", "b", "c"]), 2, 0)
