"""Train the toybox: `python -m t2i_lens.toybox.training.train --preset cpu`.

Every stage resumes from its last checkpoint in `build/toybox/<preset>`; `--stage` selects one
(repeatable, in order); `export` writes `data/models`. `--preset mm --from-shipped` trains the
transformer of the toybox with joint attention on the shipped autoencoder and text encoder.

Shown in: book/toybox.md
"""

import shutil
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import CLIPTokenizer

from t2i_lens.base.paths import BUILD
from t2i_lens.toybox import judge
from t2i_lens.toybox.nets import joint as joint_networks
from t2i_lens.toybox.nets import networks, tokenizer
from t2i_lens.toybox.nets.pair import RecallingPair
from t2i_lens.toybox.training import export, joint, joint_export, stages
from t2i_lens.toybox.training.fit import Schedule, finished, group, together
from t2i_lens.toybox.training.shipped import MODELS, shipped_weights


class Stage(StrEnum):
    """In the order in which they run."""

    autoencoder = "autoencoder"
    text_encoder = "text_encoder"
    judge = "judge"
    unet = "unet"
    transformer = "transformer"
    export = "export"


FROZEN = (Stage.autoencoder, Stage.text_encoder, Stage.judge)


@dataclass(frozen=True)
class Preset:
    """Schedules of all stages, and the dials.

    Attributes:
        pool: Number of scenes encoded for the denoiser.
        processes: That train the denoiser together, each with its share of batch and pool.
        transformer: Of the preset with joint attention.
        selected: Stages that run where `--stage` selects none.
    """

    autoencoder: Schedule
    text_encoder: Schedule
    judge: Schedule
    unet: Schedule
    pool: int
    processes: int = 1
    dials: stages.Dials = stages.Dials()
    transformer: Schedule | None = None
    selected: tuple[Stage, ...] = (*FROZEN, Stage.unet, Stage.export)


CPU = Preset(
    autoencoder=Schedule(2_700, 24, 1e-3, decay=0.8, ema=0.99),
    text_encoder=Schedule(1_000, 192, 1e-3, decay=0.8, ema=0.99),
    judge=Schedule(800, 128, 1e-3, decay=0.8, ema=0.99),
    unet=Schedule(5_000, 48, 8e-4, decay=0.85, ema=0.998),
    pool=65_536,
    processes=2,
)
PRESETS = {
    "cpu": CPU,
    "gpu": Preset(
        autoencoder=Schedule(6000, 256, 2e-3),
        text_encoder=Schedule(12_000, 1024, 1e-3),
        judge=Schedule(10_000, 512, 1e-3),
        unet=Schedule(60_000, 256, 1e-3, ema=0.9995),
        pool=400_000,
    ),
    "mm": replace(
        CPU,
        transformer=Schedule(5_500, 64, 1.5e-3, decay=0.3, ema=0.998),
        selected=(Stage.transformer, Stage.export),
    ),
}
POOL_SEED = 3


def frozen_as_shipped(folder: Path, preset: Preset, trained: list[Stage]) -> None:
    """Take the tokenizer and the stages that are not trained from what is shipped.

    A stage that has a checkpoint in the folder keeps it.
    """
    if not (folder / "tokenizer").exists():
        shutil.copytree(MODELS / "toybox" / "tokenizer", folder / "tokenizer")
    words = tokenizer_of(folder)
    networks_of = {
        Stage.autoencoder: networks.build_autoencoder,
        Stage.text_encoder: lambda: RecallingPair(len(words)),
        Stage.judge: lambda: judge.JudgeNetwork(*(len(some) for some in judge.labels())),
    }
    meanings = {Stage.text_encoder: words, Stage.judge: judge.labels()}
    for stage, build in networks_of.items():
        if stage in trained or (folder / f"{stage}.pt").exists():
            continue
        network = build()
        network.load_state_dict(network.state_dict() | shipped_weights(stage, meanings.get(stage)))
        finished(stage, folder, network, getattr(preset, stage).steps)
        curve = f"{stage}.csv"
        shutil.copyfile(MODELS / "toybox" / "training" / curve, folder / curve)


