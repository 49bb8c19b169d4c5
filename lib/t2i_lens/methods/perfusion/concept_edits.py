"""A learned concept as an edit of a U-Net's keys and values: apply it, save it, load it.

The file holds the target input, its direction under C⁻¹, a target output for the keys and one for
the values of every cross-attention layer, and the placeholder's embedding. It needs no captions to
be used, and says which model it belongs to.

Shown in: notebooks/22_perfusion.ipynb
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from t2i_lens.base.files import write
from t2i_lens.inversion.embeddings import attach_rows
from t2i_lens.methods.perfusion import equations
from t2i_lens.models.architectures import empty_component, read_config
from t2i_lens.models.tokens import text_towers
from t2i_lens.probes.hookable import require_loaded
from t2i_lens.probes.projections import replaced_projections
from t2i_lens.probes.unet_hooks import (
    check_guidance,
    cross_attention_layers,
    guidance_branches,
    unet_of,
)

FORMAT = "key-locked rank-one edit, 1"
TAU = 0.15  # at inference; the paper finds it better than training's 0.1
Outputs = Mapping[str, Float[Tensor, " _"]]  # widths differ between layers


@dataclass(frozen=True, eq=False)
class ConceptEdit:
    """One learned concept.

    Attributes:
        placeholder_token: The new word.
        superclass: The word whose keys it has.
        embedding: Its row of the embedding table, of each text encoder.
        target: i*, [d_model].
        direction: C⁻¹ i*, [d_model]; zeros in an edit at the position alone.
        keys: o* of the keys by layer; no entry leaves a layer's keys as they are.
        values: o* of the values by layer.
        beta: Bias of the gate, of training or, from `tuned`, of inference.
        tau: Temperature of the gate, likewise.
        positional: Whether it is DemoCaricature's edit, at the placeholder's position alone.
    """

    placeholder_token: str
    superclass: str
    embedding: tuple[Float[Tensor, "1 _"], ...]
    target: Float[Tensor, " d_model"]
    direction: Float[Tensor, " d_model"]
    keys: Outputs
    values: Outputs
    beta: float = 0.75
    tau: float = 0.1
    positional: bool = False

    def tuned(self, beta: float, tau: float = TAU) -> "ConceptEdit":
        """The same concept with another gate; a higher bias makes it weaker."""
        return replace(self, beta=beta, tau=tau)

    @property
    def numbers(self) -> int:
        """How many numbers a file holds."""
        rows = (*self.embedding, self.target, self.direction)
        outputs = (*self.keys.values(), *self.values.values())
        return sum(part.numel() for part in (*rows, *outputs))


@contextmanager
def applied(
    pipe,
    concepts: Sequence[ConceptEdit],
    *,
    positions: Sequence[int] = (),
    joint: bool = True,
) -> Iterator[None]:
    """Inside the block the U-Net's cross-attention layers are edited; no concept: not at all.

    Args:
        pipe: With the placeholders attached, see `attach`.
        concepts: All with the gate of the first.
        positions: Of the placeholder, for an edit at the position alone; every prompt that is
            drawn inside the block must have it there.
        joint: Whether several concepts are taken out as the projection on their span, or each by
            itself.

    Raises:
        ValueError: a concept of another or an offloaded model, or several edits at a position; as
            `replaced_projections`, and, for an edit at a position, as `check_guidance`.
    """
    unet = unet_of(pipe)
    for concept in concepts:
        check(concept, unet)
    if any(c.positional for c in concepts) and (len(concepts) > 1 or not positions):
        raise ValueError("an edit at the position alone is for one concept and needs positions")
    if not concepts:
        yield
        return
    require_loaded(unet, "U-Net")
    stacked = _Stacked(concepts, unet, joint)

    def edit(layer: str, stage: str, states: Tensor, output: Tensor) -> Tensor | None:
        if not stacked.positional:
            return stacked.edited(layer, stage, states, output)
        rows = guidance_branches(pipe, len(states))["conditional"]
        return stacked.edited_at(layer, stage, states, output, rows, list(positions))

    with ExitStack() as hooks:
        if stacked.positional:
            check_guidance(hooks, pipe)
        hooks.enter_context(replaced_projections(unet, edit))
        yield


class _Stacked:
    """Several concepts' tensors side by side, as the equations take them."""

    def __init__(self, concepts: Sequence[ConceptEdit], unet: nn.Module, joint: bool):
        first, like = concepts[0], next(unet.parameters())
        self.beta, self.tau, self.joint = first.beta, first.tau, joint
        self.positional = first.positional
        self.targets = torch.stack([c.target for c in concepts]).to(like)
        self.directions = torch.stack([c.direction for c in concepts]).to(like)
        self.wanted = {
            (layer, stage): torch.stack([outputs[layer] for outputs in each]).to(like)
            for stage, each in (
                ("key", [c.keys for c in concepts]),
                ("value", [c.values for c in concepts]),
            )
            for layer in each[0]
        }
        self.of_targets = {
            (layer, stage): self.targets @ projection.weight.detach().T
            for layer, module in cross_attention_layers(unet).items()
            for stage, projection in (("key", module.to_k), ("value", module.to_v))
        }

    def edited(self, layer: str, stage: str, states: Tensor, output: Tensor) -> Tensor | None:
        wanted = self.wanted.get((layer, stage))
        if wanted is None:
            return None
        of_targets = self.of_targets[layer, stage]
        ratios = torch.stack(
            [equations.similarity(states, target.expand(len(states), -1),
                                  direction.expand(len(states), -1))
             for target, direction in zip(self.targets, self.directions, strict=True)], -1,
        )  # fmt: skip
        taken = ratios
        if self.joint and len(self.targets) > 1:
            taken = equations.coefficients(states, self.targets, self.directions)
        return equations.several(output, of_targets, taken, ratios, wanted, self.beta, self.tau)

    def edited_at(self, layer, stage, states, output, rows: slice, positions: list[int]):
        wanted = self.wanted.get((layer, stage))
        if wanted is None:
            return None
        changed = output.clone()
        for position in positions:
            here = states[rows, position]
            changed[rows, position] = equations.at_position(
                output[rows, position],
                here,
                self.targets[0].expand(len(here), -1),
                wanted[0].expand(len(here), -1),
            )
        return changed


