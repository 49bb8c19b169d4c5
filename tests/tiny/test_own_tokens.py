"""Tokens are checked when they are brought, listed, and removed, by the commands of a user."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from t2i_lens.base.paths import ROOT
from t2i_lens.inversion import own_tokens
from t2i_lens.inversion.concept_library import public_tokens
from t2i_lens.inversion.embeddings import save
from t2i_lens.inversion.own_tokens import check_addition, listed, remove
from t2i_lens.models.clip_vocabulary import clip_tokenizer
from t2i_lens.models.tokens import add_names, encode_with
from t2i_lens.study.subject import Subject

ROW = torch.ones(1, 768)


def test_the_shipped_vocabulary_is_clips():
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    # From OpenAI's documentation of CLIP: ids of "a photo of a cat" with BOS and EOS.
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.parametrize(
    "word",
    ["", " ", "red toy", "xylophonist", "toy ", "<|endoftext|>", "\n", ".", "!", "1", "😀"],
)
def test_a_class_word_that_is_not_one_word_of_one_token_is_refused(tmp_path, word):
    with pytest.raises(ValueError, match="is not one word of one token"):
        check_addition([("<a>", ROW)], word, tmp_path, "sd15")


@pytest.mark.parametrize(
    "name",
    ["", " ", "my toy", "umbrella", "Umbrella", "cat", "photo", "cat,", "<|endoftext|>",
     "<|startoftext|>", "*", "a{}b", "a\x1b[31mb", "a\tb", "\u202ea"],
)  # fmt: skip
def test_a_name_that_no_prompt_can_hold_is_refused(tmp_path, name):
    with pytest.raises(ValueError) as refusal:
        check_addition([(name, ROW)], "toy", tmp_path, "sd15")
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("name", ["<cat-toy>", "easynegative", "badhandv4", "ng_deepnegative_v1"])
def test_names_of_published_tokens_are_taken(tmp_path, name):
    check_addition([(name, ROW.expand(8, -1))], "toy", tmp_path, "sd15")


@pytest.mark.parametrize(
    "name",
    ["10", "2024", "1st", "4k", "10,000", "don't", "don’t", "cat's", "xylophonist's", "t-shirt",
     "E-Mail", "and/or", "“cat”"],
)  # fmt: skip
def test_words_with_signs_inside_and_numbers_are_ordinary(name):
    with pytest.raises(ValueError, match="would replace an ordinary word in prompts: rename it"):
        add_names(clip_tokenizer(), name, 1)


@pytest.mark.parametrize("name", ["a-", "-xylophonist", "cat-toy-", "xylophonist–"])
def test_a_name_with_a_hyphen_at_an_edge_is_refused(name):
    with pytest.raises(ValueError, match="begins or ends with a hyphen: rename it"):
        add_names(clip_tokenizer(), name, 1)


@pytest.mark.parametrize(
    "name",
    ["<10>", "<cat's>", "cat-toy_v2", "My-toy", "mystyle", "gta5-artwork", "bad-hands-5", "v2",
     "ctoy2"],
)  # fmt: skip
def test_usual_names_are_no_ordinary_words(name):
    tokenizer = clip_tokenizer()
    ids = add_names(tokenizer, name, 2)
    assert encode_with(tokenizer, f"a {name}, red").ids[2:4] == ids


@pytest.mark.parametrize(
    ("name", "prompt"),
    [("an>", "a banan> left"), ("<an", "the <ancient house"), ("a*", "a banana*split"),
     ("ctoy", "a ctoyx and a xctoy")],
)  # fmt: skip
def test_a_name_with_a_letter_at_either_edge_does_not_match_inside_words(name, prompt):
    tokenizer = clip_tokenizer()
    before = encode_with(tokenizer, prompt).ids
    (own,) = add_names(tokenizer, name, 1)
    assert encode_with(tokenizer, prompt).ids == before
    assert encode_with(tokenizer, f"see {name}").ids[2] == own


@pytest.mark.parametrize("word", ["the", "The", "a", "with", "of"])
def test_a_class_word_that_names_nothing_to_see_is_refused(tmp_path, word):
    with pytest.raises(ValueError, match="names nothing that a picture shows: give a noun"):
        check_addition([("<a>", ROW)], word, tmp_path, "sd15")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (ROW.double() * 1e300, "beyond float16, in which sd15 runs"),
        (ROW * 1e38, "beyond float16"),
        (ROW * 1e6, "beyond float16"),
        (torch.stack([ROW[0], 0 * ROW[0]]), "has a row of zeros"),
        (ROW * 1e-9, "has a row of zeros"),  # below half of float16's smallest number, 6e-8
        (ROW.expand(80, -1), "has 80 vectors, the prompts of sd15 have room for 63"),
        (ROW.expand(64, -1), "has 64 vectors, the prompts of sd15 have room for 63"),
    ],
)
def test_rows_that_no_chapter_can_use_are_refused(tmp_path, rows, told):
    with pytest.raises(ValueError, match=told):
        check_addition([("<a>", rows)], "toy", tmp_path, "sd15")


def test_rows_at_the_edge_of_what_a_chapter_can_use_are_taken(tmp_path):
    # 65504 is float16's largest number; a sentence of data/prompts/sd.yaml then fills 75 tokens.
    check_addition([("<a>", (ROW * 65504).expand(63, -1))], "toy", tmp_path, "sd15")
    tokenizer = clip_tokenizer()
    add_names(tokenizer, "<a>", 63)
    row = encode_with(tokenizer, 'A shop window with the word "<a>" painted on the glass')
    assert row.eos == 76


def test_a_norm_beyond_float32_is_refused_where_the_model_runs_in_it(tmp_path):
    rows = torch.full((1, 128), 1e38)
    with pytest.raises(ValueError, match="beyond float32, in which toybox runs"):
        check_addition([("<a>", rows)], "toy", tmp_path, "toybox")


def test_a_word_of_the_profiles_prompts_is_no_name(tmp_path, monkeypatch):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "prompts.yaml").write_text('hero: [{text: "a {} by a Birdhouse."}]')
    (tmp_path / "prompts" / "sd.yaml").write_text("animals: [{text: a cow}]")
    check_addition([("birdhouse", ROW)], "toy", tmp_path, "sd15")
    monkeypatch.setattr(own_tokens, "DATA", tmp_path)
    own_tokens._prompts.cache_clear()
    try:
        with pytest.raises(ValueError, match="'birdhouse' is a word of the prompts of sd15"):
            check_addition([("birdhouse", ROW)], "toy", tmp_path, "sd15")
    finally:
        own_tokens._prompts.cache_clear()


@pytest.fixture
def user(tmp_path):
    """Runs `t2i-lens embeddings` as somebody with a build folder of their own."""
    environment = os.environ | {
        "T2I_LENS_BUILD": str(tmp_path / "build"), "T2I_LENS_ROOT": str(ROOT), "NO_COLOR": "1",
        "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty"),
    }  # fmt: skip

    def command(*given: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "t2i_lens.study.cli", "embeddings", *given],
            env=environment, capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    return command


def test_a_token_is_added_listed_and_removed(tmp_path, user):
    safetensors.torch.save_file({"emp_params": ROW.clone()}, tmp_path / "dream.safetensors")
    word = ("--class-word", "toy")
    for name in ("umbrella", "<|endoftext|>"):
        refused = user("add", "dream.safetensors", *word, "--name", name)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith("error: ")
        assert refused.stderr.count("\n") == 1 and refused.stdout == ""
    added = user("add", "dream.safetensors", *word, "--name", "<dream>")
    assert added.returncode == 0, added.stderr
    folder = tmp_path / "build" / "embeddings" / "sd15"
    columns = ["token", "vectors", "width", "class_word", "source"]
    brought = ["<dream>", 1, 768, "toy", "dream.safetensors"]
    assert listed(folder)[columns].values.tolist() == [brought]
    # One whose name would be read as the first's second vector is refused now, not in a chapter.
    clash = user("add", "dream.safetensors", *word, "--name", "<dream>_1")
    assert "already in the vocabulary" in clash.stderr
    assert "<dream>" in user("list").stdout
    assert "no token '<other>'" in user("remove", "<other>").stderr
    assert user("remove", "<dream>").returncode == 0
    assert not list(folder.iterdir()) and "<dream>" not in user("list").stdout
    assert "are shipped" in user("remove", "<cat-toy>", "--profile", "toybox").stderr
    # No control character reaches the terminal.
    safetensors.torch.save_file({"a\x1b[31mb": ROW.clone()}, tmp_path / "red.safetensors")
    for shown in (user("inspect", "red.safetensors"), user("add", "red.safetensors", *word)):
        assert "\x1b" not in shown.stdout + shown.stderr
        assert "\\x1b[31m" in shown.stdout + shown.stderr


def test_a_damaged_token_is_listed_as_such_and_can_be_removed(tmp_path):
    place = tmp_path / "broken"
    place.mkdir()
    (place / "provenance.json").write_text("{")
    assert listed(tmp_path)["source"].tolist() == ["damaged"]
    with pytest.raises(ValueError, match="no token ''"):
        remove(tmp_path, "")
    assert remove(tmp_path, "broken") == place and not place.exists()


def test_a_folder_without_provenance_is_listed_and_can_be_removed(tmp_path):
    place = tmp_path / "dream"
    place.mkdir()
    (place / "learned_embeds.safetensors").write_bytes(b"half")
    assert listed(tmp_path)[["folder", "source"]].values.tolist() == [["dream", "damaged"]]
    with pytest.raises(ValueError, match="there are: dream"):
        remove(tmp_path, "<other>")
    assert remove(tmp_path, "dream") == place and not place.exists()


def test_rows_of_another_width_reach_no_chapter(tmp_path):
    subject = Subject("toybox")
    token = subject.tokens[0]
    save(replace(token, embedding=torch.ones(1, 768)), tmp_path)
    subject = Subject("toybox")
    subject.folder = tmp_path
    with pytest.raises(ValueError, match="has rows of width 768, toybox takes 128: remove it"):
        subject.tokens  # noqa: B018
    with pytest.raises(ValueError, match="has rows of width 768, toybox takes 128: remove it"):
        subject.variants  # noqa: B018


@pytest.mark.parametrize("kind", ["single", "objects", "single objects"])
def test_a_chapter_says_at_the_start_how_many_tokens_it_compares(kind):
    subject = Subject("toybox")
    fits = [
        token
        for token in subject.tokens
        if ("single" not in kind or len(token.embedding) == 1)
        and ("objects" not in kind or token.concept.kind == "object")
    ]
    assert fits
    subject.require_tokens("04_attention_dominance", kind, len(fits))
    with pytest.raises(ValueError, match=f"needs {len(fits) + 1} TI embeddings of"):
        subject.require_tokens("04_attention_dominance", kind, len(fits) + 1)


def test_the_listed_public_tokens_can_be_brought(tmp_path):
    for token in public_tokens().tokens:
        name = token.id.split("/")[1]
        check_addition([(f"<{name}>", ROW)], token.class_word, tmp_path, "sd15")
