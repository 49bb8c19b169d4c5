"""Prompt destruction: how many objects of a prompt are lost when one word of it changes.

A prompt has a slot for its subject and names context objects beside it. An arm fills the
slot; every arm is drawn from the same latents, and a judge says what it finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Float, UInt8

from t2i_lens.paths import DATA
from t2i_lens.sampling import generate

FOUND = 0.5  # an object is in the picture when the judge gives it at least this probability


class Reading(Protocol):
    """What a judge found; `nouns` are probabilities [picture, noun]."""

    nouns: Float[np.ndarray, "picture noun"]


class Judge(Protocol):
    """Anything that finds named objects in pictures."""

    nouns: list[str]

    def read(self, images: UInt8[np.ndarray, "picture height width 3"]) -> Reading: ...


@dataclass(frozen=True)
class Prompt:
    """A sentence with a slot `{}` for its subject, and the nouns that must appear beside it."""

    text: str
    context: tuple[str, ...]


def load_prompts(name: str, file: Path = DATA / "prompts" / "prompts.yaml") -> list[Prompt]:
    """A prompt set by name.

    Raises: ValueError: no such set, or a prompt without exactly one slot and a context noun
        that its text holds.
    """
    sets = yaml.safe_load(Path(file).read_text())
    if name not in sets:
        raise ValueError(f"no prompt set '{name}' in {file}; there are {', '.join(sets)}")
    prompts = [Prompt(entry["text"], tuple(entry["context"])) for entry in sets[name]]
    for prompt in prompts:
        words = prompt.text.split()
        if words.count("{}") != 1 or not prompt.context or not set(prompt.context) <= set(words):
            raise ValueError(f"prompt '{prompt.text}' needs one {{}} and its context nouns")
    return prompts


def draw(pipe, prompts: Sequence[str], seeds: Sequence[int], **sampling) -> dict[str, np.ndarray]:
    """Pictures of finished sentences: `pictures` uint8 [prompt, seed, height, width, 3]."""
    return {"pictures": generate(pipe, list(prompts), list(seeds), **sampling)}


def judge_arms(
    pipe,
    judge: Judge,
    arms: Sequence[dict[str, str]],
    prompts: Sequence[dict],
    seeds: Sequence[int],
    **sampling,
) -> pd.DataFrame:
    """Draw every arm x prompt x seed and let the judge look for every named object.

    Args:
        pipe: A pipeline to which the placeholders of the arms are attached.
        judge: Knows every context noun and every subject.
        arms: `concept`, `arm`, `word` (fills the slot), `subject` (the noun the judge should
            find there). Arms with equal words share their pictures.
        prompts: `text` and `context`, as in `Prompt`.
        seeds: One latent each, the same in all arms.
        sampling: Passed to `sampling.generate`.
    Returns: A row per concept, arm, prompt, seed and noun: columns `concept arm word prompt
        seed noun role probability`, role being "subject" or "context".
    Raises: ValueError: the judge does not know a noun that it is asked for.
    """
    wanted = {arm["subject"] for arm in arms} | {n for p in prompts for n in p["context"]}
    unknown = wanted - set(judge.nouns)
    if unknown:
        raise ValueError(f"the judge does not know {', '.join(sorted(unknown))}")
    column = {noun: index for index, noun in enumerate(judge.nouns)}
    texts = [prompt["text"] for prompt in prompts]
    found = {}
    for word in dict.fromkeys(arm["word"] for arm in arms):
        pictures = generate(pipe, [t.replace("{}", word) for t in texts], list(seeds), **sampling)
        nouns = np.asarray(judge.read(pictures.reshape(-1, *pictures.shape[2:])).nouns)
        found[word] = nouns.reshape(*pictures.shape[:2], -1)
    rows = []
    for arm in arms:
        for (p, prompt), (s, seed) in (
            (prompt, seed) for prompt in enumerate(prompts) for seed in enumerate(seeds)
        ):
            asked = [(arm["subject"], "subject"), *((n, "context") for n in prompt["context"])]
            for noun, role in asked:
                rows.append(
                    {
                        "concept": arm["concept"],
                        "arm": arm["arm"],
                        "word": arm["word"],
                        "prompt": prompt["text"],
                        "seed": seed,
                        "noun": noun,
                        "role": role,
                        "probability": float(found[arm["word"]][p, s, column[noun]]),
                    }
                )
    return pd.DataFrame(rows)


def lost_objects(readings: pd.DataFrame, role: str = "context") -> Float[np.ndarray, "prompt seed"]:
    """Objects of one arm that the judge does not find, per picture.

    Args:
        readings: The rows of one concept and one arm from `judge_arms`.
        role: "context", or "subject" for the subject itself (then 0 or 1).
    Returns: Counts in [0, number of the prompt's objects], prompts and seeds sorted.
    Raises: ValueError: the rows are of more than one concept or arm.
    """
    if len(readings[["concept", "arm"]].drop_duplicates()) != 1:
        raise ValueError("readings of one concept and one arm are needed")
    asked = readings[readings["role"] == role]
    lost = asked.assign(lost=asked["probability"] < FOUND)
    return lost.groupby(["prompt", "seed"])["lost"].sum().unstack().to_numpy(float)
