"""Latents moved along the gradient of a loss on cross-attention maps, while a picture is drawn.

Test-time optimisation as in T-SAM, Attend-and-Excite and SynGen. Before a step the U-Net reads the
conditional half once more, with gradients; the loss of its maps moves the latents, and the step is
then made from where they are. The pipeline's own loop runs: the U-Net's input and the scheduler's
sample are shifted by the same amount.

Shown in: notebooks/drafts/19_tsam_optimisation.ipynb
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from t2i_lens.methods.attention_losses import Loss
from t2i_lens.probes.cross_attention import attention_pattern
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.unet_hooks import (
    CrossAttention,
    guidance_branches,
    hold,
    observed_cross_attention,
    unet_of,
)

MOST_PLACES = 256  # of the maps that a loss reads: the 16x16 of the papers


@dataclass(frozen=True)
class Updates:
    """When and how far latents are moved.

    Attributes:
        step_size: What the gradient is multiplied by; 0 moves nothing.
        steps: Updates are made in steps 0 to this minus 1.
        decay: The step size falls as the root of a line from 1 to this share over all steps of the
            drawing.
        thresholds: (step, loss): in this step a picture is moved until its loss is not above.
        inner: Most additional updates of a picture in such a step.
    """

    step_size: float
    steps: int
    decay: float = 1.0
    thresholds: tuple[tuple[int, float], ...] = ()
    inner: int = 20

    def size(self, step: int, of: int) -> float:
        """Step size in a step of `of` steps."""
        return float(self.step_size * np.linspace(1, self.decay, of)[step] ** 0.5)


@dataclass
class Trace:
    """What an optimisation did in one batch; lists grow by step.

    Attributes:
        losses: Of each picture before each update, [update][picture].
        moved: Length of each picture's move over the length of its latents, [update][picture].
        maps: The maps that the losses read, before each update [update][picture, height, width,
            token]; kept if asked for.
        passes: Forward passes with gradients of each picture, [picture].
    """

    losses: list[Float[Tensor, " picture"]] = field(default_factory=list)
    moved: list[Float[Tensor, " picture"]] = field(default_factory=list)
    maps: list[Float[Tensor, "picture height width token"]] = field(default_factory=list)
    passes: np.ndarray = field(default_factory=lambda: np.zeros(0, int))


@contextmanager
def optimised(
    pipe,
    losses: Sequence[Loss],
    updates: Updates,
    *,
    random_seeds: Sequence[int] | None = None,
    keep_maps: bool = False,
) -> Iterator[Trace]:
    """Moves latents in the next call of a pipeline, which draws one batch.

    Args:
        pipe: Stable Diffusion 1, 2 or XL.
        losses: One for each picture of the batch.
        updates: When and how far.
        random_seeds: One for each picture: the move then has the gradient's length and a random
            direction. A control.
        keep_maps: Keep the maps of each update.

    Raises:
        ValueError: the pipeline has no U-Net with cross-attention, or draws another number of
            pictures.
    """
    mover = _Mover(pipe, losses, updates, random_seeds, keep_maps)
    with ExitStack() as hooks:
        handle = mover.unet.register_forward_pre_hook(mover.before_unet, with_kwargs=True)
        hold(hooks, handle)
        own = pipe.scheduler.step
        pipe.scheduler.step = mover.scheduler_step(own)
        hooks.callback(delattr, pipe.scheduler, "step")
        yield mover.trace


def draw_optimised(
    pipe,
    prompts: Sequence[str],
    losses: Sequence[Loss | None],
    seeds: Sequence[int],
    updates: Updates,
    *,
    random: bool = False,
    keep_maps: bool = False,
    batch_size: int = 16,
    **sampling,
) -> tuple[UInt8[np.ndarray, "prompt seed height width 3"], list[Trace]]:
    """Draw prompts with their losses, as `sampling.generate` draws them without.

    Args:
        losses: One for each prompt.
        random: Whether moves have a random direction, see `optimised`.
        batch_size: Pictures moved together, at least one prompt with all its seeds.
        sampling: Passed to `sampling.generate`.

    Returns:
        The pictures, and the trace of each batch: prompts x seeds, seeds fastest.

    Raises:
        ValueError: as `optimised` and `sampling.generate`.
    """
    pictures, traces = [], []
    together = max(1, batch_size // len(seeds))
    for start in range(0, len(prompts), together):
        batch = list(prompts[start : start + together])
        batch_losses = [loss for loss in losses[start : start + together] for _ in seeds]
        own = [seed for _ in batch for seed in seeds] if random else None
        with optimised(pipe, batch_losses, updates, random_seeds=own, keep_maps=keep_maps) as trace:
            pictures.append(
                generate(pipe, batch, list(seeds), batch_size=len(batch_losses), **sampling)
            )
        traces.append(trace)
    return np.concatenate(pictures), traces


class _Mover:
    def __init__(self, pipe, losses, updates, random_seeds, keep_maps):
        self.pipe, self.unet = pipe, unet_of(pipe)
        self.losses, self.updates, self.keep_maps = losses, updates, keep_maps
        self.trace = Trace(passes=np.zeros(len(losses), int))
        self._step, self._shift = -1, None
        self._random = random_seeds and [torch.Generator().manual_seed(s) for s in random_seeds]

    def before_unet(self, _: nn.Module, inputs: tuple, named: dict) -> tuple[tuple, dict] | None:
        """Moves the U-Net's input in the steps that are to be moved."""
        self._step += 1
        if self._step >= self.updates.steps:
            return None
        sample, *others = inputs
        halves = guidance_branches(self.pipe, len(sample))
        rows = halves["conditional"]
        if rows.stop - rows.start != len(self.losses):
            raise ValueError(f"{len(self.losses)} losses for {rows.stop - rows.start} pictures")
        # Schedulers may scale what the U-Net reads; the latents themselves are what is moved.
        one = torch.ones(1, dtype=sample.dtype, device=sample.device)
        scale = self.pipe.scheduler.scale_model_input(one, others[0])
        own = _of_rows(named, rows, len(sample))
        self._shift = self._moves(sample[rows], scale, others[0], own)
        moved = sample + (self._shift * scale).repeat(len(halves), 1, 1, 1)
        return (moved, *others), named

    def scheduler_step(self, own):
        """The scheduler's step, from the moved latents."""

        def step(output: Tensor, timestep: Any, sample: Tensor, *others, **named):
            if self._shift is not None:
                sample, self._shift = sample + self._shift, None
            return own(output, timestep, sample, *others, **named)

        return step

    def _moves(self, sample: Tensor, scale: Tensor, timestep: Tensor, named: dict) -> Tensor:
        """How far all updates of this step move the latents."""
        size = self.updates.size(self._step, self.pipe.num_timesteps)
        threshold = dict(self.updates.thresholds).get(self._step)
        shift = torch.zeros_like(sample)
        for _ in range(self.updates.inner if threshold is not None else 0):
            losses, gradient = self._gradient(sample, shift, scale, timestep, named)
            above = losses > threshold
            if not above.any():
                break
            shift = shift - size * gradient * above[:, None, None, None].to(gradient)
        losses, gradient = self._gradient(sample, shift, scale, timestep, named, trace=True)
        if self._random:
            gradient = self._turned(gradient)
        self.trace.losses.append(losses.cpu())
        shift = shift - size * gradient
        length = (sample / scale).flatten(1).norm(dim=1)
        self.trace.moved.append((shift.flatten(1).norm(dim=1) / length).cpu())
        return shift

    def _gradient(self, sample, shift, scale, timestep, named, trace=False):
        """Each picture's loss, and the gradient of their sum: no picture sees another."""
        calls: list[CrossAttention] = []
        with torch.enable_grad(), observed_cross_attention(self.unet, calls.append):
            latents = shift.detach().requires_grad_()
            # Not a call of the module: its own hooks count and move the pipeline's calls alone.
            self.unet.forward(sample.detach() + latents * scale, timestep, **named)
            maps = mean_maps(calls)
            losses = torch.stack([loss(m) for loss, m in zip(self.losses, maps, strict=True)])
            (gradient,) = torch.autograd.grad(losses.sum(), latents)
        self.trace.passes += 1
        if trace and self.keep_maps:
            self.trace.maps.append(maps.detach().cpu())
        return losses.detach(), gradient

    def _turned(self, gradient: Tensor) -> Tensor:
        drawn = [torch.randn(gradient.shape[1:], generator=own) for own in self._random]
        noise = torch.stack(drawn).to(gradient)
        return noise * (_length(gradient) / _length(noise))


def mean_maps(calls: Sequence[CrossAttention]) -> Float[Tensor, "batch height width token"]:
    """Mean over heads and over the layers of one resolution, as T-SAM's A; keeps gradients.

    The resolution is the largest with at most `MOST_PLACES` places, or the smallest there is.
    """
    places = sorted({call.height * call.width for call in calls})
    fitting = [size for size in places if size <= MOST_PLACES]
    chosen = fitting[-1] if fitting else places[0]
    layers = [call for call in calls if call.height * call.width == chosen]
    mean = torch.stack([attention_pattern(call).mean(1) for call in layers]).mean(0)
    return mean.unflatten(1, (layers[0].height, layers[0].width))


def _length(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)[:, None, None, None]


def _of_rows(value: Any, rows: slice, batch: int) -> Any:
    """The conditional rows of whatever a pipeline gives its U-Net."""
    if isinstance(value, dict):
        return {name: _of_rows(part, rows, batch) for name, part in value.items()}
    if isinstance(value, Tensor) and value.ndim and len(value) == batch:
        return value[rows]
    return value
