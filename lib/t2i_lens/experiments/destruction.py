"""Prompt destruction: the number of context objects lost when one word of a prompt changes.

A prompt has a slot for its subject and names context objects. An arm fills the slot; every arm is
drawn from the same latents, and a judge reads the objects in the picture.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Float, UInt8

from t2i_lens.base.lazy import Lazy
from t2i_lens.base.paths import DATA
from t2i_lens.inversion.embeddings import Concept, Inversion, attach
from t2i_lens.judging.protocols import FOUND, Judge
from t2i_lens.models.tokens import encode
from t2i_lens.probes.sampling import generate

Arm = dict[str, Any]  # what fills a slot, see `arms_of` and `draw_arms`


@dataclass(frozen=True)
class Prompt:
    """A sentence with a slot `{}` for its subject, and the nouns that it names as context."""

    text: str
    context: tuple[str, ...]


def load_prompts(name: str, file: Path = DATA / "prompts" / "prompts.yaml") -> list[Prompt]:
    """A prompt set by name.

    Raises:
        ValueError: no such set, or a prompt without exactly one slot and a context noun that its
            text holds.
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
    """The two arms of every concept: its placeholder and its class word."""
    words = {
        "TI token": (concept.placeholder_token, concept.name),
        "class word": (concept.superclass, concept.superclass),
    }
    return [
        {"concept": concept.name, "arm": arm, "word": word, "subject": subject}
        for arm, (word, subject) in words.items()
    ]


def placed(pipe, arms: Sequence[Arm], prompts: Sequence[dict]) -> tuple[list, list]:
    """The sentences of arms, and their edits at the slot of each.

    Args:
        As in `draw_arms`.

    Returns:
        Sentences and lists of edits, arms x prompts, prompts fastest.

    Raises:
        ValueError: an edit that has no positions.
    """
    sentences, edits = [], []
    for arm in arms:
        for prompt in prompts:
            sentences.append(prompt["text"].replace("{}", arm["word"]))
            some = arm.get("edits", ())
            for edit in some:
                if not hasattr(edit, "positions"):
                    raise ValueError(f"{type(edit).__name__} has no positions to put at a slot")
            slot = encode(pipe, sentences[-1]).positions(arm["word"]) if some else ()
            edits.append([replace(edit, positions=slot) for edit in some])
    return sentences, edits


def distinct(arms: Sequence[Arm]) -> tuple[list[Arm], list[int]]:
    """Arms without those that draw the same as another, and the place of each arm's twin."""
    keys = [(arm["word"], tuple(map(repr, arm.get("edits", ())))) for arm in arms]
    order = list(dict.fromkeys(keys))
    return [arms[keys.index(key)] for key in order], [order.index(key) for key in keys]


