"""Designs keep arms, prompts and seeds on labelled axes, and are known by all that they hold."""

from dataclasses import replace

import numpy as np
import pytest

from t2i_lens.base.lazy import canonical
from t2i_lens.experiments.arms import Arm, Design, apart, arms_of, distinct
from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.probes.edits import Scale

PROMPTS = [Prompt("a {} and a man", ("man",)), Prompt("the {}", ())]
NO_PICTURES = np.zeros((0, 1, 1, 3), dtype=np.uint8)
PANDA = Concept("panda", "<my-panda>", "bear", "bear", NO_PICTURES)
OWL = Concept("owl", "<my-owl>", "bird", "bird", NO_PICTURES)
DESIGN = Design([*arms_of(PANDA), *arms_of(OWL)], PROMPTS, (3, 4))


def test_each_concept_has_its_placeholder_its_class_word_and_other_words():
    token, word, other = arms_of(PANDA, other_noun="turtle")
    assert (token.name, token.word, token.subject) == ("TI token", "<my-panda>", "panda")
    assert (word.name, word.word, word.subject) == ("class word", "bear", "bear")
    assert (other.name, other.word, other.subject) == ("other noun", "turtle", "turtle")


def test_values_come_back_at_their_own_concept_arm_prompt_and_seed():
    values = np.arange(2 * 2 * 2 * 2 * 5).reshape(8, 2, 5)
    labelled = DESIGN.label(values, "token")
    assert labelled.dims == ("concept", "arm", "prompt", "seed", "token")
    cell = labelled.sel(concept="owl", arm="class word", prompt="the {}", seed=3)
    np.testing.assert_array_equal(cell, values[7, 0])


def test_a_design_without_seeds_has_no_such_axis():
    labelled = replace(DESIGN, seeds=()).label(np.arange(8))
    assert labelled.dims == ("concept", "arm", "prompt")


def test_concepts_of_one_design_have_the_same_arms():
    with pytest.raises(ValueError, match="differ in their arms"):
        Design([*arms_of(PANDA), arms_of(OWL)[0]], PROMPTS)
    with pytest.raises(ValueError, match="twice"):
        Design([*arms_of(PANDA), *arms_of(PANDA)], PROMPTS)


@pytest.mark.parametrize(
    "other",
    [
        replace(DESIGN, seeds=(3, 5)),
        replace(DESIGN, prompts=PROMPTS[::-1]),
        replace(DESIGN, prompts=[replace(PROMPTS[0], context=()), PROMPTS[1]]),
        replace(DESIGN, arms=[replace(arm, subject="cat") for arm in DESIGN.arms]),
        replace(
            DESIGN, arms=[replace(arm, edits=(Scale(2.0, positions=()),)) for arm in DESIGN.arms]
        ),
    ],
    ids=["seeds", "prompts", "context", "subject", "edits"],
)
def test_a_design_is_known_by_all_that_it_holds(other):
    assert canonical(other) != canonical(DESIGN)
    assert canonical(replace(DESIGN)) == canonical(DESIGN)


def test_arms_are_one_if_words_and_edits_are():
    long = (Scale(2.0, positions=()),)
    words = {"a": ("toy", ()), "b": ("toy", long), "c": ("dog", ()), "d": ("toy", ())}
    words |= {"e": ("toy", long)}
    arms = [Arm("x", name, word, edits=edits) for name, (word, edits) in words.items()]
    unique, place = distinct(arms)
    assert unique == arms[:3] and place == [0, 1, 2, 0, 1]


def test_parts_of_an_axis_come_by_their_labels():
    parts = apart(DESIGN.label(np.arange(16)), "seed")
    assert list(parts) == [3, 4]
    np.testing.assert_array_equal(parts[4].values.ravel(), np.arange(1, 16, 2))
