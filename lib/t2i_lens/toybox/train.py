"""Train the toybox from scratch: ``python -m t2i_lens.toybox.train --preset cpu``.

Every stage resumes from its last checkpoint in ``build/toybox/<preset>``; ``--stage`` selects one
(repeatable, in order); ``export`` writes ``data/models``.

Shown in: book/toybox.md
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import CLIPTokenizer

from t2i_lens.base.paths import BUILD
from t2i_lens.toybox import export, judge, stages, tokenizer
from t2i_lens.toybox.fit import Schedule
from t2i_lens.toybox.shipped import shipped_weights


@dataclass(frozen=True)
class Preset:
    """Schedules of all stages; ``pool`` is the number of scenes encoded for the U-Net."""

    autoencoder: Schedule
    text_encoder: Schedule
    judge: Schedule
    unet: Schedule
    pool: int


PRESETS = {
    "cpu": Preset(
        autoencoder=Schedule(5_400, 24, 1e-3, decay=0.8, ema=0.99),
        text_encoder=Schedule(2_000, 256, 1e-3, decay=0.8, ema=0.99),
        judge=Schedule(1_000, 128, 1e-3, decay=0.8, ema=0.99),
        unet=Schedule(20_000, 32, 8e-4, decay=0.75, ema=0.998),
        pool=56_000,
    ),
    "gpu": Preset(
        autoencoder=Schedule(6000, 256, 2e-3),
        text_encoder=Schedule(12_000, 1024, 1e-3),
        judge=Schedule(10_000, 512, 1e-3),
        unet=Schedule(60_000, 256, 1e-3, ema=0.9995),
        pool=400_000,
    ),
}


POOL_SEED = 2


class Stage(StrEnum):
    """In the order in which they run."""

    autoencoder = "autoencoder"
    text_encoder = "text_encoder"
    judge = "judge"
    unet = "unet"
    export = "export"


def tokenizer_of(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a training folder; built there the first time."""
    place = folder / "tokenizer"
    if not (place / "vocab.json").exists():
        tokenizer.build(place)
    return CLIPTokenizer.from_pretrained(place)


def unet_pool(
    folder: Path, preset: Preset, words: CLIPTokenizer, device: torch.device
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """What the U-Net trains on, cached in the folder, and text states of the empty caption."""
    file = folder / "pool.pt"
    if not file.exists():
        vae = stages.train_autoencoder(folder, preset.autoencoder, device)
        pair = stages.train_text_encoder(folder, words, preset.text_encoder, device)
        pool = stages.encode_pool(preset.pool, POOL_SEED, vae, pair, words, device)
        ids = words("", padding="max_length", return_tensors="pt").input_ids.to(device)
        with torch.no_grad():
            empty = pair.text(ids).last_hidden_state[0].cpu()
        torch.save({"pool": pool, "empty": empty}, file)
    cached = torch.load(file, weights_only=True)
    return cached["pool"], cached["empty"]


def main(
    preset: Annotated[str, typer.Option(help="cpu or gpu")] = "cpu",
    stage: Annotated[list[Stage] | None, typer.Option(help="only these stages")] = None,
    from_shipped: Annotated[bool, typer.Option(help="start from the shipped weights")] = False,
) -> None:
    """Train all stages, or the selected ones, and export the weights."""
    if preset not in PRESETS:
        raise SystemExit(f"unknown preset '{preset}'; use one of: {', '.join(PRESETS)}")
    chosen, folder = PRESETS[preset], BUILD / "toybox" / preset
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    words = tokenizer_of(folder)
    for step in stage or list(Stage):
        print(f"stage {step} on {device}", flush=True)
        initial = None
        if from_shipped and step is not Stage.export:
            meanings = {Stage.text_encoder: words, Stage.judge: judge.labels()[0]}
            initial = shipped_weights(step, meanings.get(step))
        if step is Stage.autoencoder:
            stages.train_autoencoder(folder, chosen.autoencoder, device, initial)
        elif step is Stage.text_encoder:
            stages.train_text_encoder(folder, words, chosen.text_encoder, device, initial)
        elif step is Stage.judge:
            judge.train(folder, chosen.judge, device, initial)
        elif step is Stage.unet:
            pool, empty = unet_pool(folder, chosen, words, device)
            odds = stages.pool_odds(len(pool[0]), POOL_SEED)
            stages.train_unet(folder, pool, odds, empty, chosen.unet, device, initial)
        else:
            export.export(folder, chosen, words, device)


if __name__ == "__main__":
    typer.run(main)
