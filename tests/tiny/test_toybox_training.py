"""Training of the toybox on small real classes: it resumes exactly, and its pieces fit together."""

import csv

import numpy as np
import pytest
import torch
from torch import nn

from t2i_lens.toybox import fit as fitting
from t2i_lens.toybox import models, stages, tokenizer
from t2i_lens.toybox.atlas import world_words
from t2i_lens.toybox.fit import Schedule, fit

CPU = torch.device("cpu")


def make_batch(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def squared(model: nn.Module, batch: torch.Tensor):
    noise = torch.randn(1)
    return (model(batch) - batch.sum(1, keepdim=True) + 0.1 * noise).square().mean(), {}


def trained(folder, loss_of=squared, steps: int = 60) -> dict[str, torch.Tensor]:
    schedule = Schedule(steps, 4, 1e-2, warmup=5, ema=0.9)
    model = fit("line", folder, network(), make_batch, loss_of, schedule, CPU, workers=0)
    return model.state_dict()


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", -1)  # after every step
    calls = []

    def interrupted(model, batch):
        calls.append(1)
        if len(calls) == 31:
            raise KeyboardInterrupt
        return squared(model, batch)

    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", interrupted)
    resumed = trained(tmp_path / "parts")
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
    for word in [*said["nouns"], *said["wide_nouns"], *said["colours"], *said["words"]]:
        ids = words(word).input_ids
        assert len(ids) == 3 and ids[0] == len(words) - 2 and ids[-1] == len(words) - 1, word


def test_unet_training_sees_the_shapes_of_the_pool(tmp_path):
    words = tokenizer.build(tmp_path / "tokenizer")
    vae, text = models.build_autoencoder(), models.build_text_encoder(len(words))
    pool = stages.encode_pool(6, 0, vae, text, words, CPU, (0.3, 0.3, 0.2, 0.2))
    assert pool[0].shape == (6, 4, 16, 16) and pool[1].shape == (6, 77, models.TEXT_WIDTH)
    unet = stages.train_unet(tmp_path, pool, pool[1][0].float(), Schedule(2, 2, 1e-3), CPU)
    assert sum(name.endswith("attn2.processor") for name in unet.attn_processors) == 7


def test_a_picture_survives_the_range_of_the_autoencoder():
    picture = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 3, 1).expand(1, 1, 3, 3)
    ranged = stages.to_range(picture)
    assert ranged.shape == (1, 3, 1, 3)
    assert ranged.min() == -1 and ranged.max() == 1
