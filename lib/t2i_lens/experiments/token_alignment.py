"""Test-time optimisation on prompts with a learned token: does it bring lost objects back?

The slot of a sentence holds a learned token or its class word. T-SAM follows T of the sentence
itself, or T of the class-word sentence put in its place.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8

from t2i_lens.base.prompts import Prompt
from t2i_lens.experiments.alignment import Method, Sentence, draw, sentence_of, target
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.judging.protocols import FOUND

PROMPT_SET = "hero"
PROMPTS = 4  # of the set
CONCEPTS = 6  # the hero first, without those the model was chosen on
SEEDS = (0, 1)
WORDS = ("token", "class word")  # in the slot, by a sentence's order
KEYS = ["method", "concept", "word", "number", "seed"]


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
    return [
        Sentence(
            concept.name,
            number,
            order,
            prompt.text.replace("{}", word),
            (),
            tuple(combinations((word, *prompt.context), 2)),
            plain=prompt.text.replace("{}", concept.superclass),
        )
        for concept in concepts
        for number, prompt in enumerate(prompts)
        for order, word in enumerate((concept.placeholder_token, concept.superclass))
    ]


def measure(
    pipe, judge, sentences: Sequence[dict], method: dict, seeds: Sequence[int], **sampling
) -> pd.DataFrame:
    """Draw sentences with a slot under one method, and count the context objects that are lost.

    `answers` about the pictures of `alignment.draw`, with the costs of drawing.

    Args:
        judge: As for `answers`.
        sentences: Fields of `alignment.Sentence`, from `sentences`; all others as for `draw`.

    Raises:
        ValueError: as `alignment.draw`.
    """
    drawn = draw(pipe, sentences, method, seeds, **sampling)
    table = answers(judge, sentences, method, seeds, drawn.pop("pictures"))
    return table.assign(**drawn)


def answers(
    judge,
    sentences: Sequence[dict],
    method: dict,
    seeds: Sequence[int],
    pictures: UInt8[np.ndarray, "sentence seed height width 3"],
) -> pd.DataFrame:
    """What the judge finds in pictures of sentences with a slot.

    Args:
        judge: Knows every context noun, every concept and its class word.

    Returns:
        A row per sentence and seed: `KEYS` and the `sentence`; `lost`, context objects not found,
        and `asked`; `doubt`, 1 minus their mean probability; `subject`, whether the slot's object
        is found.

    Shown in: notebooks/drafts/20_tsam_learned_tokens.ipynb
    """
    of_picture = [sentence_of(fields) for fields in sentences for _ in seeds]
    nouns, rows = judge.read(pictures.reshape(-1, *pictures.shape[2:])).nouns, []
    for number, sentence in enumerate(of_picture):
        word = _slot_word(sentence)
        context = [judge.nouns.index(noun) for noun in sentence.nouns if noun != word]
        subject = judge.nouns.index(word if sentence.order else sentence.set)
        chance = nouns[number, context]
        rows.append(
            {
                "method": method["name"],
                "concept": sentence.set,
                "word": WORDS[sentence.order],
                "number": sentence.number,
                "seed": seeds[number % len(seeds)],
                "sentence": sentence.text,
                "lost": int((chance <= FOUND).sum()),
                "asked": len(context),
                "doubt": float(1 - chance.mean()),
                "subject": bool(nouns[number, subject] > FOUND),
            }
        )
    return pd.DataFrame(rows)


def read_targets(pipe, sentences: Sequence[dict]) -> pd.DataFrame:
    """T with the token and with the class word in the slot, and how far apart the two are.

    Args:
        sentences: Fields of `alignment.Sentence`, from `sentences`; those with a token are read.

    Returns:
        A row per sentence: `concept`, `sentence`; `distance`, the mean over rows of half the
        summed absolute difference of the two T, in [0, 1]; `token` and `class word`, the mean
        share of T that the words after the slot give to it, nan where none follow.

    Raises:
        ValueError: token and class word have different numbers of tokens.

    Shown in: notebooks/drafts/20_tsam_learned_tokens.ipynb
    """
    rows = []
    for sentence in (sentence_of(fields) for fields in sentences):
        if WORDS[sentence.order] != "token":
            continue
        own, plain = (
            target(pipe, sentence, Method("T", "paper", target=kind))
            for kind in ("own", "class word")
        )
        slot = sentence.text.split().index(_slot_word(sentence))
        distance = float((own - plain).abs().sum(-1).mean()) / 2
        row = {"concept": sentence.set, "sentence": sentence.text, "distance": distance}
        rows.append(row | {"token": _share_of(own, slot), "class word": _share_of(plain, slot)})
    return pd.DataFrame(rows)


def _slot_word(sentence: Sentence) -> str:
    return sentence.unbound[0][0]


def _share_of(matrix: Float[torch.Tensor, "token token"], slot: int) -> float:
    later = matrix[slot + 1 :, slot]
    return float(later.mean()) if len(later) else np.nan


def lost_objects(
    table: pd.DataFrame, method: str, word: str
) -> Float[np.ndarray, "concept prompt"]:
    """Objects lost per picture under a method with one of `WORDS` in the slot, mean over seeds."""
    rows = table[(table["method"] == method) & (table["word"] == word)]
    return rows.pivot_table(index="concept", columns="number", values="lost").to_numpy(float)
