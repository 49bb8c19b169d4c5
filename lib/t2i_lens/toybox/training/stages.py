"""The stages of training: autoencoder, text encoder, U-Net. (The judge has its own module.)

Shown in: book/toybox.md
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from t2i_lens.toybox.nets import networks
from t2i_lens.toybox.nets.pair import RecallingPair
from t2i_lens.toybox.training.fit import Schedule, fast_precision, fit
from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.captions import Care, caption, careless, twin
from t2i_lens.toybox.world.scenes import Scene, render, sample_scene

WIDE_SHARE = 0.25  # of the contrastive pairs: one object from the wide nouns
TWIN_SHARE = 0.2  # of the contrastive draws: a scene and one that differs in one thing
LATENT_NOISE = 0.1  # the decoder learns to forgive what the U-Net gets slightly wrong
MIN_SNR_GAMMA = 5.0
SNR_FLOOR = 0.5  # what a caption decides is decided in noise that the plain weights neglect
POOLED = 256  # scenes encoded at once
RAREST, MOST = 0.15, 3.0  # least and greatest weight that is met by drawing a timestep more often


@dataclass(frozen=True)
class Dials:
    """What decides whether words of a prompt compete; every setting tried is in `selection.md`.

    Attributes:
        recall: Weight of the loss that keeps words apart in the text states (`RecallingPair`).
        care: How careless the captions are.
        shortened: Share of the U-Net's batches whose text states end with the longest caption, so
            that what the padding carries cannot be relied on.
    """

    recall: float = 0.0
    care: Care = Care()
    shortened: float = 0.0


def sample_named(rng: np.random.Generator) -> Scene:
    """A random scene, one in four of them a single object of the wide nouns."""
    if rng.random() < WIDE_SHARE:
        return sample_scene(rng, (1.0, 0.0, 0.0, 0.0), world_words()["wide_nouns"])
    return sample_scene(rng)


def pictures_batch(rng: np.random.Generator, batch: int) -> torch.Tensor:
    """Random scenes as uint8 `[batch, 64, 64, 3]`; wide nouns too, so that nothing is foreign."""
    return torch.from_numpy(np.stack([render(sample_named(rng), rng) for _ in range(batch)]))


@dataclass(frozen=True)
class PictureBatches:
    """Callable for `fit`: batches of pictures."""

    batch: int

    def __call__(self, rng: np.random.Generator) -> torch.Tensor:
        return pictures_batch(rng, self.batch)


def to_range(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 `[batch, height, width, 3]` to float `[batch, 3, height, width]` in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def train_autoencoder(
    folder: Path, schedule: Schedule, device: torch.device, initial: dict | None = None
) -> AutoencoderTiny:
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

    model = networks.build_autoencoder()
    batches = PictureBatches(schedule.batch)
    parts = (model.encoder, model.decoder)
    model = fit("autoencoder", folder, model, batches, loss_of, schedule, device,
                initial=initial, compiled=parts)  # fmt: skip
    with torch.no_grad():
        latents = model.encoder(to_range(pictures_batch(np.random.default_rng(1), 512).to(device)))
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    return model


@dataclass(frozen=True)
class CaptionedBatches:
    """Callable for `fit`: pictures with token ids, padded to the longest caption of the batch."""

    batch: int
    tokenizer: CLIPTokenizer
    care: Care

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        scenes, captions = [], []
        while len(scenes) < self.batch:
            if rng.random() < TWIN_SHARE:  # said in full: what is left out could be the difference
                scene = sample_scene(rng)
                pair = [scene, twin(scene, rng)]
                captions += [caption(scene, rng) for scene in pair]
                scenes += pair
            else:
                scenes.append(sample_named(rng))
                captions.append(caption(careless(scenes[-1], rng, self.care), rng))
        pictures = torch.from_numpy(np.stack([render(s, rng) for s in scenes[: self.batch]]))
        texts = captions[: self.batch]
        ids = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids
        return pictures, ids


def train_text_encoder(
    folder: Path, tokenizer: CLIPTokenizer, schedule: Schedule, device: torch.device,
    dials: Dials, initial: dict | None = None, seed: int = 0,
) -> RecallingPair:  # fmt: skip
    """Contrastive training of both towers; only the text tower is shipped (frozen from here on)."""

    def loss_of(model: RecallingPair, batch):
        pictures, ids = (part.to(device) for part in batch)
        text_output, picture_vectors = model.text(ids), model.embed_pictures(pictures)
        text = model.project_text(text_output.pooler_output)
        logits = model.log_scale.exp().clamp(max=100) * text @ picture_vectors.T
        target = torch.arange(len(ids), device=device)
        loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        hit = (logits.argmax(1) == target).float().mean()
        figures = {"in_batch_accuracy": float(hit)}
        if not dials.recall:
            return loss / 2, figures
        recall = model.recall_loss(text_output.last_hidden_state, ids)
        figures["recall"] = float(recall.detach())
        return loss / 2 + dials.recall * recall, figures

    batches = CaptionedBatches(schedule.batch, tokenizer, dials.care)
    pair = RecallingPair(len(tokenizer))
    if initial is not None:
        initial = pair.state_dict() | initial  # the heads of recall are not shipped
    return fit("text_encoder", folder, pair, batches, loss_of, schedule, device,
               seed=seed, initial=initial, compiled=(pair.pictures,))  # fmt: skip


@torch.no_grad()
def encode_pool(
    scenes: range, seed: int, vae: AutoencoderTiny, text: CLIPTextModel, tokenizer: CLIPTokenizer,
    device: torch.device, care: Care,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Latents and text states of random captioned scenes, for many epochs.

    Args: scenes: Their numbers; the same number and seed give the same scene and caption.
    Returns:
        `latents` fp16 `[scene, 4, 16, 16]` (scaled), `states` fp16 `[scene, 77, width]`, and
        `lengths` `[scene]`, tokens of the caption with BOS and EOS.
    """
    parts = []
    progress = tqdm(total=len(scenes), desc="latents and text states", mininterval=10)
    for start in range(0, len(scenes), POOLED):
        pictures, captions = [], []
        for number in scenes[start : start + POOLED]:
            rng = np.random.default_rng([seed, number])
            scene = sample_scene(rng)
            pictures.append(render(scene, rng))
            captions.append(caption(careless(scene, rng, care), rng))
        ids = tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        lengths = (ids == tokenizer.eos_token_id).int().argmax(1) + 1
        with fast_precision(device):
            batch = torch.from_numpy(np.stack(pictures)).to(device)
            latents = vae.encoder(to_range(batch)).mul(vae.config.scaling_factor)
        states = text(ids.to(device)).last_hidden_state
        parts.append([latents.half().cpu(), states.half().cpu(), lengths])
        progress.update(len(captions))
    progress.close()
    joined = (torch.cat(part) for part in zip(*parts, strict=True))
    return dict(zip(("latents", "states", "lengths"), joined, strict=True))


