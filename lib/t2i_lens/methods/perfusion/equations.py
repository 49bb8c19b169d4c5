"""Key-locked rank-one editing: the gated edit of a linear layer, for one concept and for several.

A layer with weight W turns the text state x of one token into W x. The edit takes out what W does
along the concept's target input i*, and adds the target output o* through a gate:

    h(x) = W x - W i* r + sigmoid((r - β) / τ) o*,    r = (i*ᵀ C⁻¹ x) / (i*ᵀ C⁻¹ i*),

where C is the uncentred covariance of text states, so that r is 1 at i* and 0 where x is orthogonal
to i* under C⁻¹ (Tewel et al., arXiv 2305.01644, equation 3). The scale of C cancels. Of C only the
direction C⁻¹ i* is needed; several concepts share a Gram matrix of targets and directions.

Shown in: notebooks/22_perfusion.ipynb
"""

import torch
from jaxtyping import Float
from torch import Tensor


def inverse_covariance(
    states: Float[Tensor, "token d_model"], ridge: float = 1e-4
) -> Float[Tensor, "d_model d_model"]:
    """Inverse of the uncentred covariance of text states, in float64.

    Args:
        states: Of all tokens that count, at least d_model of them.
        ridge: Added to the diagonal, as a share of its mean: text states do not fill the space.

    Raises:
        ValueError: there are fewer states than coordinates.
    """
    states = states.double()
    count, width = states.shape
    if count < width:
        raise ValueError(f"{count} text states for {width} coordinates: give more captions")
    covariance = states.T @ states / count
    eye = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.inv(covariance + ridge * covariance.diagonal().mean() * eye)


def similarity(
    states: Float[Tensor, "*batch token d_model"],
    target: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, "*batch d_model"],
) -> Float[Tensor, "*batch token"]:
    """r of the module's equation: 1 at the target input, 0 where orthogonal to it under C⁻¹.

    Args:
        target: i*.
        direction: C⁻¹ i*.
    """
    energy = (target * direction).sum(-1)
    return (states @ direction[..., None])[..., 0] / energy[..., None]


def gate(ratio: Float[Tensor, "*batch"], beta: float, tau: float) -> Float[Tensor, "*batch"]:
    """sigmoid((r - β) / τ), the share of the target output that a token gets."""
    return torch.sigmoid((ratio - beta) / tau)


def gated(
    output: Float[Tensor, "*batch token d_out"],
    of_target: Float[Tensor, "*batch d_out"],
    ratio: Float[Tensor, "*batch token"],
    wanted: Float[Tensor, "*batch d_out"],
    beta: float,
    tau: float,
) -> Float[Tensor, "*batch token d_out"]:
    """The edited output of one layer.

    Args:
        output: W x.
        of_target: W i*.
        ratio: From `similarity`.
        wanted: o*.
    """
    taken = ratio[..., None] * of_target[..., None, :]
    given = gate(ratio, beta, tau)[..., None] * wanted[..., None, :]
    return output - taken + given


def coefficients(
    states: Float[Tensor, "*batch token d_model"],
    targets: Float[Tensor, "concept d_model"],
    directions: Float[Tensor, "concept d_model"],
) -> Float[Tensor, "*batch token concept"]:
    """Coordinates of text states in the span of several targets, orthogonal under C⁻¹.

    The projection on the span is Σ_j a_j i*_j with G a = s, where s_j = i*_jᵀ C⁻¹ x and
    G_jk = i*_jᵀ C⁻¹ i*_k. It is the one that the paper computes from a Cholesky factor of C⁻¹
    and an orthonormal basis. For one concept a is `similarity`.
    """
    gram = (directions @ targets.T).double()
    scores = (states @ directions.T).double()
    return torch.linalg.solve(gram, scores[..., None])[..., 0].to(states.dtype)


def several(
    output: Float[Tensor, "*batch token d_out"],
    of_targets: Float[Tensor, "concept d_out"],
    taken: Float[Tensor, "*batch token concept"],
    ratios: Float[Tensor, "*batch token concept"],
    wanted: Float[Tensor, "concept d_out"],
    beta: float,
    tau: float,
) -> Float[Tensor, "*batch token d_out"]:
    """The edited output with several concepts.

    Args:
        output: W x.
        of_targets: W i*_j.
        taken: How much of each W i*_j is taken out: `coefficients`, or the ratios themselves,
            which is the version without a common projection.
        ratios: `similarity` to each concept, for the gates.
        wanted: o*_j.
    """
    return output - taken @ of_targets + gate(ratios, beta, tau) @ wanted


def at_position(
    output: Float[Tensor, "*batch d_out"],
    state: Float[Tensor, "*batch d_model"],
    target: Float[Tensor, "*batch d_model"],
    wanted: Float[Tensor, "*batch d_out"],
    strength: float = 1.0,
) -> Float[Tensor, "*batch d_out"]:
    """The edit of DemoCaricature, of the concept's own token only: W x + s cos(x, i*) o*.

    It needs neither C⁻¹ nor a gate, as no other token is edited.
    """
    cosine = torch.cosine_similarity(state, target, dim=-1)
    return output + strength * cosine[..., None] * wanted
