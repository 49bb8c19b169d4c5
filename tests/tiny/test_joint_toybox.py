"""The toybox with joint attention: trained, written and loaded by diffusers alone."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from t2i_lens.toybox.nets import joint as networks
from t2i_lens.toybox.training import joint, joint_export, stages, train
from t2i_lens.toybox.training.fit import Schedule
from t2i_lens.toybox.world.captions import CARELESS

CPU = torch.device("cpu")
STRANGER = """
import sys
sys.modules["t2i_lens"] = None  # importing it is an error from here on
import numpy as np, torch
from diffusers import StableDiffusion3Pipeline
pipe = StableDiffusion3Pipeline.from_pretrained(
    sys.argv[1], local_files_only=True, text_encoder_3=None, tokenizer_3=None)
pipe.set_progress_bar_config(disable=True)
pictures = pipe(["a car", "a cat"], num_inference_steps=3, guidance_scale=4.0,
                max_sequence_length=0, generator=torch.Generator().manual_seed(0),
                output_type="np").images
np.save(sys.argv[2], pictures)
"""
MOST_BYTES = 12e6  # what the shipped folder may take


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of a training of three steps, its preset, and the pipeline."""
    folder = tmp_path_factory.mktemp("mm")
    preset = replace(train.PRESETS["mm"], transformer=Schedule(3, 4, 1e-3, warmup=1), processes=1)
    train.frozen_as_shipped(folder, preset, [train.Stage.transformer])
    words = train.tokenizer_of(folder)
    pair = stages.train_text_encoder(folder, words, preset.text_encoder, CPU, preset.dials)
    texts = joint.text_pool(range(8), 3, networks.projected_encoder(pair), words, CARELESS)
    latents = torch.randn((8, 4, 16, 16), generator=torch.Generator().manual_seed(0)).half()
    joint.train_transformer(folder, latents, texts, preset.transformer, 4, CPU)
    (folder / "transformer.csv").write_text("step,loss\n")
    return folder, preset, words, joint_export.pipeline_of(folder, preset, words, CPU)


def test_the_training_reads_the_text_that_the_pipeline_reads(trained):
    *_, words, pipe = trained
    captions = ["a red apple", 'a sign that says "stop"', ""]
    states, pooled = networks.text_conditions(pipe.text_encoder, words, captions)
    theirs, _, their_pooled, _ = pipe.encode_prompt(
        captions, captions, captions, do_classifier_free_guidance=False, max_sequence_length=0
    )
    assert torch.equal(states, theirs) and torch.equal(pooled, their_pooled)
    assert states.shape == (3, networks.CAPTION_TOKENS, pipe.transformer.config.joint_attention_dim)


def test_every_caption_of_a_training_fits_the_shortened_text(trained):
    *_, words, _ = trained
    captions = [joint._caption_of(3, number, CARELESS) for number in range(300)]
    assert max(map(len, words(captions).input_ids)) < networks.CAPTION_TOKENS


def test_an_untrained_transformer_predicts_no_velocity():
    model = networks.build_transformer()
    inputs = torch.randn(2, 4, 16, 16), torch.randn(2, 32, 136), torch.randn(2, 136)
    assert not model(*inputs, torch.tensor([10.0, 900.0])).sample.any()


def test_times_cover_the_whole_path_in_every_batch():
    torch.manual_seed(0)
    times = joint.times_of(64)
    assert times.min() > 0 and times.max() < 1
    # Half of a logit-normal's mass lies on each side; strata leave one sample of slack.
    assert abs(int((times < 0.5).sum()) - 32) <= 1


def test_a_process_without_this_library_draws_with_the_written_folder(
    trained, tmp_path, monkeypatch
):
    folder, preset, words, _ = trained
    monkeypatch.setattr(joint_export, "TOYBOX_MM", tmp_path / "toybox-mm")
    joint_export.export(folder, preset, words, CPU)
    command = [sys.executable, "-c", STRANGER, str(tmp_path / "toybox-mm"), str(tmp_path / "p.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pictures = np.load(tmp_path / "p.npy")
    assert pictures.shape == (2, 64, 64, 3) and np.isfinite(pictures).all()
    files = [file for file in (tmp_path / "toybox-mm").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
