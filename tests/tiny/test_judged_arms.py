"""Arms drawn by a real pipeline and read by a real judge, both tiny."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from t2i_lens.base.lazy import Lazy
from t2i_lens.experiments import destruction
from t2i_lens.experiments.arms import Arm, Design, draw, placed
from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.inversion.embedding_table import read_table
from t2i_lens.inversion.embeddings import Inversion, with_tokens
from t2i_lens.models.tokens import token_table
from t2i_lens.probes.edits import Force, Scale, Value
from t2i_lens.probes.sampling import generate

PROMPTS = [Prompt("a {} next to a man", ("man",)), Prompt("a red {} and a friend", ("friend",))]
FEW = {"num_inference_steps": 2, "guidance_scale": 3.0}


class BrightnessJudge:
    """Finds each noun as surely as one colour channel is bright; enough to tell pictures apart."""

    nouns = ["man", "friend", "toy"]

    def read(self, images):
        return SimpleNamespace(nouns=images.mean(axis=(1, 2)) / 255)


def arm(word, name):
    return Arm("pinata", name, word, "toy")


@pytest.fixture
def inversion(pipe, make_concept):
    width = pipe.text_encoder.get_input_embeddings().embedding_dim
    rows = torch.full((1, width), 0.5)
    return Inversion(make_concept("pinata", "<cat-toy>"), rows, pd.DataFrame(), {})


def judged(pipe, arms, judge=None):
    design = Design(arms, PROMPTS, [0, 1])
    return destruction.measure(pipe, judge or BrightnessJudge(), design, **FEW)


def test_every_arm_prompt_and_seed_is_read(shared_pipe):
    readings = judged(shared_pipe, [arm("toy", "class word"), arm("dog", "other noun")])
    assert dict(readings.sizes) == {"concept": 1, "arm": 2, "prompt": 2, "seed": 2}
    assert ((readings["doubt"] >= 0) & (readings["doubt"] <= 1)).all()
    assert readings["prompt"].values.tolist() == [prompt.text for prompt in PROMPTS]


def test_arms_with_one_word_share_their_latents_and_so_their_pictures(shared_pipe):
    readings = judged(shared_pipe, [arm("toy", "first"), arm("toy", "second")])
    np.testing.assert_array_equal(*readings["doubt"].isel(concept=0))


def test_another_word_changes_what_is_read(shared_pipe):
    readings = judged(shared_pipe, [arm("toy", "first"), arm("chair", "second")])
    first, second = readings["doubt"].isel(concept=0).values
    assert (first != second).any()


def test_readings_belong_to_their_own_prompt_and_seed(shared_pipe):
    readings = judged(shared_pipe, [arm("toy", "class word")])
    alone = generate(shared_pipe, ["a red toy and a friend"], [1], **FEW)[0]
    expected = BrightnessJudge().read(alone).nouns[0, 1]
    found = 1 - readings["doubt"].sel(prompt=PROMPTS[1].text, seed=1).item()
    assert found == pytest.approx(expected, abs=1 / 255)  # batches may differ by a grey level


def scaled(word, factor, name):
    return replace(arm(word, name), edits=(Scale(factor, positions=()),))


def test_an_edit_of_an_arm_is_made_at_its_slot_in_every_prompt(shared_pipe):
    sentences, edits = placed(shared_pipe, [scaled("toy", 2.0, "long")], PROMPTS)
    assert sentences == ["a toy next to a man", "a red toy and a friend"]
    assert [some[0].positions for some in edits] == [(2,), (3,)]


def test_arms_differ_by_their_edits_and_an_identity_changes_nothing(shared_pipe):
    arms = [arm("toy", "plain"), scaled("toy", 1.0, "same"), scaled("toy", 20.0, "long")]
    drawn = draw(shared_pipe, Design(arms, PROMPTS, [0, 1]), **FEW).values[0]
    assert drawn.shape == (3, 2, 2, 16, 16, 3)
    np.testing.assert_allclose(drawn[0].astype(int), drawn[1], atol=1)  # batches: a grey level
    assert (drawn[0] != drawn[2]).any()
    long = judged(shared_pipe, arms)["doubt"].sel(arm="long")
    alone = judged(shared_pipe, arms[2:])["doubt"].sel(arm="long")
    np.testing.assert_allclose(long, alone, atol=1 / 255)


def test_an_edit_without_a_place_in_the_row_is_refused(shared_pipe):
    to_bos = Force(Value("BOS", torch.eye(77)[0]), layer=0, queries=(2,))
    with pytest.raises(ValueError, match="Force has no positions"):
        judged(shared_pipe, [replace(arm("toy", "forced"), edits=(to_bos,))])


def test_a_noun_that_the_judge_does_not_know_is_named(shared_pipe):
    unknown = replace(arm("toy", "class word"), subject="unicorn")
    with pytest.raises(ValueError, match="unicorn"):
        judged(shared_pipe, [unknown])


def test_attached_tokens_are_in_the_pipeline_and_in_its_fingerprint(pipe, inversion):
    bare = Lazy(lambda: pipe, "tiny")
    lazy = with_tokens(bare, [inversion])
    other = Inversion(inversion.concept, inversion.embedding * 2, pd.DataFrame(), {})
    changed = with_tokens(bare, [other])
    assert len({bare.fingerprint, lazy.fingerprint, changed.fingerprint}) == 3
    table = token_table(lazy.get(), "a <cat-toy> next to a man")
    assert "<cat-toy>" in table["piece"].tolist()
    assert table["position"].tolist() == list(range(len(table)))


def test_the_table_is_read_without_changing_it(shared_pipe):
    table = read_table(shared_pipe, ["toy", "man"])
    weight = shared_pipe.text_encoder.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(table["rows"], weight)
    assert table["pieces"][table["word_ids"][0]] == "toy</w>"
    assert table["pieces"][int(table["bos"])] == shared_pipe.tokenizer.bos_token


def test_an_initializer_of_several_tokens_is_refused(shared_pipe):
    with pytest.raises(ValueError, match="one token"):
        read_table(shared_pipe, ["unicorn"])
