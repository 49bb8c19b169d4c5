"""Training of the toybox on small real classes: it resumes exactly, and its pieces fit together."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTokenizer

from t2i_lens.toybox import fit as fitting
from t2i_lens.toybox import judge, models, stages, tokenizer
from t2i_lens.toybox.atlas import world_words
from t2i_lens.toybox.fit import Schedule, fit
from t2i_lens.toybox.shipped import MODELS, TOKENS, shipped_weights

CPU = torch.device("cpu")


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
    for word in [*said["nouns"], *said["wide_nouns"], *said["colours"], *said["words"]]:
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
    stages.ContrastivePair(len(words)).load_state_dict(shipped_weights("text_encoder", words))

    nouns = judge.labels()[0]
    known = shipped_weights("judge", [*nouns[1:], "yeti", nouns[0]])
    same = shipped_weights("judge", nouns)
    assert torch.equal(known["nouns.bias"][len(nouns)], same["nouns.bias"][0])
    assert torch.equal(known["nouns.weight"][-3:], same["nouns.weight"][-3:])
    assert known["nouns.weight"][len(nouns) - 1].count_nonzero() == 0


def test_unet_training_sees_the_shapes_of_the_pool(tmp_path):
    words = tokenizer.build(tmp_path / "tokenizer")
    vae, pair = models.build_autoencoder(), stages.ContrastivePair(len(words))
    pool = stages.encode_pool(6, 0, vae, pair, words, CPU)
    assert [part.shape[1:] for part in pool] == [
        (4, 16, 16), (77, models.TEXT_WIDTH), (64, models.PICTURE_WIDTH)
    ]  # fmt: skip
    odds, empty = stages.pool_odds(6, 0), pool[1][0].float()
    unet = stages.train_unet(tmp_path, pool, odds, empty, Schedule(2, 2, 1e-3), CPU)
    assert sum(name.endswith("attn2.processor") for name in unet.attn_processors) == 7
    adamw, muon = torch.load(tmp_path / "unet.pt", weights_only=True)["optimizer"].values()
    ends = ("conv_in", "conv_out")
    shapes = [p.shape for name, p in unet.named_parameters() if not name.startswith(ends)]
    moved = [state["momentum_buffer"] for state in muon["state"].values()]
    assert [m.numel() for m in moved] == [s.numel() for s in shapes if len(s) > 1]
    assert all(m.count_nonzero() for m in moved)
    four = 4  # weights and biases of the two ends, and as many of the head
    assert len(adamw["state"]) + len(moved) == len(shapes) + four + four


def test_sketches_of_a_pool_are_drawn_more_often_than_its_other_scenes_and_signs_less():
    size, seed = 300, 5  # more than one part of the pool
    scenes = [scene for _, some in stages.pool_scenes(size, seed) for scene in some]
    odds = stages.pool_odds(size, seed)
    sketched = np.array([scene.style == "sketch" for scene in scenes])
    signs = np.array([any(thing.word for thing in scene.things) for scene in scenes])
    assert len(scenes) == size and 0 < sketched.sum() < size and 0 < signs.sum() < size
    assert odds.sum() == pytest.approx(1)
    other = odds[~sketched & ~signs]
    assert other == pytest.approx(other[0])
    assert odds[sketched] == pytest.approx(stages.SKETCHES_DRAWN * other[0])
    assert odds[signs] == pytest.approx(stages.SIGNS_DRAWN * other[0])
    rows = torch.arange(size).reshape(-1, 1)
    drawn = stages.PoolBatches((rows,), odds, 20_000)(np.random.default_rng(0))[0].long()
    assert sketched[drawn].mean() == pytest.approx(odds[sketched].sum(), abs=0.02)  # 5 deviations


def test_a_picture_survives_the_range_of_the_autoencoder():
    picture = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 3, 1).expand(1, 1, 3, 3)
    ranged = stages.to_range(picture)
    assert ranged.shape == (1, 3, 1, 3)
    assert ranged.min() == -1 and ranged.max() == 1
