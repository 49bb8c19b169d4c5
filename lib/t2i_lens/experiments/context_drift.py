"""What a learned token does to the text states of a prompt's other words, and to whole prompts.

Two measures that need the text encoder alone: how far the states of the context words move when the
slot's word changes (CoRe, Wu et al., arXiv 2408.15914), and how prompts with the token move away
from those with the class word while they come together (TEA, arXiv 2506.22685).

Shown in: notebooks/23_remedies.ipynb
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cosine_similarity

from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.models.tokens import encode
from t2i_lens.probes.edits import Swap, Value
from t2i_lens.probes.sampling import text_states
from t2i_lens.stats.metrics import rank_correlation


def context_cosines(
    pipe, rows: Mapping[str, np.ndarray], words: Mapping[str, str], nouns: Mapping[str, str],
    prompts: Sequence[Prompt],
) -> pd.DataFrame:  # fmt: skip
    """Cosine of the context words' text states when the slot's word is exchanged.

    Args:
        rows: Concept -> trained row.
        words: Concept -> class word.
        nouns: Concept -> another ordinary noun.

    Returns:
        A row per concept and prompt: `token`, mean cosine over the context words that follow the
        slot between token and class word; `noun`, between the other noun and the class word. A
        prompt whose context stands before the slot has none: CLIP's text attention is causal.
    """
    found = []
    for concept, row in rows.items():
        word, noun = words[concept], nouns[concept]
        for prompt in prompts:
            sentence = prompt.text.replace("{}", word)
            other = prompt.text.replace("{}", noun)
            slot = encode(pipe, sentence).positions(word)
            swap = Swap(Value("token", torch.tensor(row)), positions=slot)
            usual, token, exchanged = text_states(
                pipe, [sentence, sentence, other], edits=[[], [swap], []]
            )
            places = [p for n in prompt.context for p in encode(pipe, sentence).positions(n)]
            places = [p for p in places if p > slot[-1]]
            theirs = [p for n in prompt.context for p in encode(pipe, other).positions(n)]
            theirs = [p for p in theirs if p > encode(pipe, other).positions(noun)[-1]]
            if not places:
                continue
            found.append(
                {
                    "concept": concept,
                    "prompt": prompt.text,
                    "token": _cosine(usual[places], token[places]),
                    "noun": _cosine(usual[places], exchanged[theirs]),
                }
            )
    return pd.DataFrame(found)


def _cosine(one: torch.Tensor, two: torch.Tensor) -> float:
    return float(cosine_similarity(one, two, dim=-1).mean())


def set_distances(
    pipe, paths: Mapping[str, Mapping[int, np.ndarray]], words: Mapping[str, str],
    sentences: Sequence[str], *, random: bool = False, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Distances between prompts with the token and with the class word, over training.

    Args:
        paths: Concept -> step -> row at that step; step 0 is the class word's.
        words: Concept -> class word.
        sentences: With a slot `{}`.
        random: Whether each row is replaced by the class word's, moved as far in a random
            direction: the control.
        seed: Of these directions.

    Returns:
        A row per concept and step: `inter`, mean distance of a sentence's pooled text state (at
        EOS) with the token from that with the class word; `intra`, mean distance between sentences
        with the token; `ratio` of the two.
    """
    found = []
    for concept, path in paths.items():
        generator = torch.Generator().manual_seed(seed)
        said = [text.replace("{}", words[concept]) for text in sentences]
        read = [encode(pipe, sentence) for sentence in said]
        usual = _pooled(text_states(pipe, said), read)
        start = torch.tensor(path[min(path)])
        direction = torch.randn(start.shape, generator=generator)
        direction = direction / direction.norm()
        for step, row in path.items():
            placed = torch.tensor(row)
            if random:
                placed = start + (placed - start).norm() * direction
            edits = [
                [Swap(Value("row", placed), positions=r.positions(words[concept]))] for r in read
            ]
            states = _pooled(text_states(pipe, said, edits=edits), read)
            inter = (states - usual).norm(dim=-1).mean()
            count = len(said)
            intra = torch.cdist(states, states).sum() / (count * (count - 1))
            found.append(
                {"concept": concept, "step": step, "inter": float(inter), "intra": float(intra),
                 "ratio": float(inter / intra)}
            )  # fmt: skip
    return pd.DataFrame(found)


def _pooled(states: torch.Tensor, rows) -> torch.Tensor:
    return torch.stack([each[row.eos] for each, row in zip(states, rows, strict=True)]).float()


def trends(distances: pd.DataFrame, column: str = "ratio") -> np.ndarray:
    """Spearman's correlation of a distance with the step, for each concept."""
    return np.array(
        [
            rank_correlation(some["step"].to_numpy(float), some[column].to_numpy(float))
            for _, some in distances.groupby("concept", sort=False)
        ]
    )
