"""Binding of words: text self-attention and text-embedding cosine of every annotated pair.

The numbers are kept per head, so that T of T-SAM (Kim et al., 2411.15236) can be computed from any
choice of heads afterwards.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn
from torch.nn.functional import cosine_similarity

from t2i_lens.experiments.prompt_attention import untrained_encoder
from t2i_lens.experiments.word_pairs import word_pairs
from t2i_lens.methods.tsam import off_sink, output_cosines
from t2i_lens.models.tokens import encode
from t2i_lens.probes.text_attention import read_ids, tsam_matrix, tsam_matrix_as_released
from t2i_lens.stats.bootstrap import Estimate, cluster_bootstrap, probability_of_superiority

UNBOUND = ("crossed", "nouns")  # what the paper's figure sets against bound pairs


def read_pairs(pipe, prompts: Sequence[dict], batch_size: int = 64) -> dict[str, np.ndarray]:
    """Text self-attention and embedding similarity of every pair of words.

    Args:
        pipe: A pipeline to which every placeholder in the prompts is attached.
        prompts: As in `word_pairs.word_pairs`.
        batch_size: Prompts read together.

    Returns:
        The columns of `word_pairs`, and by pair: `cosine` of the two text embeddings;
        `paper` and `released`, the entry of T from the later word to the earlier one, as defined
        in the paper (before its power, which changes no order) and as in the released code;
        `to_key` and `to_content` [pair, layer, head], attention from the later word to the
        earlier one, and to all tokens between BOS and EOS.

    Raises:
        ValueError: as `word_pairs`, or a prompt is too long.

    Shown in: notebooks/12_text_self_attention.ipynb
    """
    return _read(pipe, pipe.text_encoder, prompts, batch_size)


def read_untrained_pairs(pipe, prompts: Sequence[dict], seed: int) -> dict[str, np.ndarray]:
    """As `read_pairs`, in an encoder with random weights: the effect of position."""
    return _read(pipe, untrained_encoder(pipe.text_encoder, seed), prompts, 64)


def _read(pipe, encoder: nn.Module, prompts: Sequence[dict], batch: int) -> dict[str, np.ndarray]:
    table = word_pairs(pipe, prompts)
    rows = [encode(pipe, prompt["text"]) for prompt in prompts]
    by_prompt = []
    for start in range(0, len(rows), batch):
        read = rows[start : start + batch]
        reading = read_ids(encoder, torch.tensor([row.ids for row in read]))
        for number, row in enumerate(read):
            pairs = table[table["prompt"] == start + number]
            key, query = (torch.tensor(pairs[name].to_numpy()) for name in ("key", "query"))
            pattern, states = (
                tensor[number].float().cpu() for tensor in (reading.patterns, reading.states)
            )
            by_prompt.append(
                {
                    "cosine": cosine_similarity(states[key], states[query], dim=-1),
                    "paper": tsam_matrix(pattern, row.eos)[query - 1, key - 1],
                    "released": tsam_matrix_as_released(pattern, row.eos)[query - 1, key - 1],
                    "to_key": pattern[:, :, query, key].movedim(-1, 0),
                    "to_content": pattern[:, :, query, 1 : row.eos].sum(-1).movedim(-1, 0),
                }
            )
    return {name: np.array(table[name].tolist()) for name in table} | _joined(by_prompt)


def _joined(by_prompt: Sequence[dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """Rows of all prompts, one array for each name."""
    return {
        name: torch.cat([rows[name] for rows in by_prompt]).cpu().numpy() for name in by_prompt[0]
    }


def matrices(pipe, text: str) -> dict[str, np.ndarray]:
    """T of one sentence: `paper` and `released` [token, token], and its `pieces` [token].

    BOS and EOS are dropped. `cosine` [token, token] is that of the text embeddings.
    """
    row = encode(pipe, text)
    reading = read_ids(pipe.text_encoder, torch.tensor([row.ids]))
    pattern, states = reading.patterns[0].float().cpu(), reading.states[0, 1 : row.eos].cpu()
    return {
        "paper": tsam_matrix(pattern, row.eos).numpy(),
        "released": tsam_matrix_as_released(pattern, row.eos).numpy(),
        "cosine": cosine_similarity(states[:, None], states[None], dim=-1).numpy(),
        "pieces": np.array([piece.removesuffix("</w>") for piece in row.pieces[1 : row.eos]]),
    }


def of_heads(
    pairs: dict[str, np.ndarray], heads: Bool[np.ndarray, "layer head"]
) -> Float[np.ndarray, " pair"]:
    """T's entry of each pair, from the mean over some heads; with all heads it equals `paper`."""
    return pairs["to_key"][:, heads].sum(1) / pairs["to_content"][:, heads].sum(1)


