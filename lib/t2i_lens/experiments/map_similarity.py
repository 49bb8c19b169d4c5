"""Cosine of the cross-attention maps of two words, step by step while a picture is drawn."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2i_lens.experiments.word_pairs import word_pairs
from t2i_lens.models.tokens import encode
from t2i_lens.probes.cross_attention import AttentionMaps, Keep, record
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.unet_hooks import short_name


def measure_maps(
    pipe, prompts: Sequence[dict], seeds: Sequence[int], *, prompt_batch: int = 8, **sampling
) -> dict[str, np.ndarray]:
    """Draw prompts and take the cosine of the maps of every annotated pair of words.

    Maps are those of the conditional half, as they are: neither smoothed nor renormalised.

    Args:
        prompts: As in `word_pairs.word_pairs`.
        seeds: One latent each, the same for all prompts.
        prompt_batch: Prompts whose maps are held at a time.
        sampling: Passed to `sampling.generate`.

    Returns:
        The columns of `word_pairs`; `heads` [pair, seed, step, layer, head], cosines in
        [0, 1], nan where a layer has fewer heads or a head gives a word nothing; `pooled`
        [pair, seed, step, resolution], of the mean over heads and over the layers of one
        resolution, T-SAM's A; `layers`, their short names, `heights` of their maps,
        `resolutions`, heights from the largest; `pictures`, uint8 [prompt, seed, height,
        width, 3].

    Raises:
        ValueError: as `word_pairs` and `generate`.

    Shown in: notebooks/11_correlation.ipynb
    """
    table = word_pairs(pipe, prompts)
    texts = [prompt["text"] for prompt in prompts]
    longest = max(encode(pipe, text).eos for text in texts)
    keep = Keep(per_step=True, per_head=True, tokens=tuple(range(longest)))
    heads, pooled, pictures = [], [], []
    for start in range(0, len(texts), prompt_batch):
        batch = texts[start : start + prompt_batch]
        with record(pipe, keep) as recorder:
            pictures.append(generate(pipe, batch, list(seeds), recorder=recorder, **sampling))
        maps = recorder.maps()
        for number in range(len(batch)):
            pairs = table[table["prompt"] == start + number]
            columns = [torch.tensor(pairs[name].to_numpy()) for name in ("key", "query")]
            samples = slice(number * len(seeds), (number + 1) * len(seeds))
            heads.append(_by_head(maps, samples, *columns))
            pooled.append(_by_resolution(maps, samples, *columns))
    heights = [int(layer.shape[4]) for layer in maps.layers.values()]
    return {
        **{name: np.array(table[name].tolist()) for name in table},
        "heads": torch.cat(heads).cpu().numpy(),
        "pooled": torch.cat(pooled).cpu().numpy(),
        "layers": np.array([short_name(path) for path in maps.layers]),
        "heights": np.array(heights),
        "resolutions": np.array(sorted(set(heights), reverse=True)),
        "pictures": np.concatenate(pictures),
    }


def _by_head(maps: AttentionMaps, samples: slice, key: Tensor, query: Tensor) -> Tensor:
    cosines = (_cosine(layer[samples, 0], key, query) for layer in maps.layers.values())
    by_head = [cosine.movedim(-1, 0) for cosine in cosines]  # head, pair, seed, step
    padded = pad_sequence(by_head, batch_first=True, padding_value=torch.nan)
    return padded.permute(2, 3, 4, 0, 1)  # pair, seed, step, layer, head


def _by_resolution(maps: AttentionMaps, samples: slice, key: Tensor, query: Tensor) -> Tensor:
    groups: dict[int, list[Tensor]] = {}
    for layer in maps.layers.values():
        groups.setdefault(layer.shape[4], []).append(layer[samples, 0].mean(2))
    means = [torch.stack(groups[height]).mean(0) for height in sorted(groups, reverse=True)]
    return torch.stack([_cosine(mean, key, query) for mean in means], -1)


def _cosine(
    maps: Float[Tensor, "seed *axes height width token"], key: Tensor, query: Tensor
) -> Float[Tensor, "pair seed *axes"]:
    flat = maps.flatten(-3, -2)
    first, second = flat[..., key.to(flat.device)], flat[..., query.to(flat.device)]
    cosine = (first * second).sum(-2) / (first.norm(dim=-2) * second.norm(dim=-2))
    return cosine.movedim(-1, 0)


def judge_pairs(
    judge,
    pictures: UInt8[np.ndarray, "prompt seed height width 3"],
    prompt: Sequence[int],
    kind: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
) -> dict[str, np.ndarray]:
    """The judge's reading of each pair in each picture of its prompt.

    Args:
        judge: With `read`, `present` and perhaps `colour`, as `toybox.judge.Judge`.
        prompt: Number of each pair's prompt.
        kind: Of each pair, as in `word_pairs`; only "nouns" and "bound" pairs can be judged.
        first: Noun, or colour of a bound pair.
        second: Noun.

    Returns:
        `found` [pair, seed], how many of the pair's nouns are in the picture, -1 where the
        pair is of another kind; `right` [pair, seed], 1 where the noun of a bound pair is there
        in its colour, 0 where it is there in another, -1 where it is not there, the pair is
        of another kind, or the judge tells no colours.
    """
    reading = judge.read(pictures.reshape(-1, *pictures.shape[2:]))
    shape = pictures.shape[:2]

    def present(noun: str, number: int) -> np.ndarray:
        return judge.present(reading, noun).reshape(shape)[number].astype(int)

    found = np.full((len(kind), shape[1]), -1)
    right = found.copy()
    for row, (number, sort, a, b) in enumerate(zip(prompt, kind, first, second, strict=True)):
        if sort == "nouns":
            found[row] = present(a, number) + present(b, number)
        elif sort == "bound":
            found[row] = present(b, number)
            if hasattr(judge, "colour"):
                colours = np.array([str(c) for c in judge.colour(reading, b)])
                right[row] = np.where(found[row], colours.reshape(shape)[number] == a, -1)
    return {"found": found, "right": right}


def label_gap(values: Float[np.ndarray, " row"], labels: np.ndarray, rows: np.ndarray) -> float:
    """Mean of the values labelled 1 minus the mean of those labelled 0, among some rows.

    nan where one label is missing.
    """
    labelled, other = (values[rows][labels[rows] == label] for label in (1, 0))
    if not len(labelled) or not len(other):
        return float("nan")
    return float(labelled.mean() - other.mean())


def shuffled_gaps(
    values: Float[np.ndarray, " row"], labels: np.ndarray, shuffles: int, seed: int = 0
) -> Float[np.ndarray, " shuffle"]:
    """`label_gap` with the labels shuffled over rows, `shuffles` times."""
    rng, rows = np.random.default_rng(seed), np.arange(len(values))
    return np.array([label_gap(values, rng.permutation(labels), rows) for _ in range(shuffles)])


def matched_gaps(
    values: Float[np.ndarray, " row"], labels: np.ndarray, groups: np.ndarray
) -> Float[np.ndarray, " group"]:
    """`label_gap` inside each group, e.g. prompt, that has both labels; perhaps of none."""
    gaps = [label_gap(values, labels, np.flatnonzero(groups == g)) for g in np.unique(groups)]
    return np.array([gap for gap in gaps if np.isfinite(gap)])


def from_other_prompts(
    values: Float[np.ndarray, " pair"], groups: np.ndarray, seed: int = 0
) -> Float[np.ndarray, " pair"]:
    """Values shuffled within groups: each pair gets the value of a pair of its group.

    With groups of the same kind at the same positions, the shuffled values show the effect of the
    positions alone.
    """
    rng, shuffled = np.random.default_rng(seed), values.copy()
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        shuffled[members] = values[rng.permutation(members)]
    return shuffled
