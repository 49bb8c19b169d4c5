"""Heat maps from recorded cross-attention, as in DAAM, their norms and their shares.

All units are DAAM's (Tang et al., 2210.04885): probabilities summed over steps, averaged over
layers and heads. Over all tokens a pixel's values sum to the number of steps.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from t2i_lens.base.shapes import CrossAttentionMap, HeatMaps
from t2i_lens.probes.cross_attention import AttentionMaps


def heat_maps(
    maps: AttentionMaps,
    size: tuple[int, int] = (64, 64),
    *,
    layers: Sequence[str] | None = None,
    branch: str = "conditional",
    clamp: bool = True,
) -> HeatMaps:
    """Mean over layers and heads of the maps, summed over steps and resized bicubically.

    One layer at a time is resized and added, so that no copy of all is made.

    Args:
        maps: Recorded with all layers and heads that are to count. Where heads were averaged
            while recording, layers weigh alike, as they do in DAAM if they have equally many.
        size: (height, width) of the result.
        layers: Paths that count; all that were recorded if None.
        branch: Half of classifier-free guidance.
        clamp: Set negative values, which bicubic resizing makes, to 0 before averaging, as
            DAAM does.

    Raises:
        ValueError: a layer or branch that was not recorded.
    """
    chosen = _chosen(maps, layers)
    if branch not in maps.branches:
        raise ValueError(f"branch {branch!r} was not recorded, only {maps.branches}")
    half = maps.branches.index(branch)
    first = next(iter(chosen.values()))
    total = first.new_zeros(len(first), first.shape[-1], *size)
    heads = 0
    for layer in chosen.values():
        heads += layer.shape[3]
        for sample, heat in zip(layer[:, half].sum(1), total, strict=True):
            resized = interpolate(sample.movedim(-1, 1), size=size, mode="bicubic")
            heat += (resized.clamp_(min=0) if clamp else resized).sum(0)
    return total / heads


def heat_map(
    maps: AttentionMaps, word: str, size: tuple[int, int] = (64, 64), **options
) -> Float[Tensor, "sample height width"]:
    """Heat map of a word: the mean over all its tokens, as DAAM does, in every sample.

    Args:
        word: As written in the prompts; several words in sequence are merged. A placeholder
            has as many tokens as vectors.
        options: As in `heat_maps`.

    Raises:
        ValueError: a sample's prompt does not hold it.
    """
    tokens = enumerate(heat_maps(maps, size, **options))
    return torch.stack([heat[maps.indices(sample, word)].mean(0) for sample, heat in tokens])


def daam_norms(
    maps: AttentionMaps, size: tuple[int, int] = (64, 64), **options
) -> Float[Tensor, "sample token"]:
    """L2 norm of each token's heat map: 0 to `daam_norm_cap`.

    Args:
        size: (height, width). DAAM's own is 64x64 for a 512-pixel Stable Diffusion; norms grow
            with the root of the number of pixels, so compare only norms of one size.
        options: As in `heat_maps`.
    """
    return heat_maps(maps, size, **options).flatten(2).norm(dim=-1)


def daam_norm_cap(maps: AttentionMaps, size: tuple[int, int] = (64, 64)) -> float:
    """Norm of a token that has all the attention of every pixel in every step.

    64 times the number of steps for a map of 64x64.
    """
    return len(maps.steps) * (size[0] * size[1]) ** 0.5


def token_shares(
    maps: AttentionMaps, *, layers: Sequence[str] | None = None, branch: str = "conditional"
) -> Float[Tensor, "sample token"]:
    """Share of the attention each token gets, averaged over layers, heads, steps and pixels.

    Sums to 1 over all tokens. Every layer weighs alike, whatever its resolution.
    """
    half = maps.branches.index(branch)
    shares = [m[:, half].sum(1).mean((1, 2, 3)) for m in _chosen(maps, layers).values()]
    return torch.stack(shares).mean(0) / len(maps.steps)


def renormalised(
    shares: Float[Tensor, "*axes token"], positions: Sequence[int]
) -> Float[Tensor, "*axes position"]:
    """Shares among some tokens only, e.g. without BOS, EOS and padding; they sum to 1."""
    chosen = shares[..., list(positions)]
    return chosen / chosen.sum(-1, keepdim=True)


def _chosen(maps: AttentionMaps, layers: Sequence[str] | None) -> dict[str, CrossAttentionMap]:
    unknown = set(layers or ()) - set(maps.layers)
    if unknown:
        raise ValueError(f"layer {min(unknown)!r} was not recorded, only {list(maps.layers)}")
    return {path: m for path, m in maps.layers.items() if layers is None or path in layers}
