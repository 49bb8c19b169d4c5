"""Prompt destruction: how many objects of a prompt are lost when one word of it changes.

A prompt has a slot for its subject and names context objects beside it. An arm fills the
slot; every arm is drawn from the same latents, and a judge says what it finds.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Float, UInt8

from t2i_lens.embeddings import Concept, Inversion, attach
from t2i_lens.paths import DATA
from t2i_lens.sampling import generate
from t2i_lens.store import Lazy
from t2i_lens.tokens import encode

FOUND = 0.5  # an object is in the picture when the judge gives it at least this probability


@runtime_checkable
class Reading(Protocol):
    """What a judge found; `nouns` are probabilities [picture, noun]."""

    nouns: Float[np.ndarray, "picture noun"]


@runtime_checkable
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


def arms_of(concept: Concept) -> list[dict[str, str]]:
    """The two arms that every concept is compared in: its placeholder and its class word."""
    words = {
        "TI token": (concept.placeholder_token, concept.name),
        "class word": (concept.superclass, concept.superclass),
    }
    return [
        {"concept": concept.name, "arm": arm, "word": word, "subject": subject}
        for arm, (word, subject) in words.items()
    ]


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


def lost_objects(
    readings: pd.DataFrame, role: str = "context"
) -> dict[str, dict[str, Float[np.ndarray, "prompt seed"]]]:
    """Objects that the judge does not find, per picture.

    Args:
        readings: From `judge_arms`.
        role: "context", or "subject" for the subject itself (then 0 or 1).
    Returns: Concept -> arm -> counts, each at most the number of the prompt's objects;
        prompts and seeds in the same order in all arms.
    """
    asked = readings[readings["role"] == role]
    lost = asked.assign(lost=asked["probability"] < FOUND)
    counts: dict = {}
    for (concept, arm), some in lost.groupby(["concept", "arm"], sort=False):
        grid = some.groupby(["prompt", "seed"])["lost"].sum().unstack()
        counts.setdefault(concept, {})[arm] = grid.to_numpy(float)
    return counts


def lost_names(readings: pd.DataFrame, arm: str, prompt: str) -> list[str]:
    """Per seed, the context nouns of one prompt that the judge misses, as a short note."""
    here = readings.query("arm == @arm and prompt == @prompt and role == 'context'")
    missed = here[here["probability"] < FOUND].groupby("seed")["noun"].agg(", ".join)
    return [f"lost: {missed[s]}" if s in missed else "all there" for s in here["seed"].unique()]


def judge_scores(file: Path) -> dict[str, float | None]:
    """The judge's own `recall` and `precision` on held-out pictures, means over nouns.

    Args: file: The model's `quality.json`. Without it, or a field, the score is None.
    """
    quality = json.loads(Path(file).read_text()) if Path(file).exists() else {}
    scores = quality.get("judge", {})
    return {name: scores.get(f"{name}_mean_per_noun") for name in ("recall", "precision")}


def token_table(pipe, prompt: str) -> pd.DataFrame:
    """The prompt as the text encoder is fed it, up to EOS: columns position, id, piece."""
    row = encode(pipe, prompt)
    fed = range(row.eos + 1)
    pieces = [row.pieces[p] for p in fed]
    return pd.DataFrame({"position": list(fed), "id": [row.ids[p] for p in fed], "piece": pieces})


def lazy_file(load: Callable[[Path], object], file: Path) -> Lazy:
    """What `load` reads from the file's folder, known by the file's hash.

    Raises: FileNotFoundError: the file is missing.
    """
    return Lazy(lambda: load(file.parent), hashlib.sha256(file.read_bytes()).hexdigest())


def with_tokens(pipe: Lazy, inversions: Sequence[Inversion]) -> Lazy:
    """The pipeline with TI embeddings attached, loaded when first needed.

    Its fingerprint holds every attached row, so a retrained token is a different pipeline.
    The embeddings are attached to the pipeline given, not to a copy.
    """
    digest = hashlib.sha256(pipe.fingerprint.encode())
    for inversion in inversions:
        digest.update(inversion.concept.placeholder_token.encode())
        digest.update(inversion.embedding.numpy().tobytes())

    def attached():
        loaded = pipe.get()
        for inversion in inversions:
            attach(loaded, inversion)
        return loaded

    return Lazy(attached, digest.hexdigest())
