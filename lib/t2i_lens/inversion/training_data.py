"""Training data of textual inversion: configuration, templates and random draws."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from t2i_lens.base.files import seed_of
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.probes.hookable import execution_device

IMAGENET_TEMPLATES_SMALL = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
# For what pictures of different objects have in common; only words that the toybox's captions use.
STYLE_TEMPLATES = (
    "a picture in the style of {}",
    "a photo in the style of {}",
    "a rendering in the style of {}",
    "a rendition in the style of {}",
    "a cropped photo in the style of {}",
    "a close-up photo in the style of {}",
    "a bright photo in the style of {}",
    "a dark photo in the style of {}",
    "a good photo in the style of {}",
    "the photo in the style of {}",
)
REPEATS = 100  # an epoch shows each picture this often, shuffled, as in the script

# Latents of every picture as it is [0], and mirrored [1].
PicturePair = Float[Tensor, "2 picture channel latent_height latent_width"]


@dataclass(frozen=True)
class InversionConfig:
    """Parameters of training.

    Attributes:
        steps: Optimiser steps.
        learning_rate: The rate the optimiser gets; the script's `--scale_lr` is not applied.
        batch_size: Pictures per concept and step.
        num_vectors: Rows per placeholder, all started at the initializer's.
        weight_decay: AdamW's decoupled decay; in SGD, where the two are the same, L2's.
        seed: Together with the concept's name, fixes order, noise and timesteps.
        templates: Sentences with `{}` for the placeholder, for pictures without a caption.
        flip_probability: Of mirroring a picture.
        record_every: Steps between two records of the trajectory.
        bfloat16: Forward pass in bfloat16 autocast; rows and optimiser stay float32. Pays
            on a GPU and on a processor with matrix tiles; others are faster in float32.
        optimizer: "sgd" has the momentum below.
        momentum: Of SGD; a lasting gradient then moves a row by lr / (1 - momentum) per step.
        l1_penalty: Weight of Σ|e| over a run's rows, added to what is minimised.
        l2_penalty: Weight of Σe², likewise.
        fixed_norm: Only the direction is learned: the gradient's part along a row is taken out,
            and after each step the row gets back the norm that it started with.
        relative: The row is its start plus a learned difference, and decay shortens only that.
        half_rows: Rows are rounded to float16 after each step, as in training in half precision.
    """

    steps: int
    learning_rate: float
    batch_size: int
    num_vectors: int = 1
    weight_decay: float = 1e-2
    seed: int = 0
    templates: tuple[str, ...] = IMAGENET_TEMPLATES_SMALL
    flip_probability: float = 0.5
    record_every: int = 10
    bfloat16: bool = False
    optimizer: Literal["adamw", "sgd"] = "adamw"
    l1_penalty: float = 0.0
    l2_penalty: float = 0.0
    fixed_norm: bool = False
    momentum: float = 0.0
    relative: bool = False
    half_rows: bool = False


class Draws(Iterator):
    """The random stream of one concept: latents, noise, timesteps, numbers of `sentences`."""

    def __init__(
        self, pipe: StableDiffusionPipeline, concept: Concept, config: InversionConfig, times: int
    ):
        seed = seed_of(f"{config.seed}:{concept.name}")
        self.generator = torch.Generator().manual_seed(seed)
        self.config, self.times = config, times
        captions = concept.captions or (None,) * len(concept.images)
        number = iter(range(len(config.templates), len(sentences(concept, config))))
        numbers = [-1 if caption is None else next(number) for caption in captions]
        self.sentence = torch.tensor(numbers)
        self.mean, self.std = encoded_pictures(pipe, concept)
        self.epoch = torch.empty(0, dtype=torch.long)

    def __next__(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, generator = self.config.batch_size, self.generator
        pictures = self.mean.shape[1]
        while len(self.epoch) < count:
            shuffled = torch.randperm(pictures * REPEATS, generator=generator) % pictures
            self.epoch = torch.cat([self.epoch, shuffled])
        chosen, self.epoch = self.epoch[:count], self.epoch[count:]
        mirrored = (torch.rand(count, generator=generator) < self.config.flip_probability).long()
        latents = self.mean[mirrored, chosen]
        if self.std is not None:
            spread = torch.randn(latents.shape, generator=generator)
            latents = latents + self.std[mirrored, chosen] * spread
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(self.times, (count,), generator=generator)
        # A captioned picture does not use its draw, so the stream is the same with and without.
        drawn = torch.randint(max(1, len(self.config.templates)), (count,), generator=generator)
        caption_numbers = self.sentence[chosen]
        return latents, noise, timesteps, torch.where(caption_numbers < 0, drawn, caption_numbers)


def sentences(concept: Concept, config: InversionConfig) -> tuple[str, ...]:
    """Training sentences of a concept: the templates, then the captions in their pictures' order.

    Raises:
        ValueError: captions and pictures differ in number, or a picture has neither.
    """
    captions = concept.captions or (None,) * len(concept.images)
    if len(captions) != len(concept.images):
        raise ValueError(
            f"{concept.name!r} has {len(concept.images)} pictures and {len(captions)} captions: "
            "give each picture one, or None"
        )
    if None in captions and not config.templates:
        raise ValueError(f"{concept.name!r} has pictures without a caption: give templates too")
    return (*config.templates, *(caption for caption in captions if caption is not None))


@torch.no_grad()
def encoded_pictures(
    pipe: StableDiffusionPipeline, concept: Concept
) -> tuple[PicturePair, PicturePair | None]:
    """Scaled latents of the pictures and their mirror images: mean, and spread if random."""
    native, factor = pipe.unet.config.sample_size, pipe.vae_scale_factor
    tall, wide = (native, native) if isinstance(native, int) else native
    images, size = concept.images, (wide * factor, tall * factor)
    if images.shape[1:3] != size[::-1]:
        sized = [Image.fromarray(i).resize(size, Image.Resampling.BICUBIC) for i in images]
        images = np.stack([np.asarray(image) for image in sized])
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2) / 127.5 - 1
    means, spreads = [], []
    device = execution_device(pipe.vae)
    for picture in torch.cat([pixels, pixels.flip(-1)]).to(device, pipe.vae.dtype):
        encoded = pipe.vae.encode(picture[None])
        if hasattr(encoded, "latent_dist"):
            means.append(encoded.latent_dist.mean)
            spreads.append(encoded.latent_dist.std)
        else:
            means.append(encoded.latents)  # the tiny autoencoder has no posterior
    scaled = [
        (torch.cat(part).float().cpu() * pipe.vae.config.scaling_factor).unflatten(0, (2, -1))
        for part in (means, spreads)
        if part
    ]
    return scaled[0], scaled[1] if spreads else None


def template_rows(
    pipe: StableDiffusionPipeline, templates: Sequence[str], num_vectors: int
) -> tuple[Tensor, Tensor]:
    """Ids of all templates, and where their placeholder starts.

    The tokenizer splits a text at an added token and treats both sides apart, so the ids
    around a placeholder can be had without adding it.
    """
    tokenizer, ids, starts = pipe.tokenizer, [], []
    length = tokenizer.model_max_length
    for template in templates:
        prefix, suffix = (
            tokenizer(side, add_special_tokens=False).input_ids for side in template.split("{}")
        )
        held = [tokenizer.eos_token_id] * num_vectors  # replaced before it is read
        row = [tokenizer.bos_token_id, *prefix, *held, *suffix, tokenizer.eos_token_id]
        if len(row) > length:
            raise ValueError(f"{template!r} with {num_vectors} vectors exceeds {length} ids")
        ids.append(row + [tokenizer.pad_token_id] * (length - len(row)))
        starts.append(1 + len(prefix))
    device = pipe.text_encoder.device
    return torch.tensor(ids, device=device), torch.tensor(starts, device=device)
