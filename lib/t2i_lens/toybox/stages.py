"""The stages of training: autoencoder, text encoder, U-Net. (The judge has its own module.)

Shown in: book/toybox.md
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from t2i_lens.toybox import models
from t2i_lens.toybox.atlas import world_words
from t2i_lens.toybox.captions import caption
from t2i_lens.toybox.fit import Schedule, fit
from t2i_lens.toybox.world import render, sample_scene

WIDE_SHARE = 0.25  # of the contrastive pairs: one object from the wide nouns
LATENT_NOISE = 0.1  # the decoder learns to forgive what the U-Net gets slightly wrong
MIN_SNR_GAMMA = 5.0


def pictures_batch(rng: np.random.Generator, batch: int) -> torch.Tensor:
    """Random scenes as uint8 ``[batch, 64, 64, 3]``; wide nouns too, so that nothing is foreign."""
    wide = world_words()["wide_nouns"]
    scenes = [
        sample_scene(rng, (1.0, 0.0, 0.0, 0.0), wide)
        if rng.random() < WIDE_SHARE
        else sample_scene(rng)
        for _ in range(batch)
    ]
    return torch.from_numpy(np.stack([render(scene, rng) for scene in scenes]))


@dataclass(frozen=True)
class PictureBatches:
    """Callable for ``fit``: batches of pictures."""

    batch: int

    def __call__(self, rng: np.random.Generator) -> torch.Tensor:
        return pictures_batch(rng, self.batch)


def to_range(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 ``[batch, height, width, 3]`` to float ``[batch, 3, height, width]`` in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def train_autoencoder(folder: Path, schedule: Schedule, device: torch.device) -> AutoencoderTiny:
    """L1 + L2 + edges, latents kept near mean 0 and standard deviation 1 per channel."""

    def loss_of(model: AutoencoderTiny, pictures: torch.Tensor):
        x = to_range(pictures.to(device))
        latents = model.encoder(x)
        noisy = latents + LATENT_NOISE * torch.randn_like(latents)
        decoded = model.decoder(noisy).float()
        # Most pixels are white paper: without this weight colours are learned last.
        focus = 1 + 2 * (x.amax(1, keepdim=True) - x.amin(1, keepdim=True))
        error = (decoded - x) * focus
        edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
        spread, centre = torch.std_mean(latents.float(), dim=(0, 2, 3))
        shape = (spread - 1).square().mean() + centre.square().mean()
        square = error.square().mean()
        loss = error.abs().mean() + square + edges + 0.05 * shape
        return loss, {"mse": float((decoded - x).square().mean().detach())}

    model = fit("autoencoder", folder, models.build_autoencoder(), PictureBatches(schedule.batch),
                loss_of, schedule, device)  # fmt: skip
    with torch.no_grad():
        latents = model.encoder(to_range(pictures_batch(np.random.default_rng(1), 512).to(device)))
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    return model


class ContrastivePair(nn.Module):
    """CLIP: a text tower pooled at EOS against a picture tower, cosines with a learned scale."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.text = models.build_text_encoder(vocabulary)
        self.text_projection = nn.Linear(models.TEXT_WIDTH, models.TEXT_WIDTH, bias=False)
        self.pictures = models.PictureTower()
        self.picture_projection = nn.Linear(models.PICTURE_WIDTH, models.TEXT_WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))

    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids ``[batch, token]`` to unit vectors ``[batch, width]``."""
        pooled = self.text(ids).pooler_output
        return functional.normalize(self.text_projection(pooled).float(), dim=-1)

    def embed_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 ``[batch, 64, 64, 3]`` to unit vectors ``[batch, width]``."""
        pooled = self.pictures(pictures).mean(1)
        return functional.normalize(self.picture_projection(pooled).float(), dim=-1)


@dataclass(frozen=True)
class CaptionedBatches:
    """Callable for ``fit``: pictures with token ids, padded to the longest caption of the batch."""

    batch: int
    tokenizer: CLIPTokenizer

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        wide = world_words()["wide_nouns"]
        scenes = [
            sample_scene(rng, (1.0, 0.0, 0.0, 0.0), wide)
            if rng.random() < WIDE_SHARE
            else sample_scene(rng)
            for _ in range(self.batch)
        ]
        pictures = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes]))
        captions = [caption(scene, rng) for scene in scenes]
        ids = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt").input_ids
        return pictures, ids


