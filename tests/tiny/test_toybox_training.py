"""Training of the toybox on small real classes: it resumes exactly, and its pieces fit together."""

import csv
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTokenizer

from t2i_lens.toybox import judge
from t2i_lens.toybox.nets import networks, tokenizer
from t2i_lens.toybox.nets.pair import ContrastivePair
from t2i_lens.toybox.training import fit as fitting
from t2i_lens.toybox.training import stages
from t2i_lens.toybox.training.export import forget_derived
from t2i_lens.toybox.training.fit import Schedule, fit
from t2i_lens.toybox.training.shipped import MODELS, TOKENS, shipped_weights
from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.captions import CARELESS

CPU = torch.device("cpu")
WAITING = """
import os, sys, time
from pathlib import Path
from t2i_lens.toybox.training.fit import together

def wait(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    together(2, wait, sys.argv[1])
"""


def test_no_member_outlives_a_training_that_is_killed_in_the_background(tmp_path):
    script, folder = tmp_path / "waiting.py", tmp_path / "members"
    script.write_text(WAITING)
    folder.mkdir()
    parent = subprocess.Popen(
        [sys.executable, script, folder],
        # As a shell starts a job in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    end = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2:
        assert parent.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    members = [int(file.name) for file in folder.iterdir()]
    parent.kill()
    parent.wait()
    end = time.monotonic() + 30
    while any(map(alive, members)):
        assert time.monotonic() < end
        time.sleep(0.2)


def alive(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_exported_autoencoder_loads_without_a_remark_on_its_configuration(tmp_path, caplog):
    small = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    small.save_pretrained(tmp_path)
    AutoencoderTiny.from_pretrained(tmp_path)
    assert "not expected and will be ignored" in caplog.text
    caplog.clear()
    forget_derived(tmp_path)
    loaded = AutoencoderTiny.from_pretrained(tmp_path)
    assert caplog.text == ""
    assert list(loaded.config.block_out_channels) == [8, 8]


def make_batch(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def squared(model: nn.Module, batch: torch.Tensor):
    noise = torch.randn(1)
    return (model(batch) - batch.sum(1, keepdim=True) + 0.1 * noise).square().mean(), {}


def trained(folder, loss_of=squared, steps: int = 60, muon: bool = False) -> dict:
    schedule, model = Schedule(steps, 4, 1e-2, warmup=5, ema=0.9), network()
    by_muon = [model.weight] if muon else []
    average = fit("line", folder, model, make_batch, loss_of, schedule, CPU, workers=0,
                  by_muon=by_muon)  # fmt: skip
    return average.state_dict()


@pytest.mark.parametrize("muon", [False, True])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch, muon):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", -1)  # after every step
    calls = []

    def interrupted(model, batch):
        calls.append(1)
        if len(calls) == 31:
            raise KeyboardInterrupt
        return squared(model, batch)

    whole = trained(tmp_path / "whole", muon=muon)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", interrupted, muon=muon)
    resumed = trained(tmp_path / "parts", muon=muon)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_finished_stage_is_not_trained_again(tmp_path):
    first = trained(tmp_path)
    checkpoint = tmp_path / "line.pt"
    stamp = checkpoint.stat().st_mtime_ns

    def forbidden(model, batch):
        raise AssertionError("trained a finished stage")

    again = trained(tmp_path, forbidden)
    assert checkpoint.stat().st_mtime_ns == stamp
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_loss_curve_has_one_row_for_fifty_steps(tmp_path):
    trained(tmp_path, steps=100)
    with (tmp_path / "line.csv").open() as lines:
        rows = list(csv.reader(lines))
    assert rows[0][:2] == ["step", "loss"]
    assert [row[0] for row in rows[1:]] == ["49", "99"]
    assert float(rows[2][1]) < float(rows[1][1])


def test_the_rate_warms_up_holds_and_decays():
    schedule = Schedule(1000, 1, 1.0, warmup=10, decay=0.3)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(500) == 1.0
    assert schedule.rate(850) == pytest.approx(0.5)
    assert schedule.rate(999) == pytest.approx(0.02)


def test_the_tokenizer_gives_each_word_of_the_world_one_token(tmp_path):
    words = tokenizer.build(tmp_path)
    said = world_words()
    lists = ("nouns", "wide_nouns", "styles", "colours", "words")
    for word in (word for kind in lists for word in said[kind]):
        ids = words(word).input_ids
        assert len(ids) == 3 and ids[0] == len(words) - 2 and ids[-1] == len(words) - 1, word


def test_a_start_from_shipped_weights_matches_tokens_and_nouns_by_name(tmp_path):
    words = tokenizer.build(tmp_path)
    shipped = CLIPTokenizer.from_pretrained(MODELS / "toybox" / "tokenizer")
    table = shipped_weights("text_encoder", words)[TOKENS]
    before = load_file(MODELS / "toybox" / "text_encoder" / "model.safetensors")
    rows = before["embeddings.token_embedding.weight"].float()
    for word in ("cat</w>", "red</w>", tokenizer.BOS, tokenizer.EOS):
        now, then = words.convert_tokens_to_ids(word), shipped.convert_tokens_to_ids(word)
        assert torch.equal(table[now], rows[then]), word
    ContrastivePair(len(words)).load_state_dict(shipped_weights("text_encoder", words))

    nouns, *rest = judge.labels()
    known = shipped_weights("judge", ([*nouns[1:], "yeti", nouns[0]], *rest))
    same = shipped_weights("judge", (nouns, *rest))
    assert torch.equal(known["nouns.bias"][len(nouns)], same["nouns.bias"][0])
    assert torch.equal(known["nouns.weight"][-3:], same["nouns.weight"][-3:])
    assert known["nouns.weight"][len(nouns) - 1].count_nonzero() == 0


def pool_of(folder, size: int = 6) -> dict[str, torch.Tensor]:
    words = tokenizer.build(folder / "tokenizer")
    vae, text = networks.build_autoencoder(), networks.build_text_encoder(len(words))
    return stages.encode_pool(range(size), 0, vae, text, words, CPU, CARELESS)


def test_unet_training_sees_the_shapes_of_the_pool(tmp_path):
    pool = pool_of(tmp_path)
    assert pool["latents"].shape == (6, 4, 16, 16)
    assert pool["states"].shape == (6, 77, networks.TEXT_WIDTH)
    assert (pool["lengths"] > 3).all() and (pool["lengths"] < 77).all()
    dials = stages.Dials(shortened=1.0)
    empty = pool["states"][0].float()
    unet = stages.train_unet(tmp_path, pool, empty, Schedule(2, 2, 1e-3), 2, CPU, dials)
    assert sum(name.endswith("attn2.processor") for name in unet.attn_processors) == 7
    adamw, muon = torch.load(tmp_path / "unet.pt", weights_only=True)["optimizer"].values()
    ends = ("conv_in", "conv_out")
    shapes = [p.shape for name, p in unet.named_parameters() if not name.startswith(ends)]
    moved = [state["momentum_buffer"] for state in muon["state"].values()]
    assert sorted(m.numel() for m in moved) == sorted(s.numel() for s in shapes if len(s) > 1)
    assert all(m.count_nonzero() for m in moved)
    assert len(adamw["state"]) + len(moved) == len(shapes) + 4  # weights, biases of two ends


def test_a_scene_of_the_pool_depends_on_its_number_alone(tmp_path):
    words = tokenizer.build(tmp_path / "tokenizer")
    vae, text = networks.build_autoencoder(), networks.build_text_encoder(len(words))
    whole, part = (
        stages.encode_pool(numbers, 0, vae, text, words, CPU, CARELESS)
        for numbers in (range(6), range(1, 6, 2))
    )
    assert torch.equal(whole["lengths"][1::2], part["lengths"])
    # Half precision, and another batch is summed in another order.
    torch.testing.assert_close(whole["latents"][1::2], part["latents"], atol=5e-3, rtol=1e-2)


def test_the_loss_that_keeps_words_apart_is_a_dial_of_the_text_encoder(tmp_path):
    words = tokenizer.build(tmp_path / "tokenizer")
    for recall in (0.0, 0.5):
        folder = tmp_path / str(recall)
        dials = stages.Dials(recall=recall)
        stages.train_text_encoder(folder, words, Schedule(50, 4, 1e-4), CPU, dials)
        with (folder / "text_encoder.csv").open() as lines:
            assert ("recall" in next(csv.reader(lines))) == (recall > 0)


def line_of_a_group(folder) -> None:
    """One process's part: every process saves the weights that it ends with."""
    rank, _ = fitting.group()
    model = nn.Conv2d(3, 2, 3)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model = model.to(memory_format=torch.channels_last)

    def loss_of(model: nn.Module, batch: torch.Tensor):
        return (model(batch) - 1).square().mean(), {}

    average = fit("line", folder, model, pictures_batch, loss_of, Schedule(8, 4, 1e-2, warmup=1),
                  CPU, workers=0, by_muon=[model.weight])  # fmt: skip
    torch.save(average.state_dict(), folder / f"{rank}.pt")


def pictures_batch(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(2, 3, 5, 5)).astype(np.float32))


def test_processes_that_train_together_end_with_the_same_weights(tmp_path):
    fitting.together(2, line_of_a_group, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = tmp_path / "alone"
    alone.mkdir()
    fitting.together(1, line_of_a_group, alone)
    single = torch.load(alone / "0.pt", weights_only=True)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    # Two processes see two batches a step, one sees one.
    assert not torch.equal(first["weight"], single["weight"])


def failing_member(folder) -> None:
    rank, _ = fitting.group()
    if rank == 1:
        raise ValueError("the second process fails")


def test_a_process_that_fails_ends_the_group(tmp_path):
    with pytest.raises(Exception, match="the second process fails"):
        fitting.together(2, failing_member, tmp_path)


def test_a_picture_survives_the_range_of_the_autoencoder():
    picture = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 3, 1).expand(1, 1, 3, 3)
    ranged = stages.to_range(picture)
    assert ranged.shape == (1, 3, 1, 3)
    assert ranged.min() == -1 and ranged.max() == 1
