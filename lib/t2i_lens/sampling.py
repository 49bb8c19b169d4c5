"""Pictures for prompts × seeds, comparable across prompts: same seed, same latents."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from t2i_lens.shapes import ImageGrid, Latents, TextStates
from t2i_lens.tokens import encode


def initial_latents(
    pipe: StableDiffusionPipeline,
    seeds: Sequence[int],
    height: int | None = None,
    width: int | None = None,
) -> Latents:
    """Unit Gaussian latents, each from a fresh CPU generator seeded with its seed alone.

    So a seed means the same latents on every device, in every batch, for every prompt.

    Args:
        seeds: One per image.
        height: Of the picture in pixels; the model's own if None.
        width: As height.
    """
    factor, native = pipe.vae_scale_factor, pipe.unet.config.sample_size
    shape = (
        pipe.unet.config.in_channels,
        height // factor if height else native,
        width // factor if width else native,
    )
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(device=pipe.unet.device, dtype=pipe.unet.dtype)


@torch.no_grad()
def text_states(
    pipe: StableDiffusionPipeline, prompts: Sequence[str], batch_size: int = 64
) -> TextStates:
    """Text-encoder output for each prompt, multi-vector placeholders expanded.

    Raises: ValueError: a prompt is too long (see `tokens.encode`).
    """
    ids = torch.tensor([encode(pipe, prompt).ids for prompt in prompts])
    encoder = pipe.text_encoder
    chunks = ids.to(encoder.device).split(batch_size)
    return torch.cat([encoder(chunk).last_hidden_state for chunk in chunks])


@torch.no_grad()
def generate(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    num_inference_steps: int = 25,
    guidance_scale: float = 7.5,
    batch_size: int = 16,
) -> ImageGrid:
    """One picture for each prompt and seed, with the pipeline's scheduler and eta 0.

    All prompts of one seed start from the same latents. A picture does not depend on
    what else is in its batch, up to floating-point noise (at most one grey level).

    Args:
        prompts: Texts; the unconditional half is the empty prompt.
        seeds: Seeds of the initial latents, nothing else is random.
        guidance_scale: Classifier-free guidance; 1 or less switches it off.
        batch_size: Pictures denoised together; costs memory, changes no result.
    Returns: Bytes 0..255, [prompt, seed, height, width, 3].
    Raises: ValueError: no prompt, no seed, or a prompt that is too long.
    """
    if not prompts or not seeds:
        raise ValueError("generate needs at least one prompt and one seed")
    unique = list(dict.fromkeys(["", *prompts]))
    states = dict(zip(unique, text_states(pipe, unique), strict=True))
    latents = initial_latents(pipe, seeds)
    jobs = [(prompt, column) for prompt in prompts for column in range(len(seeds))]
    pictures = []
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        images = pipe(
            prompt_embeds=torch.stack([states[prompt] for prompt, _ in batch]),
            negative_prompt_embeds=states[""].expand(len(batch), -1, -1),
            latents=latents[[column for _, column in batch]],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            output_type="np",
        ).images
        pictures.append(np.round(images * 255).astype(np.uint8))
    flat = np.concatenate(pictures)
    return flat.reshape(len(prompts), len(seeds), *flat.shape[1:])