def draw_arms(
    pipe, arms: Sequence[Arm], prompts: Sequence[dict], seeds: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Draw every arm x prompt x seed.

    Args:
        pipe: A pipeline to which the placeholders of the arms are attached.
        arms: `word` fills the slot, `edits` (none by default) are made at its positions.
            Arms with equal words and edits share their pictures.
        prompts: `text` and `context`, as in `Prompt`.
        seeds: One latent each, the same in all arms.
        sampling: Passed to `sampling.generate`.

    Returns:
        `pictures`, uint8 [arm, prompt, seed, height, width, 3].
    """
    unique, place = distinct(arms)
    sentences, edits = placed(pipe, unique, prompts)
    pictures = generate(pipe, sentences, list(seeds), edits=edits, **sampling)
    return {"pictures": pictures.reshape(len(unique), len(prompts), *pictures.shape[1:])[place]}


def read_arms(
    judge: Judge,
    pictures: UInt8[np.ndarray, "arm prompt seed height width 3"],
    arms: Sequence[Arm],
    prompts: Sequence[dict],
    seeds: Sequence[int],
) -> pd.DataFrame:
    """Let the judge look for every named object in pictures of `draw_arms`.

    Args:
        judge: Knows every context noun and every subject.
        arms: Also `concept`, `arm` and `subject`, the noun the judge should find in the slot.

    Returns:
        A row per concept, arm, prompt, seed and noun: columns `concept arm word prompt
        seed noun role probability`, role being "subject" or "context".

    Raises:
        ValueError: the judge does not know a noun that it is asked for.
    """
    column = _columns(judge, arms, prompts)
    nouns = np.asarray(judge.read(pictures.reshape(-1, *pictures.shape[3:])).nouns)
    found = nouns.reshape(*pictures.shape[:3], -1)
    rows = []
    for (a, arm), (p, prompt), (s, seed) in product(*map(enumerate, (arms, prompts, seeds))):
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
                    "probability": float(found[a, p, s, column[noun]]),
                }
            )
    return pd.DataFrame(rows)


def judge_arms(
    pipe,
    judge: Judge,
    arms: Sequence[Arm],
    prompts: Sequence[dict],
    seeds: Sequence[int],
    **sampling,
) -> pd.DataFrame:
    """Draw arms and let the judge read them: `read_arms` of `draw_arms`."""
    _columns(judge, arms, prompts)
    drawn = draw_arms(pipe, arms, prompts, seeds, **sampling)
    return read_arms(judge, drawn["pictures"], arms, prompts, seeds)


def _columns(judge: Judge, arms: Sequence[Arm], prompts: Sequence[dict]) -> dict[str, int]:
    wanted = {arm["subject"] for arm in arms} | {n for p in prompts for n in p["context"]}
    unknown = wanted - set(judge.nouns)
    if unknown:
        raise ValueError(f"the judge does not know {', '.join(sorted(unknown))}")
    return {noun: index for index, noun in enumerate(judge.nouns)}


def lost_objects(
    readings: pd.DataFrame, role: str = "context"
) -> dict[str, dict[str, Float[np.ndarray, "prompt seed"]]]:
    """Objects that the judge does not find, per picture.

    Args:
        readings: From `judge_arms`.
        role: "context", or "subject" for the subject itself (then 0 or 1).

    Returns:
        Concept -> arm -> counts, each at most the number of the prompt's objects;
        prompts and seeds in the same order in all arms.
    """
    asked = readings[readings["role"] == role]
    lost = asked.assign(lost=asked["probability"] < FOUND)
    counts: dict = {}
    for (concept, arm), some in lost.groupby(["concept", "arm"], sort=False):
        grid = some.groupby(["prompt", "seed"])["lost"].sum().unstack()
        counts.setdefault(concept, {})[arm] = grid.to_numpy(float)
    return counts


def found_share(
    readings: pd.DataFrame, role: str = "context"
) -> dict[str, dict[str, Float[np.ndarray, "prompt seed"]]]:
    """Share of a prompt's objects that the judge finds, per picture.

    Args:
        As in `lost_objects`.

    Returns:
        Concept -> arm -> shares in [0, 1]; for the subject 0 or 1.
    """
    lost = lost_objects(readings, role)
    some = readings[readings["role"] == role].drop_duplicates(["prompt", "noun", "concept", "arm"])
    asked = some.groupby(["concept", "arm", "prompt"])["noun"].size()
    return {
        concept: {
            arm: 1 - counts / asked[concept, arm].to_numpy()[:, None]
            for arm, counts in arms.items()
        }
        for concept, arms in lost.items()
    }


def lost_names(readings: pd.DataFrame, arm: str, prompt: str) -> list[str]:
    """Per seed, the context nouns of one prompt that the judge misses, as a short note."""
    here = readings.query("arm == @arm and prompt == @prompt and role == 'context'")
    missed = here[here["probability"] < FOUND].groupby("seed")["noun"].agg(", ".join)
    return [f"lost: {missed[s]}" if s in missed else "all there" for s in here["seed"].unique()]


def judge_scores(quality: dict) -> dict[str, float | None]:
    """The judge's own scores on held-out pictures, in [0, 1].

    Args:
        quality: The model's `quality.json`, see `study.subject`.

    Returns:
        `recall` and `precision`, means over nouns, and the share of objects whose `style` is read
        right. What the file lacks is None.
    """
    scores = quality.get("judge", {})
    found = {name: scores.get(f"{name}_mean_per_noun") for name in ("recall", "precision")}
    return found | {"style": scores.get("style", {}).get("value")}


def token_table(pipe, prompt: str) -> pd.DataFrame:
    """The token row of a prompt up to EOS: columns position, id, piece."""
    row = encode(pipe, prompt)
    fed = range(row.eos + 1)
    pieces = [row.pieces[p] for p in fed]
    return pd.DataFrame({"position": list(fed), "id": [row.ids[p] for p in fed], "piece": pieces})


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
