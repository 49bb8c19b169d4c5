"""Textual inversion: learn the embedding rows of a new word, everything else frozen.

The recipe is that of diffusers' example script: rows start at the initializer token's
row, AdamW at a constant rate, uniform timesteps, one random template per sample, mean
squared error of the predicted noise (Gal et al., arXiv 2208.01618). Three things make it
quick without changing its gradient: only the placeholder's own rows are parameters, put in
place of the table's output; pictures are encoded to latents once; and several concepts
share one U-Net batch. The rows are independent under Adam, and each concept draws from
its own generator, so what else is trained beside it does not matter.
"""

import hashlib
import importlib.metadata
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import pandas as pd
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from t2i_lens.embeddings import Concept, Inversion, attach, load, load_concepts, save
from t2i_lens.inversion_data import Draws, InversionConfig, template_rows
from t2i_lens.shapes import TextStates, TokenIds

__all__ = [
    "Concept",
    "Inversion",
    "InversionConfig",
    "attach",
    "load",
    "load_concepts",
    "save",
    "text_states_with_rows",
    "train",
]

TIMED_STEPS = 5  # after a first one that warms up


def train(
    pipe: StableDiffusionPipeline,
    concepts: Sequence[Concept],
    config: InversionConfig,
    progress: bool = True,
    fingerprint: str | None = None,
) -> list[Inversion]:
    """Trains one placeholder per concept, all in one batch; the pipeline is left as it was.

    Args:
        fingerprint: Names the model in the provenance; see `profiles.fingerprint`.
    Returns: In the order of the concepts; `attach` puts one into a pipeline.
    Raises: ValueError: no or repeated concepts, an initializer of several tokens, or a
        template that does not fit.
    """
    if not concepts or len({c.name for c in concepts}) < len(concepts):
        raise ValueError("train needs at least one concept, and each only once")
    device, scheduler = pipe.unet.device, DDPMScheduler.from_config(pipe.scheduler.config)
    templates = template_rows(pipe, config)
    initial = torch.stack([_initial_rows(pipe, c, config.num_vectors) for c in concepts])
    rows = torch.nn.Parameter(initial.clone())
    optimizer = torch.optim.AdamW(
        [rows], lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8,
        weight_decay=config.weight_decay,
    )  # fmt: skip
    records, losses = [(0, initial.cpu(), torch.full((len(concepts),), torch.nan))], []
    with _frozen(pipe, config), tqdm(range(config.steps), "inversion", disable=not progress) as bar:
        draws = [Draws(pipe, c, config, scheduler.config.num_train_timesteps) for c in concepts]
        for step in bar:
            if step == 1:
                began = time.perf_counter()
            if step == 1 + TIMED_STEPS and progress:
                minutes = (time.perf_counter() - began) / TIMED_STEPS * config.steps / 60
                tqdm.write(f"{len(concepts)} concepts, {config.steps} steps: {minutes:.1f} min")
            batch = (torch.cat(part).to(device) for part in zip(*map(next, draws), strict=True))
            loss = _losses(pipe, scheduler, config, rows, templates, tuple(batch))
            optimizer.zero_grad()
            loss.sum().backward()  # a sum: each row's gradient is what it would be alone
            optimizer.step()
            losses.append(loss.detach())
            if (step + 1) % config.record_every == 0 or step + 1 == config.steps:
                mean = torch.stack(losses).mean(0).cpu()
                records.append((step + 1, rows.detach().cpu().clone(), mean))
                bar.set_postfix(loss=f"{mean.mean():.3f}", norm=f"{rows.norm(dim=-1).mean():.2f}")
                losses.clear()
    return [_inversion(c, i, records, config, fingerprint) for i, c in enumerate(concepts)]


