"""Counting lost objects from a judge's readings, and the prompt sets themselves."""

import json

import numpy as np
import pandas as pd
import pytest

from t2i_lens.experiments import destruction
from t2i_lens.inversion.embeddings import Concept, load_concepts

READINGS = pd.DataFrame(
    [
        ("hero", arm, "a {} and a man", seed, noun, role, probability)
        for arm, seen in {"TI token": 0.1, "class word": 0.9}.items()
        for seed in (0, 1)
        for noun, role, probability in [
            ("man", "context", seen),
            ("hat", "context", 0.9),
            ("toy", "subject", 0.8),
        ]
    ],
    columns=["concept", "arm", "prompt", "seed", "noun", "role", "probability"],
)


def test_an_object_is_lost_when_the_judge_doubts_it():
    lost = destruction.lost_objects(READINGS)["hero"]
    np.testing.assert_array_equal(lost["TI token"], [[1, 1]])
    np.testing.assert_array_equal(lost["class word"], [[0, 0]])


def test_the_subject_is_counted_apart():
    lost = destruction.lost_objects(READINGS, role="subject")["hero"]
    np.testing.assert_array_equal(lost["TI token"], [[0, 0]])


def test_a_note_names_what_is_missing():
    prompt = READINGS["prompt"][0]
    assert destruction.lost_names(READINGS, "TI token", prompt) == ["lost: man"] * 2
    assert destruction.lost_names(READINGS, "class word", prompt) == ["all there"] * 2


def test_each_concept_has_its_placeholder_and_its_class_word():
    no_pictures = np.zeros((0, 1, 1, 3), dtype=np.uint8)
    concept = Concept("panda", "<my-panda>", "bear", "bear", no_pictures)
    arms = {arm["arm"]: arm for arm in destruction.arms_of(concept)}
    assert arms["TI token"]["word"] == "<my-panda>" and arms["TI token"]["subject"] == "panda"
    assert arms["class word"]["word"] == arms["class word"]["subject"] == "bear"


def test_hero_prompts_are_many_and_differ():
    prompts = destruction.load_prompts("hero")
    assert len({prompt.text for prompt in prompts}) == len(prompts) >= 12
    assert all(1 <= len(prompt.context) <= 2 for prompt in prompts)


def test_an_unknown_prompt_set_lists_those_there_are():
    with pytest.raises(ValueError, match="hero"):
        destruction.load_prompts("nothing")


def test_no_context_noun_is_what_a_concept_is_one_of():
    asked = {noun for prompt in destruction.load_prompts("hero") for noun in prompt.context}
    assert not asked & {concept.superclass for concept in load_concepts()}


@pytest.mark.parametrize("text", ["a man", "a {}", "a {} and a {} with a man"])
def test_a_prompt_without_one_slot_and_its_context_is_refused(tmp_path, text):
    file = tmp_path / "prompts.yaml"
    file.write_text(json.dumps({"bad": [{"text": text, "context": ["man"]}]}))
    with pytest.raises(ValueError, match="needs one"):
        destruction.load_prompts("bad", file)


def test_what_quality_lacks_leaves_the_judge_unmeasured():
    assert destruction.judge_scores({}) == {"recall": None, "precision": None}
    some = {"judge": {"recall_mean_per_noun": 0.97}}
    assert destruction.judge_scores(some) == {"recall": 0.97, "precision": None}


def test_found_shares_count_what_each_prompt_asks_for():
    found = destruction.found_share(READINGS)["hero"]
    np.testing.assert_array_equal(found["TI token"], [[0.5, 0.5]])  # man is missed, hat is not
    np.testing.assert_array_equal(found["class word"], [[1, 1]])
    subject = destruction.found_share(READINGS, "subject")["hero"]
    np.testing.assert_array_equal(subject["TI token"], [[1, 1]])


def test_found_shares_of_prompts_with_different_numbers_of_objects_are_not_mixed():
    fewer = READINGS[READINGS["noun"] != "hat"].assign(prompt="the {} and a man")
    found = destruction.found_share(pd.concat([READINGS, fewer]))["hero"]
    np.testing.assert_array_equal(found["TI token"], [[0.5, 0.5], [0, 0]])


def test_arms_are_one_if_words_and_edits_are():
    from t2i_lens.probes.edits import Scale

    arms = [
        {"word": "toy"}, {"word": "toy", "edits": (Scale(2.0, positions=()),)}, {"word": "dog"},
        {"word": "toy", "edits": ()}, {"word": "toy", "edits": (Scale(2.0, positions=()),)},
    ]  # fmt: skip
    unique, place = destruction.distinct(arms)
    assert unique == arms[:3] and place == [0, 1, 2, 0, 1]
