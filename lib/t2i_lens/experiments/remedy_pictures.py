"""Pictures of one concept in one arm, and what is read in them: likeness, objects kept, attention.

Every way of teaching and every remedy is drawn with the same sentences from the same latents.

Shown in: notebooks/23_remedies.ipynb
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from t2i_lens.base.files import digest
from t2i_lens.experiments.prompt_sets import Prompt, load_prompts
from t2i_lens.inversion.embeddings import Concept, load_concepts
from t2i_lens.judging.protocols import FOUND, Judge
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.edits import Edit
from t2i_lens.probes.heat_maps import heat_map
from t2i_lens.probes.sampling import generate
from t2i_lens.toybox.likeness import likeness

PROMPT_SET, PROMPTS = "dose", 3
ALONE = Prompt("a photo of a {}", ())
SEEDS = (0, 1)
SAMPLING = {"num_inference_steps": 10, "guidance_scale": 7.5}
CONCEPTS = 12  # held-out ones
KEYS = ["way", "setting", "concept", "prompt", "seed"]


def prompts() -> list[Prompt]:
    """The sentences of all pictures: the concept alone, then among other objects."""
    return [ALONE, *load_prompts(PROMPT_SET)[:PROMPTS]]


def held_out(concepts: Sequence[Concept], count: int = CONCEPTS) -> list[Concept]:
    """Objects that no choice was made on, spread over all of them."""
    rest = [c for c in concepts if c.kind == "object" and not (c.hero or c.development)]
    places = np.linspace(0, len(rest) - 1, min(count, len(rest))).round().astype(int)
    return [rest[place] for place in places]


def pictures_mark(concepts: Sequence[Concept]) -> str:
    """Changes with the training pictures."""
    return digest(b"".join(c.images.tobytes() for c in concepts))[:16]


def look(
    pipe, judge: Judge, eye, concept: Concept, sentences: Sequence[str],
    edits: Sequence[Sequence[Edit]], *, word: str = "",
) -> pd.DataFrame:  # fmt: skip
    """Draw one arm of a concept and read its pictures.

    Args:
        sentences: One for each of `prompts`.
        word: Whose attention is measured; none if empty.

    Returns:
        A row per prompt and seed: `asked`, `lost`, context objects; `found`, whether the judge
        finds the concept; `likeness` to the training pictures; `variety`, mean distance between
        the pictures of a prompt's seeds, 1 minus cosine; `attention`, the word's share of
        cross-attention over pixels and steps; `outside`, the share of its heat map outside the
        object, the concept or its class, nan where neither is found.
    """
    if word:
        with record(pipe, Keep()) as recorder:
            drawn = generate(pipe, sentences, list(SEEDS), edits=edits, recorder=recorder,
                             **SAMPLING)  # fmt: skip
        heat = heat_map(recorder.maps(), word).cpu().numpy()
    else:
        drawn, heat = generate(pipe, sentences, list(SEEDS), edits=edits, **SAMPLING), None
    return read(judge, eye, concept, drawn, heat)


def read(judge: Judge, eye, concept: Concept, drawn: np.ndarray, heat=None) -> pd.DataFrame:
    """`look`, of pictures [prompt, seed, ...] that were drawn already."""
    flat = drawn.reshape(-1, *drawn.shape[2:])
    reading = judge.read(flat)
    nouns = np.asarray(reading.nouns).reshape(*drawn.shape[:2], -1)
    like = likeness(eye, drawn, concept.images)["likeness"]
    seen = eye.embed(flat).reshape(*drawn.shape[:2], -1)
    own = list(judge.nouns).index(concept.name)
    away = share = np.full(drawn.shape[:2], np.nan)
    if heat is not None:
        kinds = [own, list(judge.nouns).index(concept.superclass)]
        away = _outside(heat, reading.places[..., kinds].max(-1)).reshape(drawn.shape[:2])
        share = heat.mean((1, 2)).reshape(drawn.shape[:2]) / SAMPLING["num_inference_steps"]
    rows = []
    for i, prompt in enumerate(prompts()):
        context = [list(judge.nouns).index(noun) for noun in prompt.context]
        variety = 1 - float(seen[i, 0] @ seen[i, 1])
        for j, seed in enumerate(SEEDS):
            rows.append(
                {"prompt": prompt.text, "seed": seed, "asked": len(context),
                 "lost": int((nouns[i, j, context] < FOUND).sum()),
                 "found": float(nouns[i, j, own] >= FOUND), "likeness": float(like[i, j]),
                 "variety": variety, "attention": float(share[i, j]),
                 "outside": float(away[i, j])}
            )  # fmt: skip
    return pd.DataFrame(rows).assign(concept=concept.name)


def _outside(heat: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Share of each heat map [sample, 64, 64] outside the places [sample, 64] of the object."""
    cell = heat.shape[-1] // 8
    pooled = heat.reshape(len(heat), 8, cell, 8, cell).sum((2, 4)).reshape(len(heat), -1)
    inside = places >= FOUND
    shares = 1 - (pooled * inside).sum(1) / pooled.sum(1)
    return np.where(inside.any(1), shares, np.nan)


def concepts_of(names: Sequence[str]) -> list[Concept]:
    """The concepts of these names, in their order."""
    by_name = {c.name: c for c in load_concepts()}
    return [by_name[name] for name in names]
