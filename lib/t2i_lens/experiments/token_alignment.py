"""Test-time optimisation on prompts with a learned token: does it bring lost objects back?

The slot of a sentence holds a learned token or its class word. T-SAM follows T of the sentence
itself, or T of the class-word sentence put in its place.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8

from t2i_lens.experiments.alignment import Method, Sentence, drawn, sentence_of, target
from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.judging.protocols import FOUND

PROMPT_SET = "hero"
PROMPTS = 4  # of the set
CONCEPTS = 6  # the hero first, without those the model was chosen on
SEEDS = (0, 1)
KEYS = ["method", "concept", "word", "number", "seed"]
FILE = "tokens.parquet"


def methods(multiples: dict[str, float]) -> list[Method]:
    """No optimisation, T-SAM with both losses and both kinds of T, and a random direction.

    Args:
        multiples: Loss -> multiple of its published step size.
    """
    paper, code = multiples["paper"], multiples["code"]
    return [
        Method("plain"),
        Method("paper, own T", "paper", paper),
        Method("code, own T", "code", code),
        Method("paper, class word's T", "paper", paper, "class word"),
        Method("code, class word's T", "code", code, "class word"),
        Method("random direction", "paper", paper, random=True),
    ]


def sentences(concepts: Sequence[Concept], prompts: Sequence[Prompt]) -> list[Sentence]:
    """Every prompt with each concept's token (order 0) and its class word (order 1) in the slot.

    The pairs of a sentence are all pairs of its nouns, the slot's word first.
    """
    found = []
    for concept in concepts:
        plain = concept.superclass
        for number, prompt in enumerate(prompts):
            for order, word in enumerate((concept.placeholder_token, plain)):
                texts = [prompt.text.replace("{}", each) for each in (word, plain)]
                pairs = tuple(combinations((word, *prompt.context), 2))
                found.append(Sentence(concept.name, number, order, texts[0], (), pairs,
                                      plain=texts[1]))  # fmt: skip
    return found


def measure(
    pipe, judge, asked: Sequence[dict], method: dict, seeds: Sequence[int], **sampling
) -> pd.DataFrame:
    """Draw sentences with a slot under one method, and count the context objects that are lost.

    `answers` of `alignment.drawn`, with the costs of drawing.

    Args:
        pipe: A pipeline to which the placeholders are attached.
        judge: As for `answers`.
        asked: Fields of `alignment.Sentence`, from `sentences`.
        method: Fields of `alignment.Method`.
        seeds: One latent each.
        sampling: Passed to `sampling.generate`.

    Raises:
        ValueError: as `alignment.losses_of` and `sampling.generate`.
    """
    of = drawn(pipe, asked, method, seeds, **sampling)
    table = answers(judge, asked, method, seeds, of.pop("pictures"))
    return table.assign(**of)


def answers(
    judge, asked: Sequence[dict], method: dict, seeds: Sequence[int],
    pictures: UInt8[np.ndarray, "sentence seed height width 3"],
) -> pd.DataFrame:  # fmt: skip
    """What the judge finds in pictures of sentences with a slot.

    Args:
        judge: Knows every context noun, every concept and its class word.
        asked: As in `measure`.

    Returns:
        A row per sentence and seed: `method`, `concept`, `word` ("token" or "class word"),
        `number` of the prompt, `sentence`, `seed`; `lost`, context objects not found, and `asked`;
        `doubt`, 1 minus their mean probability; `subject`, whether the slot's object is found.

    Shown in: notebooks/20_tsam_learned_tokens.ipynb
    """
    said, rows = [sentence_of(fields) for fields in asked], []
    nouns = judge.read(pictures.reshape(-1, *pictures.shape[2:])).nouns
    for place, sentence in enumerate(s for s in said for _ in seeds):
        slot = sentence.unbound[0][0]
        context = [judge.nouns.index(n) for n in sentence.nouns if n != slot]
        subject = slot if sentence.order else sentence.set
        chance = nouns[place, context]
        rows.append(
            {
                "method": method["name"],
                "concept": sentence.set,
                "word": ("token", "class word")[sentence.order],
                "number": sentence.number,
                "sentence": sentence.text,
                "seed": seeds[place % len(seeds)],
                "lost": int((chance <= FOUND).sum()),
                "asked": len(context),
                "doubt": float(1 - chance.mean()),
                "subject": bool(nouns[place, judge.nouns.index(subject)] > FOUND),
            }
        )
    return pd.DataFrame(rows)


def read_targets(pipe, asked: Sequence[dict]) -> pd.DataFrame:
    """T with the token and with the class word in the slot, and how far apart the two are.

    Args:
        asked: Fields of `alignment.Sentence`, from `sentences`; those with a token are read.

    Returns:
        A row per sentence: `concept`, `sentence`; `distance`, the mean over rows of half the
        summed absolute difference of the two T, in [0, 1]; `token` and `class word`, the mean
        share of T that the words after the slot give to it, nan where none follow.

    Raises:
        ValueError: token and class word have different numbers of tokens.

    Shown in: notebooks/20_tsam_learned_tokens.ipynb
    """
    rows = []
    for sentence in (s for s in map(sentence_of, asked) if s.order == 0):
        kinds = {"token": "own", "class word": "class word"}
        found = {k: target(pipe, sentence, Method(k, "paper", target=t)) for k, t in kinds.items()}
        place = sentence.text.split().index(sentence.unbound[0][0])
        apart = (found["token"] - found["class word"]).abs().sum(-1).mean() / 2
        row = {"concept": sentence.set, "sentence": sentence.text, "distance": float(apart)}
        rows.append(row | {k: _looked_at(each, place) for k, each in found.items()})
    return pd.DataFrame(rows)


def _looked_at(matrix: torch.Tensor, place: int) -> float:
    after = matrix[place + 1 :, place]
    return float(after.mean()) if len(after) else np.nan


def lost_grid(table: pd.DataFrame, method: str, word: str) -> np.ndarray:
    """Objects lost per picture, [concept, prompt], mean over seeds."""
    some = table[(table["method"] == method) & (table["word"] == word)]
    return some.pivot_table(index="concept", columns="number", values="lost").to_numpy(float)
