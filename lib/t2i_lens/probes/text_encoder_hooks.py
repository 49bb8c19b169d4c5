"""Hooks in a CLIP text encoder: read and edit its activations, and restore it afterwards.

No other module changes a text encoder.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2i_lens.probes.edits import Edit, Site
from t2i_lens.probes.hookable import require_hookable
from t2i_lens.probes.unet_hooks import apply, hold


@dataclass(frozen=True)
class LayerWeights:
    """Weights that determine a text layer's attention scores.

    Scores are (Wq LN(x) + bq) · (Wk LN(x) + bk) * scale, head by head.

    Attributes:
        norm: LayerNorm's weight, then its bias, [2, d_model].
        eps: LayerNorm's.
        query_weight: [head, channel, d_model], applied as weight @ x.
        query_bias: [head, channel].
        key_weight: As query_weight.
        key_bias: As query_bias.
        scale: Of the scores.
        positions: Position embeddings that were added to the token embeddings,
            [token, d_model].
    """

    norm: Float[Tensor, "2 d_model"]
    eps: float
    query_weight: Float[Tensor, "head channel d_model"]
    query_bias: Float[Tensor, "head channel"]
    key_weight: Float[Tensor, "head channel d_model"]
    key_bias: Float[Tensor, "head channel"]
    scale: float
    positions: Float[Tensor, "token d_model"]


def text_core(encoder: nn.Module) -> nn.Module:
    """The part of a CLIP text encoder that has embeddings, layers and final norm.

    Raises:
        ValueError: the encoder is of another type, or compiled.
    """
    core = getattr(encoder, "text_model", encoder)
    if not hasattr(core, "final_layer_norm") or not hasattr(core.encoder.layers[0], "self_attn"):
        raise ValueError(f"{type(encoder).__name__} is not a CLIP text encoder")
    require_hookable(encoder, "text encoder")
    return core


@contextmanager
def eager_attention(encoder: nn.Module) -> Iterator[None]:
    """Text attention computed step by step, so that its pattern can be seen; then as before."""
    implementation = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        encoder.set_attn_implementation(implementation)


@torch.no_grad()
def layer_weights(encoder: nn.Module, layer: int = 0) -> LayerWeights:
    """Copies of the weights that determine a text layer's attention scores.

    Raises:
        ValueError: not a CLIP text encoder, or one that is offloaded.
    """
    core = text_core(encoder)
    if any(weights.is_meta for weights in core.parameters()):
        raise ValueError("the text encoder is offloaded: read its weights before that")
    module = core.encoder.layers[layer]
    attention, norm = module.self_attn, module.layer_norm1

    def by_head(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().unflatten(0, (attention.num_heads, -1))

    return LayerWeights(
        norm=torch.stack([norm.weight, norm.bias]),
        eps=norm.eps,
        query_weight=by_head(attention.q_proj.weight),
        query_bias=by_head(attention.q_proj.bias),
        key_weight=by_head(attention.k_proj.weight),
        key_bias=by_head(attention.k_proj.bias),
        scale=attention.scale,
        positions=core.embeddings.position_embedding.weight.detach().clone(),
    )


@contextmanager
def traced_text_encoder(
    encoder: nn.Module, layers: Sequence[int] | None = None
) -> Iterator[dict[int, dict[str, Tensor]]]:
    """Reads some layers during one forward pass.

    Open it inside `edited_text_encoder` to see what edits did.

    Args:
        layers: Numbers from 0; all if None.

    Yields:
        Number of each layer, rising -> its activations by name, filled during the pass: `scores`,
        `patterns`, `values`, `inputs` and `outputs`, as in `text_attention.TextReading`.

    Raises:
        ValueError: not a CLIP text encoder, or a layer it does not have.
    """
    modules = text_core(encoder).encoder.layers
    chosen = range(len(modules)) if layers is None else sorted(set(layers))
    unknown = set(chosen) - set(range(len(modules)))
    if unknown:
        raise ValueError(f"no layer {min(unknown)}: the text encoder has {len(modules)}")
    with ExitStack() as hooks:
        hooks.enter_context(eager_attention(encoder))
        yield {number: _traced(hooks, modules[number]) for number in chosen}


@contextmanager
def edited_text_encoder(encoder: nn.Module, edits: Sequence[Sequence[Edit]]) -> Iterator[None]:
    """Applies edits inside the text encoder: embedding, pattern, residual and text stages.

    Args:
        edits: A list for each prompt of the batch; those of other stages are passed over.

    Raises:
        ValueError: an edit for a layer that the encoder does not have, or a batch of another size.
    """
    staged = {stage for edit in chain(*edits) for stage in edit.stages}
    if staged <= {"key", "value"}:
        yield
        return
    core = text_core(encoder)
    layers = core.encoder.layers
    for edit in chain(*edits):
        if {"pattern", "residual"} & set(edit.stages) and not 0 <= edit.layer < len(layers):
            raise ValueError(f"{edit}: the text encoder has layers 0 to {len(layers) - 1}")

    def edited(states: Tensor, site: Site) -> Tensor:
        if len(states) != len(edits):
            raise ValueError(f"edits for {len(edits)} prompts, the batch has {len(states)}")
        rows = [apply(of_prompt, row, site) for of_prompt, row in zip(edits, states, strict=True)]
        if all(row is None for row in rows):
            return states
        pairs = zip(rows, states, strict=True)
        return torch.stack([state if row is None else row for row, state in pairs])

    with ExitStack() as hooks:
        if "pattern" in staged:
            hooks.enter_context(eager_attention(encoder))
            for number, layer in enumerate(layers):
                _edit_pattern(hooks, layer.self_attn, Site("pattern", number), edited)
        sites = [
            (core.embeddings.token_embedding, Site("embedding")),
            *((layer, Site("residual", number)) for number, layer in enumerate(layers)),
            (core.final_layer_norm, Site("text")),
        ]
        for module, site in sites:
            if site.stage in staged:

                def replace(_, inputs: tuple, output: Tensor, site=site) -> Tensor:
                    return edited(output, site)

                hold(hooks, module.register_forward_hook(replace))
        yield


def _edit_pattern(hooks: ExitStack, attention: nn.Module, site: Site, edited: Callable) -> None:
    """Recomputes the output of those queries whose pattern an edit changes."""
    projected: dict[str, Tensor] = {}

    def keep_value(_, inputs: tuple, output: Tensor) -> None:
        projected["value"] = output

    def replace(_, inputs: tuple, output: tuple) -> tuple:
        states, pattern = output
        edited_pattern, value = edited(pattern, site), projected.pop("value")
        if edited_pattern is pattern:
            return output
        heads = value.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        mixed = (edited_pattern @ heads).transpose(1, 2).flatten(2)
        changed = (edited_pattern != pattern).any(-1).any(1)[..., None]  # [batch, query, 1]
        return torch.where(changed, attention.out_proj(mixed), states), edited_pattern

    hold(hooks, attention.v_proj.register_forward_hook(keep_value))
    hold(hooks, attention.register_forward_hook(replace))


def _traced(hooks: ExitStack, layer: nn.Module) -> dict[str, Tensor]:
    attention = layer.self_attn
    projected: dict[str, Tensor] = {}
    activations: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(_, inputs: tuple, output: Tensor) -> None:
            projected[name] = output.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

        return hook

    def keep_attention(_, inputs: tuple, output: tuple) -> None:
        scores = projected.pop("query") @ projected.pop("key").transpose(-1, -2)
        activations["scores"] = scores * attention.scale
        activations["patterns"], activations["values"] = output[1], projected.pop("value")

    def keep_states(_, inputs: tuple, output: Tensor) -> None:
        activations["inputs"], activations["outputs"] = inputs[0], output

    hold(hooks, attention.q_proj.register_forward_hook(keep("query")))
    hold(hooks, attention.k_proj.register_forward_hook(keep("key")))
    hold(hooks, attention.v_proj.register_forward_hook(keep("value")))
    hold(hooks, attention.register_forward_hook(keep_attention))
    hold(hooks, layer.register_forward_hook(keep_states))
    return activations
