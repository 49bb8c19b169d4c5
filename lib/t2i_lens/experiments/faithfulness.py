"""Faithfulness of pictures to annotated sentences, by questions that a judge answers.

The questions are those of TIFA's kind (Hu et al., 2303.11897): is the object there, in its colour,
in its relation, and once? The outcomes for two nouns are those of "A Cat Is A Cat" (2024), the
bindings those of SynGen (Rassin et al., 2306.08877).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from scipy.ndimage import label

from t2i_lens.experiments.alignment import Sentence, draw, sentence_of
from t2i_lens.judging.protocols import FOUND
from t2i_lens.models.tokens import encode

OUTCOMES = (
    "both", "first and a mixture", "second and a mixture", "only a mixture", "only first",
    "only second", "none",
)  # fmt: skip
KINDS = ("animal", "object", "colour", "relation", "count")  # of questions
KEYS = ["method", "sentence", "order", "seed"]
SENTENCE = ["set", "number"]  # both orders of a sentence are one unit of resampling


def measure(
    pipe, judge, clip, sentences: Sequence[dict], method: dict, seeds: Sequence[int], **sampling
) -> pd.DataFrame:
    """Draw sentences under one method and answer the questions: `answers` of `alignment.draw`.

    Args:
        judge: As for `answers`, and clip.
        sentences: As for `alignment.draw`, and all others.

    Raises:
        ValueError: as `alignment.draw`.
    """
    drawn = draw(pipe, sentences, method, seeds, **sampling)
    return answers(pipe, judge, clip, sentences, method, seeds, drawn)


def answers(
    pipe,
    judge,
    clip,
    sentences: Sequence[dict],
    method: dict,
    seeds: Sequence[int],
    drawn: dict[str, np.ndarray],
) -> pd.DataFrame:
    """The judge's answers about the pictures of `alignment.draw`.

    Args:
        judge: Tells outcomes, colours and places, as the toybox's.
        clip: Text encoder and picture tower, with `embed_text` and `embed_pictures`.

    Returns:
        A row per sentence and seed: `KEYS` and `SENTENCE`; `outcome`; `lost`, nouns that are not
        found, and `doubt`, 1 minus their mean probability; `proper`, `improper` and `neglected`,
        numbers of bound pairs; for each of `KINDS` the questions asked and those answered right
        (`animal asked`, `animal right`); `right`, whether all but the count are; `similarity` of
        picture and text in [-1, 1], and `least` of the halves of the text; `calls`, `backward`
        and `moved` as drawn.

    Shown in: notebooks/drafts/19_tsam_optimisation.ipynb
    """
    of_picture = [sentence_of(fields) for fields in sentences for _ in seeds]
    pictures = drawn["pictures"].reshape(-1, *drawn["pictures"].shape[2:])
    reading = judge.read(pictures)
    rows = []
    for number, sentence in enumerate(of_picture):
        keys = {
            "method": method["name"], "sentence": sentence.text, "order": sentence.order,
            "seed": seeds[number % len(seeds)], "set": sentence.set, "number": sentence.number,
        }  # fmt: skip
        rows.append(keys | answers_about(judge, reading, number, sentence))
    table = pd.DataFrame(rows)
    table["similarity"], table["least"] = _similarity(pipe, clip, pictures, of_picture)
    return table.assign(**{name: drawn[name] for name in ("calls", "backward", "moved")})


def answers_about(judge, reading, number: int, sentence: Sentence) -> dict:
    """The judge's answers about one picture of a sentence, see `answers`.

    Args:
        reading: Of all pictures.
        number: Of the picture among them.
    """
    nouns = sentence.nouns
    columns = [judge.nouns.index(noun) for noun in nouns]
    chance = reading.nouns[number, columns]
    present = dict(zip(nouns, chance > FOUND, strict=True))
    colours = {noun: judge.colour(reading, noun)[number] for _, noun in sentence.bound}
    proper = [present[noun] and colours[noun] == colour for colour, noun in sentence.bound]
    neglected = sum(not present[noun] for _, noun in sentence.bound)
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for position, (noun, column) in enumerate(zip(nouns, columns, strict=True)):
        right[kind_of_noun(sentence, position)].append(present[noun])
        right["count"].append(_pieces(reading.places[number, :, column]) == 1)
    right["colour"] = proper
    if sentence.relation:
        related = _holds(sentence.relation, *reading.centres[number, columns[:2]])
        right["relation"] = [all(present.values()) and related]
    return {
        "outcome": str(judge.outcomes(reading, *nouns[:2])[number]),
        "lost": int(len(nouns) - sum(present.values())),
        "doubt": float(1 - chance.mean()),
        "proper": int(sum(proper)),
        "neglected": int(neglected),
        "improper": int(len(proper) - sum(proper) - neglected),
        "right": bool(all(all(right[kind]) for kind in KINDS if kind != "count")),
        **{f"{kind} asked": len(right[kind]) for kind in KINDS},
        **{f"{kind} right": int(sum(right[kind])) for kind in KINDS},
    }


def kind_of_noun(sentence: Sentence, position: int) -> str:
    """Kind of the question whether a noun is there, by its place among the nouns.

    Of an animal and an object the animal comes first, and last in the other order. The nouns of a
    relation are counted as objects.
    """
    if sentence.set == "animals_objects":
        return "animal" if position == sentence.order else "object"
    return "animal" if sentence.set == "animals" else "object"


def _pieces(chance: Float[np.ndarray, " place"]) -> int:
    side = int(len(chance) ** 0.5)  # the judge's places are a square
    return label(chance.reshape(side, side) > FOUND)[1]


def _holds(relation: str, first: np.ndarray, second: np.ndarray) -> bool:
    x, y = second - first
    return bool({"left of": x > 0, "next to": abs(x) > abs(y)}.get(relation, y > 0))


@torch.no_grad()
def _similarity(
    pipe,
    clip,
    pictures: UInt8[np.ndarray, "picture height width 3"],
    of_picture: Sequence[Sentence],
) -> tuple[Float[np.ndarray, " picture"], Float[np.ndarray, " picture"]]:
    """Cosine of each picture with its text, and the least with the parts around its joint."""
    vectors = clip.embed_pictures(torch.from_numpy(pictures)).cpu()

    def cosines(texts: Sequence[str]) -> np.ndarray:
        ids = torch.tensor([encode(pipe, text).ids for text in texts])
        return (vectors * clip.embed_text(ids.to(pipe.device)).cpu()).sum(-1).numpy()

    halves = [sentence.text.split(f" {sentence.relation or 'and'} ") for sentence in of_picture]
    least = np.minimum(*(cosines([half[side] for half in halves]) for side in (0, 1)))
    return cosines([sentence.text for sentence in of_picture]), least


def score(table: pd.DataFrame) -> pd.Series:
    """Share of the questions about each picture that are answered as its sentence says."""
    right = sum(table[f"{kind} right"] for kind in KINDS)
    return right / sum(table[f"{kind} asked"] for kind in KINDS)


def scores_by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """Share of right answers over all pictures, methods down, kinds of question across."""
    sums = table.groupby("method", sort=False).sum(numeric_only=True)
    return pd.DataFrame({kind: sums[f"{kind} right"] / sums[f"{kind} asked"] for kind in KINDS})


def right_by_kind(table: pd.DataFrame) -> np.ndarray:
    """Questions answered right, [sentence, kind], over the orders and seeds that the table has."""
    return table.groupby(SENTENCE)[[f"{kind} right" for kind in KINDS]].sum().to_numpy()


def per_sentence(table: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """Mean of the values over orders and seeds: a row per sentence, methods across.

    Args:
        values: One for each row of the table.
    """
    wide = table.assign(value=values.astype(float))
    return wide.pivot_table(index=SENTENCE, columns="method", values="value")