def attach(pipe, concept: ConceptEdit) -> tuple[int, ...]:
    """Puts the placeholder's row into a pipeline, and returns its ids.

    Raises:
        ValueError: the row does not fit the model, or the name is taken.
    """
    return attach_rows(pipe, concept.placeholder_token, concept.embedding)


def check(concept: ConceptEdit, unet: nn.Module) -> None:
    """Refuses a concept of another model, in one line.

    Raises:
        ValueError: its layers or widths are not those of the U-Net.
    """
    sizes = {
        layer: (module.to_k.in_features, module.to_k.out_features)
        for layer, module in cross_attention_layers(unet).items()
    }
    width = next(iter(sizes.values()))[0]
    given = {layer: len(output) for layer, output in (concept.keys | concept.values).items()}
    fits = len(concept.target) == width and given.keys() <= sizes.keys()
    if not fits or any(given[layer] != sizes[layer][1] for layer in given):
        raise ValueError(
            f"{concept.placeholder_token!r} edits {len(given)} layers that read text of width "
            f"{len(concept.target)}, this model has {len(sizes)} of width {width}: use the model "
            "that it was trained on"
        )


def save(concept: ConceptEdit, file: Path) -> Path:
    """Write one safetensors file, in float32."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, to_bytes(concept))
    return file


def to_bytes(concept: ConceptEdit) -> bytes:
    """The content of `save`'s file."""
    tensors = {"target": concept.target, "direction": concept.direction}
    tensors |= {f"embedding.{i}": rows for i, rows in enumerate(concept.embedding)}
    tensors |= {f"key.{layer}": output for layer, output in concept.keys.items()}
    tensors |= {f"value.{layer}": output for layer, output in concept.values.items()}
    # Copies, as safetensors refuses two names for one tensor.
    tensors = {name: part.detach().cpu().float().clone() for name, part in tensors.items()}
    about = {name: getattr(concept, name) for name in _DESCRIBED}
    metadata = {"format": FORMAT, "concept": json.dumps(about)}
    return safetensors.torch.save(tensors, metadata=metadata)


def load(file: Path, pipe=None) -> ConceptEdit:
    """Read what `save` wrote.

    Args:
        pipe: The model that it is for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such edit, or one of another model.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file} is missing: check the path")
    try:
        concept = from_bytes(Path(file).read_bytes())
    except (ValueError, KeyError, TypeError, SafetensorError):
        raise ValueError(f"{file} is no key-locked edit, or damaged: train it anew") from None
    if pipe is not None:
        check(concept, unet_of(pipe))
        widths = [encoder.config.hidden_size for _, encoder in text_towers(pipe)]
        if [rows.shape[1] for rows in concept.embedding] != widths:
            raise ValueError(f"{file} holds rows for another text encoder: use its own model")
    return concept


def from_bytes(content: bytes) -> ConceptEdit:
    """What `to_bytes` was given.

    Raises:
        ValueError, KeyError, TypeError or SafetensorError: it is something else.
    """
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    if metadata["format"] != FORMAT:
        raise ValueError(f"format {metadata['format']}")
    tensors = safetensors.torch.load(content)
    return ConceptEdit(
        embedding=tuple(tensors[name] for name in sorted(tensors) if "embedding." in name),
        target=tensors["target"],
        direction=tensors["direction"],
        keys=_named(tensors, "key."),
        values=_named(tensors, "value."),
        **json.loads(metadata["concept"]),
    )


_DESCRIBED = ("placeholder_token", "superclass", "beta", "tau", "positional")


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): part for n, part in tensors.items() if n.startswith(prefix)}


def counted(architecture: str) -> dict[str, int]:
    """Numbers and bytes of one concept's file for a published model, from its configuration alone.

    Args:
        architecture: A file of `data/configs`, such as "sd1".

    Returns:
        `layers`; `outputs`, numbers of target outputs of keys and values; `published`, these with
        the target input and the embedding, as the paper counts; `numbers`, with the direction
        under C⁻¹, as the file holds them; `bytes` of the file; `per_position`, numbers with an
        output for each of 77 positions.
    """
    components = read_config(architecture)["components"]
    unet = empty_component(components["unet"])
    layers = cross_attention_layers(unet)
    widths = {path: layer.to_k.out_features for path, layer in layers.items()}
    text = next(iter(layers.values())).to_k.in_features
    towers = [
        components[name]["config"]["hidden_size"]
        for name in sorted(components)
        if name.startswith("text_encoder")
    ]
    outputs = {path: torch.zeros(width) for path, width in widths.items()}
    rows = tuple(torch.zeros(1, width) for width in towers)
    concept = ConceptEdit("<concept>", "word", rows, torch.zeros(text), torch.zeros(text),
                          outputs, outputs)  # fmt: skip
    both = 2 * sum(widths.values())
    published = both + text + sum(towers)
    return {
        "layers": len(layers),
        "outputs": both,
        "published": published,
        "numbers": concept.numbers,
        "bytes": len(to_bytes(concept)),
        "per_position": 77 * both + text + sum(towers),
    }
