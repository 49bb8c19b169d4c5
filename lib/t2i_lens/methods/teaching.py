"""Teach a model new concepts: the training loop that all ways of teaching share.

A way of teaching says which numbers are learned, what text states the U-Net reads, how its
projections are edited, and what is added to the loss. Pictures, noise, timesteps and sentences are
those of textual inversion, drawn from the same generators, so that ways can be compared at equal
steps. Several concepts share one U-Net batch where the way keeps their numbers apart.

Shown in: notebooks/23_remedies.ipynb
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from t2i_lens.base.shapes import EmbeddingRows, TextStates, TokenIds
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.inversion.training import (
    batch_key,
    frozen,
    initializer_rows,
    text_states_with_rows,
)
from t2i_lens.inversion.training_data import Draws, InversionConfig, sentences, template_rows
from t2i_lens.probes.projections import replaced_projections
from t2i_lens.probes.sampling import require
from t2i_lens.probes.unet_hooks import cross_attention_layers

# One concept with its settings; concepts of a batch agree in `training.BATCH_FIELDS`.
Lesson = tuple[Concept, InversionConfig]
Masks = Float[np.ndarray, "picture height width"]


class Way:
    """One way of teaching a batch of concepts; subclasses learn more than the placeholders' rows.

    Attributes:
        rows: A placeholder's row for each lesson, [1, d_model].
    """

    def __init__(self, pipe, lessons: Sequence[Lesson], initial: Sequence[EmbeddingRows]):
        self.pipe, self.lessons = pipe, lessons
        self.each = lessons[0][1].batch_size
        self.rows = [torch.nn.Parameter(rows.detach().float().clone()) for rows in initial]

    def groups(self) -> list[dict]:
        """Parameter groups of AdamW."""
        return [
            {"params": [rows], "lr": c.learning_rate, "weight_decay": c.weight_decay}
            for rows, (_, c) in zip(self.rows, self.lessons, strict=True)
        ]

    def states(self, ids: TokenIds, starts: Tensor) -> TextStates:
        """What the U-Net reads, for the sentences of all lessons' samples, lesson by lesson."""
        rows = torch.stack(list(self.rows)).repeat_interleave(self.each, dim=0)
        return text_states_with_rows(self.pipe, ids, starts, rows)

    def edited(self):
        """A context in which the U-Net is edited."""
        return nullcontext()

    def penalty(self) -> Tensor | float:
        """Added to the loss of each lesson."""
        return 0.0


def teach(
    pipe, lessons: Sequence[Lesson], way_of: Callable[[], Way],
    masks: Sequence[Masks] | None = None,
) -> tuple[Way, float]:  # fmt: skip
    """Trains one way of teaching; the pipeline is left as it was.

    Args:
        pipe: Stable Diffusion 1 or 2.
        lessons: One or more, which agree in their steps and batch size.
        way_of: Makes the way, once the pipeline's own weights are frozen.
        masks: For each lesson, which part of its pictures counts, in [0, 1], of the latents' size;
            the error is multiplied by it. All of them if None.

    Returns:
        The way with what it learned, and seconds of training per lesson.

    Raises:
        ValueError: another pipeline, no lesson, or lessons that cannot share a batch.
    """
    require(pipe, StableDiffusionPipeline, "concepts are taught with Stable Diffusion 1 and 2")
    if not lessons or len({batch_key(config) for _, config in lessons}) > 1:
        raise ValueError("teach needs lessons that agree in steps, batch and precision")
    shared, device = lessons[0][1], pipe.unet.device
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    times = scheduler.config.num_train_timesteps
    said = [sentences(*lesson) for lesson in lessons]
    every = list(dict.fromkeys(sentence for each in said for sentence in each))
    ids, starts = template_rows(pipe, every, 1)
    numbers = [torch.tensor([every.index(sentence) for sentence in each]) for each in said]
    began = time.perf_counter()
    with frozen(pipe, shared):
        way = way_of()
        optimizer = torch.optim.AdamW(way.groups(), betas=(0.9, 0.999), eps=1e-8)
        draws = [Draws(pipe, *lesson, times) for lesson in lessons]
        for stream, mask in zip(draws, masks or [None] * len(draws), strict=True):
            add_mask(stream, mask)
        for _ in range(shared.steps):
            drawn = [next(stream) for stream in draws]
            pictures, noise, timesteps = (
                torch.cat(part).to(device) for part in list(zip(*drawn, strict=True))[:3]
            )
            chosen = torch.cat([n[d[3]] for n, d in zip(numbers, drawn, strict=True)]).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=shared.bfloat16):
                states = way.states(ids[chosen], starts[chosen])
                errors = _errors(way, scheduler, pictures, noise, timesteps, states)
            loss = errors.view(len(lessons), -1).mean(1) + way.penalty()
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
    return way, (time.perf_counter() - began) / len(lessons)


def add_mask(draws: Draws, mask: Masks | None) -> None:
    """Lets a mask ride along as one more channel of the latents, mirrored as they are."""
    _, pictures, _, height, width = draws.mean.shape
    plain = torch.ones(pictures, height, width) if mask is None else torch.from_numpy(mask).float()
    channel = torch.stack([plain, plain.flip(-1)])[:, :, None]
    draws.mean = torch.cat([draws.mean, channel], 2)
    if draws.std is not None:
        draws.std = torch.cat([draws.std, torch.zeros_like(channel)], 2)


