"""A model loads as its profile says, or one short error says what is wrong."""

import dataclasses
import shutil

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from t2i_lens.models import profiles


@pytest.fixture
def profile(saved_pipeline, tmp_path):
    folder = shutil.copytree(saved_pipeline, tmp_path / "model")
    return profiles.ModelProfile(
        name="tiny",
        repo=str(folder),
        revision=None,
        dtype="float32",
        height=16,
        width=16,
        num_inference_steps=3,
        guidance_scale=5.0,
        cross_attention_layers=4,
    )


@pytest.fixture
def weights(profile, tmp_path):
    (file,) = (tmp_path / "model" / "unet").glob("*.safetensors")
    return file


def test_a_profile_loads_the_weights_that_were_saved(profile, shared_pipe):
    pipe = profiles.load(profile)
    for name, saved in shared_pipe.unet.state_dict().items():
        assert torch.equal(pipe.unet.state_dict()[name], saved)
    assert pipe.safety_checker is None
    assert pipe.unet.dtype == torch.float32


def test_a_model_shipped_with_another_sampler_runs_with_ddim(profile):
    pipe = profiles.load(profile)
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(profile.repo)
    again = profiles.load(profile)
    assert isinstance(again.scheduler, DDIMScheduler)
    assert again.scheduler.config.beta_end == 0.012


def test_loading_is_silent_and_leaves_logging_as_it_was(profile, capfd):
    level = diffusers.utils.logging.get_verbosity()
    profiles.load(profile)
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""
    assert diffusers.utils.logging.get_verbosity() == level
    assert diffusers.utils.logging.is_progress_bar_enabled()


def test_an_unknown_profile_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="unknown profile 'sd99'; choose from: toybox"):
        profiles.get("sd99")
    assert profiles.get("toybox").name == "toybox"


def test_a_wrong_count_of_cross_attention_layers_is_refused(profile):
    wrong = dataclasses.replace(profile, cross_attention_layers=5)
    with pytest.raises(ValueError, match="has 4 cross-attention layers, its profile says 5"):
        profiles.load(wrong)


def test_a_missing_model_is_named(profile):
    shutil.rmtree(profile.repo)
    with pytest.raises(FileNotFoundError, match="model_index.json is missing"):
        profiles.load(profile)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_missing_weights_are_named(profile, tmp_path, component):
    for file in (tmp_path / "model" / component).glob("*.safetensors"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=f"no weights in .*{component}"):
        profiles.load(profile)


def test_a_missing_tokenizer_is_named(profile, tmp_path):
    shutil.rmtree(tmp_path / "model" / "tokenizer")
    with pytest.raises(FileNotFoundError, match="tokenizer is missing"):
        profiles.load(profile)


@pytest.mark.parametrize("kept", [0, 5, 40, 4000, -1])
def test_a_truncated_weight_file_is_named(profile, weights, kept):
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{weights.name} is damaged.*restore it"):
        profiles.load(profile)


def test_trailing_bytes_in_a_weight_file_are_noticed(profile, weights):
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(ValueError, match="is damaged"):
        profiles.load(profile)


@pytest.mark.parametrize("place", [0, 7, 8, 30])
def test_a_damaged_header_is_noticed(profile, weights, place):
    content = bytearray(weights.read_bytes())
    content[place] ^= 0xFF
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        profiles.load(profile)


def test_a_damaged_index_is_named(profile, tmp_path):
    (tmp_path / "model" / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="model_index.json is damaged"):
        profiles.load(profile)


def test_the_fingerprint_follows_the_weights(profile, weights):
    before = profiles.fingerprint(profile)
    assert before == profiles.fingerprint(profile)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert profiles.fingerprint(profile) != before


def test_the_fingerprint_follows_tokenizer_and_schedule_but_no_bystander(profile, tmp_path):
    before = profiles.fingerprint(profile)
    (tmp_path / "model" / "quality.json").write_text("{}")
    assert profiles.fingerprint(profile) == before
    schedule = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    schedule.write_text(schedule.read_text().replace("0.012", "0.013"))
    assert profiles.fingerprint(profile) != before


def test_the_fingerprint_does_not_depend_on_the_place(profile, tmp_path):
    moved = shutil.copytree(profile.repo, tmp_path / "elsewhere")
    elsewhere = dataclasses.replace(profile, repo=str(moved))
    assert profiles.fingerprint(elsewhere) == profiles.fingerprint(profile)


def test_the_fingerprint_of_a_hub_model_is_its_commit(profile):
    hub = dataclasses.replace(profile, repo="owner/model", revision="abc")
    assert profiles.fingerprint(hub) == "owner/model@abc:float32"
