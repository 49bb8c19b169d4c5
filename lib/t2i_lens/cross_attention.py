"""Cross-attention maps of a U-Net, recorded while pictures are drawn.

You say beforehand what is kept; by default the sum over steps of each layer's mean over
heads, so that the state does not grow with the number of steps. Drawing itself is untouched:
scores are computed a second time, in float32, beside the model's own attention.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from t2i_lens.edits import Branch
from t2i_lens.hooks import CrossAttention, guidance_branches, observed_cross_attention
from t2i_lens.shapes import CrossAttentionMap
from t2i_lens.tokens import TokenRow


@dataclass(frozen=True)
class Keep:
    """What a recorder keeps.

    Attributes:
        layers: Paths, from `hooks.cross_attention_layers`; all if None.
        heads: Heads, numbered from 0 in every layer; all if None.
        per_head: Keep them apart instead of their mean.
        steps: Steps, from 0; all if None.
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
        """Where a word's positions are along the token axis, for one sample.

        Raises: ValueError: the sample's prompt does not hold it, it was not kept, or the
            recorder was not told the prompts.
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
        rows: Of the batch, as `hooks.guidance_branches` names them.
    Returns: Probabilities; they sum to 1 over tokens.
    """
    query, key = call.query[rows].float(), call.key[rows].float()
    # One operation for product and scale; with beta 0 the empty tensor is not read.
    scores = torch.baddbmm(
        query.new_empty(1, 1, 1),
        query.flatten(0, 1),
        key.flatten(0, 1).transpose(1, 2),
        beta=0,
        alpha=call.scale,
    ).unflatten(0, query.shape[:2])
    if call.mask is not None:
        scores = scores + call.mask[rows]
    return scores.softmax(-1)


class Recorder:
    """Collects maps during calls of a pipeline; made by `record`."""

    def __init__(self, pipe, keep: Keep):
        self.keep = keep
        self._pipe = pipe
        self._chunks: dict[str, list[Tensor]] = {}
        self._sums: dict[str, dict[int, Tensor]] = {}
        self._rows: list[TokenRow] = []
        self._seeds: list[int] = []
        self._announced: int | None = None
        self._steps: tuple[int, ...] | None = None
        self._step, self._timestep = -1, float("inf")

    def begin(self, rows: Sequence[TokenRow] = (), seeds: Sequence[int] = ()) -> None:
        """Says what the next call of the pipeline draws; `sampling.generate` does.

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

        Raises: ValueError: nothing was.
        """
        self._finish_batch()
        if not self._chunks:
            raise ValueError("nothing was recorded: draw pictures inside `with record(...)`")
        layers = {path: torch.cat(chunks) for path, chunks in self._chunks.items()}
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

    def next_step(self, timestep: float) -> None:
        if timestep > self._timestep:
            raise ValueError("a second drawing began: give the recorder to generate, or call begin")
        self._timestep = timestep
        self._step += 1

    @torch.no_grad()
    def observe(self, call: CrossAttention) -> None:
        keep = self.keep
        if keep.steps is not None and self._step not in keep.steps:
            return
        halves = guidance_branches(self._pipe, len(call.query))
        missing = set(keep.branches) - set(halves)
        if missing:
            raise ValueError(f"guidance is off: there is no {min(missing)} half to record")
        pictures = halves["conditional"].stop - halves["conditional"].start
        if self._announced not in (None, pictures):
            raise ValueError(f"{self._announced} prompts announced for {pictures} pictures")
        if len(keep.branches) == 1:
            pattern = self._reduced(call, halves[keep.branches[0]]).unsqueeze(1)
        else:
            both = self._reduced(call, slice(None))
            pattern = torch.stack([both[halves[name]] for name in keep.branches], 1)
        # Sample, branch, head, height, width, token.
        slots = self._sums.setdefault(call.layer, {})
        slot = self._step if keep.per_step else 0
        if slot in slots:
            slots[slot] += pattern
        else:
            slots[slot] = pattern

    def _reduced(self, call: CrossAttention, rows: slice) -> Tensor:
        keep = self.keep
        pattern = attention_pattern(call, rows)
        if keep.heads is not None:
            pattern = pattern[:, list(keep.heads)]
        if not keep.per_head:
            pattern = pattern.mean(1, keepdim=True)
        if keep.tokens is not None:
            pattern = pattern[..., list(keep.tokens)]
        return pattern.unflatten(2, (call.height, call.width))

    def _finish_batch(self) -> None:
        for path, slots in self._sums.items():
            self._chunks.setdefault(path, []).append(torch.stack(list(slots.values()), 2))
        if self._sums:
            steps = range(self._step + 1)
            self._steps = tuple(s for s in steps if self.keep.steps is None or s in self.keep.steps)
        self._sums = {}


@contextmanager
def record(pipe, keep: Keep = Keep(), *, expected: int | None = None) -> Iterator[Recorder]:
    """Records cross-attention of a Stable Diffusion (1, 2 or XL) pipeline.

    Give the recorder to `sampling.generate`, which says what each batch holds; around a plain
    call of the pipeline it works too, but knows no words.

    Args:
        keep: What to keep.
        expected: How many cross-attention layers there must be, where that is known.
    Raises: ValueError: as `hooks.cross_attention_layers`, or a layer or head that there is not.
    """
    recorder = Recorder(pipe, keep)

    def next_step(_, inputs: tuple, named: dict) -> None:
        recorder.next_step(float(named["timestep"] if "timestep" in named else inputs[1]))

    observed = observed_cross_attention(
        pipe.unet, recorder.observe, layers=keep.layers, expected=expected
    )
    with observed as layers:
        for path, layer in layers.items():
            if max(keep.heads or (0,)) >= layer.heads:
                raise ValueError(f"{path} has {layer.heads} heads, asked for {keep.heads}")
        handle = pipe.unet.register_forward_pre_hook(next_step, with_kwargs=True)
        try:
            yield recorder
        finally:
            handle.remove()
