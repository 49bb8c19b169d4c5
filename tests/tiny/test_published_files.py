"""Every kind of embedding file loads under its right name with all vectors, or says why not."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from families import tiny_sdxl

from t2i_lens.base.paths import ROOT
from t2i_lens.inversion import published_files
from t2i_lens.inversion.concept_library import locate
from t2i_lens.inversion.embedding_table import load_inversions, load_variants
from t2i_lens.inversion.embeddings import attach
from t2i_lens.inversion.own_tokens import listed, remove
from t2i_lens.inversion.published_files import (
    TOWERS,
    LearnedToken,
    add_tokens,
    attach_token,
    read_tokens,
    write_tokens,
)
from t2i_lens.models import profiles
from t2i_lens.models.tokens import encode

PAGE = ROOT / "book" / "embedding_files.md"
WIDTH = 32  # of the tiny pipeline


def rows(vectors=1, width=WIDTH):
    generator = torch.Generator().manual_seed(vectors * 1000 + width)
    return torch.randn(vectors, width, generator=generator)


class Intruder:
    """Unpickled, it would write a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def parameter_dict(old=False):
    found = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows(2))})
    if old:  # torch before 1.12 kept no list of keys
        del found.__dict__["_keys"]
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": found}


def a1111(name="EasyToy", vectors=2):
    """What A1111 saves: the tensor under "*", the name beside it."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows(vectors)},
        "name": name,
        "step": 100,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }


# What the file is -> its name and what is saved in it. Tensors only in .safetensors.
FILES = {
    "diffusers, one vector": ("learned_embeds.safetensors", {"<toy>": rows()}),
    "diffusers, one vector as `[d]`, `.bin`": ("learned_embeds.bin", {"<toy>": rows()[0]}),
    "diffusers, 3 vectors": ("learned_embeds.safetensors", {"<toy>": rows(3)}),
    "diffusers, 3 vectors, upper-case name": ("x.safetensors", {"EasyToy": rows(3)}),
    "diffusers, bare word": ("x.safetensors", {"easytoy": rows(2)}),
    "diffusers, float16": ("x.safetensors", {"<toy>": rows(2).half()}),
    "diffusers, 2 tokens": ("x.safetensors", {"<toy>": rows(2), "<pet>": rows()}),
    "diffusers, a name that begins another": ("x.bin", {"ctoy": rows(3), "ctoy2": rows()}),
    "diffusers, a name with blanks": ("x.bin", {"<Le Petit >": rows()}),
    "A1111 `.pt`": ("Easy.pt", a1111()),
    "A1111 `.pt` without a name": ("easy.pt", {"string_to_param": {"*": rows(2)}}),
    "CompVis `.pt` (ParameterDict)": ("easy.pt", parameter_dict()),
    "CompVis `.pt` (ParameterDict of old torch)": ("easy.pt", parameter_dict(old=True)),
    "A1111 `.safetensors` (`emb_params`)": ("Easy.safetensors", {"emb_params": rows(2)}),
    "SDXL (`clip_l`, `clip_g`)": ("xl.safetensors", {"clip_l": rows(2), "clip_g": rows(2, 48)}),
    "SDXL, unequal vectors": ("xl.safetensors", {"clip_l": rows(2), "clip_g": rows(3, 48)}),
    "bare tensor": ("x.pt", rows(2)),
    "other width": ("x.safetensors", {"<toy>": rows(2, 24)}),
    "80 vectors": ("x.safetensors", {"<toy>": rows(80)}),
    "numbers not finite": ("x.safetensors", {"<toy>": rows() * float("nan")}),
    "whole numbers": ("x.safetensors", {"<toy>": torch.ones(1, WIDTH, dtype=torch.int64)}),
    "LoRA weights": ("x.safetensors", {"lora_te.lora_down.weight": rows(4)}),
    "pickle with code": ("x.bin", "code"),
    "pickle with another class": ("x.bin", {"<toy>": np.float64(1.0)}),
    "truncated": ("x.safetensors", "truncated"),
    "text": ("x.pt", "text"),
    "other suffix": ("x.png", "text"),
}


def write(kind, folder):
    name, content = FILES[kind]
    file = folder / name
    if content == "code":
        torch.save({"<toy>": rows(), "more": Intruder(folder / "intruded")}, file)
    elif content == "text":
        file.write_text("no embedding")
    elif content == "truncated":
        file.write_bytes(safetensors.torch.save({"<toy>": rows(3)})[:200])
    elif file.suffix == ".safetensors":
        safetensors.torch.save_file(content, file)
    else:
        torch.save(content, file)
    return file


def fresh(kind, make_pipe):
    return tiny_sdxl(make_pipe) if "SDXL" in kind else make_pipe()


def ours(kind, folder, make_pipe):
    """Reads, attaches and encodes; the names and counts whose ids are right, or the refusal."""
    file = write(kind, folder)
    try:
        pipe, parts = fresh(kind, make_pipe), []
        tokens = read_tokens(file)
        ids = {token.name: attach_token(pipe, token) for token in tokens}
        for token in tokens:
            prompt = f"a {token.name} cat"
            fed = encode(pipe, prompt)
            assert [fed.ids[p] for p in fed.positions(token.name)] == list(ids[token.name])
            table = pipe.text_encoder.get_input_embeddings().weight[list(ids[token.name])]
            assert torch.equal(table, token.rows[0].to(table))
            parts.append(f"`{token.name}`, {len(token.rows[0])}")
        return "; ".join(parts)
    except ValueError as error:
        message = str(error).replace(f"{file}", "").strip(" :")
        assert "\n" not in message
        return f"refused: `{message}`"


def diffusers_own(kind, folder, make_pipe):
    """What `load_textual_inversion` makes of it, judged by the ids it would feed."""
    pipe = fresh(kind, make_pipe)
    before = len(pipe.tokenizer)
    try:
        pipe.load_textual_inversion(str(write(kind, folder)))
    except Exception:
        return "refused"
    added = pipe.tokenizer.get_added_vocab()
    new = sorted((i, name) for name, i in added.items() if i >= before)
    name = new[0][1]
    prompt = pipe.maybe_convert_prompt(f"a {name} cat", pipe.tokenizer)
    # Cut to what fits, as the pipeline does without a word.
    fed = pipe.tokenizer(prompt, truncation=True).input_ids
    reached = sum(i in fed for i, _ in new)
    return f"`{name}`, {reached}" + ("" if reached == len(new) else f" of {len(new)}")


def table(folder, make_pipe):
    lines = ["| file | t2i-lens | diffusers itself |", "|---|---|---|"]
    for number, kind in enumerate(FILES):
        places = [folder / f"{number}-{who}" for who in ("ours", "theirs")]
        for place in places:
            place.mkdir()
        outcome, theirs = (
            ours(kind, places[0], make_pipe),
            diffusers_own(kind, places[1], make_pipe),
        )
        lines.append(f"| {kind} | {outcome} | {theirs} |")
    return "\n".join(lines)


def test_the_page_states_what_happens_to_every_kind_of_file(tmp_path, make_pipe):
    page, found = PAGE.read_text(), table(tmp_path, make_pipe)
    start, end = page.index("| file |"), page.index("<!-- end of table -->")
    assert page[start:end].strip() == found, f"the table is now:\n{found}"


def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(tmp_path):
    file = write("pickle with code", tmp_path)
    with pytest.raises(ValueError, match=r"wants to run or build \S*mkdir: refused"):
        read_tokens(file)
    assert not (tmp_path / "intruded").exists()
    # The trap is armed: python's own reader falls into it.
    pickle.loads(pickle.dumps(Intruder(tmp_path / "intruded")))
    assert (tmp_path / "intruded").exists()


def test_code_inside_a_parameter_dict_does_not_run_either(tmp_path):
    content = parameter_dict()
    content["string_to_param"].__dict__["hook"] = Intruder(tmp_path / "intruded")
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="refused"):
        read_tokens(tmp_path / "x.pt")
    assert not (tmp_path / "intruded").exists()


def test_reading_leaves_torchs_list_of_allowed_classes_as_it_was(tmp_path):
    read_tokens(write("CompVis `.pt` (ParameterDict)", tmp_path))
    assert torch.nn.ParameterDict not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("kind", ["CompVis `.pt` (ParameterDict)", "bare tensor"])
def test_a_name_of_ones_own_goes_before_the_files(tmp_path, kind):
    (token,) = read_tokens(write(kind, tmp_path), "<mine>")
    assert token.name == "<mine>" and torch.equal(token.rows[0], rows(2))


def test_one_name_for_two_tokens_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--name is for a file of one token"):
        read_tokens(write("diffusers, 2 tokens", tmp_path), "<mine>")


def test_the_norms_are_those_of_the_file(tmp_path):
    torch.save({"<toy>": 100 * rows(2)}, tmp_path / "x.bin")
    (token,) = read_tokens(tmp_path / "x.bin")
    assert torch.equal(token.rows[0], 100 * rows(2))


def test_names_that_begin_one_another_keep_their_own_vectors(tmp_path, pipe):
    file = write("diffusers, a name that begins another", tmp_path)
    ids = {token.name: attach_token(pipe, token) for token in read_tokens(file)}
    fed = encode(pipe, "ctoy2 next to ctoy")
    assert fed.ids[1:2] == ids["ctoy2"]
    assert fed.ids[4:7] == ids["ctoy"]


def test_a_bare_word_does_not_match_inside_another(tmp_path, pipe):
    (token,) = read_tokens(write("diffusers, bare word", tmp_path))
    ids = attach_token(pipe, token)
    assert not set(ids) & set(encode(pipe, "a xeasytoyy").ids)


def test_a_token_cannot_be_attached_twice(tmp_path, pipe):
    (token,) = read_tokens(write("A1111 `.pt`", tmp_path))
    attach_token(pipe, token)
    with pytest.raises(ValueError, match="already in the vocabulary"):
        attach_token(pipe, token)


def test_more_vectors_than_fit_are_refused_when_a_prompt_uses_them(tmp_path, pipe):
    (token,) = read_tokens(write("80 vectors", tmp_path))
    attach_token(pipe, token)
    with pytest.raises(ValueError, match="75 fit"):
        encode(pipe, "<toy>")


@pytest.mark.parametrize(
    ("widths", "model"),
    [((768,), "SD 1.x"), ((1024,), "SD 2.x"), ((768, 1280), "SDXL"), ((128,), "toybox"),
     ((99,), "unknown")],
)  # fmt: skip
def test_the_likely_model_follows_from_the_widths(tmp_path, widths, model):
    content = {"<t>": rows(1, widths[0])}
    if len(widths) == 2:
        content = {tower: rows(1, width) for tower, width in zip(TOWERS, widths, strict=True)}
    safetensors.torch.save_file(content, tmp_path / "x.safetensors")
    (token,) = read_tokens(tmp_path / "x.safetensors")
    assert token.likely_model == model


@pytest.mark.parametrize("layout", ["diffusers", "a1111"])
def test_a_converted_file_gives_the_same_token_again(tmp_path, layout):
    for kind in ("A1111 `.pt`", "SDXL (`clip_l`, `clip_g`)", "diffusers, float16"):
        before = read_tokens(write(kind, tmp_path))
        written = write_tokens(before, tmp_path / "out", layout)
        for old, file in zip(before, written, strict=True):
            (new,) = read_tokens(file)
            assert new.name == old.name
            assert all(torch.equal(a, b) for a, b in zip(old.rows, new.rows, strict=True))


def test_diffusers_reads_what_was_converted_for_it(tmp_path, pipe):
    tokens = read_tokens(write("A1111 `.pt`", tmp_path))
    (file,) = write_tokens(tokens, tmp_path / "out", "diffusers")
    pipe.load_textual_inversion(str(file))
    ids = pipe.tokenizer.convert_tokens_to_ids(["EasyToy", "EasyToy_1"])
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[ids], rows(2))


def test_several_tokens_become_a_file_each(tmp_path):
    tokens = read_tokens(write("diffusers, 2 tokens", tmp_path))
    files = write_tokens(tokens, tmp_path / "out", "diffusers")
    assert {file.stem for file in files} == {"<toy>", "<pet>"}


def test_no_file_is_overwritten_and_no_name_leaves_the_folder(tmp_path):
    (token,) = read_tokens(write("A1111 `.pt`", tmp_path))
    write_tokens([token], tmp_path, "a1111")
    with pytest.raises(ValueError, match="exists"):
        write_tokens([token], tmp_path, "a1111")
    torch.save({"../toy": rows()}, tmp_path / "x.bin")
    with pytest.raises(ValueError, match="cannot name a file"):
        write_tokens(read_tokens(tmp_path / "x.bin"), tmp_path, "diffusers")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Where a user's embeddings go, a folder per profile."""
    monkeypatch.setattr(published_files, "folder_of", lambda profile: tmp_path / "own" / profile)
    return tmp_path / "own"


