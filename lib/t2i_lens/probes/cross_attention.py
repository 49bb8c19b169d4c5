"""Recorder of a U-Net's cross-attention maps while pictures are drawn.

`Keep` states beforehand what is kept; the default is the sum over steps of each layer's mean over
heads, so that memory does not grow with the number of steps. Recording does not change the
pictures: probabilities are taken where the model has them in float32, and else computed a second
time next to the model's own attention. `make bench` measures the cost.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2i_lens.base.shapes import CrossAttentionMap
from t2i_lens.models.tokens import TokenRow
from t2i_lens.probes.attention_kernels import probabilities
from t2i_lens.probes.edits import Branch
from t2i_lens.probes.unet_hooks import (
    CrossAttention,
    check_guidance,
    guidance_branches,
    hold,
    observed_cross_attention,
    unet_of,
)


@dataclass(frozen=True)
class Keep:
    """Selection and reduction of the maps that a recorder keeps.

    Attributes:
        layers: Paths, from `unet_hooks.cross_attention_layers`; all if None.
        heads: Heads, numbered from 0 in every layer; all if None.
        per_head: Keep them apart instead of their mean.
        steps: Steps, from 0; all if None. Every second one halves the cost; for the error of maps
            see `make bench` on other ways.
        per_step: Keep them apart instead of their sum. The state grows with them.
        tokens: Token positions; all if None, BOS, EOS and padding among them.
        branches: Halves of classifier-free guidance, by name.
    """

    layers: tuple[str, ...] | None = None
    heads: tuple[int, ...] | None = None
    per_head: bool = False
    steps: tuple[int, ...] | None = None
    per_step: bool = False
    tokens: tuple[int, ...] | None = None
    branches: tuple[Branch, ...] = ("conditional",)


@dataclass(frozen=True)
class AttentionMaps:
    """Recorded cross-attention. Samples are pictures, in the order in which they were drawn.

    Attributes:
        layers: Maps by path, in the order in which the layers run. Probabilities; over all
            tokens they sum to 1 per step, so to `summed_steps` where steps were summed.
        rows: Token row of each sample; empty if the recorder was not told.
        seeds: Seed of each sample; empty if the recorder was not told.
        tokens: Token positions along the last axis.
        branches: Names along the second axis.
        steps: Steps that were kept.
        summed_steps: How many steps each value is a sum of.
    """

    layers: dict[str, CrossAttentionMap]
    rows: tuple[TokenRow, ...]
    seeds: tuple[int, ...]
    tokens: tuple[int, ...]
    branches: tuple[str, ...]
    steps: tuple[int, ...]
    summed_steps: int

    def indices(self, sample: int, word: str) -> list[int]:
        """Indices of a word's positions along the token axis, for one sample.

        Raises:
            ValueError: the sample's prompt does not hold it, it was not kept, or the recorder was
                not told the prompts.
        """
        if not self.rows:
            raise ValueError("the recorder does not know the prompts: record through generate")
        positions = self.rows[sample].positions(word)
        missing = set(positions) - set(self.tokens)
        if missing:
            raise ValueError(f"positions {sorted(missing)} of {word!r} were not kept")
        return [self.tokens.index(position) for position in positions]


def attention_pattern(
    call: CrossAttention, rows: slice = slice(None)
) -> Float[Tensor, "batch head pixel token"]:
    """Softmax of the scores, in float32 whatever the model's dtype; keeps gradients.

    Args:
        rows: Of the batch, as `unet_hooks.guidance_branches` names them.

    Returns:
        Probabilities; they sum to 1 over tokens. Where the layer has them they are its
        own, so they are not to be written into.
    """
    begin, end, _ = rows.indices(len(call.query))
    known = call.probabilities
    if known is not None and call.first <= begin and end <= call.first + len(known):
        return known[begin - call.first : end - call.first]
    mask = None if call.mask is None else call.mask[rows]
    return probabilities(call.query[rows], call.key[rows], call.scale, mask)


class Recorder:
    """Collects maps during calls of a pipeline; made by `record`."""

    def __init__(self, pipe, keep: Keep):
        self.keep = keep
        self._pipe = pipe
        self._chunks: dict[str, list[Tensor]] = {}
        # By layer, then by step (0 where steps are summed) and branch.
        self._sums: dict[str, dict[tuple[int, Branch], Tensor]] = {}
        self._weights: dict[int, Tensor] = {}  # of each head in their mean, by their number
        self._rows: list[TokenRow] = []
        self._seeds: list[int] = []
        self._announced: int | None = None
        self._steps: tuple[int, ...] | None = None
        self._step, self._timestep = -1, float("inf")

    def begin(self, rows: Sequence[TokenRow] = (), seeds: Sequence[int] = ()) -> None:
        """Announce the prompts and seeds of the pipeline's next call; `sampling.generate` does so.

        Args:
            rows: Token row of each picture of the batch.
            seeds: Seed of each.
        """
        self._finish_batch()
        self._rows += rows
        self._seeds += seeds
        self._announced = len(rows) or None
        self._step, self._timestep = -1, float("inf")

    def maps(self) -> AttentionMaps:
        """All that was recorded so far.

        Raises:
            ValueError: nothing was.
        """
        self._finish_batch()
        if not self._chunks:
            raise ValueError("nothing was recorded: draw pictures inside `with record(...)`")
        layers = {
            path: torch.cat(chunks) if len(chunks) > 1 else chunks[0]  # one is not copied
            for path, chunks in self._chunks.items()
        }
        tokens = self.keep.tokens or tuple(range(next(iter(layers.values())).shape[-1]))
        return AttentionMaps(
            layers=layers,
            rows=tuple(self._rows),
            seeds=tuple(self._seeds),
            tokens=tokens,
            branches=self.keep.branches,
            steps=self._steps,
            summed_steps=1 if self.keep.per_step else len(self._steps),
        )

    @property
    def state_size(self) -> int:
        """Numbers held at the moment."""
        held = [t for slots in self._sums.values() for t in slots.values()]
        held += [chunk for chunks in self._chunks.values() for chunk in chunks]
        return sum(t.numel() for t in held)

    def check_first(self) -> None:
        """Refuses a second drawing that was not announced: its steps would follow the first's."""
        if self._step >= 0:
            raise ValueError("a second drawing began: give the recorder to generate, or call begin")

    def next_step(self, timestep: float) -> None:
        if timestep > self._timestep:
            self.check_first()
        self._timestep = timestep
        self._step += 1

    def rows(self, batch: int) -> slice | None:
        """Rows of a batch that are recorded in this step, and perhaps more; None for none."""
        if not self._wanted:
            return None
        halves = self._halves(batch)
        return halves[self.keep.branches[0]] if len(self.keep.branches) == 1 else slice(None)

    @torch.no_grad()
    def observe(self, call: CrossAttention) -> None:
        keep = self.keep
        if not self._wanted:
            return
        halves = self._halves(len(call.query))
        pictures = halves["conditional"].stop - halves["conditional"].start
        if self._announced not in (None, pictures):
            raise ValueError(f"{self._announced} prompts announced for {pictures} pictures")
        one_half = len(keep.branches) == 1
        pattern = attention_pattern(call, halves[keep.branches[0]] if one_half else slice(None))
        if keep.tokens is not None:
            pattern = pattern[..., list(keep.tokens)]
        sums = self._sums.setdefault(call.layer, {})
        for branch in keep.branches:
            slot = self._step if keep.per_step else 0, branch
            summed = self._added(sums.get(slot), pattern if one_half else pattern[halves[branch]])
            sums[slot] = summed.view(pictures, -1, call.height, call.width, summed.shape[-1])

    @property
    def _wanted(self) -> bool:
        return self.keep.steps is None or self._step in self.keep.steps

    def _halves(self, batch: int) -> dict[str, slice]:
        halves = guidance_branches(self._pipe, batch)
        missing = set(self.keep.branches) - set(halves)
        if missing:
            raise ValueError(f"guidance is off: there is no {min(missing)} half to record")
        return halves

    def _added(self, total: Tensor | None, pattern: Tensor) -> Tensor:
        """Total plus pattern [row, head, pixel, token], whose heads are chosen and averaged."""
        keep, (rows, heads, _, tokens) = self.keep, pattern.shape
        if keep.per_head:
            pattern = pattern if keep.heads is None else pattern[:, list(keep.heads)]
            # A view would hold all that the layer computed.
            return pattern.clone() if total is None else total.flatten(2, 3).add_(pattern)
        # Mean and sum are one operation: a product with a row of weights.
        if heads not in self._weights:
            row = np.zeros((1, 1, heads), np.float32)
            row[..., keep.heads or slice(None)] = 1 / len(keep.heads or range(heads))
            self._weights[heads] = torch.from_numpy(row).to(pattern.device)
        weights, flat = self._weights[heads].expand(rows, -1, -1), pattern.flatten(2)
        if total is None:
            summed = torch.bmm(weights, flat)
        else:
            summed = total.view(rows, 1, -1).baddbmm_(weights, flat)
        return summed.view(rows, 1, -1, tokens)

    def _finish_batch(self) -> None:
        for path, sums in self._sums.items():
            # Sample, branch, step, head, height, width, token.
            (first, *more) = sums.values()
            stacked = torch.stack([first, *more], 1) if more else first.unsqueeze(1)
            stacked = stacked.unflatten(1, (-1, len(self.keep.branches))).transpose(1, 2)
            self._chunks.setdefault(path, []).append(stacked)
        if self._sums:
            steps = range(self._step + 1)
            self._steps = tuple(s for s in steps if self.keep.steps is None or s in self.keep.steps)
        self._sums = {}


