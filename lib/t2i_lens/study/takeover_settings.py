"""Claim B01 at other settings: three doses of the token's training, three guidance scales.

`python -m t2i_lens.study.takeover_settings` draws the held-out concepts and writes
`takeover.json` and `takeover.md` beside the toybox's weights. It says its cost first and resumes.

Shown in: book/toybox.md
"""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from t2i_lens.base.paths import BUILD, DATA
from t2i_lens.experiments import destruction, dose
from t2i_lens.experiments.arms import Arm, Design
from t2i_lens.experiments.prompt_sets import load_prompts
from t2i_lens.inversion.embedding_table import read_table
from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.stats.bootstrap import Estimate, crossed_bootstrap
from t2i_lens.study.store import Store
from t2i_lens.study.subject import Subject

PROMPT_SET, PROMPTS, SEEDS, STEPS = "hero", 3, (0, 1), 10  # fewer than in chapter 01
GUIDANCE = (3.0, 5.0, 7.5)
SHARES = (0.1, 0.3, 1.0)  # of a training's steps
CLASS_WORD = "class word"
FILE = DATA / "models" / "toybox" / "takeover.json"
HEAD = """# The takeover at three doses and three guidance scales

Objects lost per picture, token minus class word with the same latents, over {concepts} held-out
concepts, {prompts} prompts and {seeds} seeds, with 95 % intervals that resample all three. A dose
is a share of the {steps} training steps. Chapter 01 measures B01 at the last dose and guidance 7.5.

"""


def dose_arms(table: pd.DataFrame) -> list[Arm]:
    """Each concept's class word, and its standard token at `SHARES` of its training.

    Args: table: Of `dose.doses`.
    """
    standard = table[table["variant"] == dose.TOKENS[0]]
    arms = []
    for concept, rows in standard.groupby("concept", sort=False):
        word, last = rows["word"].iloc[0], rows["step"].max()
        arms.append(Arm(concept, CLASS_WORD, word, word))
        for share in SHARES:
            nearest = rows.iloc[[int((rows["step"] - share * last).abs().argmin())]]
            (at_dose,) = dose.arms(nearest)
            arms.append(Arm(concept, f"{share:g}", word, concept, at_dose.edits))
    return arms


def paired(lost: xr.DataArray) -> dict[str, Estimate]:
    """Objects lost minus those of the class word, by arm.

    Args: lost: Of `destruction.measure`, `[concept, arm, prompt, seed]`.
    """
    plain = lost.sel(arm=CLASS_WORD)
    return {
        str(arm): crossed_bootstrap((lost.sel(arm=arm) - plain).to_numpy())
        for arm in lost["arm"].to_numpy()
        if arm != CLASS_WORD
    }


def lost_at(store: Store, subject: Subject, arms: Sequence[Arm], guidance: float) -> xr.DataArray:
    """Objects lost at one guidance scale `[concept, arm, prompt, seed]`, concept by concept."""
    prompts = load_prompts(PROMPT_SET)[:PROMPTS]
    parts = []
    for concept in dict.fromkeys(arm.concept for arm in arms):
        design = Design([arm for arm in arms if arm.concept == concept], prompts, SEEDS)
        parts.append(
            store.cached(
                "takeover_settings", destruction.measure, pipe=subject.pipe, judge=subject.judge,
                design=design, num_inference_steps=STEPS, guidance_scale=guidance,
            )["lost"]
        )  # fmt: skip
    return xr.concat(parts, "concept")


def main() -> None:
    """Draw every setting and write the table."""
    subject, store = Subject("toybox"), Store(BUILD / "results")
    held_out = {c.name for c in load_concepts() if not c.development and c.kind == "object"}
    tokens = subject.variants
    tokens = tokens[tokens["concept"].isin(held_out)]
    nouns = list(dict.fromkeys(tokens["superclass"]))
    rows = read_table(subject.pipe.get(), nouns)
    words = dict(zip(nouns, rows["rows"][rows["word_ids"]], strict=True))
    table = dose.doses(tokens, words)
    arms = dose_arms(table)
    pictures = len(arms) * PROMPTS * len(SEEDS) * len(GUIDANCE)
    print(f"{pictures} pictures of {STEPS} steps", flush=True)
    found = {}
    for guidance in GUIDANCE:
        found[f"{guidance:g}"] = {
            arm: {"value": e.value, "interval": [e.low, e.high], "n": e.n}
            for arm, e in paired(lost_at(store, subject, arms, guidance)).items()
        }
        print(f"guidance {guidance:g} is done", flush=True)
    sizes = {"concepts": len({arm.concept for arm in arms}), "prompts": PROMPTS}
    sizes |= {"seeds": len(SEEDS), "steps": int(table["step"].max())}
    FILE.write_text(json.dumps({"sizes": sizes, "guidance": found}, indent=1) + "\n")
    FILE.with_suffix(".md").write_text(HEAD.format(**sizes) + _table(found) + "\n")


def _table(found: dict) -> str:
    def cell(figure: dict) -> str:
        low, high = np.array(figure["interval"])
        return f"{figure['value']:.2f} [{low:.2f}, {high:.2f}]"

    cells = {
        f"guidance {guidance}": {f"{share} of the training": cell(f) for share, f in doses.items()}
        for guidance, doses in found.items()
    }
    return pd.DataFrame(cells).to_markdown()


if __name__ == "__main__":
    main()
