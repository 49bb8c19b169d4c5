"""The stored tables of ways of teaching and remedies: written by one sweep, replayed by chapters.

The mark covers weights, tokens, training pictures and settings, not the code: a chapter draws a
sample anew and compares.

Shown in: notebooks/drafts/22_perfusion.ipynb, notebooks/23_remedies.ipynb
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from t2i_lens.base.files import digest, write
from t2i_lens.base.lazy import Lazy, canonical
from t2i_lens.experiments.remedy_pictures import KEYS, pictures_mark, prompts
from t2i_lens.experiments.remedy_sweep import token_rows
from t2i_lens.inversion.embeddings import load_concepts

NAMES = ("pictures", "pairs")
SIDECAR, EDITS = "remedies.json", "edits"
AGAIN = "run `t2i-lens remedies`"
# One grey level of a picture, which another batch may change, moves a likeness by far less.
TOLERANCES = {"lost": 0, "found": 0, "likeness": 5e-3}


def folder_of(embeddings: Path) -> Path:
    """Folder of the tables, beside that of a model's TI embeddings."""
    return embeddings.with_name(f"{embeddings.name}-remedies")


def mark(pipe: Lazy, judge: Lazy, eye: Lazy, variants: pd.DataFrame) -> str:
    """Changes with everything that the tables depend on except the code."""
    concepts = load_concepts()
    settings = {
        name: getattr(remedies, name)
        for name in dir(remedies)
        if name.isupper() and name not in ("ALONE", "PICTURE")
    }
    settings = json.loads(json.dumps(settings, default=list))
    about = {
        "models": [part.fingerprint for part in (pipe, judge, eye)],
        "rows": canonical(list(token_rows(variants))),
        "pictures": pictures_mark(concepts),
        "prompts": [vars(prompt) for prompt in prompts()],
        "settings": canonical(settings),
    }
    return digest(json.dumps(about, sort_keys=True).encode())


def save(
    tables: Mapping[str, pd.DataFrame], files: Mapping[str, bytes], marked: str, folder: Path
) -> Path:
    """Write the edits, the tables and, last, their hashes; return the folder."""
    (folder / EDITS).mkdir(parents=True, exist_ok=True)
    hashes = {}
    for concept, content in files.items():
        write(folder / EDITS / f"{concept}.safetensors", content)
    for name in NAMES:
        buffer = io.BytesIO()
        tables[name].to_parquet(buffer, index=False)
        write(folder / f"{name}.parquet", buffer.getvalue())
        hashes[name] = digest(buffer.getvalue())
    sidecar = {"mark": marked, "sha256": hashes}
    write(folder / SIDECAR, (json.dumps(sidecar, indent=1) + "\n").encode())
    return folder


def load(folder: Path, marked: str) -> dict[str, pd.DataFrame]:
    """Read the tables of `save`.

    Args:
        marked: What `mark` gives now.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are damaged, or were made from other weights or settings.
    """
    if not (folder / SIDECAR).exists():
        raise FileNotFoundError(f"no {SIDECAR} in {folder}: {AGAIN}")
    try:
        sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        contents = {name: (folder / f"{name}.parquet").read_bytes() for name in NAMES}
        whole = {name: digest(content) for name, content in contents.items()} == sidecar["sha256"]
        same = sidecar["mark"] == marked
    except (OSError, ValueError, KeyError, TypeError):
        whole = same = False
    if not whole:
        raise ValueError(f"the tables in {folder} are damaged: {AGAIN}")
    if not same:
        raise ValueError(f"the tables in {folder} were made from other weights: {AGAIN}")
    return {name: pd.read_parquet(io.BytesIO(content)) for name, content in contents.items()}


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
