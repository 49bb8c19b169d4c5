"""Replace what cross-attention layers project text states to: their keys and their values.

Shown in: notebooks/23_remedies.ipynb
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from t2i_lens.probes.unet_hooks import check_read, cross_attention_layers, hold


@contextmanager
def replaced_projections(
    unet: nn.Module, edit: Callable[[str, str, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Replace what cross-attention layers project text states to, while the context is open.

    Args:
        edit: Called with a layer's path, "key" or "value", its text states [batch, token, d_model]
            and the projection's output [batch, token, d_out]; returns another output, or None.
            The graph is kept where gradients are on.

    Raises:
        ValueError: as `cross_attention_layers`, or a layer does not use its projections.
    """
    with ExitStack() as hooks:
        for path, layer in cross_attention_layers(unet).items():
            for stage, projection in (("key", layer.to_k), ("value", layer.to_v)):

                def replace(_, inputs: tuple, output: Tensor, path=path, stage=stage):
                    return edit(path, stage, inputs[0], output)

                hold(hooks, projection.register_forward_hook(replace))
            check_read(hooks, layer, (layer.to_k, layer.to_v))
        yield
