"""The stored tables of ways of teaching and remedies: written by one sweep, replayed by chapters.

The mark covers weights, tokens, training pictures and settings, not the code: a chapter draws a
sample anew and compares.

Shown in: notebooks/22_perfusion.ipynb, notebooks/23_remedies.ipynb
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from t2i_lens.base.files import digest, write
from t2i_lens.base.lazy import Lazy, canonical
from t2i_lens.experiments.kept_table import load_table, save_table
from t2i_lens.experiments.remedies import (
    ANCHOR,
    CONTEXT,
    OTHER_NOUNS,
    PRIORS,
    ROW_WAYS,
    STEPS,
    WEIGHT_WAYS,
)  # fmt: skip
from t2i_lens.experiments.remedy_edits import (
    BETAS,
    CAPTIONS,
    CLOSED,
    EDIT_STEPS,
    EDITS,
    SWEPT,
    TAU,
)  # fmt: skip
from t2i_lens.experiments.remedy_pictures import KEYS, SAMPLING, SEEDS, pictures_mark, prompts
from t2i_lens.experiments.remedy_sweep import TOGETHER, token_rows
from t2i_lens.inversion.embeddings import load_concepts

NAMES = ("pictures", "pairs")
FILES = "edits"  # folder of the key-locked edits
AGAIN = "run `t2i-lens remedies`"
# One grey level of a picture, which another batch may change, moves a likeness by far less.
TOLERANCES = {"lost": 0, "found": 0, "likeness": 5e-3}


def folder_of(embeddings: Path) -> Path:
    """Folder of the tables, beside that of a model's TI embeddings."""
    return embeddings.with_name(f"{embeddings.name}-remedies")


def mark(pipe: Lazy, judge: Lazy, eye: Lazy, variants: pd.DataFrame) -> dict[str, str]:
    """Changes with everything that the tables depend on except the code; see `kept_table`."""
    about = {
        "models": [part.fingerprint for part in (pipe, judge, eye)],
        "rows": canonical(list(token_rows(variants))),
        "pictures": pictures_mark(load_concepts()),
        "prompts": [vars(prompt) for prompt in prompts()],
        "sampling": [SAMPLING, SEEDS],
        "training": [STEPS, EDIT_STEPS, PRIORS, CONTEXT, ANCHOR, CAPTIONS, TOGETHER],
        "ways": [ROW_WAYS, WEIGHT_WAYS, EDITS, SWEPT, BETAS, TAU, CLOSED, OTHER_NOUNS],
    }
    return {"all": digest(json.dumps(about, sort_keys=True).encode())}


def save(
    tables: Mapping[str, pd.DataFrame],
    files: Mapping[str, bytes],
    marks: Mapping[str, str],
    folder: Path,
) -> Path:
    """Write the edits and the tables; return the folder.

    Args:
        marks: From `mark`.
    """
    (folder / FILES).mkdir(parents=True, exist_ok=True)
    for concept, content in files.items():
        write(folder / FILES / f"{concept}.safetensors", content)
    for name in NAMES:
        save_table(tables[name], marks, folder / f"{name}.parquet")
    return folder


def load(folder: Path, marks: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Read the tables of `save`.

    Args:
        marks: What `mark` gives now.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are damaged, or were made from other weights or settings.
    """
    return {name: load_table(folder / f"{name}.parquet", marks, AGAIN) for name in NAMES}


def compare(again: pd.DataFrame, kept: pd.DataFrame) -> dict[str, float]:
    """Largest difference between pictures drawn again and the same pictures in the table.

    Args:
        again: With the columns of `remedy_pictures.KEYS`.

    Returns:
        By column of `TOLERANCES`.

    Raises:
        ValueError: one is above its tolerance, or the table does not hold a picture.
    """
    both = again.merge(kept, on=KEYS, suffixes=("", "_kept"))
    if len(both) < len(again):
        raise ValueError(f"{len(again) - len(both)} of {len(again)} pictures are not in the table")
    found = {name: float((both[name] - both[f"{name}_kept"]).abs().max()) for name in TOLERANCES}
    for name, difference in found.items():
        if difference > TOLERANCES[name]:
            raise ValueError(f"{name} differs by {difference:.2g} from the table: {AGAIN}")
    return found
