"""Numbers of remedies: fronts, areas, and a choice on half of the sentences."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import clinic, remedies, remedy_claims
from t2i_lens.stats.bootstrap import Estimate


def test_the_dominated_area_is_the_union_of_rectangles():
    points = np.array([[0.5, 0.4], [0.2, 0.8], [0.1, 0.1]])
    # 0.5 x 0.4, and above it 0.2 x 0.4.
    assert remedies.dominated(points) == pytest.approx(0.28)
    assert remedies.dominated(points[:2]) == pytest.approx(0.28)


def test_a_remedy_beaten_on_both_axes_is_not_on_the_front():
    axes = pd.DataFrame(
        {"likeness": [0.9, 0.5, 0.4], "kept": [0.2, 0.6, 0.5]}, index=["token", "lock", "worse"]
    )
    assert remedy_claims.pareto(axes) == ["token", "lock"]


def outcome(lost, likeness):
    return {"lost": Estimate(lost, lost, lost, 4), "likeness": likeness}


def test_the_advice_loses_fewest_objects_among_those_that_keep_the_likeness():
    found = {
        "token": outcome(1.0, 0.8),
        "rescaled": outcome(0.1, 0.3),
        "key lock, local": outcome(0.5, 0.78),
        "class word": outcome(0.0, 0.8),
    }
    assert clinic.advised(found) == "key lock, local"


def test_a_token_that_no_remedy_improves_is_left_as_it_is():
    found = {"token": outcome(0.5, 0.8), "rescaled": outcome(0.5, 0.8)}
    assert clinic.advised(found) == "token"


def pictures(ways):
    rows = []
    for way, (likeness, lost) in ways.items():
        rows.append(("a photo of a {}", 0, 0, likeness, way))
        rows += [(f"a {{}} {i}", 2, loss, likeness, way) for i, loss in enumerate(lost)]
    table = pd.DataFrame(rows, columns=["prompt", "asked", "lost", "likeness", "way"])
    return table.assign(concept="tiger", setting="", seed=0)


def test_a_choice_on_half_of_the_sentences_is_told_of_on_the_other_half(monkeypatch):
    monkeypatch.setattr(remedy_claims, "TREATMENTS", ("good", "bad"))
    table = pictures({"token": (0.8, [2, 2]), "good": (0.8, [1, 1]), "bad": (0.1, [0, 0])})
    found = remedy_claims.advised_on_half(table)
    assert found["value"] == pytest.approx(np.ones((1, 2)))
    assert found["control"] == pytest.approx(np.ones((1, 2)))  # (0 + 1 + 2) / 3
    misled = pictures({"token": (0.8, [2, 2]), "good": (0.8, [1, 3]), "bad": (0.8, [3, 1])})
    assert (remedy_claims.advised_on_half(misled)["value"] == -1).all()


def test_layers_are_chosen_by_what_they_lose_alone():
    lost = {"only a": 0, "only b": 3, "only c": 1, "only d": 2}
    alone = pd.DataFrame({"setting": list(lost), "lost": list(lost.values())})
    chosen = remedies.layer_choice(alone)
    assert chosen["layers found"] == ["b"]
    assert not set(chosen["random layers"]) & set(chosen["layers found"])
