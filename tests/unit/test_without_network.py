"""Without a network every command that would need one ends in one clear line."""

import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import yaml

from t2i_lens.base.paths import ROOT
from t2i_lens.models import profiles
from t2i_lens.study import support

HUB = [profile for profile in profiles.PROFILES.values() if profile.on_hub]


def python(home, *arguments):
    """The library in a process of its own, offline and with an empty cache."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "T2I_LENS_ROOT": str(ROOT),
        "PYTHONPATH": str(ROOT / "lib"), "NO_COLOR": "1", "COLUMNS": "220",
    }  # fmt: skip
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )


LOAD = """
import sys
from t2i_lens.models import profiles
for name in sys.argv[1:]:
    try:
        profiles.load(profiles.settle(profiles.get(name)))
    except OSError as error:
        print(error)
"""


def test_every_profile_of_the_hub_says_in_one_line_what_to_do(tmp_path):
    result = python(tmp_path, "-c", LOAD, *[profile.name for profile in HUB])
    lines = result.stdout.splitlines()
    assert len(lines) == len(HUB), result.stdout + result.stderr
    for profile, line in zip(HUB, lines, strict=True):
        assert line.startswith(f"profile {profile.name!r} needs {profile.repo}; it is neither in")
        assert "connect to the network once" in line


def test_an_unpinned_profile_takes_the_cached_commit_and_says_so(tmp_path):
    reference = tmp_path / "hub" / "models--DeepFloyd--IF-I-XL-v1.0" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text("a" * 40)
    code = (
        "import os, sys; os.environ['T2I_LENS_RUN'] = sys.argv[1]; "
        "from t2i_lens.study.run import Run; Run('of_ones_own', profile='if').finish()"
    )
    result = python(tmp_path, "-c", code, str(tmp_path / "run"))
    commit = "a" * 40
    assert "UserWarning: profile 'if' is unpinned" in result.stderr and commit in result.stderr
    provenance = json.loads((tmp_path / "run" / "run.json").read_text())
    assert provenance["revision"] == commit and provenance["pinned"] is False
    assert provenance["model"].startswith(f"DeepFloyd/IF-I-XL-v1.0@{commit}:")
    assert "9067 M parameters" in result.stdout


def test_an_embedding_of_the_library_is_asked_for_in_one_line(tmp_path):
    arguments = ("-m", "t2i_lens.study.cli", "embeddings", "inspect", "sd-concepts-library/cat-toy")
    result = python(tmp_path, *arguments)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: sd-concepts-library/cat-toy: no learned_embeds")
    assert len(result.stderr.splitlines()) == 1


def test_the_commands_read_and_convert_a_file(tmp_path):
    file = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"[b]Cat": 2 * torch.ones(3, 768).half()}, file)
    shown = python(tmp_path, "-m", "t2i_lens.study.cli", "embeddings", "inspect", str(file))
    assert shown.returncode == 0, shown.stderr
    for part in ("[b]Cat", "3", "768", "float16", "55.4, 55.4, 55.4", "SD 1.x", "diffusers"):
        assert part in shown.stdout
    arguments = ("--to", "a1111", "--output", str(tmp_path / "out"))
    result = python(
        tmp_path, "-m", "t2i_lens.study.cli", "embeddings", "convert", str(file), *arguments
    )
    assert result.returncode == 0, result.stderr
    assert safetensors.torch.load_file(tmp_path / "out" / "[b]Cat.safetensors").keys() == {
        "emb_params"
    }


def test_the_profiles_are_listed_with_commit_layers_and_need(tmp_path):
    result = python(tmp_path, "-m", "t2i_lens.study.cli", "profiles")
    assert result.returncode == 0, result.stderr
    for profile in profiles.PROFILES.values():
        (line,) = [text for text in result.stdout.splitlines() if f" {profile.name} " in text]
        assert f" {profile.cross_attention_layers} " in line
        if profile.on_hub:
            assert (profile.revision or "unpinned")[:12] in line


def test_half_precision_is_for_gpus():
    sd15 = profiles.get("sd15")
    assert [profiles.on_device(sd15, d).dtype for d in ("cpu", "cuda", "mps")] == [
        "float32", "float16", "float16",
    ]  # fmt: skip
    assert profiles.on_device(profiles.get("toybox"), "cuda").dtype == "float32"


def test_the_need_is_parameters_times_bytes():
    sd15 = profiles.get("sd15")
    parameters, size = profiles.memory_need(sd15)
    assert parameters == 859_520_964 + 123_060_480 + 83_653_863
    assert size == 2 * parameters
    assert profiles.memory_need(profiles.on_device(sd15, "cpu")) == (parameters, 4 * parameters)


def test_the_need_of_a_folder_is_read_from_its_weights():
    toybox = profiles.get("toybox")
    pipe = profiles.load(toybox)
    networks = (pipe.unet, pipe.vae, pipe.text_encoder)
    total = sum(p.numel() for network in networks for p in network.parameters())
    buffers = sum(b.numel() for network in networks for b in network.buffers())
    assert total <= profiles.memory_need(toybox)[0] <= total + buffers


def test_every_chapter_says_on_which_profiles_it_runs():
    chapters = support.load_support()
    assert set(chapters) >= {file.stem for file in (ROOT / "notebooks").glob("*.ipynb")}
    for entry in chapters.values():
        assert set(entry["profiles"]) | set(entry.get("because", {})) <= set(profiles.PROFILES)


def test_a_profile_that_a_chapter_does_not_support_is_refused_with_the_reason():
    from t2i_lens.study.run import Run

    with pytest.raises(ValueError, match="14_text_metrics does not run on 'sd15': its signs and"):
        Run("14_text_metrics", profile="sd15")
    reason = support.reason_against("02_norms", "if", support.load_support())
    assert "T5" in reason
    support.require("01_hero", "toybox")
    support.require("a notebook of one's own", "sd15")


def test_a_careless_entry_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"01": {"profiles": ["toybox"]}}))
    with pytest.raises(ValueError, match="01: give profiles, otherwise"):
        support.load_support(tmp_path / "s.yaml")
    assert support.load_support(tmp_path / "none.yaml") == {}
