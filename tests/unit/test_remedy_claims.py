"""Numbers of remedies: fronts, areas, and a choice on half of the sentences."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import (
    clinic,
    perfusion_claims,
    remedy_axes,
    remedy_claims,
    remedy_edits,
    remedy_pictures,
    remedy_sweep,
    remedy_tables,
)
from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.stats.bootstrap import Estimate


def test_the_dominated_area_is_the_union_of_rectangles():
    points = np.array([[0.5, 0.4], [0.2, 0.8], [0.1, 0.1]])
    # 0.5 x 0.4, and above it 0.2 x 0.4.
    assert remedy_axes.dominated(points) == pytest.approx(0.28)
    assert remedy_axes.dominated(points[:2]) == pytest.approx(0.28)


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


def test_an_embedding_is_advised_before_a_key_lock_that_is_no_better():
    found = {"token": outcome(0.5, 0.8), "rescaled": outcome(0.3, 0.75)}
    assert clinic.advised(found | {"key lock, local": outcome(0.3, 0.8)}) == "rescaled"


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
    assert found["value"] == pytest.approx([1])
    # Token and "good" can be chosen, (0 + 1) / 2; "bad" is too unlike the concept.
    assert found["control"] == pytest.approx([0.5])
    misled = pictures({"token": (0.8, [2, 2]), "good": (0.8, [1, 3]), "bad": (0.8, [3, 1])})
    assert (remedy_claims.advised_on_half(misled)["value"] == -1).all()


def test_layers_are_chosen_by_what_they_lose_alone():
    lost = {"only a": 0, "only b": 3, "only c": 1, "only d": 2}
    alone = pd.DataFrame({"setting": list(lost), "lost": list(lost.values())})
    chosen = remedy_sweep.layer_choice(alone)
    assert chosen["layers found"] == ["b"]
    assert not set(chosen["random layers"]) & set(chosen["layers found"])


WAYS = (
    *remedy_claims.TREATMENTS, *remedy_claims.TEACHING[:3], *remedy_claims.LIMITS,
    "token", "class word", "key lock, other noun", "layers found", "random layers",
    "token, fewer steps, other seed", remedy_claims.SHORT, "encoder output", "per-layer tokens",
)  # fmt: skip
TEXTS = [remedy_pictures.ALONE.text, "a {} and a key", "a {} and a man", "a key and a {}"]
CONCEPTS = ["tiger", "rose", "koala", "pine"]


@pytest.fixture
def table():
    """A picture of every way, setting, concept and sentence, all of them alike."""
    arms = [(way, "") for way in WAYS]
    arms += [("norm penalty", "rescaled")]
    arms += [
        (f"Perfusion, {variant}", setting[0])
        for variant in remedy_edits.EDITS
        for setting in remedy_edits.settings_of(variant)
    ]
    arms += [("Perfusion, standard", "global lock")]
    arms += [("per-layer tokens", f"only {layer}") for layer in "abc"]
    rows = [
        (way, setting, concept, text, seed, 0 if text == TEXTS[0] else 2, 0, 0.8)
        for way, setting in arms
        for concept in CONCEPTS
        for text in TEXTS
        for seed in remedy_pictures.SEEDS
    ]
    rows += [
        ("token in one layer", f"only {layer}", "fox", text, 0, 2, lost, 0.8)
        for lost, layer in enumerate("abc")
        for text in TEXTS[1:]
    ]
    names = ["way", "setting", "concept", "prompt", "seed", "asked", "lost", "likeness"]
    return pd.DataFrame(rows, columns=names).assign(
        found=1.0, variety=0.1, attention=0.1, outside=0.5, seconds=6.0
    )


def saved(table, claim):
    points = remedy_claims.named(remedy_axes.axes(table))
    return remedy_claims.effects(points, table, seed=0)[claim]


def lose(table, way, count, setting=""):
    chosen = (table["way"] == way) & (table["setting"] == setting) & (table["asked"] > 0)
    return table.assign(lost=table["lost"].mask(chosen, count))


def test_objects_that_a_key_lock_brings_back_are_counted_and_no_others(table):
    found = saved(lose(table, "token", 2), "X13")
    assert (found["value"] == 2).all() and (found["control"] == 2).all()
    found = saved(lose(lose(table, "token", 2), "key lock, other noun", 1), "X13")
    assert (found["value"] == 2).all() and (found["control"] == 1).all()


def test_a_concept_that_is_lost_with_its_layers_saves_nothing(table):
    forgotten = (table["way"] == "layers found") & (table["concept"] == "rose")
    table = table.assign(likeness=table["likeness"].mask(forgotten, 0.5))
    assert saved(lose(table, "token", 2), "X23")["value"].tolist() == [2, 0, 2, 2]


def test_a_penalty_is_compared_with_the_plain_token_at_its_norm(table):
    table = lose(lose(table, remedy_claims.USUAL, 2), "norm penalty", 1, "rescaled")
    found = saved(table, "B25")
    assert (found["value"] == 2).all() and (found["control"] == 1).all()


def test_layers_of_per_layer_tokens_are_compared_with_those_of_other_concepts(table):
    for lost, layer in enumerate("abc"):
        table = lose(table, "per-layer tokens", lost, f"only {layer}")
    assert saved(table, "X17")["value"] == pytest.approx(1)


def test_every_claim_on_key_locked_edits_has_a_value_for_each_concept(table):
    arms = ("edits, joint", "edits, one by one", "tokens", "class words")
    pairs = pd.DataFrame(
        [(arm, pair, float(arm != "class words"), 1.0) for arm in arms for pair in "xy"],
        columns=["arm", "pair", "first", "second"],
    )
    table = lose(table, "Perfusion, trained keys", 1, f"β {remedy_edits.BETAS[0]:g}, τ 0.15")
    found = perfusion_claims.effects({"pictures": table, "pairs": pairs})
    assert set(found) == {f"P{number:02}" for number in range(3, 13)}
    assert (found["P04"]["value"] == 0).all() and (found["P04"]["control"] == -0.5).all()
    assert (found["P11"]["value"] == 0).all() and (found["P11"]["control"] == -1).all()
    assert found["P12"]["value"] == pytest.approx(0.1)
    assert all(len(cells["value"]) == 4 for name, cells in found.items() if name != "P11")


def test_tables_are_read_as_written_and_refused_when_damaged_or_of_other_weights(table, tmp_path):
    remedy_tables.save(
        {"pictures": table, "pairs": table}, {"tiger": b"x"}, {"all": "mark"}, tmp_path
    )
    read = remedy_tables.load(tmp_path, {"all": "mark"})
    pd.testing.assert_frame_equal(read["pictures"], table)
    with pytest.raises(ValueError, match="from other weights"):
        remedy_tables.load(tmp_path, {"all": "another"})
    (tmp_path / "pairs.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        remedy_tables.load(tmp_path, {"all": "mark"})


def test_a_picture_that_is_drawn_otherwise_is_noticed(table):
    again = table[table["way"] == "token"]
    assert remedy_tables.compare(again, table)["likeness"] == 0
    with pytest.raises(ValueError, match="lost differs by 1"):
        remedy_tables.compare(again.assign(lost=again["lost"] + 1), table)
    with pytest.raises(ValueError, match="are not in the table"):
        remedy_tables.compare(again.assign(concept="unknown"), table)


def test_held_out_concepts_are_objects_that_no_choice_was_made_on():
    chosen = remedy_pictures.held_out(load_concepts())
    assert len(chosen) == remedy_pictures.CONCEPTS >= 12
    assert not any(c.hero or c.development or c.kind != "object" for c in chosen)
    # All kinds of object, not the first dozen: coloured animals stand first.
    assert chosen[-1].name == "chick"
