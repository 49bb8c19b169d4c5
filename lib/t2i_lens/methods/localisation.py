"""Localisation of content in cross-attention layers by injection of another prompt.

A picture is drawn from a source prompt while chosen layers read a target prompt, from some step
on: the injection of Staniszewski et al. (2502.09935). All settings of a pair of prompts are rows
of the same batches, each with the target's states in its own layers and in its conditional half
only. Rows share no further computation: once a layer has read another prompt the latents differ,
and with them the unconditional half.

Shown in: notebooks/13_localization.ipynb
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, comb

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import nn

from t2i_lens.models.architectures import (
    DENOISERS,
    denoiser,
    empty_component,
    read_config,
    stated_layers,
)
from t2i_lens.probes.edits import Inject, Value
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.probes.unet_hooks import cross_attention_layers, short_name

ENOUGH = 0.9  # of what all layers, or the first step, reach
MOST = 0.25  # of the layers can be called localised
PUBLISHED = ("sdxl", "if", "sd3")  # files of data/configs that name localised layers


@dataclass(frozen=True)
class Setting:
    """The layers that read the target prompt, and the first step.

    Attributes:
        layers: Paths, from `unet_hooks.cross_attention_layers`, in any order; none changes nothing.
        start: First step with the target, from 0; one after the last changes nothing.
    """

    layers: tuple[str, ...] = ()
    start: int = 0

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        if self.start < 0:
            raise ValueError(f"start {self.start} is no step: they count from 0")

    @property
    def fingerprint(self) -> str:
        """What a result drawn with this setting depends on."""
        return repr(self)

    def edit(self, states: Value) -> Inject:
        """The edit that injects a target's text states, [token, d_model]."""
        return Inject(states, self.layers, (self.start, sys.maxsize))


NONE = Setting()


def draw_settings(
    pipe,
    pairs: Sequence[Sequence[str]],
    settings: Sequence[Setting],
    seeds: Sequence[int],
    **sampling,
) -> dict[str, np.ndarray]:
    """Draw every setting x pair x seed, all of them in the same batches.

    Args:
        pipe: Stable Diffusion 1, 2 or XL. SDXL's pooled text stays the source's.
        pairs: Source and target prompt of each pair.
        settings: See `Setting`.
        seeds: One latent each, the same for all settings and pairs.
        sampling: Passed to `sampling.generate`; `batch_size` rows are drawn together.

    Returns:
        `pictures`, uint8 [setting, pair, seed, height, width, 3].

    Raises:
        ValueError: no pair, setting or seed, a layer that there is not, or a prompt that is too
            long.
    """
    targets = list(dict.fromkeys(target for _, target in pairs))
    read = text_states(pipe, targets) if targets else []
    states = {target: Value(target, row) for target, row in zip(targets, read, strict=True)}
    prompts = [source for _ in settings for source, _ in pairs]
    edits = [[setting.edit(states[target])] for setting in settings for _, target in pairs]
    pictures = generate(pipe, prompts, list(seeds), edits=edits, **sampling)
    return {"pictures": pictures.reshape(len(settings), len(pairs), *pictures.shape[1:])}


def single_layers(layers: Sequence[str]) -> list[Setting]:
    """No layer, each layer alone, all layers: `len(layers) + 2` settings."""
    return [NONE, *(Setting((path,)) for path in layers), Setting(tuple(layers))]


def ordered(layers: Sequence[str], responses: Float[np.ndarray, " layer"]) -> list[str]:
    """Layers by their response, the largest first; equals in the order in which they run."""
    return [layers[index] for index in np.argsort(-np.asarray(responses), kind="stable")]


def quarter(count: int) -> int:
    """Largest number of layers that count as localised: a quarter, rounded up."""
    return ceil(MOST * count)


def first_enough(scores: Sequence[float], whole: float) -> int:
    """Place of the first score that is at least `ENOUGH` of the whole; of the last if none is.

    Raises:
        ValueError: no scores.
    """
    if not len(scores):
        raise ValueError("no scores to choose from")
    enough = [index for index, score in enumerate(scores) if score >= ENOUGH * whole]
    return enough[0] if enough else len(scores) - 1


def random_sets(
    layers: Sequence[str], size: int, count: int, seed: int, avoid: Setting = NONE
) -> list[Setting]:
    """Random sets of layers, all different, without the set to avoid.

    Args:
        size: Layers in each.
        count: How many sets.
        seed: Of the draws.
        avoid: A set that they are to be compared with.

    Raises:
        ValueError: there are not that many sets.
    """
    possible = comb(len(layers), size) - (len(avoid.layers) == size)
    if count > possible:
        raise ValueError(f"{possible} other sets of {size} layers exist, {count} are wanted")
    rng, sets = np.random.default_rng(seed), {}
    while len(sets) < count:
        drawn = Setting(tuple(rng.choice(np.array(layers), size, replace=False).tolist()))
        if drawn.layers != avoid.layers:
            sets[drawn] = None
    return list(sets)


def layer_sizes(pipe) -> pd.DataFrame:
    """Sizes of the key and value matrices of each cross-attention layer.

    Returns:
        A row per layer in the order in which they run: `path`, `name` for figures,
        `parameters` of its key and value matrices, and `share`, per cent of the U-Net's.
    """
    network = denoiser(pipe)
    layers = cross_attention_layers(network)
    table = pd.DataFrame({"path": list(layers), "name": [short_name(path) for path in layers]})
    table["parameters"] = [_keys_and_values(layer) for layer in layers.values()]
    table["share"] = 100 * table["parameters"] / _size(network)
    return table


def published_shares(names: Sequence[str] = PUBLISHED) -> pd.DataFrame:
    """The same shares of published models, counted from their configurations without weights.

    Args:
        names: Files of `data/configs` in which `localised` names layers.

    Returns:
        A row per model: `model`, `localised` and `layers` (how many), `parameters` of the
        localised layers' key and value matrices, `share` and `all`, per cent of the denoiser's
        parameters in those of the localised and of all layers.

    Raises:
        FileNotFoundError: there is no such file.
    """
    rows = []
    for name in names:
        config = read_config(name)
        (kind,) = (part for part in DENOISERS if part in config["components"])
        network = empty_component(config["components"][kind])
        of_localised, of_all = (
            sum(_keys_and_values(network.get_submodule(path)) for path in paths)
            for paths in (config["localised"], stated_layers(config))
        )
        rows.append(
            {
                "model": name,
                "localised": len(config["localised"]),
                "layers": len(stated_layers(config)),
                "parameters": of_localised,
                "share": 100 * of_localised / _size(network),
                "all": 100 * of_all / _size(network),
            }
        )
    return pd.DataFrame(rows)


def _keys_and_values(layer: nn.Module) -> int:
    # Biases are left out, as the published shares leave them out.
    return layer.to_k.weight.numel() + layer.to_v.weight.numel()


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
