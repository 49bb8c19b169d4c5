"""Hooks in a U-Net's cross-attention layers: find, count, observe, edit and restore them.

No other module changes a U-Net. Module hooks observe and edit; in an eager layer the method that
computes its probabilities is wrapped. The model's own attention code runs, whatever its kernel, so
that observing changes no bit of a picture: queries and keys are read at the output of the
projections, and edits are made at their input. Only shared attention uses another kernel.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from itertools import chain
from typing import Any

from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float
from torch import Tensor, nn

from t2i_lens.models.architectures import denoiser, text_layers
from t2i_lens.probes import attention_kernels
from t2i_lens.probes.edits import Edit, Site
from t2i_lens.probes.hookable import require_hookable


@dataclass(frozen=True)
class CrossAttention:
    """Inputs of one cross-attention layer in one step, for a whole batch.

    Attributes:
        layer: Its path in the U-Net.
        query: [batch, head, pixel, channel]; `height` x `width` pixels, row by row.
        key: [batch, head, token, channel].
        scale: What scores are multiplied by before the softmax.
        mask: Added to the scores, or None.
        probabilities: The layer's own, where it has them in float32, of the batch's rows from
            `first` on.
    """

    layer: str
    query: Float[Tensor, "batch head pixel channel"]
    key: Float[Tensor, "batch head token channel"]
    scale: float
    mask: Float[Tensor, "batch 1 #pixel token"] | None
    height: int
    width: int
    probabilities: Float[Tensor, "row head pixel token"] | None = None
    first: int = 0


def unet_of(pipe) -> nn.Module:
    """The U-Net of a pipeline.

    Raises:
        ValueError: it has another denoiser.
    """
    unet = getattr(pipe, "unet", None)
    if unet is None:
        raise ValueError(f"{type(pipe).__name__} has no U-Net: use Stable Diffusion 1, 2 or XL")
    return unet


def cross_attention_layers(unet: nn.Module, expected: int | None = None) -> dict[str, nn.Module]:
    """Cross-attention layers of a U-Net by path, in the order in which they run.

    Args:
        expected: How many there must be, where that is known.

    Raises:
        ValueError: none, another number, or one of a kind that cannot be read.
    """
    require_hookable(unet, "U-Net")
    paths = [path for path in text_layers(unet) if path.split(".")[-1] == "attn2"]
    layers = {path: unet.get_submodule(path) for path in paths}
    if not layers:
        kind = type(unet).__name__
        raise ValueError(f"{kind} has no cross-attention layers (attn2): use a SD or SDXL U-Net")
    if expected is not None and len(layers) != expected:
        raise ValueError(f"{len(layers)} cross-attention layers found, {expected} expected")
    for path, layer in layers.items():
        if layer.norm_cross is not None or layer.norm_q is not None:
            raise ValueError(f"{path} normalises its queries or keys: not supported")
        # The flag says only that they were fused once; the processor decides what runs.
        if "Fused" in type(layer.processor).__name__:
            raise ValueError(f"{path} has fused projections: call unfuse_qkv_projections first")
    return layers


def short_name(path: str) -> str:
    """`down_blocks.1.attentions.0.transformer_blocks.0.attn2` as `down.1.0`, for figures.

    The number of the transformer block follows where it is not 0.
    """
    block, *numbers = path.replace("mid_block", "mid_blocks").split(".")
    numbers = [n for n in numbers if n.isdigit()]
    if numbers[-1] == "0":
        numbers.pop()
    return ".".join([block.removesuffix("_blocks"), *numbers])


def guidance_branches(pipe, batch: int) -> dict[str, slice]:
    """Rows of a U-Net batch by the name of their half of classifier-free guidance.

    The only place that knows the order of the halves: diffusers' pipelines put the
    unconditional one first. Without guidance all rows are conditional.

    Args:
        pipe: A pipeline that is being called.
        batch: Rows the U-Net got.
    """
    if not _is_guided(pipe):
        return {"conditional": slice(0, batch)}
    pictures, odd = divmod(batch, 2)
    if odd:
        raise ValueError(f"{batch} rows cannot be two halves of classifier-free guidance")
    return {"unconditional": slice(0, pictures), "conditional": slice(pictures, batch)}


def _is_guided(pipe) -> bool:
    guided = getattr(pipe, "do_classifier_free_guidance", None)
    if guided is None:
        raise ValueError(f"{type(pipe).__name__} does not say whether it is guided: not supported")
    return guided


@contextmanager
def observed_cross_attention(
    unet: nn.Module,
    observe: Callable[[CrossAttention], None],
    *,
    layers: Sequence[str] | None = None,
    expected: int | None = None,
    share: Callable[[int], slice | None] | None = None,
) -> Iterator[dict[str, nn.Module]]:
    """Calls `observe` after every cross-attention layer, while the context is open.

    The tensors keep their graph where gradients are on.

    Args:
        layers: Paths to observe; all if None.
        expected: As in `cross_attention_layers`.
        share: Rows of a batch of that size to be drawn with the probabilities that `observe`
            gets; None for none of them. Without gradients; results differ by rounding.

    Yields:
        The layers that are observed.

    Raises:
        ValueError: as `cross_attention_layers`, or a path that is none of them.
    """
    chosen = _chosen(cross_attention_layers(unet, expected), layers)
    with ExitStack() as hooks:
        for path, layer in chosen.items():
            _watch(hooks, unet, path, layer, observe, share)
        yield chosen


@contextmanager
def edited_cross_attention(
    pipe, edits: Sequence[Sequence[Edit]], *, expected: int | None = None
) -> Iterator[None]:
    """Apply edits to the text states that cross-attention layers turn into keys and values.

    Args:
        pipe: A pipeline, called once while the context is open.
        edits: A list for each picture of the batch; those of other stages are passed over.

    Raises:
        ValueError: as `cross_attention_layers`, an edit for a layer that is none of them, or a
            batch of another size.
    """
    of_stage = [[e for e in of_picture if {"key", "value"} & set(e.stages)] for of_picture in edits]
    if not any(of_stage):
        yield
        return
    unet = unet_of(pipe)
    layers = cross_attention_layers(unet, expected)
    for edit in chain(*of_stage):
        _chosen(layers, getattr(edit, "layers", None))
    step, seen = -1, set()

    def next_step(*_) -> None:
        nonlocal step
        step += 1

    def edited(states: Tensor, layer: str, stage: str) -> Tensor:
        seen.add((layer, stage))
        changed = states
        for branch, rows in guidance_branches(pipe, len(states)).items():
            if rows.stop - rows.start != len(edits):
                raise ValueError(f"edits for {len(edits)} pictures, the batch is of another size")
            for row, of_picture in zip(range(rows.start, rows.stop), of_stage, strict=True):
                edited_row = apply(of_picture, states[row], Site(stage, layer, step, branch))
                if edited_row is not None:
                    # Copied at the first change only, so that no edit costs nothing.
                    changed = states.clone() if changed is states else changed
                    changed[row] = edited_row
        return changed

    def check(layer: nn.Module, *_) -> None:
        if not seen:
            raise _unread(layer)
        seen.clear()

    with ExitStack() as hooks:
        check_guidance(hooks, pipe)
        hold(hooks, unet.register_forward_pre_hook(next_step))
        for path, layer in layers.items():
            for stage, projection in (("key", layer.to_k), ("value", layer.to_v)):

                def replace(_, inputs: tuple, path=path, stage=stage) -> tuple:
                    return (edited(inputs[0], path, stage), *inputs[1:])

                hold(hooks, projection.register_forward_pre_hook(replace))
            hold(hooks, layer.register_forward_hook(check))
        yield


def check_read(hooks: ExitStack, layer: nn.Module, projections: Sequence[nn.Module]) -> None:
    """Refuses, after a layer has run, one whose processor passed its projections by.

    Args:
        hooks: The check ends with them.
    """
    ran: set[int] = set()

    def check(*_) -> None:
        if len(ran) < len(projections):
            raise _unread(layer)
        ran.clear()

    for number, projection in enumerate(projections):
        hold(hooks, projection.register_forward_hook(lambda *_, n=number: ran.add(n)))
    hold(hooks, layer.register_forward_hook(check))


def check_guidance(hooks: ExitStack, pipe, begin: Callable[[], None] = lambda: None) -> None:
    """Refuses drawings whose batches are not what `guidance_branches` takes them for.

    Pipelines with more branches (perturbed attention, a guided picture) or with more than one call
    of the U-Net or transformer in a step (skipped layers) show it only in the number of rows that
    the sampler gets.

    Args:
        hooks: The check ends with them.
        begin: Called when the sampler is set up for a drawing.
    """
    calls: list[int] = []  # rows of the denoiser in this step
    sampler, network = pipe.scheduler, denoiser(pipe)
    step, set_timesteps = sampler.step, sampler.set_timesteps

    def count(_, inputs: tuple, named: dict) -> None:
        states = inputs[0] if inputs else named.get("sample", named.get("hidden_states"))
        calls.append(len(states))

    @wraps(step)
    def checked(*inputs, **named):
        pictures = len(signature(step).bind(*inputs, **named).arguments["sample"])
        branches = 2 if _is_guided(pipe) else 1
        if calls and calls != [branches * pictures]:
            raise ValueError(
                f"{type(pipe).__name__} denoises {sum(calls)} rows for {pictures} pictures a step: "
                "only plain guidance, or none, is supported"
            )
        calls.clear()
        return step(*inputs, **named)

    @wraps(set_timesteps)
    def begun(*inputs, **named):
        calls.clear()
        begin()
        return set_timesteps(*inputs, **named)

    hold(hooks, network.register_forward_pre_hook(count, with_kwargs=True))
    attention_kernels.replace(hooks, sampler, "step", checked)
    attention_kernels.replace(hooks, sampler, "set_timesteps", begun)


def apply(edits: Sequence[Edit], activation: Tensor, site: Site) -> Tensor | None:
    """The activation after all edits, or None where none of them is for this site."""
    edited = activation
    for edit in edits:
        if site.stage in edit.stages:
            edited = edit(edited, site)
    if edited is activation:
        return None
    if not edited.isfinite().all():
        raise ValueError(f"{site.stage} states are not finite after the edit, in {edited.dtype}")
    return edited


def _unread(layer: nn.Module) -> ValueError:
    kind = type(layer.processor).__name__
    return ValueError(f"{kind} does not use a layer's to_k and to_v: hooks cannot reach its states")


def _chosen(modules: dict[str, nn.Module], names: Sequence[str] | None) -> dict[str, nn.Module]:
    unknown = set(names or ()) - set(modules)
    if unknown:
        raise ValueError(f"no cross-attention layer {min(unknown)!r}; there are {list(modules)}")
    return {path: m for path, m in modules.items() if names is None or path in names}


def hold(hooks: ExitStack, handle: Any) -> None:
    """Removes a hook when the stack closes."""
    hooks.callback(handle.remove)


def _watch(hooks: ExitStack, unet: nn.Module, path: str, layer: nn.Module, observe, share) -> None:
    activations: dict[str, Any] = {}

    def keep_size(_, inputs: tuple, named: dict) -> None:
        states = inputs[0] if inputs else named["hidden_states"]
        activations["size"] = tuple(states.shape[-2:])

    def keep(name: str) -> Callable:
        return lambda _, inputs, output: activations.update({name: output})

    def call(_, inputs: tuple, named: dict, output: Any) -> None:
        if not {"query", "key"} <= set(activations):
            raise _unread(layer)
        query, key = (
            activations.pop(name).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for name in ("query", "key")
        )
        mask = named.get("attention_mask")
        first, probabilities = activations.pop("probabilities", (0, None))
        observe(
            CrossAttention(
                layer=path,
                query=query,
                key=key,
                scale=layer.scale,
                mask=None if mask is None else mask[:, None],
                height=activations["size"][0],
                width=activations["size"][1],
                probabilities=probabilities,
                first=first,
            )
        )

    def keep_probabilities(first: int, pattern: Tensor) -> None:
        activations["probabilities"] = first, pattern

    # The spatial transformer around the layer still has height and width apart.
    spatial = unet.get_submodule(path.split(".transformer_blocks.")[0])
    hold(hooks, spatial.register_forward_pre_hook(keep_size, with_kwargs=True))
    hold(hooks, layer.to_q.register_forward_hook(keep("query")))
    hold(hooks, layer.to_k.register_forward_hook(keep("key")))
    if type(layer.processor) is AttnProcessor:
        attention_kernels.keep_eager(hooks, layer, keep_probabilities)
    elif share is not None:
        attention_kernels.share(hooks, layer, share, keep_probabilities)
    hold(hooks, layer.register_forward_hook(call, with_kwargs=True))
