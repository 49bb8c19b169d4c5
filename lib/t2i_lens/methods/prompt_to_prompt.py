"""Prompt-to-Prompt, word replacement: attention maps of a source run in the run of another prompt.

While the target prompt is drawn, its cross-attention and self-attention read the maps of the source
prompt, drawn from the same latents in the same batch, for a first share of the steps each (Hertz et
al., arXiv 2208.01626). A map is the product of queries and keys: the source's queries and keys are
written into the rows of the target, and the model's own attention code computes the rest. In
cross-attention M A V = M (A V), so that the mapping A from tokens of the source to those of the
target acts on the target's values.

Shown in: notebooks/26_word_editing.ipynb
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from t2i_lens.models.tokens import TokenRow, encode
from t2i_lens.probes.sampling import SAMPLED, generate, require
from t2i_lens.probes.unet_hooks import (
    check_guidance,
    check_read,
    cross_attention_layers,
    guidance_branches,
    hold,
    unet_of,
)


@dataclass(frozen=True)
class Replacement:
    """For how long the maps of the source are read.

    Attributes:
        cross: Share of the steps, from the first, with the source's cross-attention maps.
        own: The same for the maps of self-attention. Both 0: the target prompt alone.
    """

    cross: float = 0.8
    own: float = 0.4

    def __post_init__(self):
        if not (0 <= self.cross <= 1 and 0 <= self.own <= 1):
            raise ValueError(f"{self} must have shares of the steps, each from 0 to 1")

    @property
    def fingerprint(self) -> str:
        """What a result drawn with it depends on."""
        return repr(self)


def token_mapping(source: TokenRow, target: TokenRow) -> Float[Tensor, "token token"]:
    """Which target tokens read the map of each source token; rows sum to 1.

    Words are exchanged one for one. The tokens of a word that is replaced by one of as many tokens
    are paired in order; otherwise all tokens of the new word share the maps of the old one. All
    other tokens are paired in order.

    Args:
        source: Of the source prompt.
        target: Of the target prompt.

    Returns:
        A [source token, target token].

    Raises:
        ValueError: the prompts differ in their number of words.
    """
    if len(source.words) != len(target.words):
        raise ValueError(
            f"{source.prompt!r} and {target.prompt!r} differ in their number of words: "
            "replacement exchanges words one for one"
        )
    length = len(source.ids)
    mapping = torch.zeros(length, length)
    row = column = 0
    for old, new in zip(source.words, target.words, strict=True):
        if old.text == new.text:
            continue
        before = torch.arange(old.positions[0] - row)
        mapping[row + before, column + before] = 1
        row, column = old.positions[-1] + 1, new.positions[-1] + 1
        if len(old.positions) == len(new.positions):
            mapping[list(old.positions), list(new.positions)] = 1
        else:
            mapping[old.positions[0] : row, new.positions[0] : column] = 1 / len(new.positions)
    rest = torch.arange(length - row)
    mapping[row + rest, (column + rest).clamp(max=length - 1)] = 1
    return mapping


@contextmanager
def replaced_maps(
    pipe, replacements: Sequence[Replacement | None], sources: Sequence[int], mappings: Tensor
) -> Iterator[None]:
    """Rows of one drawing read the attention maps of other rows of the same batch.

    Only the conditional half of guidance is touched, as in the method's code.

    Args:
        pipe: Stable Diffusion 1, 2 or XL, called once while the context is open.
        replacements: One for each picture of the batch; None leaves a picture as it is.
        sources: For each picture the picture whose maps it reads.
        mappings: `token_mapping` for each picture, [picture, token, token].

    Raises:
        ValueError: as `cross_attention_layers`, or the batch has another size.
    """
    unet, step = unet_of(pipe), -1
    layers = cross_attention_layers(unet)
    steps_of = {
        kind: [getattr(r, kind) if r else 0.0 for r in replacements] for kind in ("cross", "own")
    }

    def next_step(*_) -> None:
        nonlocal step
        step += 1

    def edited_rows(kind: str) -> Tensor:
        # Rounded: 0.2 of 10 steps are two steps, whatever 0.2 is in floating point.
        until = [round(share * pipe.num_timesteps) for share in steps_of[kind]]
        return torch.tensor([step < last for last in until])

    def rewritten(output: Tensor, kind: str, take) -> Tensor:
        rows = guidance_branches(pipe, len(output))["conditional"]
        if rows.stop - rows.start != len(replacements):
            raise ValueError(f"{len(replacements)} replacements for {rows.stop - rows.start} rows")
        chosen = edited_rows(kind)
        if not chosen.any():
            return output
        changed = output.clone()
        changed[rows][chosen] = take(output[rows], chosen)
        return changed

    of_source = torch.tensor(sources)

    def from_source(states: Tensor, chosen: Tensor) -> Tensor:
        return states[of_source[chosen]]

    def mapped(states: Tensor, chosen: Tensor) -> Tensor:
        return mappings[chosen].to(states) @ states[chosen]

    def watch(hooks: ExitStack, projection: nn.Module, kind: str, take) -> None:
        handle = projection.register_forward_hook(lambda _, __, out: rewritten(out, kind, take))
        hold(hooks, handle)

    with ExitStack() as hooks:
        check_guidance(hooks, pipe)
        hold(hooks, unet.register_forward_pre_hook(next_step))
        for path, cross in layers.items():
            own = unet.get_submodule(path.removesuffix("attn2") + "attn1")
            for layer, kind in ((cross, "cross"), (own, "own")):
                watch(hooks, layer.to_q, kind, from_source)
                watch(hooks, layer.to_k, kind, from_source)
                check_read(hooks, layer, (layer.to_q, layer.to_k, layer.to_v))
            watch(hooks, cross.to_v, "cross", mapped)
        yield


def draw_replaced(
    pipe,
    pairs: Sequence[Sequence[str]],
    replacements: Sequence[Replacement],
    seeds: Sequence[int],
    **sampling,
) -> UInt8[np.ndarray, "replacement pair seed height width 3"]:
    """Draw every pair of prompts with each replacement, its source in the same batch.

    Args:
        pipe: Stable Diffusion 1, 2 or XL.
        pairs: Source and target prompt of each pair.
        replacements: See `Replacement`.
        seeds: One latent each, the same for all.
        sampling: Passed to `sampling.generate`, but for its batch size: a pair is a batch.

    Returns:
        The target pictures, bytes [replacement, pair, seed, height, width, 3].

    Raises:
        ValueError: as `token_mapping` and `replaced_maps`.
    """
    require(pipe, SAMPLED, "Prompt-to-Prompt draws with Stable Diffusion 1, 2 and XL")
    rules = [None, *replacements]
    drawn = []
    for source, target in pairs:
        mapping = token_mapping(encode(pipe, source), encode(pipe, target))
        count = len(rules) * len(seeds)
        of_rows = [rule for rule in rules for _ in seeds]
        sources = [row % len(seeds) for row in range(count)]
        with replaced_maps(pipe, of_rows, sources, mapping.expand(count, -1, -1)):
            prompts = [source, *[target] * len(replacements)]
            drawn.append(generate(pipe, prompts, seeds, batch_size=count, **sampling)[1:])
    return np.stack(drawn, axis=1)
