"""Edits: interventions on a prompt in the text encoder and in the U-Net.

An edit is a frozen value, called as `edit(activation, site) -> activation`. It is pure: at a site
that is not its own it returns the activation itself, at its own site a changed copy. Its `repr` is
its caption and its cache key. Every kind has settings that change nothing: a `Scale` of 1, `Rotate`
of 0, `Slerp` with t 0, no `positions`, no `layers`, no `queries`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from t2i_lens.base.files import digest

Stage = Literal["embedding", "pattern", "residual", "text", "key", "value"]
Branch = Literal["conditional", "unconditional"]


@dataclass(frozen=True)
class Site:
    """The place of an activation of one prompt: stage, layer, step and branch.

    Attributes:
        stage: "embedding", the token embeddings before positions are added, [token, d_model];
            "pattern", a text layer's self-attention after softmax, [head, query, key];
            "residual", a text layer's output, [token, d_model];
            "text", the text encoder's output after its final norm, [token, d_model];
            "key" or "value", what a cross-attention layer of the U-Net makes its keys or its
            values of, [token, d_model].
        layer: Number of the text layer from 0, or path of the cross-attention layer.
        step: Denoising step from 0, for "key" and "value".
        branch: Half of classifier-free guidance, for "key" and "value".
    """

    stage: Stage
    layer: int | str = ""
    step: int = 0
    branch: Branch = "conditional"


class Value:
    """A tensor with a name; equal, and alike in `repr`, where name and content are equal."""

    def __init__(self, name: str, tensor: Float[Tensor, "..."]):
        self.name, self.tensor = name, tensor.detach().clone()
        content = self.tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        kind = f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode()
        self._digest = digest(kind + content)[:12]

    def __repr__(self) -> str:
        return f"{self.name}#{self._digest}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class Edit:
    """Base of all edits.

    Attributes:
        stages: The stages that edits of this kind act at.
    """

    stages: ClassVar[tuple[str, ...]]

    @property
    def fingerprint(self) -> str:
        """Cache key of a result that uses this edit."""
        return repr(self)

    def __call__(self, activation: Float[Tensor, "..."], site: Site) -> Float[Tensor, "..."]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class _RowEdit(Edit):
    """An edit of the rows at some positions, each by itself.

    Attributes:
        positions: Token positions, from `tokens.encode(...).positions(word)`.
        stage: "embedding" or "text".
    """

    stages = ("embedding", "text")
    positions: tuple[int, ...]
    stage: Literal["embedding", "text"] = "embedding"

    def __call__(self, activation: Float[Tensor, "..."], site: Site) -> Float[Tensor, "..."]:
        if site.stage != self.stage or not self.positions:
            return activation
        return _replaced(activation, self.positions, self._rows(_at(activation, self.positions)))

    def _rows(self, rows: Float[Tensor, "position d_model"]) -> Float[Tensor, "position d_model"]:
        raise NotImplementedError


@dataclass(frozen=True)
class Scale(_RowEdit):
    """Multiplies the rows' length. Identity: factor 1."""

    factor: float

    def _rows(self, rows):
        return rows * self.factor


@dataclass(frozen=True)
class Rotate(_RowEdit):
    """Turns each row by an angle towards a direction and keeps its norm. Identity: angle 0.

    Attributes:
        toward: Direction, [d_model]; its length does not matter.
        angle: Radians; negative turns away. The angle between row and direction reaches the
            direction itself, a larger one passes it.

    Raises:
        ValueError: a row is parallel to the direction, so the plane is not determined.
    """

    toward: Value
    angle: float

    def _rows(self, rows):
        start = torch.nn.functional.normalize(rows, dim=-1)
        goal = torch.nn.functional.normalize(_like(self.toward, rows), dim=-1)
        across = goal - (start @ goal)[:, None] * start
        length = across.norm(dim=-1, keepdim=True)
        _refuse_parallel(length, self.toward)
        norms = rows.norm(dim=-1, keepdim=True)
        return rows * math.cos(self.angle) + norms * across / length * math.sin(self.angle)


@dataclass(frozen=True)
class Slerp(_RowEdit):
    """Spherical interpolation s(t) = sin((1-t)θ)/sin θ · row + sin(tθ)/sin θ · toward.

    θ is the angle between the two. Norms are not equalised: give `toward` the norm you want
    to arrive at. Identity: t = 0. t = 1 is `toward`, t < 0 goes away from it.

    Attributes:
        toward: Goal, [d_model].
        t: Share of the way.

    Raises:
        ValueError: a row is parallel to the goal, so the arc is not determined.
    """

    toward: Value
    t: float

    def _rows(self, rows):
        goal = _like(self.toward, rows)
        cosine = torch.nn.functional.cosine_similarity(rows, goal, dim=-1)[:, None]
        angle = torch.arccos(cosine.clamp(-1, 1))
        _refuse_parallel(angle.sin(), self.toward)
        share_of_row = torch.sin((1 - self.t) * angle) / torch.sin(angle)
        share_of_goal = torch.sin(self.t * angle) / torch.sin(angle)
        return share_of_row * rows + share_of_goal * goal