def train_text_encoder(
    folder: Path, tokenizer: CLIPTokenizer, schedule: Schedule, device: torch.device
) -> ContrastivePair:
    """Contrastive training of both towers; only the text tower is shipped (frozen from here on)."""

    def loss_of(model: ContrastivePair, batch):
        pictures, ids = (part.to(device) for part in batch)
        text, seen = model.embed_text(ids), model.embed_pictures(pictures)
        logits = model.log_scale.exp().clamp(max=100) * text @ seen.T
        target = torch.arange(len(ids), device=device)
        loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        hit = (logits.argmax(1) == target).float().mean()
        return loss / 2, {"in_batch_accuracy": float(hit)}

    batches = CaptionedBatches(schedule.batch, tokenizer)
    return fit(
        "text_encoder", folder, ContrastivePair(len(tokenizer)), batches, loss_of, schedule, device
    )


@torch.no_grad()
def encode_pool(
    size: int, seed: int, vae: AutoencoderTiny, text: CLIPTextModel, tokenizer: CLIPTokenizer,
    device: torch.device, counts: tuple[float, float, float, float],
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Latents and text states of random captioned scenes, made once for many epochs.

    Returns:
        Latents fp16 ``[size, 4, 16, 16]`` (scaled) and text states fp16 ``[size, 77, width]``.
    """
    latents, states = [], []
    for start in tqdm(range(0, size, 256), "latents and text states", mininterval=10):
        rng = np.random.default_rng([seed, start])
        scenes = [sample_scene(rng, counts) for _ in range(min(256, size - start))]
        pictures = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes])).to(device)
        captions = [caption(scene, rng) for scene in scenes]
        ids = tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        with torch.autocast(device.type, torch.bfloat16):
            latents.append(vae.encoder(to_range(pictures)).mul(vae.config.scaling_factor).half())
        states.append(text(ids.to(device)).last_hidden_state.half())
    return torch.cat(latents), torch.cat(states)


@dataclass(frozen=True)
class PoolBatches:
    """Callable for ``fit``: random members of a pool; ``first`` limits it (the curriculum)."""

    pool: tuple[torch.Tensor, torch.Tensor]
    batch: int

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.from_numpy(rng.integers(0, len(self.pool[0]), self.batch))
        return self.pool[0][rows].float(), self.pool[1][rows].float()


def train_unet(
    folder: Path, pool: tuple[torch.Tensor, torch.Tensor], empty: torch.Tensor,
    schedule: Schedule, device: torch.device,
) -> UNet2DConditionModel:  # fmt: skip
    """Epsilon prediction with min-SNR weights and 10 % caption drop-out.

    Args:
        pool: From ``encode_pool``.
        empty: Text states of the empty caption ``[77, width]``.
    """
    scheduler = models.build_scheduler()
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weight = (snr.clamp(max=MIN_SNR_GAMMA) / snr).to(device)
    empty = empty.to(device)

    def loss_of(model: UNet2DConditionModel, batch):
        latents, states = (part.to(device) for part in batch)
        count = len(latents)
        # Stratified timesteps: every batch covers the whole schedule, so its loss is less noisy.
        spread = (torch.rand(1) + torch.arange(count) / count) % 1
        timesteps = (spread * 1000).long()
        noise = torch.randn(latents.shape).to(device)
        states = torch.where((torch.rand(count) < 0.1).to(device)[:, None, None], empty, states)
        noisy = scheduler.add_noise(latents, noise, timesteps.to(device))
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        timesteps = timesteps.to(device)
        predicted = model(noisy, timesteps, states).sample.float()
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        return (error * weight[timesteps]).mean(), {"mse": float(error.mean().detach())}

    batches = PoolBatches(pool, schedule.batch)
    return fit("unet", folder, models.build_unet(), batches, loss_of, schedule, device, workers=0)