def test_a_token_that_is_brought_stands_beside_those_trained_here(own, pipe, monkeypatch):
    monkeypatch.setattr(profiles, "text_widths", lambda model: (32,))
    rows = torch.arange(64.0).reshape(2, 32)
    token = LearnedToken("<My-toy>", (rows.half(),), "a1111")
    assert add_tokens([token], "toy", "sd15", "sd-concepts-library/my-toy") == [
        own / "sd15" / "My_toy"
    ]
    (brought,) = load_inversions(own / "sd15")
    assert brought.concept.superclass == brought.concept.initializer_token == "toy"
    assert brought.provenance["source"] == "sd-concepts-library/my-toy"
    ids = attach(pipe, brought)
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[list(ids)], rows)


def test_a_token_without_a_record_of_its_training_is_no_variant(own):
    add_tokens([LearnedToken("<a>", (torch.ones(1, 768),), "diffusers")], "toy", "sd15", "a.bin")
    with pytest.raises(FileNotFoundError, match="has a record of its training"):
        load_variants(own / "sd15")


ONE, TWO = torch.ones(1, 768), torch.ones(1, 1280)


@pytest.mark.parametrize(
    ("profile", "names", "rows", "message"),
    [
        (
            "sd15",
            ["<a>"],
            (torch.ones(1, 1024),),
            r"width 1024 \(SD 2.x\), sd15 takes rows of width 768",
        ),
        ("sdxl", ["<a>"], (ONE,), r"sdxl takes rows of width 768 \+ 1280"),
        ("sdxl", ["<a>"], (ONE, TWO), "two text encoders"),
        ("if", ["<a>"], (ONE,), "if takes rows of width no"),
        ("toybox", ["<a>"], (torch.ones(1, 128),), "are shipped"),
        ("sd16", ["<a>"], (ONE,), "unknown profile 'sd16'"),
        ("sd15", ["<a>", "my toy"], (ONE,), "cannot stand in a prompt"),
        ("sd15", ["<cat-toy>", "cat_toy"], (ONE,), "give another name"),
    ],
)
def test_tokens_that_cannot_be_measured_are_refused_and_none_is_saved(
    own, profile, names, rows, message
):
    tokens = [LearnedToken(name, rows, "diffusers") for name in names]
    with pytest.raises(ValueError, match=message):
        add_tokens(tokens, "toy", profile, "a.bin")
    assert not own.exists()


