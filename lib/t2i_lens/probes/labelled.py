"""Recorded attention as `xarray.DataArray`: every axis has a name, every position its token.

The recorders keep plain tensors, whose axes only their annotations name. These functions give them
names and coordinates, so that a number is picked by what it is: `array.sel(layer=0, query=2)`.
"""

from typing import Literal

import xarray as xr

from t2i_lens.probes.cross_attention import AttentionMaps
from t2i_lens.probes.text_attention import TextReading

MAP_AXES = ("sample", "branch", "step", "head", "height", "width", "token")
TEXT_AXES = {
    "patterns": ("prompt", "layer", "head", "query", "key"),
    "scores": ("prompt", "layer", "head", "query", "key"),
    "values": ("prompt", "layer", "head", "key", "channel"),
    "inputs": ("prompt", "layer", "token", "d_model"),
    "outputs": ("prompt", "layer", "token", "d_model"),
    "states": ("prompt", "token", "d_model"),
}
TextTensor = Literal["patterns", "scores", "values", "inputs", "outputs", "states"]


def label_cross_attention(maps: AttentionMaps, layer: str) -> xr.DataArray:
    """Cross-attention maps of one layer with named axes.

    Args:
        maps: From `cross_attention.Recorder.maps`.
        layer: Path of a layer that was recorded.

    Returns:
        Probabilities [sample, branch, step, head, height, width, token]; over all tokens they sum
        to `maps.summed_steps`. Coordinates: `branch` by name, `token` by position, `step` where
        steps were kept apart, and `piece`, the vocabulary's entry at each position, where all
        samples have the same prompt.

    Raises:
        ValueError: the layer was not recorded.
    """
    if layer not in maps.layers:
        raise ValueError(f"no maps of layer {layer!r}; there are {list(maps.layers)}")
    values = maps.layers[layer].float().cpu().numpy()
    coordinates = {"branch": list(maps.branches), "token": list(maps.tokens)}
    if values.shape[MAP_AXES.index("step")] == len(maps.steps):
        coordinates["step"] = list(maps.steps)
    if len({row.ids for row in maps.rows}) == 1:
        coordinates["piece"] = "token", [maps.rows[0].pieces[position] for position in maps.tokens]
    return xr.DataArray(values, coordinates, MAP_AXES, name="cross-attention")


def label_text(reading: TextReading, tensor: TextTensor = "patterns") -> xr.DataArray:
    """One tensor of a text encoder's reading with named axes.

    Args:
        reading: From `text_attention.read_prompts`.
        tensor: Name of the attribute of `TextReading`.

    Returns:
        The values, with the axes `TEXT_AXES[tensor]`. Coordinates: `layer` from 0 and `piece`, the
        vocabulary's entry at each position, on the axis that positions lie on, where all prompts
        have the same ids.
    """
    axes = TEXT_AXES[tensor]
    coordinates = {"layer": list(reading.layers)} if "layer" in axes else {}
    if len({row.ids for row in reading.rows}) == 1:
        axis = "token" if "token" in axes else "key"
        coordinates["piece"] = axis, list(reading.rows[0].pieces)
    values = getattr(reading, tensor).detach().float().cpu().numpy()
    return xr.DataArray(values, coordinates, axes, name=tensor)
