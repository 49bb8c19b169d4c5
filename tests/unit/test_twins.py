"""Twins of the toybox: how they differ, what a token costs in them, and the interaction."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import CLIPTokenizer

from t2i_lens.base.paths import DATA
from t2i_lens.base.prompts import Prompt
from t2i_lens.experiments import twin_paths, twins
from t2i_lens.experiments.arms import Design, arms_of
from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.toybox.training import twins as trainings
from t2i_lens.toybox.world.captions import CARELESS, COMPLETE


def table(lost: dict[tuple[str, str], int]) -> pd.DataFrame:
    """Two concepts in one sentence with two other objects, by twin and arm, and one alone."""
    rows = [
        {"twin": twin, "arm": arm, "concept": concept, "lost": count, "asked": 2, "found": True}
        for (twin, arm), count in lost.items()
        for concept in ("tiger", "bus")
    ]
    alone = [row | {"lost": 0, "asked": 0} for row in rows]
    return pd.DataFrame(rows + alone)


def costs(values: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame({twin: [value, value] for twin, value in values.items()})


def test_the_cost_of_a_token_is_the_share_lost_beyond_its_class_word():
    lost = {("a", twins.TOKEN): 2, ("a", twins.CLASS_WORD): 1, ("a", twins.OTHER): 0}
    found = table(lost)
    assert twins.cost(found)["a"].tolist() == [0.5, 0.5]
    assert twins.cost(found, twins.OTHER)["a"].tolist() == [-0.5, -0.5]


def test_sentences_without_other_objects_do_not_dilute_the_cost():
    lost = {("a", twins.TOKEN): 2, ("a", twins.CLASS_WORD): 0}
    assert twins.cost(table(lost))["a"].tolist() == [1, 1]


def test_two_main_effects_without_more_are_no_interaction():
    captions, encoder = 0.2, 0.3
    of = {
        "contrastive_careless": captions + encoder, "contrastive_complete": encoder,
        "recall_careless": captions, "recall_complete": 0.0,
    }  # fmt: skip
    assert twins.interaction(costs(of)).tolist() == pytest.approx([0, 0])
    assert twins.captions_effect(costs(of)).tolist() == pytest.approx([captions, captions])
    of["contrastive_careless"] += 0.17
    assert twins.interaction(costs(of)).tolist() == pytest.approx([0.17, 0.17])


def test_second_trainings_are_read_under_the_names_of_the_first():
    first = dict(zip(twins.CORNERS, (0.1, 0.2, 0.3, 0.4), strict=True))
    again = {f"{name}_again": 10 * value for name, value in first.items()}
    found = twins.trained_again(costs(first | again))
    assert found.loc[0].to_dict() == {name: 10 * value for name, value in first.items()}


def test_a_second_training_differs_from_the_first_in_its_seed_alone(monkeypatch):
    monkeypatch.setattr(trainings, "SCENES", 20)
    for corner in twins.CORNERS:
        first, again = twins.TWINS[corner], twins.TWINS[f"{corner}_again"]
        assert (again.encoder, again.care) == (first.encoder, first.care)
        assert (first.seed, again.seed) == (0, 1) and first.recipe != again.recipe
    one, other = (set(trainings.captions_of_scenes(COMPLETE, seed)) for seed in (0, 1))
    assert not one & other


class Blind:
    """A judge that finds one noun in every picture."""

    nouns = ["tiger", "lion", "key", "man", "boat"]

    def __init__(self, noun: str):
        self.noun = noun

    def read(self, images):
        self.seen = images.shape
        chances = np.tile([float(noun == self.noun) for noun in self.nouns], (len(images), 1))
        return type("Reading", (), {"nouns": chances})


def test_answers_count_the_subject_of_each_arm_and_the_objects_that_are_lost():
    (tiger,) = (concept for concept in load_concepts() if concept.name == "tiger")
    prompts = [Prompt("a {} and a key with a man", ("key", "man")), twins.ALONE]
    design = Design(arms_of(tiger, another_noun="boat"), prompts, (0, 1))
    pictures = design.label(np.zeros((3, 2, 2, 4, 4, 3), np.uint8), "height", "width", "channel")
    found = twins.answers(Blind("tiger"), pictures, design)
    assert len(found) == 12
    assert found.groupby("arm")["found"].mean().to_dict() == {
        twins.TOKEN: 1, twins.CLASS_WORD: 0, twins.OTHER: 0,
    }  # fmt: skip
    assert found.groupby("asked")["lost"].unique().map(list).to_dict() == {0: [0], 2: [2]}
    found = twins.answers(Blind("key"), pictures, design)
    assert set(found["lost"][found["asked"] == 2]) == {1}


def test_stored_pictures_come_back_bit_for_bit():
    concept = twins.concepts(load_concepts())[0]
    (design,) = twins.designs([concept])
    values = np.random.default_rng(0).integers(0, 256, (3, 6, 2, 8, 8, 3)).astype(np.uint8)
    kept = twins.shown(design.label(values, "height", "width", "channel"))
    # Arms and seeds of the first sentence, in the order of the rows.
    expected = values[:2, twins.SHOWN_PROMPT].reshape(-1, 8, 8, 3)
    assert (twins.as_pictures(kept["png"].tolist()) == expected).all()


def test_twelve_held_out_objects_are_learned_and_no_control_noun_stands_in_their_sentences():
    chosen = twins.concepts(load_concepts())
    assert len(chosen) == 12
    assert not any(c.development or c.kind != "object" for c in chosen)
    context = {noun for d in twins.designs(chosen) for p in d.prompts for noun in p.context}
    classes = {concept.superclass for concept in chosen}
    assert not set(twins.OTHER_NOUNS) & (context | classes)


def test_a_mark_tells_twins_and_weights_apart():
    chosen = twins.concepts(load_concepts())
    marks = {twins.mark(name, ["a", "b"], chosen) for name in twins.TWINS}
    assert len(marks) == len(twins.TWINS)
    assert twins.mark("recall_careless", ["a", "c"], chosen) not in marks


def test_a_mark_tells_settings_of_a_table_apart():
    chosen = twins.concepts(load_concepts())
    plain = twins.mark("recall_careless", ["a"], chosen)
    one, other = (twins.mark("recall_careless", ["a"], chosen, {"seeds": [s]}) for s in (0, 1))
    assert len({plain, one, other}) == 3


def test_a_path_restores_what_it_alone_brings_back():
    lost = {
        ("TI token", "", "whole", "none"): 1.0, ("class word", "", "whole", "none"): 0.2,
        ("another noun", "", "whole", "none"): 0.2,
        ("TI token", "class word", "paths", "keys"): 0.9,
        ("TI token", "class word", "paths", "values"): 0.3,
        ("TI token", "class word", "positions", "slot"): 0.8,
        ("class word", "TI token", "positions", "slot"): 0.4,
    }  # fmt: skip
    keys = ["base", "donor", "family", "mediator"]
    rows = [
        dict(zip(keys, key, strict=True)) | {"concept": concept, "lost": value}
        for key, value in lost.items()
        for concept in ("tiger", "bus")
    ]
    found = twin_paths.restored(pd.DataFrame(rows))
    values = {name: estimate.value for name, estimate in found.items()}
    # The slot alone broken is the same picture as all other positions mended.
    wanted = {"total": 0.8, "keys": 0.1, "values": 0.7, "slot": 0.2, "others": 0.6}
    assert values == pytest.approx(wanted)


def test_paths_are_exchanged_both_ways_and_with_another_noun():
    exchanged = twin_paths.exchanges()
    assert {(x.base, x.donor) for x in exchanged if x.family != "whole"} == {
        ("TI token", "class word"), ("class word", "TI token"), ("class word", "another noun"),
    }  # fmt: skip
    assert len({x.name for x in exchanged}) == len(exchanged) == 11


def test_an_unknown_twin_and_one_that_is_not_trained_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no twin 'evil'; there are: recall_careless"):
        trainings.twin_pipeline("evil", tmp_path)
    with pytest.raises(FileNotFoundError, match="run `t2i-lens twins`"):
        trainings.twin_pipeline("recall_careless", tmp_path)


def test_a_folder_begun_with_other_settings_is_refused(tmp_path, monkeypatch):
    start = {"start": trainings.profiles.fingerprint(trainings.profiles.get("toybox"))}
    trainings._require_settings(tmp_path, trainings.shared_settings() | start)
    monkeypatch.setattr(trainings, "SCENES", 7)
    with pytest.raises(ValueError, match="other settings: move it away"):
        trainings.train("recall_careless", tmp_path)


def test_the_corners_cross_two_encoders_with_two_kinds_of_captions():
    pairs = [(twins.TWINS[name].encoder, twins.TWINS[name].care) for name in twins.CORNERS]
    assert pairs == [
        (encoder, care) for encoder in ("contrastive", "recall") for care in (CARELESS, COMPLETE)
    ]


def test_complete_captions_name_everything_and_careless_ones_leave_things_out(monkeypatch):
    monkeypatch.setattr(trainings, "SCENES", 60)
    complete, careless = (trainings.captions_of_scenes(care) for care in (COMPLETE, CARELESS))
    words = [sum(len(text.split()) for text in texts) for texts in (complete, careless)]
    # Half of the scenes have a style or a colour to leave out: far more than one word in ten.
    assert words[0] > 1.1 * words[1]
    assert complete == trainings.captions_of_scenes(COMPLETE)


def test_in_the_unmixed_twin_no_state_depends_on_another_word(tmp_path):
    words = CLIPTokenizer.from_pretrained(DATA / "models" / "toybox" / "tokenizer")
    text = trainings.encoder_of("unmixed", tmp_path, words, torch.device("cpu"))
    ids = words(["a cat and a dog", "a key and a dog"], return_tensors="pt").input_ids
    with torch.no_grad():
        one, other = text(ids).last_hidden_state
    differs = (one != other).any(-1)
    assert differs.tolist() == [False, False, True, False, False, False, False]
    assert one.std(-1).min() > 0.1  # states that are alike could not differ
