"""Proposition 1 of T-SAM in a U-Net: map cosines and shares predicted from keys, and measured."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import combinations

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch.nn.utils.rnn import pad_sequence

from t2i_lens.experiments.arms import Design
from t2i_lens.methods.tsam import key_cosines, map_cosines, predicted_shares, sink_cosines
from t2i_lens.models.tokens import TokenRow, encode
from t2i_lens.probes.cross_attention import attention_pattern
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.unet_hooks import (
    CrossAttention,
    guidance_branches,
    observed_cross_attention,
    short_name,
    unet_of,
)

Observe = Callable[[CrossAttention, slice, int], None]


def _watched(pipe, observe: Observe) -> AbstractContextManager:
    """Calls `observe` with each layer's call, the rows of its conditional half, and the step.

    For one batch only: steps are counted from 0 by how often a layer ran.
    """
    ran: dict[str, int] = {}

    def watch(call: CrossAttention) -> None:
        step = ran[call.layer] = ran.get(call.layer, -1) + 1
        observe(call, guidance_branches(pipe, len(call.query))["conditional"], step)

    return observed_cross_attention(unet_of(pipe), watch)


def _float(call: CrossAttention, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    return call.query[rows].float(), call.key[rows].float()


def measure_keys(
    pipe, texts: Sequence[str], seeds: Sequence[int], steps: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Both sides of Proposition 1 for every two tokens between BOS and EOS.

    Args:
        texts: Prompts.
        steps: Numbers from 0 of the steps to look at.
        sampling: Passed to `sampling.generate`.

    Returns:
        [row, step, layer, head], nan where a layer has fewer heads, a row per prompt, seed
        and pair: `measured`, the cosine of the two maps; `sink`, the same as it were if BOS
        alone decided the softmax's sum; `predicted`, from the keys and the covariance of the
        queries. `prompt` [row]; `bos` [picture, step, layer, head], the mean share of BOS;
        `layers`, their short names.

    Shown in: notebooks/12_text_self_attention.ipynb
    """
    parts_of: dict[str, list] = {n: [] for n in ("measured", "sink", "predicted", "bos", "prompt")}
    layers: dict[str, None] = {}
    for number, text in enumerate(texts):
        row = encode(pipe, text)
        first, second = np.array(list(combinations(range(1, row.eos), 2))).T
        slots: dict[str, list] = {name: [] for name in ("measured", "sink", "predicted", "bos")}

        def observe(call, rows, step, slots=slots, first=first, second=second):
            if step not in steps:
                return
            layers[short_name(call.layer)] = None
            query, key = _float(call, rows)
            pattern = attention_pattern(call, rows)
            cosines = {
                "measured": map_cosines(query, key, call.scale),
                "sink": sink_cosines(query, key, call.scale),
                "predicted": key_cosines(query, key, call.scale),
            }
            for name, cosine in cosines.items():
                slots[name].append(cosine[..., first, second].cpu().movedim(1, 0))
            slots["bos"].append(pattern[..., 0].mean(-1).cpu().movedim(1, 0))  # head, seed, (pair)

        with _watched(pipe, observe):
            generate(pipe, [text], list(seeds), batch_size=len(seeds), **sampling)
        for name, parts in slots.items():
            # Steps are outside, layers inside; layers may have more heads and fewer.
            stacked = pad_sequence(parts, batch_first=True, padding_value=torch.nan)
            stacked = stacked.unflatten(0, (len(steps), len(layers)))
            stacked = stacked.movedim(3, 0)  # seed, step, layer, head, (pair)
            parts_of[name].append(
                stacked if name == "bos" else stacked.movedim(-1, 1).flatten(0, 1)
            )
        parts_of["prompt"].append(torch.full((len(seeds) * len(first),), number))
    arrays = {name: torch.cat(parts).numpy() for name, parts in parts_of.items()}
    return arrays | {"layers": np.array(list(layers))}


def measure_shares(pipe, design: Design, **sampling) -> xr.Dataset:
    """Who has the attention, and who should have it by the moments of the queries.

    Args:
        design: With arms that have no edits.
        sampling: Passed to `sampling.generate`.

    Returns:
        [concept, arm, prompt, seed]: `slot bos words padding`, shares averaged over steps, layers,
        heads and places, which sum to 1 (padding counts from EOS on), and `predicted_slot` and so
        on, by `tsam.predicted_shares`.

    Raises:
        ValueError: a prompt does not hold its arm's word.

    Shown in: notebooks/15_ti_lens.ipynb
    """
    by_word: dict[str, list[dict]] = {}
    for word in dict.fromkeys(arm.word for arm in design.arms):
        sentences = [prompt.text.replace("{}", word) for prompt in design.prompts]
        rows_fed = [encode(pipe, sentence) for sentence in sentences for _ in design.seeds]
        sums: dict[str, list] = {"": [], "predicted_": []}

        def observe(call, rows, step, sums=sums):
            sums[""].append(attention_pattern(call, rows).mean((1, 2)))  # sample, token
            sums["predicted_"].append(predicted_shares(*_float(call, rows), call.scale).mean(1))

        with _watched(pipe, observe):
            generate(pipe, sentences, list(design.seeds), batch_size=len(rows_fed), **sampling)
        shares = {prefix: torch.stack(parts).mean(0).cpu() for prefix, parts in sums.items()}
        by_word[word] = [
            _by_role(shares[""][i], row, word, "")
            | _by_role(shares["predicted_"][i], row, word, "predicted_")
            for i, row in enumerate(rows_fed)
        ]
    table = pd.DataFrame([shares for arm in design.arms for shares in by_word[arm.word]])
    return xr.Dataset({name: design.label(column.to_numpy()) for name, column in table.items()})


def _by_role(shares: torch.Tensor, row: TokenRow, word: str, prefix: str) -> dict[str, float]:
    slot, content = row.positions(word), range(1, row.eos)
    groups = {
        "slot": list(slot),
        "bos": [row.bos],
        "words": [position for position in content if position not in slot],
        "padding": list(range(row.eos, len(row.ids))),
    }
    return {prefix + role: float(shares[group].sum()) for role, group in groups.items()}
