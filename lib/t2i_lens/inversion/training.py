"""Textual inversion: learn the embedding rows of a placeholder token, everything else frozen.

The recipe is that of diffusers' example script: rows start at the initializer token's row, AdamW at
a constant rate, uniform timesteps, one random template per sample, mean squared error of the
predicted noise (Gal et al., arXiv 2208.01618). Three shortcuts save time and keep the gradient:
only the placeholder's own rows are parameters, written into the table's output; pictures are
encoded to latents once; and several concepts share one U-Net batch. Each concept has its own row,
learning rate and generator, so the result does not depend on the other concepts of the batch.
"""

import importlib.metadata
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain

import pandas as pd
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from t2i_lens.base.files import digest
from t2i_lens.base.shapes import EmbeddingRows, TextStates, TokenIds
from t2i_lens.inversion import row_steps
from t2i_lens.inversion.embeddings import (
    Concept,
    Inversion,
    identity,
)
from t2i_lens.inversion.training_data import Draws, InversionConfig, sentences, template_rows
from t2i_lens.probes.hookable import require_loaded
from t2i_lens.probes.sampling import require

# What all runs of a batch have in common.
BATCH_FIELDS = ("steps", "batch_size", "num_vectors", "record_every", "bfloat16", "optimizer")
TIMED_STEPS = 5


def train(
    pipe,
    concepts: Sequence[Concept],
    config: InversionConfig | Sequence[InversionConfig],
    progress: bool = True,
    fingerprint: str | None = None,
    initial: Sequence[EmbeddingRows] | None = None,
) -> list[Inversion]:
    """Trains one placeholder per concept, all in one batch; the pipeline is left as it was.

    Args:
        pipe: Stable Diffusion 1 or 2.
        config: One for all concepts, or one each. Then they may differ in all that is not in
            `BATCH_FIELDS`, and a concept may come several times.
        fingerprint: Names the model in the provenance; see `profiles.fingerprint`.
        initial: Where each placeholder starts; by default at its initializer's row.

    Returns:
        In the order of the concepts; `attach` puts one into a pipeline.

    Raises:
        ValueError: another pipeline or an offloaded one, no or repeated runs, configs that cannot
            share a batch, an initializer of several tokens, or a sentence that does not fit.
    """
    require(pipe, StableDiffusionPipeline, "tokens are trained with Stable Diffusion 1 and 2")
    for name, network in (("text encoder", pipe.text_encoder), ("U-Net", pipe.unet)):
        require_loaded(network, name)
    configs = [config] * len(concepts) if isinstance(config, InversionConfig) else list(config)
    runs = list(zip(concepts, configs, strict=True))
    distinct = {(concept.name, concept.captions, settings) for concept, settings in runs}
    if not runs or (initial is None and len(distinct) < len(runs)):
        raise ValueError("train needs at least one concept, and each only once")
    if len({batch_key(settings) for settings in configs}) > 1:
        raise ValueError(f"runs of one batch must agree in {', '.join(BATCH_FIELDS)}")
    shared = configs[0]
    device, scheduler = pipe.unet.device, DDPMScheduler.from_config(pipe.scheduler.config)
    if initial is None:
        initial = [initializer_rows(pipe, c, shared.num_vectors) for c in concepts]
    initial = torch.stack([rows.detach().float() for rows in initial]).to(device)
    rows = [torch.nn.Parameter(row.clone()) for row in initial]
    optimizer = row_steps.optimizer_for(rows, configs)
    texts = [sentences(*run) for run in runs]
    unique = list(dict.fromkeys(chain(*texts)))
    templates = template_rows(pipe, unique, shared.num_vectors)
    numbers = [torch.tensor([unique.index(text) for text in of_run]) for of_run in texts]
    none = torch.full((len(runs),), torch.nan)
    records, losses = [(0, initial.cpu(), none, none[:, None].expand(initial.shape[:2]))], []
    squares = []
    with frozen(pipe, shared), tqdm(range(shared.steps), "inversion", disable=not progress) as bar:
        draws = [Draws(pipe, *run, scheduler.config.num_train_timesteps) for run in runs]
        for step in bar:
            drawn = [
                (*draw_parts, number[chosen])
                for (*draw_parts, chosen), number in zip(map(next, draws), numbers, strict=True)
            ]
            batch = tuple(torch.cat(part).to(device) for part in zip(*drawn, strict=True))
            loss = _losses(pipe, scheduler, shared, torch.stack(rows), templates, batch)
            optimizer.zero_grad()
            # A sum: each row's gradient is what it would be alone.
            (loss + row_steps.penalties(torch.stack(rows), configs)).sum().backward()
            squares.append(torch.stack([row.grad.square().sum(-1) for row in rows]))
            row_steps.take(optimizer, rows, initial, configs)
            losses.append(loss.detach())
            if (step + 1) % shared.record_every == 0 or step + 1 == shared.steps:
                mean = torch.stack(losses).mean(0).cpu()
                now = torch.stack([row.detach().cpu() for row in rows])
                gradient = torch.stack(squares).mean(0).sqrt().cpu()
                records.append((step + 1, now, mean, gradient))
                bar.set_postfix(loss=f"{mean.mean():.3f}", norm=f"{now.norm(dim=-1).mean():.2f}")
                losses.clear()
                squares.clear()
    return [_inversion(*run, i, records, fingerprint) for i, run in enumerate(runs)]


