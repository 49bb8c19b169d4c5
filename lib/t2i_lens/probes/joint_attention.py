"""Layers of joint attention in Stable Diffusion 3's transformer, and injection of a text into them.

A joint layer makes keys and values of two streams, of the picture and of the text. The text's
stream changes from layer to layer: a layer reads what the layers before it left there. So
"another prompt at this layer" has two readings, which a U-Net cannot tell apart. Patching writes
keys and values that this layer made in a run of the other prompt (`patches`). Injection, here,
gives this layer the other prompt's text as the first layer would read it.

Shown in: notebooks/25_patching.ipynb
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from diffusers import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from t2i_lens.models.architectures import text_layers
from t2i_lens.probes.hookable import require_hookable
from t2i_lens.probes.unet_hooks import check_guidance, guidance_branches, hold


def joint_layers(pipe, expected: int | None = None) -> dict[str, nn.Module]:
    """Joint-attention layers of a pipeline's transformer by path, in the order in which they run.

    Args:
        expected: How many there must be, where that is known.

    Raises:
        ValueError: another denoiser, a compiled one, another number, or fused projections.
    """
    transformer = getattr(pipe, "transformer", None)
    if not isinstance(transformer, SD3Transformer2DModel):
        raise ValueError(f"{type(pipe).__name__} has no joint attention: use Stable Diffusion 3")
    require_hookable(transformer, "transformer")
    layers = {path: transformer.get_submodule(path) for path in text_layers(transformer)}
    if expected is not None and len(layers) != expected:
        raise ValueError(f"{len(layers)} joint-attention layers found, {expected} expected")
    for path, layer in layers.items():
        if "Fused" in type(layer.processor).__name__:
            raise ValueError(f"{path} has fused projections: call unfuse_qkv_projections first")
    return layers


@contextmanager
def injected_text(
    pipe, layers: Sequence[Sequence[str]], states: Float[Tensor, "row token d_model"]
) -> Iterator[None]:
    """Give joint layers another prompt's text, as the first layer would read it, for K and V.

    The layer's own text queries and the stream that goes on to the next layer stay as they are.
    The text is normalised with the modulation of the run itself.

    Args:
        pipe: Stable Diffusion 3, called once while the context is open.
        layers: For each picture of the batch the paths of its layers; none changes nothing.
        states: Text states of the other prompt for each picture, as `encode_prompt` gives them.
            The conditional half alone gets them.

    Raises:
        ValueError: as `joint_layers`, no such layer, a batch of another size, or more than plain
            guidance.
    """
    found = joint_layers(pipe)
    unknown = {path for of_row in layers for path in of_row} - set(found)
    if unknown:
        raise ValueError(f"no joint-attention layer {min(unknown)!r}; there are {list(found)}")
    with torch.no_grad():
        embedded = pipe.transformer.context_embedder(states)
    with ExitStack() as hooks:
        check_guidance(hooks, pipe)
        for path, layer in found.items():
            rows = [row for row, of_row in enumerate(layers) if path in of_row]
            if rows:
                block = pipe.transformer.get_submodule(path.rsplit(".", 1)[0])
                _inject(hooks, pipe, block, layer, rows, embedded)
        yield


def _inject(
    hooks: ExitStack, pipe, block: nn.Module, layer: nn.Module, rows: list[int], embedded: Tensor
) -> None:
    normalised: dict[str, Tensor] = {}

    def normalise(norm: nn.Module, inputs: tuple, named: dict, _) -> None:
        # The block calls the last layer's norm in another way than that of the others.
        modulation = named["emb"] if "emb" in named else inputs[1]
        first = conditional(len(modulation)).start
        of_rows = modulation[[first + row for row in rows]]
        # The module's own method: its hooks, this one among them, are not called again.
        called = {"emb": of_rows} if "emb" in named else {"conditioning_embedding": of_rows}
        output = norm.forward(embedded[rows], **called)
        normalised["text"] = output[0] if isinstance(output, tuple) else output

    def conditional(batch: int) -> slice:
        half = guidance_branches(pipe, batch)["conditional"]
        if half.stop - half.start != len(embedded):
            raise ValueError(f"texts for {len(embedded)} pictures, the batch is of another size")
        return half

    def replace(_, inputs: tuple) -> tuple:
        text = inputs[0].clone()
        first = conditional(len(text)).start
        text[[first + row for row in rows]] = normalised["text"].to(text.dtype)
        return (text, *inputs[1:])

    hold(hooks, block.norm1_context.register_forward_hook(normalise, with_kwargs=True))
    for projection in (layer.add_k_proj, layer.add_v_proj):
        hold(hooks, projection.register_forward_pre_hook(replace))
