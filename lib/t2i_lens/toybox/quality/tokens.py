"""What the learned tokens draw and what they cost, beside their class words.

Shown in: book/toybox.md
"""

from collections.abc import Sequence

import pandas as pd
import yaml
from diffusers import StableDiffusionPipeline

from t2i_lens.base.paths import DATA
from t2i_lens.base.prompts import Prompt
from t2i_lens.inversion.embeddings import attach, load
from t2i_lens.models import profiles
from t2i_lens.toybox.judge import Judge
from t2i_lens.toybox.quality.intervals import mean, share
from t2i_lens.toybox.takeover import measure_pair

TOKENS = DATA / "embeddings" / "toybox"


def token_quality(pipe: StableDiffusionPipeline, judge: Judge, seeds: Sequence[int]) -> dict:
    """What learned tokens draw and what they cost, beside their class words: a row per concept.

    Empty where no token of these weights is there yet. Sentences are those of the chapters
    (`hero` in `data/prompts/prompts.yaml`); intervals are over concepts.
    """
    sets = yaml.safe_load((DATA / "prompts" / "prompts.yaml").read_text())
    prompts = [Prompt(entry["text"], tuple(entry["context"])) for entry in sets["hero"]]
    rows = []
    for folder in sorted(TOKENS.glob("*/provenance.json")):
        inversion = load(folder.parent)
        concept = inversion.concept
        fitting = inversion.provenance.get("model") == profiles.fingerprint(profiles.get("toybox"))
        if concept.kind != "object" or not fitting:
            continue
        attach(pipe, inversion)
        token, plain = measure_pair(pipe, judge, concept, prompts, seeds, num_inference_steps=15)
        rows.append(
            {
                "concept": concept.name,
                "group": "development" if concept.development else "held-out",
                "alone": float(token.alone.mean()),
                "alike": float(token.alike.mean()),
                "among": float(token.among.mean()),
                "lost": float(token.lost_objects.mean()),
                "class_word_alone": float(plain.alone.mean()),
                "class_word_among": float(plain.among.mean()),
                "class_word_lost": float(plain.lost_objects.mean()),
                "lost_minus_class_word": float((token.lost_objects - plain.lost_objects).mean()),
            }
        )
    result: dict = {"concepts": rows}
    for group in ("held-out", "development"):
        table = pd.DataFrame([row for row in rows if row["group"] == group])
        for column in table.columns[2:]:
            result[f"{group}: {column}"] = mean(table[column].to_numpy())
    if rows:
        drawn = [row["alone"] >= 0.8 and row["alike"] >= 0.6 for row in rows]
        result["concepts drawn alone with style and colour"] = share(drawn)
    return result
