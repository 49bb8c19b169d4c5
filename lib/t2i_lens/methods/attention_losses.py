"""Losses on cross-attention maps that move latents towards a prompt's bindings.

T-SAM (Kim et al., 2411.15236) in the form of the paper and in that of its released code,
Attend-and-Excite (Chefer et al., 2301.13826) and SynGen (Rassin et al., 2306.08877). Every loss is
a function of the maps of one picture over all token positions, from their papers' equations.

Shown in: notebooks/drafts/19_tsam_optimisation.ipynb
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity, pad

from t2i_lens.methods.tsam import column_cosines
from t2i_lens.models.tokens import TokenRow

Maps = Float[Tensor, "height width token"]
Loss = Callable[[Maps], Float[Tensor, ""]]

GAMMA = 4.0  # power of T in T-SAM's paper
POWER = 3.0  # power of T in T-SAM's released code
ROW_WEIGHT = 0.2  # of a row, times its number, in the released code
SHARPNESS = 100.0  # of Attend-and-Excite's softmax over tokens
BLUR = 0.5  # standard deviation of the 3x3 Gaussian, in places


@dataclass(frozen=True, eq=False)
class TsamPaper:
    """T-SAM's loss as printed: sum over j <= i of (i / s) |T_ij^gamma - S_ij|.

    Attributes:
        target: T of `text_attention.tsam_matrix` with gamma 1, [token, token].
    """

    target: Float[Tensor, "token token"]

    def __call__(self, maps: Maps) -> Float[Tensor, ""]:
        similarity = map_similarity(maps, len(self.target))
        size = len(similarity)
        rho = torch.arange(1, size + 1, device=similarity.device) / size
        target = self.target.to(similarity) ** GAMMA
        return (rho[:, None] * (target - similarity).abs()).tril().sum()


@dataclass(frozen=True, eq=False)
class TsamCode:
    """T-SAM's loss as released: each row's cosine between T and C, strictly below the diagonal.

    The sum over rows i >= 1 of 0.2 i (1 - cos(T[i, :i], C[i, :i])).

    Attributes:
        target: T of `text_attention.tsam_matrix_as_released`, [token, token].
    """

    target: Float[Tensor, "token token"]

    def __call__(self, maps: Maps) -> Float[Tensor, ""]:
        cosines = content_cosines(maps, len(self.target))
        target = self.target.to(cosines)
        rows = [
            ROW_WEIGHT * i * (1 - cosine_similarity(target[i, :i], cosines[i, :i], dim=0))
            for i in range(1, len(target))
        ]
        return torch.stack(rows).sum()


@dataclass(frozen=True)
class AttendExcite:
    """Attend-and-Excite: 1 minus the largest attention to the most neglected noun.

    Maps are made a softmax over all tokens but BOS and the last position, then smoothed.

    Attributes:
        nouns: Position of each noun.
    """

    nouns: tuple[int, ...]

    def __call__(self, maps: Maps) -> Float[Tensor, ""]:
        shares = (SHARPNESS * maps[..., 1:-1]).softmax(-1)
        peaks = smoothed(shares)[..., [p - 1 for p in self.nouns]].amax((0, 1))
        return (1 - peaks).max()


@dataclass(frozen=True)
class SynGen:
    """SynGen: an attribute's map like its noun's, both unlike the maps of all other words.

    The positive part is the symmetric divergence of each attribute and its noun; the negative part
    is minus the mean divergence of a phrase's words from all words outside of it. A noun without
    attribute has the negative part alone.

    Attributes:
        phrases: Positions of the words of each phrase, the noun last.
        eos: Position of EOS; all words before it count.
    """

    phrases: tuple[tuple[int, ...], ...]
    eos: int

    def __call__(self, maps: Maps) -> Float[Tensor, ""]:
        flat = maps.flatten(0, 1)
        shares = (flat / flat.sum(0, keepdim=True)).T  # [token, place]
        terms = []
        for phrase in self.phrases:
            others = [p for p in range(1, self.eos) if p not in phrase]
            terms += [_divergence(shares[p], shares[phrase[-1]]) for p in phrase[:-1]]
            if others:
                apart = [_divergence(shares[p], shares[others]).mean() for p in phrase]
                terms.append(-torch.stack(apart).mean())
        return torch.stack(terms).sum()


def content_cosines(maps: Maps, count: int) -> Float[Tensor, "word word"]:
    """C of T-SAM: cosine of every two smoothed maps of the `count` tokens after BOS."""
    return column_cosines(smoothed(maps[..., 1 : 1 + count]).flatten(0, 1))


def map_similarity(maps: Maps, count: int) -> Float[Tensor, "word word"]:
    """S of T-SAM: `content_cosines` with rows that sum to 1."""
    cosines = content_cosines(maps, count)
    return cosines / cosines.sum(-1, keepdim=True)


def smoothed(maps: Maps) -> Maps:
    """Maps after a 3x3 Gaussian of standard deviation `BLUR`, mirrored at the edge."""
    offsets = torch.arange(-1, 2, dtype=maps.dtype, device=maps.device)
    line = torch.exp(-(offsets**2) / (2 * BLUR**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    images = pad(maps.movedim(-1, 0)[:, None], (1, 1, 1, 1), mode="reflect")
    return conv2d(images, kernel[None, None])[:, 0].movedim(0, -1)


def words_of_pairs(
    row: TokenRow, bound: Sequence[Sequence[str]], unbound: Sequence[Sequence[str]]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Positions of the nouns and of the phrases of a prompt's annotated pairs.

    A word of several pieces stands at its last, which has seen them all.

    Args:
        bound: Pairs (attribute, noun).
        unbound: Pairs of other words; two nouns among them.

    Returns:
        Each noun's position in reading order, and each noun's phrase, the noun last.

    Raises:
        ValueError: no pairs, or a word of a pair that the prompt does not hold.
    """
    if not bound and not unbound:
        raise ValueError(f"no pairs of words are annotated in {row.prompt!r}: name some")
    positions = {word: row.positions(word)[-1] for pair in (*bound, *unbound) for word in pair}
    attributes = {attribute for attribute, _ in bound}
    nouns = sorted(
        (word for word in positions if word not in attributes), key=positions.__getitem__
    )
    phrases = [
        (*sorted(positions[a] for a, n in bound if n == noun), positions[noun]) for noun in nouns
    ]
    return tuple(positions[noun] for noun in nouns), tuple(phrases)


def _divergence(
    one: Float[Tensor, " place"], others: Float[Tensor, "*axes place"]
) -> Float[Tensor, "*axes"]:
    """Symmetric Kullback-Leibler divergence in nats, the mean of both directions."""
    ratio = one.clamp_min(1e-12).log() - others.clamp_min(1e-12).log()
    return ((one - others) * ratio).sum(-1) / 2