def tokenizer_of(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a training folder; built there the first time."""
    place = folder / "tokenizer"
    if not (place / "vocab.json").exists():
        tokenizer.build(place)
    return CLIPTokenizer.from_pretrained(place)


def unet_pool(
    folder: Path, preset: Preset, words: CLIPTokenizer, device: torch.device
) -> dict[str, torch.Tensor]:
    """This process's share of what the U-Net trains on, cached in the folder.

    Returns: As `stages.encode_pool`, and `empty`, text states of the empty caption `[77, width]`.
    """
    rank, processes = group()
    file = folder / f"pool_{rank}_of_{processes}.pt"
    if not file.exists():
        vae = stages.train_autoencoder(folder, preset.autoencoder, device)
        pair = stages.train_text_encoder(folder, words, preset.text_encoder, device, preset.dials)
        share = range(rank, preset.pool, processes)
        pool = stages.encode_pool(share, POOL_SEED, vae, pair.text, words, device,
                                  preset.dials.care)  # fmt: skip
        ids = words("", padding="max_length", return_tensors="pt").input_ids.to(device)
        with torch.no_grad():
            pool["empty"] = pair.text(ids).last_hidden_state[0].cpu()
        torch.save(pool, file)
    return torch.load(file, weights_only=True, mmap=True)


def train_unet(folder: Path, preset: Preset, initial: dict | None) -> None:
    """One process's part in training the U-Net."""
    words, device = tokenizer_of(folder), best_device()
    pool = unet_pool(folder, preset, words, device)
    empty, share = pool.pop("empty"), preset.unet.batch // preset.processes
    stages.train_unet(folder, pool, empty, preset.unet, share, device, preset.dials, initial)


def train_transformer(folder: Path, preset: Preset) -> None:
    """One process's part in training the transformer, on the U-Net's scenes."""
    words, device = tokenizer_of(folder), best_device()
    rank, processes = group()
    latents = unet_pool(folder, preset, words, device)["latents"]
    file = folder / f"texts_{rank}_of_{processes}.pt"
    if not file.exists():
        pair = stages.train_text_encoder(folder, words, preset.text_encoder, device, preset.dials)
        encoder = joint_networks.projected_encoder(pair)
        share = range(rank, preset.pool, processes)
        torch.save(joint.text_pool(share, POOL_SEED, encoder, words, preset.dials.care), file)
    texts = torch.load(file, weights_only=True, mmap=True)
    batch = preset.transformer.batch // preset.processes
    joint.train_transformer(folder, latents, texts, preset.transformer, batch, device)


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(
    preset: Annotated[str, typer.Option(help="cpu, gpu, or mm (joint attention)")] = "cpu",
    stage: Annotated[list[Stage] | None, typer.Option(help="only these stages")] = None,
    from_shipped: Annotated[
        bool, typer.Option(help="start from what is shipped; stages not selected stay as they are")
    ] = False,
) -> None:
    """Train all stages, or the selected ones, and export the weights."""
    if preset not in PRESETS:
        raise SystemExit(f"unknown preset '{preset}'; use one of: {', '.join(PRESETS)}")
    chosen, folder, device = PRESETS[preset], BUILD / "toybox" / preset, best_device()
    selected = stage or list(chosen.selected)
    if from_shipped:
        frozen_as_shipped(folder, chosen, selected)
    words = tokenizer_of(folder)
    for step in selected:
        print(f"stage {step} on {device}", flush=True)
        initial = None
        if from_shipped and step in (*FROZEN, Stage.unet):
            meanings = {Stage.text_encoder: words, Stage.judge: judge.labels()}
            initial = shipped_weights(step, meanings.get(step))
        if step is Stage.autoencoder:
            stages.train_autoencoder(folder, chosen.autoencoder, device, initial)
        elif step is Stage.text_encoder:
            stages.train_text_encoder(folder, words, chosen.text_encoder, device, chosen.dials,
                                      initial)  # fmt: skip
        elif step is Stage.judge:
            judge.train(folder, chosen.judge, device, initial)
        elif step is Stage.unet:
            together(chosen.processes, train_unet, folder, chosen, initial)
        elif step is Stage.transformer:
            together(chosen.processes, train_transformer, folder, chosen)
        elif chosen.transformer is not None:
            joint_export.export(folder, chosen, words, device)
        else:
            export.export(folder, chosen, words, device)


if __name__ == "__main__":
    typer.run(main)