def description(concept: Concept, config: InversionConfig, fingerprint: str | None) -> dict:
    """Everything that a run depends on except the versions of the libraries, for its provenance."""
    return {
        "concept": identity(concept),
        "config": {**asdict(config), "templates": list(config.templates)},
        "model": fingerprint,
        "images": [digest(image.tobytes()) for image in concept.images],
    }


def initializer_rows(
    pipe: StableDiffusionPipeline, concept: Concept, num_vectors: int
) -> EmbeddingRows:
    """The embedding of a concept's initializer token, once per vector.

    Raises:
        ValueError: the initializer is several tokens.
    """
    return word_row(pipe, concept.initializer_token).expand(num_vectors, -1)


def word_row(pipe: StableDiffusionPipeline, word: str) -> Float[Tensor, " d_model"]:
    """The embedding of an initializer's token.

    Raises:
        ValueError: the word is several tokens.
    """
    ids = pipe.tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"initializer {word!r} is {len(ids)} tokens, choose a word that is one")
    return pipe.text_encoder.get_input_embeddings().weight[ids[0]].detach().float()


def batch_key(config: InversionConfig) -> tuple:
    """Key of a batch: runs with the same key can share one."""
    return tuple(getattr(config, name) for name in BATCH_FIELDS)


def seconds_per_step(
    pipe: StableDiffusionPipeline, concepts: Sequence[Concept], configs: Sequence[InversionConfig]
) -> float:
    """Seconds per step of these runs in one batch on this machine, without preparation."""

    # Given, because runs that differ only in their start would count as repeated.
    initial = [
        initializer_rows(pipe, *run)
        for run in zip(concepts, (c.num_vectors for c in configs), strict=True)
    ]

    def seconds(steps: int) -> float:
        began = time.perf_counter()
        short = [replace(c, steps=steps) for c in configs]
        train(pipe, concepts, short, progress=False, initial=initial)
        return time.perf_counter() - began

    once = min(seconds(1), seconds(1))  # the first of all also warms up
    return max(0.0, seconds(1 + TIMED_STEPS) - once) / TIMED_STEPS


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


@contextmanager
def frozen(pipe: StableDiffusionPipeline, config: InversionConfig) -> Iterator[None]:
    """Inside the block no weight has a gradient and no layer is in training mode.

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
    concept: Concept, config: InversionConfig, number: int, records: list, fingerprint: str | None
) -> Inversion:
    final, initial = records[-1][1][number], records[0][1][number]
    rows = [
        {
            "step": step,
            "index": index,
            "vector": vector.numpy(),
            "norm": float(vector.norm()),
            "loss": float(loss[number]),
            "gradient": float(gradient[number, index]),
            "cosine_to_initial": float(functional.cosine_similarity(vector, initial[index], 0)),
            "cosine_to_final": float(functional.cosine_similarity(vector, final[index], 0)),
        }
        for step, vectors, loss, gradient in records
        for index, vector in enumerate(vectors[number])
    ]
    libraries = ("torch", "diffusers", "transformers", "numpy")
    provenance = description(concept, config, fingerprint)
    config_values, _ = provenance.pop("config"), provenance.pop("concept")
    provenance["versions"] = {name: importlib.metadata.version(name) for name in libraries}
    return Inversion(concept, final.clone(), pd.DataFrame(rows), config_values, provenance)
