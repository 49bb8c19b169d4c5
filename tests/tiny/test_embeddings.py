"""Trained placeholders on disk: readable by diffusers, refused when they do not belong."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from t2i_lens.inversion import training
from t2i_lens.inversion.embeddings import Inversion, attach, load, load_concepts, save
from t2i_lens.inversion.training_data import InversionConfig
from t2i_lens.models.tokens import encode
from t2i_lens.probes.sampling import text_states


@pytest.fixture(scope="session")
def trained(shared_pipe, make_concept):
    config = InversionConfig(3, 5e-3, 2, num_vectors=2, record_every=1)
    concept = make_concept("pinata", "<cat-toy>")
    return training.train(shared_pipe, [concept], config, False, fingerprint="tiny@123")[0]


@pytest.fixture
def folder(trained, tmp_path):
    return save(trained, tmp_path)


def test_what_is_saved_comes_back(trained, folder):
    back = load(folder)
    assert torch.equal(back.embedding, trained.embedding)
    assert back.concept.placeholder_token == "<cat-toy>"
    assert back.concept.initializer_token == "toy"
    assert back.config == json.loads(json.dumps(trained.config))
    assert InversionConfig(**{**back.config, "templates": tuple(back.config["templates"])})
    plain = trained.trajectory.drop(columns="vector")
    pd.testing.assert_frame_equal(back.trajectory.drop(columns="vector"), plain)
    stacked = np.stack(back.trajectory.vector)
    np.testing.assert_array_equal(stacked, np.stack(trained.trajectory.vector))


def test_the_provenance_names_model_pictures_and_versions(trained, folder):
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["model"] == "tiny@123"
    assert len(set(provenance["images"])) == len(trained.concept.images)
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["config"]["learning_rate"] == 5e-3
    assert provenance["concept"]["superclass"] == "toy"


def test_diffusers_loads_the_file_as_its_own(trained, folder, make_pipe):
    ours, theirs = make_pipe(), make_pipe()
    theirs.load_textual_inversion(folder)
    attach(ours, folder)
    assert theirs.tokenizer.get_added_vocab() == ours.tokenizer.get_added_vocab()
    prompt = ["a photo of a <cat-toy> next to a man"]
    assert torch.equal(text_states(ours, prompt), theirs.encode_prompt(prompt, "cpu", 1, False)[0])
    ids = encode(theirs, prompt[0]).positions("<cat-toy>")
    assert len(ids) == 2


def test_an_attached_placeholder_follows_the_multi_vector_names(folder, pipe):
    ids = attach(pipe, folder)
    assert pipe.tokenizer.convert_ids_to_tokens(list(ids)) == ["<cat-toy>", "<cat-toy>_1"]


def test_attaching_twice_is_refused(trained, pipe):
    attach(pipe, trained)
    with pytest.raises(ValueError, match="'<cat-toy>' is already in the vocabulary"):
        attach(pipe, trained)


def test_rows_of_the_wrong_width_are_refused_and_change_nothing(trained, pipe):
    wrong = Inversion(trained.concept, torch.zeros(2, 31), trained.trajectory, {})
    tokens = len(pipe.tokenizer)
    with pytest.raises(ValueError, match="'<cat-toy>' has rows of width 31, the model needs 32"):
        attach(pipe, wrong)
    assert len(pipe.tokenizer) == tokens


@pytest.mark.parametrize("name", ["learned_embeds.safetensors", "trajectory.parquet"])
def test_a_damaged_or_missing_file_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not the file that was saved"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is not the file that was saved"):
        load(folder)


def test_a_result_without_provenance_does_not_load(folder):
    (folder / "provenance.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no provenance.json"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"files": {}, "concept": {}, "config": {}}'])
def test_a_damaged_provenance_is_named(folder, text):
    (folder / "provenance.json").write_text(text)
    with pytest.raises(ValueError, match="provenance.json is damaged"):
        load(folder)


def test_saving_again_replaces_and_leaves_no_other_file(trained, folder):
    save(trained, folder.parent)
    names = {"learned_embeds.safetensors", "trajectory.parquet", "provenance.json"}
    assert {file.name for file in folder.iterdir()} == names
    assert [file.name for file in folder.parent.iterdir()] == ["pinata"]


@pytest.fixture
def listing(tmp_path):
    """Writes a list of concepts with two pictures of one size and one of another."""
    for name, side in [("1.png", 8), ("2.png", 8), ("large.png", 9)]:
        Image.new("RGB", (side, side), (200, 10, 30)).save(tmp_path / name)

    def write(**changes):
        entry = {
            "name": "pinata",
            "placeholder_token": "<cat-toy>",
            "initializer_token": "toy",
            "superclass": "toy",
            "images": ["1.png", "2.png"],
        }
        entry = {k: v for k, v in {**entry, **changes}.items() if v is not None}
        (tmp_path / "concepts.yaml").write_text(yaml.safe_dump([entry]))
        return tmp_path

    return write


def test_concepts_are_read_with_their_pictures(listing):
    (concept,) = load_concepts(listing(hero=True))
    assert (concept.name, concept.placeholder_token, concept.hero) == ("pinata", "<cat-toy>", True)
    assert concept.images.shape == (2, 8, 8, 3)
    assert concept.images[1, 0, 0].tolist() == [200, 10, 30]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"superclass": None}, "superclass.*required"),
        ({"colour": "red"}, "colour.*not permitted"),
        ({"images": ["1.png", "large.png"]}, "all of one size"),
        ({"images": []}, "needs pictures"),
    ],
)
def test_a_malformed_concept_is_named(listing, changes, message):
    with pytest.raises(ValueError, match=message):
        load_concepts(listing(**changes))


def test_a_missing_list_or_picture_is_named(listing, tmp_path):
    with pytest.raises(FileNotFoundError, match="concepts.yaml is missing"):
        load_concepts(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="3.png"):
        load_concepts(listing(images=["3.png"]))