T5 = torch.ones(1, 4096)


@pytest.mark.parametrize("profile", ["sd15", "sd21", "sdxl", "sd3", "if"])
@pytest.mark.parametrize(
    ("content", "models"),
    [
        ({"clip_l": ONE, "clip_g": TWO, "t5xxl": T5}, "SD3"),
        ({"clip_l": ONE, "t5xxl": T5}, "Flux"),
        ({"t5xxl": T5}, "T5 of SD3, Flux or PixArt alone"),
    ],
    ids=["SD3", "Flux", "T5"],
)
def test_a_file_for_text_encoders_that_no_profile_trains_is_not_added(
    own, tmp_path, profile, content, models
):
    torch.save(content, tmp_path / "dream.pt")
    with pytest.raises(ValueError, match=rf"\({models}\), {profile} takes rows of width"):
        add_tokens(read_tokens(tmp_path / "dream.pt"), "toy", profile, "dream.pt")
    assert not own.exists()


@pytest.mark.parametrize(
    "content",
    [{"emp_params_out": ONE}, {"clip_l_out": ONE}, {"clip_l_out": ONE, "clip_g_out": TWO}],
)
def test_rows_for_an_encoders_output_alone_are_not_added(own, tmp_path, content):
    torch.save(content, tmp_path / "dream.pt")
    with pytest.raises(ValueError, match="'dream' replaces an encoder's output"):
        add_tokens(read_tokens(tmp_path / "dream.pt"), "toy", "sd15", "dream.pt")
    assert not own.exists()