def _errors(way: Way, scheduler, pictures, noise, timesteps, states) -> Float[Tensor, " sample"]:
    """Mean squared error of each sample under its mask."""
    latents, mask, noise = pictures[:, :-1], pictures[:, -1:], noise[:, :-1]
    noisy = scheduler.add_noise(latents, noise, timesteps).to(way.pipe.unet.dtype)
    with way.edited():
        predicted = way.pipe.unet(noisy, timesteps, states).sample
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    return ((predicted.float() - target) * mask).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Limits:
    """What a textual inversion is held to while it trains; all zero is the plain one.

    Attributes:
        context: Weight of the mean squared change of the other tokens' text states against the
            sentence with the class word, CoRe's regularisation (Wu et al., arXiv 2408.15914).
        anchor: Weight of the row's mean squared distance from the class word's row; the loss of
            the pictures then weighs 1 - anchor (Compositional Inversion, arXiv 2312.08048).
    """

    context: float = 0.0
    anchor: float = 0.0


class LimitedInversion(Way):
    """Textual inversion with limits on what its token may do."""

    def __init__(self, pipe, lessons, initial, limits: Limits):
        super().__init__(pipe, lessons, initial)
        self.limits = limits
        self.class_rows = torch.stack([initializer_rows(pipe, c, 1) for c, _ in lessons])
        self._moved: Tensor | None = None

    def states(self, ids, starts):
        states = super().states(ids, starts)
        if self.limits.context:
            rows = self.class_rows.repeat_interleave(self.each, dim=0)
            with torch.no_grad():
                usual = text_states_with_rows(self.pipe, ids, starts, rows)
            others = torch.arange(ids.shape[1]) != starts[:, None]
            moved = ((states - usual).float().square().mean(-1) * others).sum(1) / others.sum(1)
            self._moved = moved.view(len(self.lessons), self.each).mean(1)
        return states

    def penalty(self):
        total: Tensor | float = 0.0
        if self.limits.context:
            total = total + self.limits.context * self._moved
        if self.limits.anchor:
            apart = torch.stack(list(self.rows)) - self.class_rows
            share = self.limits.anchor / (1 - self.limits.anchor)
            total = total + share * apart.square().mean((1, 2))
        return total


class LayerTokens(Way):
    """P+: a row of its own for each cross-attention layer (Voynov et al., arXiv 2303.09522).

    Attributes:
        rows: [layer, d_model] for each lesson, layers in the order in which they run.
    """

    def __init__(self, pipe, lessons, initial):
        self.layers = list(cross_attention_layers(pipe.unet))
        super().__init__(pipe, lessons, [rows.repeat(len(self.layers), 1) for rows in initial])
        self._states: dict[str, Tensor] = {}

    def states(self, ids, starts):
        rows = torch.stack(list(self.rows)).repeat_interleave(self.each, dim=0)
        count = len(self.layers)
        flat = text_states_with_rows(
            self.pipe, ids.repeat(count, 1), starts.repeat(count),
            rows.transpose(0, 1).flatten(0, 1)[:, None],
        )  # fmt: skip
        parts = flat.unflatten(0, (count, -1))
        self._states = dict(zip(self.layers, parts, strict=True))
        return parts[0]

    def edited(self):
        def read(layer: str, stage: str, states: Tensor, output: Tensor) -> Tensor:
            attention = self.pipe.unet.get_submodule(layer)
            weight = (attention.to_k if stage == "key" else attention.to_v).weight
            return functional.linear(self._states[layer].to(weight.dtype), weight)

        return replaced_projections(self.pipe.unet, read)


class CustomDiffusion(Way):
    """A modifier token and changes of W_K and W_V, with prior preservation (arXiv 2212.04488).

    The second half of the lessons are the priors of the first: pictures of the class, said with
    its word. A concept and its prior share their changes of weights; a prior's row stays.

    Attributes:
        changes: Layer and stage -> ΔW, [concept, d_out, d_model].
    """

    RATE = 1e-3  # of the weights

    def __init__(self, pipe, lessons, initial):
        super().__init__(pipe, lessons, initial)
        self.count = len(lessons) // 2
        for rows in self.rows[self.count :]:
            rows.requires_grad_(False)
        self.changes = {
            (path, stage): torch.nn.Parameter(
                projection.weight.new_zeros(self.count, *projection.weight.shape)
            )
            for path, layer in cross_attention_layers(pipe.unet).items()
            for stage, projection in (("key", layer.to_k), ("value", layer.to_v))
        }

    def groups(self):
        own = [group for group in super().groups() if group["params"][0].requires_grad]
        changes = {"params": list(self.changes.values()), "lr": self.RATE, "weight_decay": 1e-2}
        return [*own, changes]

    def edited(self):
        def change(layer: str, stage: str, states: Tensor, output: Tensor) -> Tensor:
            every = self.changes[layer, stage].repeat(2, 1, 1).repeat_interleave(self.each, 0)
            return output + states @ every.transpose(1, 2)

        return replaced_projections(self.pipe.unet, change)


@contextmanager
def changed_weights(unet, changes: dict[tuple[str, str], Tensor]) -> Iterator[None]:
    """Inside the block one concept's changes of W_K and W_V are added, [d_out, d_model] each."""

    def change(layer: str, stage: str, states: Tensor, output: Tensor) -> Tensor:
        return output + states @ changes[layer, stage].T.to(states.dtype)

    with replaced_projections(unet, change):
        yield
