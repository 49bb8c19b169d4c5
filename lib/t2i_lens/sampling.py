"""Pictures for prompts × seeds, comparable across prompts: same seed, same latents."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from t2i_lens.shapes import ImageGrid, Latents, Pooled, TextStates
from t2i_lens.tokens import encode_with, text_towers

SAMPLED = (StableDiffusionPipeline, StableDiffusionXLPipeline)


def initial_latents(
    pipe: DiffusionPipeline,
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
    pipe: DiffusionPipeline, prompts: Sequence[str], batch_size: int = 64
) -> TextStates:
    """Text-encoder output for each prompt, multi-vector placeholders expanded.

    Of SDXL: the states before the last layer of both encoders, side by side.

    Raises: ValueError: a prompt is too long (see `tokens.encode`).
    """
    return _encoded(pipe, prompts, batch_size)[0]


def _encoded(
    pipe: DiffusionPipeline, prompts: Sequence[str], batch_size: int = 64
) -> tuple[TextStates, Pooled | None]:
    """`text_states`, and SDXL's pooled text."""
    towers, both = [], isinstance(pipe, StableDiffusionXLPipeline)
    for tokenizer, encoder in text_towers(pipe):
        ids = torch.tensor([encode_with(tokenizer, prompt).ids for prompt in prompts])
        chunks = ids.to(encoder.device).split(batch_size)
        towers.append([encoder(chunk, output_hidden_states=both) for chunk in chunks])
    if not both:
        return torch.cat([output.last_hidden_state for output in towers[0]]), None
    states = [torch.cat([output.hidden_states[-2] for output in some]) for some in towers]
    pooled = torch.cat([output.text_embeds for output in towers[-1]])
    return torch.cat(states, dim=-1), pooled


@torch.no_grad()
def generate(
    pipe: DiffusionPipeline,
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
        pipe: Stable Diffusion 1, 2 or XL.
        prompts: Texts; the unconditional half is the empty prompt (in SDXL, where its
            configuration says so, zeros).
        seeds: Seeds of the initial latents, nothing else is random.
        guidance_scale: Classifier-free guidance; 1 or less switches it off.
        batch_size: Pictures denoised together; costs memory, changes no result.
    Returns: Bytes 0..255, [prompt, seed, height, width, 3].
    Raises: ValueError: no prompt, no seed, or a prompt that is too long.
    """
    if not prompts or not seeds:
        raise ValueError("generate needs at least one prompt and one seed")
    if not isinstance(pipe, SAMPLED):
        kind = type(pipe).__name__
        raise ValueError(f"generate draws with Stable Diffusion 1, 2 and XL, not {kind}")
    unique = list(dict.fromkeys(["", *prompts]))
    encoded, pooled = _encoded(pipe, unique)
    if pooled is not None and pipe.config.force_zeros_for_empty_prompt:
        encoded[0], pooled[0] = 0, 0
    states = dict(zip(unique, encoded, strict=True))
    latents = initial_latents(pipe, seeds)
    jobs = [(prompt, column) for prompt in prompts for column in range(len(seeds))]
    pictures = []
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        extra = {}
        if pooled is not None:
            rows = [unique.index(prompt) for prompt, _ in batch]
            extra = {
                "pooled_prompt_embeds": pooled[rows],
                "negative_pooled_prompt_embeds": pooled[[0] * len(batch)],
            }
        images = pipe(
            prompt_embeds=torch.stack([states[prompt] for prompt, _ in batch]),
            negative_prompt_embeds=states[""].expand(len(batch), -1, -1),
            latents=latents[[column for _, column in batch]],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            output_type="np",
            **extra,
        ).images
        pictures.append(np.round(images * 255).astype(np.uint8))
    flat = np.concatenate(pictures)
    return flat.reshape(len(prompts), len(seeds), *flat.shape[1:])