def test_rows_for_the_output_beside_others_are_left_out_when_added(own, tmp_path):
    torch.save({"emp_params": 2 * ONE, "emp_params_out": ONE}, tmp_path / "mydream.pt")
    add_tokens(read_tokens(tmp_path / "mydream.pt"), "toy", "sd15", "mydream.pt")
    (kept,) = load_inversions(own / "sd15")
    assert torch.equal(kept.embedding, 2 * ONE)


def test_a_name_that_is_taken_stays_with_the_token_that_has_it(own):
    first, second = (LearnedToken("<a>", (some,), "diffusers") for some in (ONE, 2 * ONE))
    add_tokens([first], "toy", "sd15", "a.bin")
    with pytest.raises(ValueError, match="already in the vocabulary"):
        add_tokens([second], "toy", "sd15", "b.bin")
    (kept,) = load_inversions(own / "sd15")
    assert torch.equal(kept.embedding, ONE)


def test_an_addition_that_fails_leaves_no_token_and_can_be_made_again(own, monkeypatch):
    tokens = [LearnedToken(name, (ONE,), "diffusers") for name in ("<a>", "<b>")]
    whole = published_files.save

    def full(inversion, folder):
        if inversion.concept.placeholder_token == "<b>":
            raise OSError(28, "No space left on device")
        return whole(inversion, folder)

    with (
        monkeypatch.context() as patched,
        pytest.raises(OSError, match="sd15 cannot be written to: No space left"),
    ):
        patched.setattr(published_files, "save", full)
        add_tokens(tokens, "toy", "sd15", "a.bin")
    assert not list((own / "sd15").iterdir())
    add_tokens(tokens, "toy", "sd15", "a.bin")
    assert [place.name for place in sorted((own / "sd15").iterdir())] == ["a", "b"]


def test_what_a_killed_addition_leaves_is_listed_and_takes_no_name(own, monkeypatch):
    token = LearnedToken("<a>", (ONE,), "diffusers")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(published_files.os, "replace", interrupted)
        # A kill gives no time to tidy up.
        patched.setattr(
            "tempfile.TemporaryDirectory.cleanup", lambda self: self._finalizer.detach()
        )
        add_tokens([token], "toy", "sd15", "a.bin")
    (left,) = listed(own / "sd15")["folder"]
    assert left.startswith(".adding-")
    add_tokens([token], "toy", "sd15", "a.bin")
    assert len(load_inversions(own / "sd15")) == 1
    remove(own / "sd15", left)
    assert listed(own / "sd15")["token"].tolist() == ["<a>"]


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.bin is missing"):
        read_tokens(tmp_path / "none.bin")


def test_a_path_is_taken_as_it_is():
    assert locate("some/where.bin") == Path("some/where.bin")
