"""The stages of training: autoencoder, text encoder, U-Net. (The judge has its own module.)

Shown in: book/toybox.md
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPTokenizer

from t2i_lens.toybox import models
from t2i_lens.toybox.atlas import world_words
from t2i_lens.toybox.captions import caption, careless, twin
from t2i_lens.toybox.fit import Schedule, fast_precision, fit
from t2i_lens.toybox.pair import ContrastivePair, RecallingPair
from t2i_lens.toybox.world import Scene, render, sample_scene

WIDE_SHARE = 0.25  # of the contrastive pairs: one object from the wide nouns
TWIN_SHARE = 0.2  # of the contrastive draws: a scene and one that differs in one thing
LATENT_NOISE = 0.1  # the decoder learns to forgive what the U-Net gets slightly wrong
MIN_SNR_GAMMA = 5.0
SNR_FLOOR = 0.5  # what a caption decides is decided in noise that the plain weights neglect
RAREST, MOST = 0.15, 3.0  # least and greatest weight that is met by drawing a timestep more often
RECALL = 0.5  # weight of the loss that keeps words apart in the text states
SKETCHES_DRAWN = 3.0  # times as often as other scenes: they are an eighth, and the harder style
SIGNS_DRAWN = 0.5  # learned first
ALIGNMENT = 0.5  # weight of the loss that ties the U-Net's middle to the picture tower


def sample_named(rng: np.random.Generator) -> Scene:
    """A random scene, one in four of them a single object of the wide nouns."""
    if rng.random() < WIDE_SHARE:
        return sample_scene(rng, (1.0, 0.0, 0.0, 0.0), world_words()["wide_nouns"])
    return sample_scene(rng)


def pictures_batch(rng: np.random.Generator, batch: int) -> torch.Tensor:
    """Random scenes as uint8 ``[batch, 64, 64, 3]``; wide nouns too, so that nothing is foreign."""
    return torch.from_numpy(np.stack([render(sample_named(rng), rng) for _ in range(batch)]))


@dataclass(frozen=True)
class PictureBatches:
    """Callable for ``fit``: batches of pictures."""

    batch: int

    def __call__(self, rng: np.random.Generator) -> torch.Tensor:
        return pictures_batch(rng, self.batch)


def to_range(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 ``[batch, height, width, 3]`` to float ``[batch, 3, height, width]`` in [-1, 1]."""
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

    model = models.build_autoencoder()
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
    """Callable for ``fit``: pictures with token ids, padded to the longest caption of the batch."""

    batch: int
    tokenizer: CLIPTokenizer

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        scenes, captions = [], []
        while len(scenes) < self.batch:
            if rng.random() < TWIN_SHARE:  # said in full: what is left out could be the difference
                scene = sample_scene(rng)
                pair = [scene, twin(scene, rng)]
                captions += [caption(each, rng) for each in pair]
                scenes += pair
            else:
                scenes.append(sample_named(rng))
                captions.append(caption(careless(scenes[-1], rng), rng))
        pictures = torch.from_numpy(np.stack([render(s, rng) for s in scenes[: self.batch]]))
        texts = captions[: self.batch]
        ids = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids
        return pictures, ids


def train_text_encoder(
    folder: Path, tokenizer: CLIPTokenizer, schedule: Schedule, device: torch.device,
    initial: dict | None = None,
) -> ContrastivePair:  # fmt: skip
    """Contrastive training of both towers; only the text tower is shipped (frozen from here on)."""

    def loss_of(model: RecallingPair, batch):
        pictures, ids = (part.to(device) for part in batch)
        said, seen = model.text(ids), model.embed_pictures(pictures)
        text = model.project_text(said.pooler_output)
        logits = model.log_scale.exp().clamp(max=100) * text @ seen.T
        target = torch.arange(len(ids), device=device)
        loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        recall = model.recall_loss(said.last_hidden_state, ids)
        hit = (logits.argmax(1) == target).float().mean()
        figures = {"in_batch_accuracy": float(hit), "recall": float(recall.detach())}
        return loss / 2 + RECALL * recall, figures

    batches = CaptionedBatches(schedule.batch, tokenizer)
    pair = RecallingPair(len(tokenizer))
    if initial is not None:
        initial = pair.state_dict() | initial  # the heads of recall are not shipped
    return fit("text_encoder", folder, pair, batches, loss_of, schedule, device,
               initial=initial, compiled=(pair.pictures,))  # fmt: skip


def pool_scenes(size: int, seed: int) -> Iterator[tuple[np.random.Generator, list[Scene]]]:
    """The random scenes of a pool, 256 at a time, with the rng that goes on to render them."""
    for start in range(0, size, 256):
        rng = np.random.default_rng([seed, start])
        yield rng, [sample_scene(rng) for _ in range(min(256, size - start))]


def pool_odds(size: int, seed: int) -> np.ndarray:
    """How likely each scene of a pool is drawn, ``[size]``, sum 1: sketches often, signs seldom."""
    scenes = (scene for _, some in pool_scenes(size, seed) for scene in some)
    weights = np.array([_odds(scene) for scene in scenes])
    return weights / weights.sum()


def _odds(scene: Scene) -> float:
    if scene.style == "sketch":
        return SKETCHES_DRAWN
    return SIGNS_DRAWN if any(thing.word for thing in scene.things) else 1.0


