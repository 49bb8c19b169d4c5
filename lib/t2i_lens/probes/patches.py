"""Activation patching in attention: keys, values and outputs of one run written into another.

Works in the cross-attention of Stable Diffusion's U-Nets and in the joint attention of Stable
Diffusion 3, in the conditional half of guidance. Keys and values are those of the text, before
they are normalised; an output is the picture's attention result of all heads side by side, before
the projection that mixes them, so that single heads can be written.

Shown in: notebooks/25_patching.ipynb
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import isqrt
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from t2i_lens.models.architectures import denoiser
from t2i_lens.probes.joint_attention import joint_layers
from t2i_lens.probes.unet_hooks import (
    check_guidance,
    cross_attention_layers,
    guidance_branches,
    hold,
    unet_of,
)

What = Literal["key", "value", "output"]
PARTS: tuple[What, ...] = ("key", "value", "output")
Activation = Float[Tensor, "token channel"]


class AttentionSite(NamedTuple):
    """The modules of one layer that handle its text keys, text values and picture outputs."""

    layer: nn.Module
    key: nn.Module
    value: nn.Module
    projection: nn.Module


@dataclass(frozen=True)
class Patch:
    """Parts of a recorded run that are written into another. Identity: no layers, or strength 0.

    Attributes:
        layers: Paths, from `attention_sites`.
        parts: "key" and "value" of the text, "output" for the picture.
        heads: Which heads, numbered from 0 in every layer; all if None.
        steps: First step, and the one after the last; all if None.
        strength: Share of the way from the own activation to the recorded one; 1 replaces it.
        permutation: Seed of a permutation of the recorded channels inside each head, the same for
            all tokens, layers and steps of equal width; None keeps their order.
    """

    layers: tuple[str, ...]
    parts: tuple[What, ...] = ("key", "value")
    heads: tuple[int, ...] | None = None
    steps: tuple[int, int] | None = None
    strength: float = 1.0
    permutation: int | None = None

    def acts_at(self, layer: str, part: str, step: int) -> bool:
        """Whether it writes there."""
        first, end = self.steps or (0, step + 1)
        return layer in self.layers and part in self.parts and first <= step < end

    def __call__(self, own: Activation, recorded: Activation, heads: int) -> Activation:
        """The activation to write.

        Args:
            own: Of the run that is patched; `heads` heads side by side.
            recorded: Of the other run.
            heads: How many heads the layer has.

        Raises:
            ValueError: no such head.
        """
        if self.heads is not None and max(self.heads, default=0) >= heads:
            raise ValueError(f"no head {max(self.heads)}: the layer has {heads}")
        apart, other = (x.unflatten(-1, (heads, -1)) for x in (own, recorded))
        if self.permutation is not None:
            order = np.random.default_rng(self.permutation).permutation(other.shape[-1])
            other = other[..., torch.from_numpy(order).to(other.device)]
        chosen = list(range(heads) if self.heads is None else self.heads)
        written = apart.clone()
        written[:, chosen] = torch.lerp(apart[:, chosen], other[:, chosen], self.strength)
        return written.flatten(-2)


class Write(NamedTuple):
    """A patch of one picture of a batch: from which picture of which recording, and where.

    Attributes:
        recording: The other run.
        row: The picture in it, from 0.
        region: Places of the picture whose outputs are written, on a grid of any size that the
            layers' own grids divide or multiply; all if None. Keys and values do not have places.
    """

    patch: Patch
    recording: "Recording"
    row: int
    region: Bool[np.ndarray, "height width"] | None = None


@dataclass
class Recording:
    """Activations of one drawing, of its conditional half.

    Attributes:
        steps: By layer and part, for each step `[picture, token, channel]`.
    """

    steps: dict[tuple[str, What], list[Float[Tensor, "picture token channel"]]] = field(
        default_factory=dict
    )

    def at(self, layer: str, part: What, step: int, row: int) -> Activation:
        """One picture's activation.

        Raises:
            ValueError: it was not recorded.
        """
        recorded = self.steps.get((layer, part), [])
        if step >= len(recorded):
            raise ValueError(f"no {part} of {layer} was recorded in step {step}")
        return recorded[step][row]


def attention_sites(pipe, expected: int | None = None) -> dict[str, AttentionSite]:
    """All layers that read the text, by path, in the order in which they run.

    Raises:
        ValueError: the pipeline has neither cross-attention (Stable Diffusion 1, 2, XL) nor joint
            attention (3), or another number of layers than expected.
    """
    if getattr(pipe, "transformer", None) is not None:
        return {
            path: AttentionSite(layer, layer.add_k_proj, layer.add_v_proj, layer.to_out[0])
            for path, layer in joint_layers(pipe, expected).items()
        }
    return {
        path: AttentionSite(layer, layer.to_k, layer.to_v, layer.to_out[0])
        for path, layer in cross_attention_layers(unet_of(pipe), expected).items()
    }


@contextmanager
def recorded_attention(
    pipe, layers: Sequence[str], parts: Sequence[What] = PARTS
) -> Iterator[Recording]:
    """Record parts of layers while one batch of pictures is drawn; no bit of it changes.

    Raises:
        ValueError: as `attention_sites`, or no such layer.
    """
    recording = Recording()

    def keep(activation: Tensor, layer: str, part: What, _: int) -> None:
        kept = activation[guidance_branches(pipe, len(activation))["conditional"]].detach().clone()
        recording.steps.setdefault((layer, part), []).append(kept)

    with _hooked(pipe, layers, parts, keep):
        yield recording


@contextmanager
def patched_attention(pipe, writes: Sequence[Sequence[Write]]) -> Iterator[None]:
    """Write recorded activations into the next batch of pictures.

    Args:
        pipe: Called once while the context is open.
        writes: A list for each picture of the batch, carried out in order.

    Raises:
        ValueError: as `attention_sites`, no such layer, step or head, or a batch of another size.
    """
    patches = [write.patch for of_row in writes for write in of_row]
    layers = dict.fromkeys(path for patch in patches for path in patch.layers)
    parts = [part for part in PARTS if any(part in patch.parts for patch in patches)]
    sites = attention_sites(pipe)

    def change(activation: Tensor, layer: str, part: What, step: int) -> Tensor:
        half = guidance_branches(pipe, len(activation))["conditional"]
        if half.stop - half.start != len(writes):
            raise ValueError(f"patches for {len(writes)} pictures, the batch is of another size")
        changed = activation.clone()
        for row, of_row in zip(range(half.start, half.stop), writes, strict=True):
            for write in of_row:
                if write.patch.acts_at(layer, part, step):
                    recorded = write.recording.at(layer, part, step, write.row)
                    patched = write.patch(changed[row], recorded, sites[layer].layer.heads)
                    changed[row] = _where(write.region, part, patched, changed[row])
        return changed

    with _hooked(pipe, list(layers), parts, change):
        yield


def _where(region: np.ndarray | None, part: What, patched: Tensor, own: Tensor) -> Tensor:
    if region is None or part != "output":
        return patched
    # Pixels per place along one axis: the layer's grid has the picture's proportions.
    height, width = region.shape
    if len(own) >= height * width:
        side = isqrt(len(own) // (height * width))
        inside = region.repeat(side, axis=0).repeat(side, axis=1)
    else:
        side = isqrt(height * width // len(own))
        inside = region.reshape(height // side, side, width // side, side).any(axis=(1, 3))
    return torch.where(torch.from_numpy(inside).flatten().to(own.device)[:, None], patched, own)


@contextmanager
def _hooked(
    pipe, layers: Sequence[str], parts: Sequence[What], act: Callable[..., Tensor | None]
) -> Iterator[None]:
    sites = attention_sites(pipe)
    unknown = set(layers) - set(sites)
    if unknown:
        raise ValueError(f"no attention layer {min(unknown)!r}; there are {list(sites)}")
    step, reached = -1, set()

    def next_step(*_) -> None:
        nonlocal step
        step += 1

    def at_output(path: str, part: What) -> Callable:
        def hook(_, __, output: Tensor) -> Tensor | None:
            reached.add((path, part))
            return act(output, path, part, step)

        return hook

    def at_input(path: str) -> Callable:
        def hook(_, inputs: tuple) -> tuple | None:
            reached.add((path, "output"))
            changed = act(inputs[0], path, "output", step)
            return None if changed is None else (changed, *inputs[1:])

        return hook

    def check(path: str) -> Callable:
        def hook(layer: nn.Module, *_) -> None:
            if not {(path, part) for part in parts} <= reached:
                kind = type(layer.processor).__name__
                raise ValueError(f"{kind} does not use the projections of {path}: not supported")
            reached.difference_update({(path, part) for part in parts})

        return hook

    with ExitStack() as hooks:
        check_guidance(hooks, pipe)
        hold(hooks, denoiser(pipe).register_forward_pre_hook(next_step))
        for path in layers:
            site = sites[path]
            for part, module in (("key", site.key), ("value", site.value)):
                if part in parts:
                    hold(hooks, module.register_forward_hook(at_output(path, part)))
            if "output" in parts:
                hold(hooks, site.projection.register_forward_pre_hook(at_input(path)))
            hold(hooks, site.layer.register_forward_hook(check(path)))
        yield
