"""Architectures of published models without their weights: sizes, and layers by name.

`data/configs/*.json` hold, for each component, its class, its configuration and its number of
parameters; for the denoiser the layers that read the text, in execution order; and the layers
that staniszewski2025 localised as the ones that write text into the picture.
"""

import json
from itertools import product
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.models.attention_processor import Attention
from torch import nn

from t2i_lens.base.paths import DATA

CONFIGS = DATA / "configs"
DENOISERS = ("unet", "transformer")
# A U-Net runs down, mid, up, but lists its up blocks before the middle one.
ORDER = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}


def read_config(name: str, folder: Path = CONFIGS) -> dict:
    """Configuration of one architecture: `components`, `cross_attention`, and `localised` if known.

    Raises:
        FileNotFoundError: there is no such file.
    """
    file = folder / f"{name}.json"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: restore it")
    return json.loads(file.read_text())


def stated_layers(config: dict) -> list[str]:
    """Paths of the layers that read the text, in execution order, as the file states them.

    Each entry of `cross_attention` is a path with stars and a count for each star.
    """
    paths = []
    for pattern, *counts in config["cross_attention"]:
        for indices in product(*map(range, counts)):
            path = pattern
            for index in indices:
                path = path.replace("*", str(index), 1)
            paths.append(path)
    return paths


def text_layers(denoiser: nn.Module) -> list[str]:
    """Paths of the attention layers that read the text, in execution order.

    In Stable Diffusion's U-Net these are the `attn2`; in IF and in joint attention text comes
    in through projections of its own (`add_k_proj`) of a layer that also reads the picture.
    """
    paths = [
        path
        for path, module in denoiser.named_modules()
        if isinstance(module, Attention)
        and (path.endswith("attn2") or getattr(module, "add_k_proj", None) is not None)
    ]
    return sorted(paths, key=lambda path: ORDER.get(path.split(".")[0], 0))


def denoiser(pipe: diffusers.DiffusionPipeline) -> nn.Module:
    """The U-Net or the transformer of a pipeline."""
    networks = (getattr(pipe, name, None) for name in DENOISERS)
    (network,) = (network for network in networks if network is not None)
    return network


def random_component(entry: dict) -> nn.Module:
    """A component with random weights.

    Args:
        entry: `class` (of diffusers or transformers) and `config`.
    """
    if hasattr(diffusers, entry["class"]):
        return getattr(diffusers, entry["class"]).from_config(entry["config"]).eval()
    network = getattr(transformers, entry["class"])
    return network(network.config_class(**entry["config"])).eval()


def empty_component(entry: dict) -> nn.Module:
    """A component without memory for its weights, on the meta device.

    Args:
        As in `random_component`.
    """
    with torch.device("meta"):
        return random_component(entry)