@torch.no_grad()
def encode_pool(
    size: int, seed: int, vae: AutoencoderTiny, pair: ContrastivePair, tokenizer: CLIPTokenizer,
    device: torch.device,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Latents, text states and picture features of random captioned scenes, for many epochs.

    Returns:
        Latents fp16 ``[size, 4, 16, 16]`` (scaled), text states fp16 ``[size, 77, width]``, the
        picture tower's features fp16 ``[size, 64, width]``.
    """
    parts = []
    progress = tqdm(total=size, desc="latents and text states", mininterval=10)
    for rng, scenes in pool_scenes(size, seed):
        pictures = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes])).to(device)
        captions = [caption(scene, rng) for scene in scenes]
        ids = tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        with fast_precision(device):
            latents = vae.encoder(to_range(pictures)).mul(vae.config.scaling_factor)
            features = pair.pictures(pictures)
        states = pair.text(ids.to(device)).last_hidden_state
        parts.append([part.half().cpu() for part in (latents, states, features)])
        progress.update(len(scenes))
    progress.close()
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


@dataclass(frozen=True)
class PoolBatches:
    """Callable for ``fit``: random members of a pool, each as likely as its ``odds [size]``."""

    pool: tuple[torch.Tensor, ...]
    odds: np.ndarray
    batch: int

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        rows = torch.from_numpy(rng.choice(len(self.odds), self.batch, p=self.odds))
        return tuple(part[rows].float() for part in self.pool)


class AlignedUNet(nn.Module):
    """The U-Net with a head that guesses the picture tower's features from its 8x8 middle.

    Features that already know what is where shorten the training (REPA, Yu et al. 2024; for
    U-Nets, the middle is the place: U-REPA, Tian et al. 2025). The head is not shipped.
    """

    def __init__(self):
        super().__init__()
        self.unet = models.build_unet()
        width = self.unet.config.block_out_channels[-1]
        self.head = nn.Sequential(
            nn.Linear(width, 256), nn.SiLU(), nn.Linear(256, models.PICTURE_WIDTH)
        )
        self.middle: list[torch.Tensor] = []
        self.unet.up_blocks[0].register_forward_hook(lambda *call: self.middle.append(call[-1]))

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted noise ``[batch, 4, 16, 16]`` and features ``[batch, 64, width]``."""
        self.middle.clear()
        predicted = self.unet(noisy, timesteps, states).sample
        return predicted, self.head(self.middle.pop().flatten(2).transpose(1, 2))


def train_unet(
    folder: Path, pool: tuple[torch.Tensor, ...], odds: np.ndarray, empty: torch.Tensor,
    schedule: Schedule, device: torch.device, initial: dict | None = None,
) -> UNet2DConditionModel:  # fmt: skip
    """Epsilon prediction with min-SNR weights and a floor, 10 % caption drop-out, ``AlignedUNet``.

    Muon trains all of the U-Net's matrices and kernels but those of its first and last layer.

    Args:
        pool: From ``encode_pool``.
        odds: From ``pool_odds``.
        empty: Text states of the empty caption ``[77, width]``.
    """
    scheduler = models.build_scheduler()
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    # Of the error of the picture; of the noise's error it is that by the SNR.
    weight = snr.clamp(SNR_FLOOR, MIN_SNR_GAMMA) / snr
    # Timesteps that hardly count are drawn less often, and count for more when they are; those
    # that count most the other way round: the same objective with less work and less noise.
    drawn = weight.clamp(RAREST, MOST)
    drawn = drawn / drawn.sum()
    cumulated, weight = drawn.cumsum(0), (weight / drawn / len(drawn)).to(device)
    empty = empty.to(device)

    def loss_of(model: AlignedUNet, batch):
        latents, states, features = (part.to(device) for part in batch)
        count = len(latents)
        # Stratified timesteps: every batch covers the whole schedule, so its loss is less noisy.
        spread = (torch.rand(1) + torch.arange(count) / count) % 1
        timesteps = torch.searchsorted(cumulated, spread).clamp(max=len(drawn) - 1)
        noise = torch.randn(latents.shape).to(device)
        dropped = (torch.rand(count) < 0.1).to(device)
        states = torch.where(dropped[:, None, None], empty, states)
        noisy = scheduler.add_noise(latents, noise, timesteps.to(device))
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        timesteps = timesteps.to(device)
        predicted, guessed = model(noisy, timesteps, states)
        error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        apart = 1 - functional.cosine_similarity(guessed.float(), features, dim=-1)
        # Without its caption nobody can guess what a noisy picture shows.
        apart = (apart.mean(1) * ~dropped).mean()
        figures = {"mse": float(error.mean().detach()), "apart": float(apart.detach())}
        return (error * weight[timesteps]).mean() + alignment * apart, figures

    # It helps at the beginning; later it competes.
    alignment = ALIGNMENT if initial is None else 0.0
    model = AlignedUNet()
    if initial is not None:
        model.unet.load_state_dict(initial)
    batches = PoolBatches(pool, odds, schedule.batch)
    hidden = [
        weight
        for name, weight in model.unet.named_parameters()
        if weight.ndim > 1 and not name.startswith(("conv_in", "conv_out"))
    ]
    model = fit("unet", folder, model, batches, loss_of, schedule, device, workers=0,
                compiled=(model,), by_muon=hidden)  # fmt: skip
    return model.unet
