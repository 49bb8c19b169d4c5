"""Tools that record cross-attention, ours and others, behind one interface for the benchmark.

Pipelines here have a real U-Net configuration with random weights, or no weights on the meta
device: the cost of recording does not depend on the weights.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTokenizer

from t2i_lens.base.paths import DATA
from t2i_lens.models.architectures import empty_component, random_component, read_config
from t2i_lens.probes.cross_attention import Keep, Recorder, record
from t2i_lens.probes.heat_maps import heat_maps
from t2i_lens.probes.unet_hooks import cross_attention_layers

PROMPT = "a cat next to a man"  # daam cuts its maps after the tokens of one
NONE, NONE_EAGER = "no capture", "no capture, eager"


@dataclass(frozen=True)
class Tool:
    """A way to record.

    Attributes:
        open: Makes a context around a pipeline in which steps are recorded.
        held: Bytes of the tensors it holds, from what the context yields.
        maps: Makes the tool's heat maps of what the context yields.
        package: Whose it is, for the version; ours if None.
    """

    open: Callable[[Any], AbstractContextManager]
    held: Callable[[Any], int] = lambda _: 0
    maps: Callable[[Any], Any] = lambda _: None
    package: str | None = None


@contextmanager
def eager_cross_attention(unet: nn.Module) -> Iterator[None]:
    """Gives cross-attention diffusers' eager kernel, as daam has one, and self-attention none."""
    before = dict(unet.attn_processors)
    unet.set_attn_processor(
        {name: AttnProcessor() if "attn2" in name else p for name, p in before.items()}
    )
    try:
        yield
    finally:
        unet.set_attn_processor(before)


@contextmanager
def _eagerly(open_: Callable[[Any], AbstractContextManager], pipe) -> Iterator[Any]:
    with eager_cross_attention(pipe.unet), open_(pipe) as opened:
        yield opened


@contextmanager
def _daam(pipe) -> Iterator[Any]:
    import daam  # loads a language toolkit, which only this comparison should wait for

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # one for every layer and step
        with daam.trace(pipe, data_dir=folder) as tracer:
            yield tracer


def _attention_map_diffusers(pipe) -> AbstractContextManager:
    from attention_map_diffusers import AttentionCapture

    # Its default keeps the last step alone. Nothing is moved, since there is one device.
    return AttentionCapture(pipe, relations="image->text", timesteps="all", offload=None)


def _queries_and_keys(capture) -> int:
    return sum(tensor.nbytes for record in capture.records for tensor in (record.q, record.k))


def _ours(**options) -> Tool:
    return Tool(partial(record, **options), _recorded, _heat_maps)


def _recorded(recorder: Recorder) -> int:
    return recorder.state_size * torch.float32.itemsize


def _heat_maps(recorder: Recorder) -> torch.Tensor:
    return heat_maps(recorder.maps())


def _nothing(pipe) -> AbstractContextManager:
    return nullcontext()


TOOLS = {
    NONE: Tool(_nothing),
    "t2i_lens": _ours(),
    "t2i_lens, shared": _ours(shared=True),
    "t2i_lens, heads apart": _ours(keep=Keep(per_head=True)),
    NONE_EAGER: Tool(partial(_eagerly, _nothing)),
    "t2i_lens, eager": Tool(partial(_eagerly, record), _recorded, _heat_maps),
    "daam": Tool(
        _daam,
        lambda tracer: sum(heat_map.nbytes for _, heat_map in tracer.all_heat_maps),
        # By default it leaves out sizes of maps that SD 1 at 512 pixels does not have.
        lambda tracer: tracer.compute_global_heat_map(
            PROMPT, factors={factor for (factor, *_), _ in tracer.all_heat_maps}
        ),
        "daam",
    ),
    "attention-map-diffusers": Tool(
        _attention_map_diffusers,
        _queries_and_keys,
        lambda capture: capture.compute(),
        "attention-map-diffusers",
    ),
}


def random_pipeline(name: str, *, meta: bool = False, **changed):
    """A pipeline around the U-Net of a real configuration, for `denoise`.

    Args:
        name: Of the file in `data/configs`, `sd1` or `sdxl`.
        meta: Without memory for weights.
        changed: Entries of the U-Net's configuration that are to be others.
    """
    entry = read_config(name)["components"]["unet"]
    entry = {**entry, "config": {**entry["config"], **changed}}
    unet = (empty_component if meta else random_component)(entry)
    tokenizer = CLIPTokenizer.from_pretrained(DATA / "models" / "toybox" / "tokenizer")
    parts = {"vae": None, "text_encoder": None, "tokenizer": tokenizer, "unet": unet}
    parts["scheduler"] = DDIMScheduler()
    if name == "sdxl":
        parts |= {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
        pipe = StableDiffusionXLPipeline(**parts)
    else:
        unchecked = {"safety_checker": None, "requires_safety_checker": False}
        pipe = StableDiffusionPipeline(**parts, **unchecked, feature_extractor=None)
    pipe._guidance_scale = 7.5  # as a call of it sets it, which says what halves there are
    return pipe


@torch.no_grad()
def denoise(pipe, *timesteps: int) -> None:
    """Steps of the U-Net on noise, for one prompt with guidance: a batch of two."""
    config, device = pipe.unet.config, pipe.unet.device
    states = torch.randn(2, 77, config.cross_attention_dim, device=device)
    added = None
    if config.addition_embed_type == "text_time":
        sizes = 6 * config.addition_time_embed_dim
        width = config.projection_class_embeddings_input_dim - sizes
        pooled, sizes = torch.randn(2, width, device=device), torch.zeros(2, 6, device=device)
        added = {"text_embeds": pooled, "time_ids": sizes}
    for timestep in timesteps:
        sample = torch.randn(2, config.in_channels, *[config.sample_size] * 2, device=device)
        pipe.unet(sample, timestep, states, added_cond_kwargs=added)


def held_after(pipe, tool: Tool, steps: tuple[int, ...]) -> dict[int, int]:
    """Bytes that a tool holds after so many steps, rising."""
    found = {}
    with tool.open(pipe) as opened:
        for step in range(1, steps[-1] + 1):
            denoise(pipe, 1000 - step)
            if step in steps:
                found[step] = tool.held(opened)
    return found


class Operations(TorchDispatchMode):
    """Counts operations that compute or copy, while `counting`; views and allocations are free."""

    def __init__(self):
        super().__init__()
        self.counting, self.counts = False, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        free = func.is_view or "empty" in name or name in ("aten::_unsafe_view", "aten::detach")
        if self.counting and not free:
            self.counts[-1].append(name)
        return func(*args, **(kwargs or {}))


def operations(unet: nn.Module, draw: Callable[[], object]) -> list[int]:
    """Operations in every call of a cross-attention layer, with what a tool adds to it.

    Args:
        draw: Runs steps, inside the context of a tool that is opened already.
    """
    with Operations() as counter:

        def start(*_) -> None:
            counter.counting = True
            counter.counts.append([])

        def stop(*_) -> None:
            counter.counting = False

        handles = []
        for layer in cross_attention_layers(unet).values():
            # Around whatever the tool has hooked.
            handles.append(layer.register_forward_pre_hook(start, prepend=True))
            handles.append(layer.register_forward_hook(stop))
        try:
            draw()
        finally:
            for handle in handles:
                handle.remove()
    return [len(names) for names in counter.counts]
