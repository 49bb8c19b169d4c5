"""T-SAM's two propositions as formulas (Kim et al., 2411.15236), on bare tensors.

The first predicts the cosine of two cross-attention maps from their keys, the second the similarity
of text self-attention outputs from the attention sink.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Queries = Float[Tensor, "*axes pixel channel"]
Keys = Float[Tensor, "*axes token channel"]


def column_cosines(maps: Float[Tensor, "*axes pixel token"]) -> Float[Tensor, "*axes token token"]:
    """Cosine of every two columns, e.g. of the maps of two tokens over places."""
    unit = maps / maps.norm(dim=-2, keepdim=True)
    return unit.mT @ unit


def map_cosines(query: Queries, key: Keys, scale: float) -> Float[Tensor, "*axes token token"]:
    """Cosine of every two cross-attention maps, from the logarithms of the shares.

    A share too small for float32 would make a map of zeros, which has no direction.

    Args:
        As in `key_cosines`.
    """
    shares = (scale * query @ key.mT).log_softmax(-1)
    return column_cosines((shares - shares.amax(-2, keepdim=True)).exp())


def key_cosines(query: Queries, key: Keys, scale: float) -> Float[Tensor, "*axes token token"]:
    """Proposition 1: cosine of two cross-attention maps from the difference of their keys.

    exp(-d' S d / 2) with d = scale (k_i - k_j) and S the covariance of the queries over places.
    It is exact where BOS alone decides the softmax's sum and the queries are Gaussian and many.
    Their mean cancels.

    Args:
        query: Of one layer, by head, before the scale.
        key: Of the same heads; the keys after projection.
        scale: Of the scores.

    Returns:
        In (0, 1], 1 for equal keys.
    """
    overlap = scale**2 * key @ _covariance(query) @ key.mT
    squared_norms = overlap.diagonal(dim1=-2, dim2=-1)
    squared = squared_norms[..., :, None] + squared_norms[..., None, :] - 2 * overlap
    return torch.exp(-squared.clamp(min=0) / 2)


def sink_cosines(query: Queries, key: Keys, scale: float) -> Float[Tensor, "*axes token token"]:
    """Cosine of two maps under the assumption that BOS alone decides the softmax's sum.

    Proposition 1 before its second assumption: of the queries as they are, be they Gaussian or
    not. Each map is exp(q · (k_i - k_0)), scaled to a largest value of 1, which changes no
    cosine.

    Args:
        As in `key_cosines`.
    """
    exponents = scale * query @ (key - key[..., :1, :]).mT
    return column_cosines((exponents - exponents.amax(-2, keepdim=True)).exp())


def predicted_shares(query: Queries, key: Keys, scale: float) -> Float[Tensor, "*axes token"]:
    """Share of attention each token gets, from the moments of the queries.

    With Gaussian queries a token outweighs BOS (position 0) on average by
    E exp(q · (k_i - k_0)) = exp(m'd + d'Sd/2), the moment that Proposition 1 is made of; here
    these weights are divided by their sum over all tokens.

    Args:
        As in `key_cosines`.

    Returns:
        Sums to 1 over tokens.
    """
    difference = scale * (key - key[..., :1, :])
    linear = (difference @ query.mean(-2)[..., None]).squeeze(-1)
    squared = ((difference @ _covariance(query)) * difference).sum(-1)
    return (linear + squared / 2).softmax(-1)


def off_sink(pattern: Float[Tensor, "*axes query key"]) -> Float[Tensor, "*axes query"]:
    """Proposition 2's eps: attention to all other tokens over that to BOS; 0 if BOS gets all."""
    return (1 - pattern[..., 0]).clamp(min=0) / pattern[..., 0]


def output_cosines(
    pattern: Float[Tensor, "*axes query key"], value: Float[Tensor, "*axes key channel"]
) -> Float[Tensor, "*axes query query"]:
    """Cosine of a head's outputs for every two queries; Proposition 2 predicts 1 - O(eps)."""
    return column_cosines((pattern @ value).mT)


def _covariance(query: Queries) -> Float[Tensor, "*axes channel channel"]:
    centred = query - query.mean(-2, keepdim=True)
    return centred.mT @ centred / query.shape[-2]