def text_states_with_rows(
    pipe: StableDiffusionPipeline, ids: TokenIds, starts: Tensor, rows: Tensor
) -> TextStates:
    """Text-encoder output with given embeddings in place of the table's; differentiable.

    Args:
        ids: What the encoder is fed; the ids at the replaced positions do not matter.
        starts: First replaced position of each sequence, int [batch].
        rows: Embeddings to put there, [batch, vector, d_model].
    """
    sequence = torch.arange(len(ids), device=ids.device)[:, None]
    places = starts[:, None] + torch.arange(rows.shape[1], device=ids.device)
    encoder = pipe.text_encoder

    def replaced(module: torch.nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output.index_put((sequence, places), rows.to(output.dtype))

    handle = encoder.get_input_embeddings().register_forward_hook(replaced)
    try:
        return encoder(ids).last_hidden_state
    finally:
        handle.remove()


def _losses(
    pipe: StableDiffusionPipeline,
    scheduler: DDPMScheduler,
    config: InversionConfig,
    rows: Tensor,
    templates: tuple[Tensor, Tensor],
    batch: tuple[Tensor, ...],
) -> Tensor:
    """Mean squared error of each concept's samples, [concept]; rows [concept, vector, d_model]."""
    ids, starts = templates
    latents, noise, timesteps, chosen = batch
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=config.bfloat16):
        per_sample = rows.repeat_interleave(config.batch_size, dim=0)
        states = text_states_with_rows(pipe, ids[chosen], starts[chosen], per_sample)
        noisy = scheduler.add_noise(latents, noise, timesteps).to(pipe.unet.dtype)
        predicted = pipe.unet(noisy, timesteps, states).sample
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    errors = (predicted.float() - target).square().flatten(1).mean(1)
    return errors.view(len(rows), config.batch_size).mean(1)


def _initial_rows(pipe: StableDiffusionPipeline, concept: Concept, num_vectors: int) -> Tensor:
    token = pipe.tokenizer(concept.initializer_token, add_special_tokens=False).input_ids
    if len(token) != 1:
        word = concept.initializer_token
        raise ValueError(f"initializer {word!r} is {len(token)} tokens, choose a word that is one")
    row = pipe.text_encoder.get_input_embeddings().weight[token[0]].detach().float()
    return row.expand(num_vectors, -1)


@contextmanager
def _frozen(pipe: StableDiffusionPipeline, config: InversionConfig) -> Iterator[None]:
    """No weight has a gradient inside, no layer is in training mode.

    Fused attention's backward pass in bfloat16 is slow on a CPU, so attention is eager there;
    in float32 the two take the same time.
    """
    models = (pipe.text_encoder, pipe.unet, pipe.vae)
    trained = [p for model in models for p in model.parameters() if p.requires_grad]
    modes = [(m, m.training) for model in models for m in model.modules()]
    processors = dict(pipe.unet.attn_processors)
    text_attention = pipe.text_encoder.config._attn_implementation
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        for model in models:
            model.eval()
        if config.bfloat16 and pipe.unet.device.type == "cpu":
            pipe.unet.set_attn_processor(AttnProcessor())
            pipe.text_encoder.set_attn_implementation("eager")
        yield
    finally:
        pipe.text_encoder.set_attn_implementation(text_attention)
        pipe.unet.set_attn_processor(processors)
        for module, mode in modes:
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def _inversion(
    concept: Concept, place: int, records: list, config: InversionConfig, fingerprint: str | None
) -> Inversion:
    final, initial = records[-1][1][place], records[0][1][place]
    rows = [
        {
            "step": step,
            "index": index,
            "vector": vector.numpy(),
            "norm": float(vector.norm()),
            "loss": float(loss[place]),
            "cosine_to_initial": float(functional.cosine_similarity(vector, initial[index], 0)),
            "cosine_to_final": float(functional.cosine_similarity(vector, final[index], 0)),
        }
        for step, vectors, loss in records
        for index, vector in enumerate(vectors[place])
    ]
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in concept.images]
    libraries = ("torch", "diffusers", "transformers", "numpy")
    versions = {name: importlib.metadata.version(name) for name in libraries}
    provenance = {"model": fingerprint, "images": hashes, "versions": versions}
    config_values = {**asdict(config), "templates": list(config.templates)}
    return Inversion(concept, final.clone(), pd.DataFrame(rows), config_values, provenance)