@contextmanager
def record(
    pipe, keep: Keep = Keep(), *, expected: int | None = None, shared: bool = False
) -> Iterator[Recorder]:
    """Records cross-attention of a Stable Diffusion (1, 2 or XL) pipeline.

    Give the recorder to `sampling.generate`, which says what each batch holds; around a plain
    call of the pipeline it works too, but knows no words.

    Args:
        keep: What to keep.
        expected: How many cross-attention layers there must be, where that is known.
        shared: Draw with the probabilities that are recorded, so that the fused kernel's are
            not computed again beside it. That is faster, but pictures change by rounding.

    Raises:
        ValueError: as `unet_hooks.cross_attention_layers`, or no such layer or head.
    """
    unet, recorder = unet_of(pipe), Recorder(pipe, keep)

    def next_step(_, inputs: tuple, named: dict) -> None:
        recorder.next_step(float(named["timestep"] if "timestep" in named else inputs[1]))

    observed = observed_cross_attention(
        unet,
        recorder.observe,
        layers=keep.layers,
        expected=expected,
        share=recorder.rows if shared else None,
    )
    with observed as layers, ExitStack() as hooks:
        for path, layer in layers.items():
            if max(keep.heads or (0,)) >= layer.heads:
                raise ValueError(f"{path} has {layer.heads} heads, asked for {keep.heads}")
        hold(hooks, unet.register_forward_pre_hook(next_step, with_kwargs=True))
        check_guidance(hooks, pipe, recorder.check_first)
        yield recorder
