"""Sampling of pictures for prompts × seeds; one seed means the same latents for every prompt."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from t2i_lens.base.shapes import ImageGrid, Latents, Pooled, TextStates
from t2i_lens.models.tokens import encode, encode_with, text_towers
from t2i_lens.probes.cross_attention import Recorder
from t2i_lens.probes.edits import Edit
from t2i_lens.probes.hookable import execution_device
from t2i_lens.probes.text_encoder_hooks import edited_text_encoder
from t2i_lens.probes.unet_hooks import edited_cross_attention, unet_of

SAMPLED = (StableDiffusionPipeline, StableDiffusionXLPipeline)


def require(pipe, kinds: type | tuple[type, ...], requirement: str) -> None:
    """Refuses pipelines of other classes in one line.

    Args:
        requirement: What is done with which of them.

    Raises:
        ValueError: the pipeline is of none of the kinds.
    """
    if not isinstance(pipe, kinds):
        raise ValueError(f"{requirement}, not {type(pipe).__name__}")


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

    Raises:
        ValueError: a side below one latent, or a seed that no generator takes.
    """
    unet = unet_of(pipe)
    factor, native = pipe.vae_scale_factor, unet.config.sample_size
    tall, wide = (native, native) if isinstance(native, int) else native
    if any(side is not None and side < factor for side in (height, width)):
        raise ValueError(f"{height} by {width} pixels: a side has at least {factor}")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**64]:
        raise ValueError(f"seed {wrong[0]} is not from 0 to 2**64 - 1")
    shape = (
        unet.config.in_channels,
        height // factor if height else tall,
        width // factor if width else wide,
    )
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(device=execution_device(unet), dtype=unet.dtype)


@torch.no_grad()
def text_states(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    batch_size: int = 64,
    *,
    edits: Sequence[Sequence[Edit]] | None = None,
) -> TextStates:
    """Text-encoder output for each prompt, multi-vector placeholders expanded.

    Of SDXL: the states before the last layer of both encoders, side by side.

    Args:
        edits: A list for each prompt; those for the U-Net are passed over.

    Raises:
        ValueError: a prompt is too long (see `tokens.encode`), or as the edits do.
    """
    return _encoded(pipe, prompts, batch_size, edits)[0]


def _encoded(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    batch_size: int = 64,
    edits: Sequence[Sequence[Edit]] | None = None,
) -> tuple[TextStates, Pooled | None]:
    """`text_states`, and SDXL's pooled text."""
    _check_edits(edits, prompts)
    towers, is_xl = [], isinstance(pipe, StableDiffusionXLPipeline)
    if is_xl and any(not set(e.stages) <= {"key", "value"} for e in chain(*(edits or ()))):
        raise ValueError("which of SDXL's two text encoders an edit is for cannot be said")
    for tokenizer, encoder in text_towers(pipe):
        ids = torch.tensor([encode_with(tokenizer, prompt).ids for prompt in prompts])
        towers.append([])
        for start in range(0, len(ids), batch_size):
            batch = slice(start, start + batch_size)
            edited = edited_text_encoder(encoder, edits[batch]) if edits else nullcontext()
            with edited:
                chunk = ids[batch].to(execution_device(encoder))
                towers[-1].append(encoder(chunk, output_hidden_states=is_xl))
    if not is_xl:
        return torch.cat([output.last_hidden_state for output in towers[0]]), None
    states = [torch.cat([output.hidden_states[-2] for output in tower]) for tower in towers]
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
    edits: Sequence[Sequence[Edit]] | None = None,
    recorder: Recorder | None = None,
    height: int | None = None,
    width: int | None = None,
) -> ImageGrid:
    """One picture for each prompt and seed, with the pipeline's scheduler and eta 0.

    All prompts of one seed start from the same latents. A picture does not depend on
    what else is in its batch, up to floating-point noise (at most one grey level).

    Args:
        pipe: Stable Diffusion 1, 2 or XL.
        prompts: Texts; the unconditional half is the empty prompt (in SDXL, where its
            configuration says so, zeros), which is not edited except by an `Inject` that says
            so.
        seeds: Seeds of the initial latents, nothing else is random.
        guidance_scale: Classifier-free guidance; 1 or less switches it off.
        batch_size: Pictures denoised together; costs memory, changes no result.
        edits: A list for each prompt: the same prompt may stand there many times, each time
            with edits of its own, and all are drawn in the same batches.
        recorder: From `cross_attention.record`; its samples are prompts x seeds, seeds fastest.
        height: Of the pictures in pixels; the model's own if None.
        width: As height.

    Returns:
        Bytes 0..255, [prompt, seed, height, width, 3].

    Raises:
        ValueError: no prompt, no seed, no step, a prompt that is too long, numbers that are not
            finite, or as `initial_latents` and the edits do.
    """
    if not prompts or not seeds:
        raise ValueError("generate needs at least one prompt and one seed")
    if num_inference_steps < 1 or batch_size < 1 or not math.isfinite(guidance_scale):
        raise ValueError("generate needs a step, a batch of one picture, and a finite guidance")
    require(pipe, SAMPLED, "generate draws with Stable Diffusion 1, 2 and XL")
    _check_edits(edits, prompts)
    arms = list(zip(prompts, map(tuple, edits or [()] * len(prompts)), strict=True))
    unique = list(dict.fromkeys([("", ()), *arms]))
    encoded, pooled = _encoded(pipe, [p for p, _ in unique], edits=[e for _, e in unique])
    if pooled is not None and pipe.config.force_zeros_for_empty_prompt:
        encoded[0], pooled[0] = 0, 0
    states = dict(zip(unique, encoded, strict=True))
    latents = initial_latents(pipe, seeds, height, width)
    # Said outright, since pipelines do not all expect a U-Net that states its size as a pair.
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    jobs = [(arm, column) for arm in arms for column in range(len(seeds))]
    pictures = []
    for start in range(0, len(jobs), batch_size):
        batch, text_summary = jobs[start : start + batch_size], {}
        if pooled is not None:
            text_summary = {
                "pooled_prompt_embeds": pooled[[unique.index(arm) for arm, _ in batch]],
                "negative_pooled_prompt_embeds": pooled[[0] * len(batch)],
            }
        if recorder:
            rows = [encode(pipe, prompt) for (prompt, _), _ in batch]
            recorder.begin(rows, [seeds[column] for _, column in batch])
        with edited_cross_attention(pipe, [arm[1] for arm, _ in batch]):
            images = pipe(
                prompt_embeds=torch.stack([states[arm] for arm, _ in batch]),
                negative_prompt_embeds=states["", ()].expand(len(batch), -1, -1),
                latents=latents[[column for _, column in batch]],
                height=height,
                width=width,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                output_type="np",
                **text_summary,
            ).images
        if not np.isfinite(images).all():
            raise ValueError(f"the pictures are not finite numbers in {pipe.unet.dtype}")
        pictures.append(np.round(images * 255).astype(np.uint8))
    flat = np.concatenate(pictures)
    return flat.reshape(len(prompts), len(seeds), *flat.shape[1:])


def _check_edits(edits: Sequence[Sequence[Edit]] | None, prompts: Sequence[str]) -> None:
    if edits is not None and len(edits) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many lists of edits, not {len(edits)}")
