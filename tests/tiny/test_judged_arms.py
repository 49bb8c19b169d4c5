"""Arms drawn by a real pipeline and read by a real judge, both tiny."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from t2i_lens.base.lazy import Lazy
from t2i_lens.experiments import destruction
from t2i_lens.inversion.embedding_table import read_table
from t2i_lens.inversion.embeddings import Inversion
from t2i_lens.probes.edits import Force, Scale, Value

PROMPTS = [
    {"text": "a {} next to a man", "context": ["man"]},
    {"text": "a red {} and a friend", "context": ["friend"]},
]
FEW = {"num_inference_steps": 2, "guidance_scale": 3.0}


class BrightnessJudge:
    """Finds each noun as surely as one colour channel is bright; enough to tell pictures apart."""

    nouns = ["man", "friend", "toy"]

    def read(self, images):
        return SimpleNamespace(nouns=images.mean(axis=(1, 2)) / 255)


def arm(word, name):
    return {"concept": "pinata", "arm": name, "word": word, "subject": "toy"}


@pytest.fixture
def inversion(pipe, make_concept):
    width = pipe.text_encoder.get_input_embeddings().embedding_dim
    rows = torch.full((1, width), 0.5)
    return Inversion(make_concept("pinata", "<cat-toy>"), rows, pd.DataFrame(), {})


def judged(pipe, arms, judge=None):
    return destruction.judge_arms(pipe, judge or BrightnessJudge(), arms, PROMPTS, [0, 1], **FEW)


def test_every_arm_prompt_seed_and_noun_has_a_row(shared_pipe):
    readings = judged(shared_pipe, [arm("toy", "class word"), arm("dog", "other noun")])
    assert len(readings) == 2 * 2 * 2 * 2  # arms, prompts, seeds, subject and one context noun
    assert readings["probability"].between(0, 1).all()
    assert not readings.duplicated(["arm", "prompt", "seed", "noun"]).any()


def test_arms_with_one_word_share_their_latents_and_so_their_pictures(shared_pipe):
    readings = judged(shared_pipe, [arm("toy", "first"), arm("toy", "second")])
    by_arm = [some["probability"].to_numpy() for _, some in readings.groupby("arm")]
    np.testing.assert_array_equal(*by_arm)


def test_another_word_changes_what_is_read(shared_pipe):
    readings = judged(shared_pipe, [arm("toy", "first"), arm("chair", "second")])
    by_arm = [some["probability"].to_numpy() for _, some in readings.groupby("arm")]
    assert (by_arm[0] != by_arm[1]).any()


def test_readings_belong_to_their_own_prompt_and_seed(shared_pipe):
    readings = judged(shared_pipe, [arm("toy", "class word")])
    alone = destruction.draw(shared_pipe, ["a red toy and a friend"], [1], **FEW)["pictures"][0]
    expected = BrightnessJudge().read(alone).nouns[0, 1]
    found = readings.query("noun == 'friend' and seed == 1")["probability"].item()
    assert found == pytest.approx(expected, abs=1 / 255)  # batches may differ by a grey level


def scaled(word, factor, name):
    return arm(word, name) | {"edits": (Scale(factor, positions=()),)}


def test_an_edit_of_an_arm_is_made_at_its_slot_in_every_prompt(shared_pipe):
    sentences, edits = destruction.placed(shared_pipe, [scaled("toy", 2.0, "long")], PROMPTS)
    assert sentences == ["a toy next to a man", "a red toy and a friend"]
    assert [some[0].positions for some in edits] == [(2,), (3,)]


def test_arms_differ_by_their_edits_and_an_identity_changes_nothing(shared_pipe):
    arms = [arm("toy", "plain"), scaled("toy", 1.0, "same"), scaled("toy", 20.0, "long")]
    drawn = destruction.draw_arms(shared_pipe, arms, PROMPTS, [0, 1], **FEW)["pictures"]
    assert drawn.shape == (3, 2, 2, 16, 16, 3)
    np.testing.assert_allclose(drawn[0].astype(int), drawn[1], atol=1)  # batches: a grey level
    assert (drawn[0] != drawn[2]).any()
    long = judged(shared_pipe, arms).query("arm == 'long'")["probability"].to_numpy()
    alone = judged(shared_pipe, arms[2:])["probability"].to_numpy()
    np.testing.assert_allclose(long, alone, atol=1 / 255)


def test_an_edit_without_a_place_in_the_row_is_refused(shared_pipe):
    to_bos = Force(Value("BOS", torch.eye(77)[0]), layer=0, queries=(2,))
    with pytest.raises(ValueError, match="Force has no positions"):
        judged(shared_pipe, [arm("toy", "forced") | {"edits": (to_bos,)}])


def test_a_noun_that_the_judge_does_not_know_is_named(shared_pipe):
    unknown = arm("toy", "class word") | {"subject": "unicorn"}
    with pytest.raises(ValueError, match="unicorn"):
        judged(shared_pipe, [unknown])


def test_attached_tokens_are_in_the_pipeline_and_in_its_fingerprint(pipe, inversion):
    bare = Lazy(lambda: pipe, "tiny")
    lazy = destruction.with_tokens(bare, [inversion])
    other = Inversion(inversion.concept, inversion.embedding * 2, pd.DataFrame(), {})
    changed = destruction.with_tokens(bare, [other])
    assert len({bare.fingerprint, lazy.fingerprint, changed.fingerprint}) == 3
    table = destruction.token_table(lazy.get(), "a <cat-toy> next to a man")
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
