"""A table of measurements that ships with the study: written once, verified, replayed, sampled.

A long sweep leaves a small table beside its provenance: a hash of the table, and for each part of
it a hash of all weights and settings behind its rows. A chapter refuses a table made from others.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from t2i_lens.base.files import digest, write


def save_table(measured: pd.DataFrame, marked: Mapping[str, str], file: Path) -> Path:
    """Write a parquet file and, last, its provenance beside it; return the file.

    Args:
        marked: Name of each part of the table -> hash of what its rows depend on.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    measured.to_parquet(buffer, index=False)
    write(file, buffer.getvalue())
    sidecar = {"sha256": digest(buffer.getvalue()), "parts": dict(marked)}
    write(file.with_suffix(".json"), (json.dumps(sidecar, indent=1) + "\n").encode())
    return file


def load_table(file: Path, marked: Mapping[str, str], again: str) -> pd.DataFrame:
    """Read the table of `save_table`; it may hold only some of the parts.

    Args:
        marked: As for `save_table`, from the weights and settings of now.
        again: The command that makes the table.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    sidecar = file.with_suffix(".json")
    if not sidecar.exists() or not file.exists():
        raise FileNotFoundError(f"no {file.name} with its {sidecar.name} in {file.parent}: {again}")
    content = file.read_bytes()
    try:
        stated = json.loads(sidecar.read_text(encoding="utf-8"))
        whole, parts = stated["sha256"] == digest(content), dict(stated["parts"])
    except (ValueError, KeyError, TypeError):
        whole, parts = False, {}
    if not whole:
        raise ValueError(f"{file} is damaged: {again}")
    old = [name for name, mark in parts.items() if marked.get(name) != mark]
    if old:
        raise ValueError(f"{file} was made from other weights or settings ({old[0]}): {again}")
    return pd.read_parquet(io.BytesIO(content))


def compare_means(
    again: pd.DataFrame, kept: pd.DataFrame, keys: list[str], tolerances: Mapping[str, float]
) -> dict[str, float]:
    """Mean difference between rows measured again and the same rows of the kept table.

    Args:
        keys: Columns that name a row.
        tolerances: Column -> largest mean difference.

    Raises:
        ValueError: one is above its tolerance, or the table does not hold a row.
    """
    both = again.merge(kept, on=keys, suffixes=("", "_kept"))
    if len(both) < len(again):
        raise ValueError(f"{len(again) - len(both)} of {len(again)} rows are not in the table")
    found = {name: float((both[name] - both[f"{name}_kept"]).abs().mean()) for name in tolerances}
    for name, difference in found.items():
        if not difference <= tolerances[name]:
            raise ValueError(f"{name} differs by {difference:.2g} from the table: measure it anew")
    return found