@dataclass(frozen=True)
class PoolBatches:
    """Callable for `fit`: random members of a pool."""

    pool: dict[str, torch.Tensor]
    batch: int

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, int]:
        rows = torch.from_numpy(rng.integers(0, len(self.pool["latents"]), self.batch))
        longest = int(self.pool["lengths"][rows].max())
        latents, states = (self.pool[part][rows].float() for part in ("latents", "states"))
        return latents, states, longest


def train_unet(
    folder: Path, pool: dict[str, torch.Tensor], empty: torch.Tensor, schedule: Schedule,
    batch: int, device: torch.device, dials: Dials, initial: dict | None = None, seed: int = 0,
) -> UNet2DConditionModel:  # fmt: skip
    """Epsilon prediction with min-SNR weights and a floor, 10 % caption drop-out.

    Muon trains all of the U-Net's matrices and kernels but those of its first and last layer.

    Args:
        pool: From `encode_pool`.
        empty: Text states of the empty caption `[77, width]`.
        batch: This process's share of the schedule's batch.
    """
    scheduler = networks.build_scheduler()
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    # Of the error of the picture; of the noise's error it is that by the SNR.
    weight = snr.clamp(SNR_FLOOR, MIN_SNR_GAMMA) / snr
    # Timesteps that hardly count are drawn less often, and count for more when they are; those
    # that count most the other way round: the same objective with less work and less noise.
    drawn = weight.clamp(RAREST, MOST)
    drawn = drawn / drawn.sum()
    cumulated, weight = drawn.cumsum(0), (weight / drawn / len(drawn)).to(device)
    empty = empty.to(device)

    def loss_of(model: UNet2DConditionModel, members):
        latents, states, longest = members
        latents, states = latents.to(device), states.to(device)
        count = len(latents)
        # Stratified timesteps: every batch covers the whole schedule, so its loss is less noisy.
        spread = (torch.rand(1) + torch.arange(count) / count) % 1
        timesteps = torch.searchsorted(cumulated, spread).clamp(max=len(drawn) - 1)
        noise = torch.randn(latents.shape).to(device)
        dropped = (torch.rand(count) < 0.1).to(device)
        states = torch.where(dropped[:, None, None], empty, states)
        if torch.rand(1) < dials.shortened:
            states = states[:, :longest]
        noisy = scheduler.add_noise(latents, noise, timesteps.to(device))
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        timesteps = timesteps.to(device)
        predicted = model(noisy, timesteps, states).sample
        error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        return (error * weight[timesteps]).mean(), {"mse": float(error.mean().detach())}

    model = networks.build_unet()
    hidden = [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and not name.startswith(("conv_in", "conv_out"))
    ]
    return fit("unet", folder, model, PoolBatches(pool, batch), loss_of, schedule, device,
               workers=0, seed=seed, initial=initial, compiled=(model,),
               by_muon=hidden)  # fmt: skip