def head_scores(
    pairs: dict[str, np.ndarray], unbound: Sequence[str] = UNBOUND
) -> Float[np.ndarray, "layer head"]:
    """Area under the ROC curve of each head alone: bound against unbound pairs."""
    shares = pairs["to_key"] / pairs["to_content"]
    bound, other = pairs["kind"] == "bound", np.isin(pairs["kind"], unbound)
    scores = np.zeros(shares.shape[1:])
    for layer, head in np.ndindex(*scores.shape):
        of_head = shares[:, layer, head]
        scores[layer, head] = probability_of_superiority(of_head[bound], of_head[other])
    return scores


def best_heads(
    scores: Float[np.ndarray, "layer head"], share: float = 0.1
) -> Bool[np.ndarray, "layer head"]:
    """The best share of all heads, at least one."""
    count = max(1, round(share * scores.size))
    chosen = np.zeros(scores.size, dtype=bool)
    chosen[np.argsort(scores, axis=None, kind="stable")[::-1][:count]] = True
    return chosen.reshape(scores.shape)


def separation(kinds: np.ndarray, unbound: Sequence[str] = UNBOUND) -> Callable:
    """A function of values and rows: the probability that a bound pair exceeds an unbound one.

    Args:
        kinds: Of each pair. Where a resample has no pair of one kind it returns nan.
    """

    def area(values: np.ndarray, rows: np.ndarray) -> float:
        bound = values[rows][kinds[rows] == "bound"]
        other = values[rows][np.isin(kinds[rows], unbound)]
        if not len(bound) or not len(other):
            return np.nan
        return probability_of_superiority(bound, other)

    return area


def areas(
    pairs: dict[str, np.ndarray],
    values: Sequence[np.ndarray],
    unbound: Sequence[str] = UNBOUND,
    seed: int = 0,
) -> list[Estimate]:
    """Area under the ROC curve of several numbers of the same pairs, and the first's lead.

    Args:
        values: A number per pair, each.

    Returns:
        An estimate each, intervals over prompts; then that of the first minus each of the
        others, resampled together.
    """
    area = separation(pairs["kind"], unbound)

    def areas_and_leads(rows: np.ndarray) -> np.ndarray:
        areas = np.array([area(numbers, rows) for numbers in values])
        return np.concatenate([areas, areas[0] - areas[1:]])

    return cluster_bootstrap(pairs["prompt"], areas_and_leads, seed)


def sink_outputs(pipe, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Both sides of Proposition 2 for each pair: attention off BOS, and 1 - cosine of the outputs.

    Returns:
        `eps` and `unlike` [row, layer, head], a row for every two tokens between BOS and
        EOS: the mean of their ratios of attention off BOS to that on it, and one minus the
        cosine of what the head puts out for them; `prompt` [row].
    """
    rows = [encode(pipe, text) for text in texts]
    reading = read_ids(pipe.text_encoder, torch.tensor([row.ids for row in rows]))
    by_prompt = []
    for number, row in enumerate(rows):
        pattern = reading.patterns[number][..., : row.eos, : row.eos].float()
        values = reading.values[number][..., : row.eos, :]
        eps, cosines = off_sink(pattern), output_cosines(pattern, values)
        first, second = torch.tensor(list(combinations(range(1, row.eos), 2))).T
        by_prompt.append(
            {
                "eps": ((eps[..., first] + eps[..., second]) / 2).movedim(-1, 0),
                "unlike": 1 - cosines[..., first, second].movedim(-1, 0),
                "prompt": torch.full_like(first, number),
            }
        )
    return _joined(by_prompt)
