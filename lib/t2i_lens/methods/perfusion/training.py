"""Training of key-locked rank-one edits: the word and the values learn, the keys are the class's.

The target input i* is a running mean of the text state at the concept's word, and starts at the
class word's. The target output of the keys is what the layer makes of the class word's text state
and stays; that of the values starts there and learns, as does the word's row (Tewel et al., arXiv
2305.01644). Target optimisation and edit are one: the edited layers are trained as they will draw.

Shown in: notebooks/22_perfusion.ipynb
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from t2i_lens.inversion.training import initializer_rows, text_states_with_rows
from t2i_lens.inversion.training_data import sentences, template_rows
from t2i_lens.methods.perfusion import equations
from t2i_lens.methods.perfusion.concept_edits import ConceptEdit
from t2i_lens.methods.teaching import Lesson, Masks, Way, teach
from t2i_lens.probes.projections import replaced_projections
from t2i_lens.probes.unet_hooks import cross_attention_layers

MOMENTUM = 0.99  # of the running mean
WORD_RATE, OUTPUT_RATE = 0.006, 0.03
TEMPLATES = (
    "a photo of a {}",
    "a good photo of a {}",
    "the photo of a {}",
    "a picture of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "a close-up photo of a {}",
    "a photo of the {}",
    "a {}",
)


@dataclass(frozen=True)
class EditConfig:
    """How a concept's edit is trained.

    Attributes:
        keys: "locked" to the class word's, "trained" like the values, or "free": not edited.
        beta: Bias of the gate.
        tau: Its temperature.
        form: "gated" at every token, or "position", DemoCaricature's, where keys and values learn
            an offset at the concept's own token.
    """

    keys: Literal["locked", "trained", "free"] = "locked"
    beta: float = 0.75
    tau: float = 0.1
    form: Literal["gated", "position"] = "gated"


class RankOneEdits(Way):
    """The edits of a batch of concepts while they train."""

    def __init__(self, pipe, lessons: Sequence[Lesson], inverse: Tensor, config: EditConfig):
        initial = [initializer_rows(pipe, concept, 1) for concept, _ in lessons]
        super().__init__(pipe, lessons, initial)
        self.config = config
        like = next(pipe.unet.parameters())
        self.inverse = inverse.to(like.device)
        starts = [class_state(pipe, *lesson) for lesson in lessons]
        self.targets = torch.stack(starts).float()
        self.layers = cross_attention_layers(pipe.unet)
        self.keys, self.values = {}, {}
        positional = config.form == "position"
        for path in self.layers:
            for stage, outputs in (("key", self.keys), ("value", self.values)):
                weight = self._projection(path, stage).weight.detach().float()
                first = self.targets @ weight.T
                learns = stage == "value" or config.keys == "trained" or positional
                first = torch.zeros_like(first) if positional else first
                outputs[path] = torch.nn.Parameter(first, requires_grad=learns)
        if config.keys == "free":
            self.keys = {}
        self._starts: Tensor | None = None

    def groups(self):
        learned = [p for p in (*self.keys.values(), *self.values.values()) if p.requires_grad]
        return [
            {"params": list(self.rows), "lr": WORD_RATE, "weight_decay": 0.0},
            {"params": learned, "lr": OUTPUT_RATE, "weight_decay": 0.0},
        ]

    def states(self, ids, starts):
        states = super().states(ids, starts)
        own = states[torch.arange(len(ids)), starts].detach().float()
        mean = own.view(len(self.lessons), self.each, -1).mean(1)
        self.targets = MOMENTUM * self.targets + (1 - MOMENTUM) * mean
        self._starts = starts
        return states

    def edited(self):
        targets = self.targets.repeat_interleave(self.each, 0)
        directions = self.directions().repeat_interleave(self.each, 0)
        everyone = torch.arange(len(targets))

        def edit(layer: str, stage: str, states: Tensor, output: Tensor) -> Tensor | None:
            outputs = self.keys if stage == "key" else self.values
            if layer not in outputs:
                return None
            wanted = outputs[layer].repeat_interleave(self.each, 0)
            if self.config.form == "position":
                here = (everyone, self._starts)
                changed = equations.at_position(output[here], states[here], targets, wanted)
                return output.index_put(here, changed.to(output.dtype))
            weight = self._projection(layer, stage).weight
            # The gate is steep: half precision would round what it lets through.
            with torch.autocast(states.device.type, enabled=False):
                ratio = equations.similarity(states.float(), targets, directions)
                of_target = functional.linear(targets, weight.float())
                edited = equations.gated(
                    output.float(), of_target, ratio, wanted, self.config.beta, self.config.tau
                )
            return edited.to(output.dtype)

        return replaced_projections(self.pipe.unet, edit)

    def directions(self) -> Float[Tensor, "lesson d_model"]:
        """C⁻¹ i* of every lesson."""
        return (self.targets.double() @ self.inverse).float()

    def learned(self) -> list[ConceptEdit]:
        """The edits as they are now."""
        directions = self.directions().cpu()
        positional = self.config.form == "position"
        return [
            ConceptEdit(
                placeholder_token=concept.placeholder_token,
                superclass=concept.superclass,
                embedding=(self.rows[i].detach().cpu().clone(),),
                target=self.targets[i].detach().cpu().clone(),
                direction=torch.zeros_like(directions[i]) if positional else directions[i].clone(),
                keys={n: o.detach().float().cpu()[i].clone() for n, o in self.keys.items()},
                values={n: o.detach().float().cpu()[i].clone() for n, o in self.values.items()},
                beta=self.config.beta,
                tau=self.config.tau,
                positional=positional,
            )
            for i, (concept, _) in enumerate(self.lessons)
        ]

    def _projection(self, path: str, stage: str) -> torch.nn.Module:
        layer = self.layers[path]
        return layer.to_k if stage == "key" else layer.to_v


def train(
    pipe,
    lessons: Sequence[Lesson],
    inverse: Float[Tensor, "d_model d_model"],
    config: EditConfig = EditConfig(),  # noqa: B008 - frozen
    masks: Sequence[Masks] | None = None,
) -> tuple[list[ConceptEdit], float]:
    """Trains the edits of several concepts in one batch; the pipeline is left as it was.

    Args:
        pipe: Stable Diffusion 1 or 2.
        inverse: C⁻¹, from `equations.inverse_covariance`.
        masks: See `teaching.teach`.

    Returns:
        An edit for each lesson, and seconds of training per lesson.

    Raises:
        ValueError: as `teaching.teach`.
    """
    way, seconds = teach(pipe, lessons, lambda: RankOneEdits(pipe, lessons, inverse, config), masks)
    return way.learned(), seconds


@torch.no_grad()
def class_state(pipe, concept, config) -> Float[Tensor, " d_model"]:
    """Mean text state at the class word, over the training's sentences."""
    ids, starts = template_rows(pipe, sentences(concept, config), 1)
    rows = initializer_rows(pipe, concept, 1)[None].expand(len(ids), -1, -1)
    states = text_states_with_rows(pipe, ids, starts, rows)
    return states[torch.arange(len(ids)), starts].float().mean(0)


@torch.no_grad()
def caption_states(pipe, captions: Sequence[str], batch_size: int = 128) -> Tensor:
    """Text states of captions, of all tokens from BOS to EOS; padding does not count."""
    from t2i_lens.models.tokens import encode
    from t2i_lens.probes.sampling import text_states

    rows = [encode(pipe, caption) for caption in captions]
    states = text_states(pipe, captions, batch_size)
    return torch.cat([s[: row.eos + 1] for s, row in zip(states, rows, strict=True)])
