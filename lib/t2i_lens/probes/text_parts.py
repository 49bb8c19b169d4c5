"""Parts of a CLIP text encoder's layers: keep their outputs in one run, put them into another.

A layer adds the output of its self-attention and then that of its MLP to the residual stream. Each
of the three can be exchanged at chosen positions while all else is computed as always.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from t2i_lens.probes.text_encoder_hooks import text_core
from t2i_lens.probes.unet_hooks import hold

Part = Literal["residual", "attention", "MLP"]


def module_of(encoder: nn.Module, part: Part, layer: int) -> nn.Module:
    """The module whose output a part is.

    Args:
        layer: Its number, from 0.

    Raises:
        ValueError: not a CLIP text encoder, or one without this layer.
    """
    layers = text_core(encoder).encoder.layers
    if not 0 <= layer < len(layers):
        raise ValueError(f"no layer {layer}: the text encoder has layers 0 to {len(layers) - 1}")
    chosen = layers[layer]
    return {"residual": chosen, "attention": chosen.self_attn, "MLP": chosen.mlp}[part]


@contextmanager
def kept_part(encoder: nn.Module, part: Part, layer: int) -> Iterator[list[Tensor]]:
    """Keeps a part's output, [prompt, token, d_model], one entry for each forward pass.

    Raises:
        ValueError: as `module_of`.
    """
    kept: list[Tensor] = []

    def keep(_, inputs: tuple, output: Tensor | tuple) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    with ExitStack() as hooks:
        hold(hooks, module_of(encoder, part, layer).register_forward_hook(keep))
        yield kept


@contextmanager
def exchanged_part(
    encoder: nn.Module,
    part: Part,
    layer: int,
    donor: Float[Tensor, "prompt token d_model"],
    where: Bool[Tensor, "prompt token"],
) -> Iterator[None]:
    """Puts a donor's output in place of a part's own at some positions, and restores the encoder.

    Args:
        donor: From `kept_part`.
        where: Positions that get it; all others keep what is computed there.

    Raises:
        ValueError: as `module_of`, or a batch of another size.

    Shown in: notebooks/31_mediation.ipynb
    """

    def replace(_, inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
        states = output[0] if isinstance(output, tuple) else output
        if states.shape != donor.shape:
            raise ValueError(
                f"the donor has states {tuple(donor.shape)}, not {tuple(states.shape)}"
            )
        mixed = torch.where(where[..., None], donor, states)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    with ExitStack() as hooks:
        hold(hooks, module_of(encoder, part, layer).register_forward_hook(replace))
        yield
