"""What a judge's reading of a design counts, and the prompt sets themselves."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from t2i_lens.experiments import destruction
from t2i_lens.experiments.arms import Arm, Design
from t2i_lens.experiments.prompt_sets import Prompt, load_prompts
from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.judging.protocols import judge_scores

PROMPTS = [Prompt("a {} and a man in a hat", ("man", "hat")), Prompt("the {} and a man", ("man",))]
ARMS = [Arm("hero", "TI token", "<t>", "hero"), Arm("hero", "class word", "toy", "toy")]
DESIGN = Design(ARMS, PROMPTS, [5, 6])
# [arm, prompt, seed, noun]: the man is never seen beside the token, the hero once not.
SEEN = np.full((2, 2, 2, 4), 0.9)
SEEN[0, ..., 0] = 0.1
SEEN[0, 1, 1, 3] = 0.2


class Told:
    nouns = ["man", "hat", "toy", "hero"]

    def read(self, images):
        assert len(images) == 8
        return SimpleNamespace(nouns=SEEN.reshape(8, 4))


@pytest.fixture(scope="module")
def readings():
    return destruction.read(Told(), np.zeros((2, 2, 2, 4, 4, 3), np.uint8), DESIGN)


def test_an_object_is_lost_when_the_judge_doubts_it(readings):
    lost = readings["lost"].sel(concept="hero")
    assert lost.dims == ("arm", "prompt", "seed")
    np.testing.assert_array_equal(lost.sel(arm="TI token"), [[1, 1], [1, 1]])
    np.testing.assert_array_equal(lost.sel(arm="class word"), 0)


def test_shares_count_what_each_prompt_asks_for(readings):
    assert readings["asked"].values.tolist() == [2, 1]
    kept = readings["kept"].sel(concept="hero")
    # The man is missed, the hat is not.
    np.testing.assert_array_equal(kept.sel(arm="TI token"), [[0.5, 0.5], [0, 0]])
    np.testing.assert_array_equal(kept.sel(arm="class word"), 1)
    doubt = readings["doubt"].sel(concept="hero", arm="TI token", seed=5)
    np.testing.assert_allclose(doubt, [0.5, 0.9])


def test_each_arm_has_its_own_subject(readings):
    found = readings["found"].sel(concept="hero")
    np.testing.assert_array_equal(found.sel(arm="TI token"), [[1, 1], [1, 0]])
    np.testing.assert_array_equal(found.sel(arm="class word"), 1)


def test_a_note_names_what_is_missing(readings):
    missed = readings["missed"].sel(concept="hero", prompt=PROMPTS[0].text)
    assert destruction.notes(missed) == [["lost: man"] * 2, ["all there"] * 2]


def test_a_noun_that_the_judge_does_not_know_is_named():
    design = Design(ARMS, [Prompt("a {} and a frog", ("frog",))], [0])
    with pytest.raises(ValueError, match="frog"):
        destruction.read(Told(), np.zeros((2, 1, 1, 4, 4, 3), np.uint8), design)


def test_hero_prompts_are_many_and_differ():
    prompts = load_prompts("hero")
    assert len({prompt.text for prompt in prompts}) == len(prompts) >= 12
    assert all(1 <= len(prompt.context) <= 2 for prompt in prompts)


def test_an_unknown_prompt_set_lists_those_there_are():
    with pytest.raises(ValueError, match="hero"):
        load_prompts("nothing")


def test_no_context_noun_is_what_a_concept_is_one_of():
    asked = {noun for prompt in load_prompts("hero") for noun in prompt.context}
    assert not asked & {concept.superclass for concept in load_concepts()}


@pytest.mark.parametrize("text", ["a man", "a {}", "a {} and a {} with a man"])
def test_a_prompt_without_one_slot_and_its_context_is_refused(tmp_path, text):
    file = tmp_path / "prompts.yaml"
    file.write_text(json.dumps({"bad": [{"text": text, "context": ["man"]}]}))
    with pytest.raises(ValueError, match="needs one"):
        load_prompts("bad", file)


def test_what_quality_lacks_leaves_the_judge_unmeasured():
    assert judge_scores({}) == {"recall": None, "precision": None, "style": None}
    some = {"judge": {"recall_mean_per_noun": 0.97, "style": {"value": 0.9}}}
    assert judge_scores(some) == {"recall": 0.97, "precision": None, "style": 0.9}
