"""Textual inversion as in the diffusers example, without shortcuts: the baseline of `bench`.

Every step encodes its pictures, tokenizes its captions, back-propagates into the whole embedding
table, lets AdamW update the whole table and then restores all other rows.

Source: Gal et al. 2022, and the behaviour of diffusers' `textual_inversion.py`.
"""

from contextlib import contextmanager

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from t2i_lens.inversion.embeddings import Concept
from t2i_lens.inversion.training_data import REPEATS, InversionConfig
from t2i_lens.models.tokens import add_placeholder


class _Pictures(Dataset):
    """The training pictures, repeated; mirrored, resized, captioned and tokenized one by one."""

    def __init__(self, pipe: StableDiffusionPipeline, concept: Concept, config: InversionConfig):
        self.pipe, self.concept, self.config = pipe, concept, config
        self.side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        self.random = np.random.default_rng(config.seed)

    def __len__(self) -> int:
        return len(self.concept.images) * REPEATS

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        template = self.config.templates[self.random.integers(len(self.config.templates))]
        ids = self.pipe.tokenizer(
            template.format(self.concept.placeholder_token), padding="max_length", truncation=True,
            return_tensors="pt",
        ).input_ids[0]  # fmt: skip
        image = Image.fromarray(self.concept.images[item % len(self.concept.images)])
        image = image.resize((self.side, self.side), Image.Resampling.BICUBIC)
        if self.random.random() < self.config.flip_probability:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.asarray(image) / 127.5 - 1).permute(2, 0, 1).float()
        return {"pixel_values": pixels, "input_ids": ids}


def train_plainly(
    pipe: StableDiffusionPipeline, concept: Concept, config: InversionConfig
) -> torch.Tensor:
    """Trains the placeholder of one concept in the pipeline given; one vector, float32.

    Returns:
        Its row, [1, d_model]. The placeholder stays in the pipeline.

    Raises:
        ValueError: the pipeline has the placeholder already.
    """
    (placeholder,) = add_placeholder(pipe, concept.placeholder_token, 1)
    table = pipe.text_encoder.get_input_embeddings()
    (start,) = pipe.tokenizer(concept.initializer_token, add_special_tokens=False).input_ids
    with torch.no_grad():
        table.weight[placeholder] = table.weight[start]
    original = table.weight.detach().clone()
    others = torch.arange(len(original)) != placeholder
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    with _only_table_trains(pipe):
        optimizer = torch.optim.AdamW(
            table.parameters(), lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8,
            weight_decay=config.weight_decay,
        )  # fmt: skip
        data = DataLoader(_Pictures(pipe, concept, config), config.batch_size, shuffle=True)
        step = 0
        while step < config.steps:
            for batch in data:
                with torch.no_grad():
                    encoded = pipe.vae.encode(batch["pixel_values"])
                latents = (
                    encoded.latent_dist.sample()
                    if hasattr(encoded, "latent_dist")
                    else encoded.latents
                )
                latents = latents * pipe.vae.config.scaling_factor
                noise = torch.randn_like(latents)
                times = torch.randint(scheduler.config.num_train_timesteps, (len(latents),))
                noisy = scheduler.add_noise(latents, noise, times)
                states = pipe.text_encoder(batch["input_ids"])[0]
                loss = functional.mse_loss(pipe.unet(noisy, times, states).sample, noise)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                with torch.no_grad():
                    table.weight[others] = original[others]
                step += 1
                if step == config.steps:
                    break
    return table.weight[placeholder].detach().clone()[None]


@contextmanager
def _only_table_trains(pipe: StableDiffusionPipeline):
    """Every weight frozen but the token embeddings; as it was afterwards."""
    parameters = [p for m in (pipe.vae, pipe.unet, pipe.text_encoder) for p in m.parameters()]
    before = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        pipe.text_encoder.get_input_embeddings().weight.requires_grad_(True)
        yield
    finally:
        for parameter, trained in zip(parameters, before, strict=True):
            parameter.requires_grad_(trained)