@dataclass(frozen=True)
class Swap(_RowEdit):
    """Puts other rows in place of the rows. Identity: no positions.

    Attributes:
        by: [d_model] for all positions, or [position, d_model], a row for each.
    """

    by: Value

    def _rows(self, rows):
        return _like(self.by, rows).expand_as(rows)


@dataclass(frozen=True)
class Patch(Edit):
    """Writes a text layer's output that was recorded in another run. Identity: no positions.

    Attributes:
        recorded: That layer's output in the other run, [token, d_model].
        layer: Number of the text layer, from 0.
        positions: Token positions that are written; the recorded rows are those of the same
            positions.
    """

    stages = ("residual",)
    recorded: Value
    layer: int
    positions: tuple[int, ...]

    def __call__(self, activation, site):
        if site.stage != "residual" or site.layer != self.layer or not self.positions:
            return activation
        rows = _at(_like(self.recorded, activation), self.positions)
        return _replaced(activation, self.positions, rows)


@dataclass(frozen=True)
class Force(Edit):
    """Replaces rows of a text layer's attention by a given pattern. Identity: no queries.

    Attributes:
        pattern: [key] for all heads, or [head, key]; each row is to sum to 1 and to look at
            no key after its query.
        layer: Number of the text layer, from 0.
        queries: Positions whose rows are replaced.
        heads: Which heads; all if None.

    Raises:
        ValueError: the pattern does not sum to 1 or looks ahead.
    """

    stages = ("pattern",)
    pattern: Value
    layer: int
    queries: tuple[int, ...]
    heads: tuple[int, ...] | None = None

    def __post_init__(self):
        rows = self.pattern.tensor.float()
        # Half precision sums to one within 77 roundings of 2^-11.
        if (rows.sum(-1) - 1).abs().max() > 0.02 or rows.min() < 0:
            raise ValueError(f"pattern {self.pattern} must be shares that sum to 1")
        if self.queries and rows[..., min(self.queries) + 1 :].sum() > 0:
            raise ValueError(f"pattern {self.pattern} looks at keys after query {self.queries}")

    def __call__(self, activation, site):
        if site.stage != "pattern" or site.layer != self.layer or not self.queries:
            return activation
        heads = list(range(len(activation)) if self.heads is None else self.heads)
        rows = _like(self.pattern, activation)
        changed = activation.clone()
        for query in self.queries:
            changed[heads, query] = rows
        return changed


@dataclass(frozen=True)
class Inject(Edit):
    """Feeds other text states to cross-attention layers of the U-Net. Identity: no layers.

    With both keys and values and both branches this is the injection of Staniszewski et al.
    (2502.09935); keys or values alone tell where a token is looked for from what it brings.

    Attributes:
        states: Text states of another prompt, [token, d_model].
        layers: Paths, from `unet_hooks.cross_attention_layers`; all if None.
        steps: First step, and the one after the last; all if None.
        into: What the layers make of these states: "key", "value" or both.
        positions: Only these token positions; all if None.
        branches: Halves of classifier-free guidance that get them.
    """

    stages = ("key", "value")
    states: Value
    layers: tuple[str, ...] | None = None
    steps: tuple[int, int] | None = None
    into: tuple[Literal["key", "value"], ...] = ("key", "value")
    positions: tuple[int, ...] | None = None
    branches: tuple[Branch, ...] = ("conditional",)

    def __call__(self, activation, site):
        at_own_site = (
            site.stage in self.into
            and site.branch in self.branches
            and (self.layers is None or site.layer in self.layers)
            and (self.steps is None or self.steps[0] <= site.step < self.steps[1])
        )
        if not at_own_site:
            return activation
        states = _like(self.states, activation).expand_as(activation)
        if self.positions is None:
            return states
        return _replaced(activation, self.positions, _at(states, self.positions))


def _like(value: Value, activation: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return value.tensor.to(device=activation.device, dtype=activation.dtype)


def _at(states: Float[Tensor, "token d_model"], positions: tuple[int, ...]):
    if max(positions) >= len(states) or min(positions) < 0:
        raise ValueError(f"positions {positions} are not all among {len(states)} tokens")
    return states[list(positions)]


def _replaced(activation: Float[Tensor, "token d_model"], positions: tuple[int, ...], rows):
    changed = activation.clone()
    changed[list(positions)] = rows
    return changed


def _refuse_parallel(length: Float[Tensor, "position 1"], toward: Value) -> None:
    # Below this the direction across is rounding error.
    if length.min() < 1e-5:
        raise ValueError(f"a row is parallel to {toward}: choose another direction")
