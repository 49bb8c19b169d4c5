"""The clinic's door: files that it cannot treat are refused in one line."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import CLIPTokenizer

from t2i_lens.base.lazy import Lazy
from t2i_lens.experiments import clinic
from t2i_lens.inversion.own_tokens import check_class_word, check_token
from t2i_lens.methods.remedies import Remedy, load, prepared, remedies, rows, save
from t2i_lens.models import profiles
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.unet_hooks import cross_attention_layers
from t2i_lens.study import clinic as visits
from t2i_lens.study.subject import Subject


@pytest.fixture
def subject(shared_pipe):
    found = object.__new__(Subject)  # without the look-ups of a profile
    found.pipe = Lazy(lambda: shared_pipe, "tiny")
    found.model = SimpleNamespace(name="sd15", on_hub=True)
    return found


def written(folder, content):
    file = folder / "x.safetensors"
    safetensors.torch.save_file(content, file)
    return file


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"<x>": torch.ones(3, 32)}, "3 vectors"),
        ({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}, "is for SDXL"),
        ({"<x>": torch.ones(1, 768)}, "rows of width 768, the model needs 32"),
        ({"<x>": torch.ones(1, 32), "<y>": torch.ones(1, 32)}, "holds <x>, <y>"),
        ({"emb_params_out": torch.ones(1, 32)}, "replaces an encoder's output"),
        ({"cat": torch.ones(1, 32)}, "'cat' would replace an ordinary word in prompts: rename it"),
        ({"my toy": torch.ones(1, 32)}, "cannot stand in a prompt: give another with --name"),
        ({"a\x1b[31mb": torch.ones(1, 32)}, r"'a\\x1b\[31mb' cannot stand in a prompt"),
        ({"<x>": torch.zeros(1, 32)}, "has a row of zeros"),
        ({"<x>": torch.full((1, 32), 1e6)}, "beyond float16, in which sd15 runs"),
    ],
)
def test_a_file_that_cannot_be_treated_is_refused_in_one_line(subject, tmp_path, content, told):
    with pytest.raises(ValueError, match=told) as raised:
        visits.admit(subject, written(tmp_path, content), "toy", None)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("word", ["<|endoftext|>", "toy ", ".", "1", "the", "red toy"])
def test_a_class_word_that_names_nothing_is_refused_by_the_clinic(subject, tmp_path, word):
    file = written(tmp_path, {"<x>": torch.ones(1, 32)})
    with pytest.raises(ValueError, match="the class word .* (is not one word|names nothing)"):
        visits.admit(subject, file, word, None)


def test_the_clinic_takes_every_token_that_is_shipped():
    subject = Subject("toybox")
    folder = Path(profiles.get("toybox").repo) / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for token in subject.tokens:
        check_class_word(tokenizer, token.concept.superclass)
        check_token(tokenizer, token.concept.placeholder_token, token.embedding, "toybox")


def test_a_file_without_a_class_word_is_asked_for_one(subject, tmp_path):
    with pytest.raises(ValueError, match="--class-word"):
        visits.admit(subject, written(tmp_path, {"<x>": torch.ones(1, 32)}), None, None)


def test_a_long_row_says_how_many_steps_it_took(subject, tmp_path):
    file = written(tmp_path, {"<x>": torch.full((1, 32), 2.0)})
    patient, words = visits.admit(subject, file, "toy", None)
    found = clinic.row_measures(patient, words)
    growth = 32 * patient.learning_rate**2
    expected = (found["norm"] ** 2 - float(patient.class_row.norm()) ** 2) / growth
    assert found["implied steps"] == pytest.approx(expected)
    assert found["norm over mean"] > 1 and found["longer than"] == 1


def test_a_row_much_longer_than_the_positions_hides_them(shared_pipe):
    row = torch.randn(32, generator=torch.Generator().manual_seed(0))
    near, far = (clinic.position_kept(shared_pipe, scale * row) for scale in (0.001, 1000.0))
    assert far < 0.01 < near


def test_rows_of_remedies_have_the_norms_that_they_name():
    row, usual = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])
    found = rows(row, usual, longest=2.0)
    norms = {name: float(each.norm()) for name, each in found.items()}
    assert norms == pytest.approx({"clipped": 2.0, "rescaled": 1.0, "turned and rescaled": 1.5})
    assert found["rescaled"] @ usual < found["turned and rescaled"] @ usual / 1.5


def test_each_remedy_draws_other_pictures_and_all_layers_draw_the_token(shared_pipe):
    torch.manual_seed(1)
    layers = list(cross_attention_layers(shared_pipe.unet))
    table = shared_pipe.text_encoder.get_input_embeddings().weight.detach()
    some = remedies(torch.randn(32), table[-5], "toy", 1.0, noun="cat", layers={"one": layers[:1]})
    some.append(Remedy("all layers", some[0].row, other="toy", layers=tuple(layers)))
    drawn = {}
    for remedy in some:
        sentences, edits = prepared(shared_pipe, remedy, "toy", ["a {} and a chair"], layers)
        drawn[remedy.name] = generate(shared_pipe, sentences, [0], edits=edits,
                                      num_inference_steps=2)  # fmt: skip
    same = {name for name, each in drawn.items() if np.array_equal(each, drawn["token"])}
    assert same == {"token", "all layers"}


def test_a_key_lock_comes_back_from_its_file_and_diffusers_reads_its_row(make_pipe, tmp_path):
    lock = Remedy("key lock, local", torch.arange(32.0), "local", "toy")
    file = save(lock, "<x>", tmp_path / "x.safetensors")
    again = load(file)
    assert (again.name, again.keys, again.other) == ("key lock, local", "local", "toy")
    assert torch.equal(again.row, lock.row)
    pipe = make_pipe("kl")
    pipe.load_textual_inversion(str(file))
    (id,) = pipe.tokenizer.convert_tokens_to_ids(["<x>"])
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[id], lock.row)


def test_a_file_of_another_kind_is_no_remedy(tmp_path):
    with pytest.raises(ValueError, match="holds no remedy"):
        load(written(tmp_path, {"<x>": torch.ones(1, 32)}))


def test_a_remedy_of_some_layers_is_not_saved(tmp_path):
    some = Remedy("layers found", torch.ones(32), other="toy", layers=("a",))
    with pytest.raises(ValueError, match="names layers of one model"):
        save(some, "<x>", tmp_path / "x.safetensors")
