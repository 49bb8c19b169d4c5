"""A table of measurements that ships with the study: written once, verified, replayed, sampled.

A long sweep leaves a small table beside its provenance: a hash of the table, and for each part of
it a hash of all weights and settings behind its rows. A table made from others is refused.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from t2i_lens.base.files import digest, write


def save_table(table: pd.DataFrame, marks: Mapping[str, str], file: Path) -> Path:
    """Write a parquet file and, last, its provenance beside it; return the file.

    Args:
        marks: Name of each part of the table -> hash of what its rows depend on.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write(file, buffer.getvalue())
    sidecar = {"sha256": digest(buffer.getvalue()), "parts": dict(marks)}
    write(file.with_suffix(".json"), (json.dumps(sidecar, indent=1) + "\n").encode())
    return file


def load_table(file: Path, marks: Mapping[str, str], remedy: str) -> pd.DataFrame:
    """Read the table of `save_table`; it may hold only some of the parts.

    Args:
        marks: As for `save_table`, from the weights and settings of now.
        remedy: What to do if there is no such table.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    sidecar = file.with_suffix(".json")
    if not sidecar.exists() or not file.exists():
        raise FileNotFoundError(f"no {file.name} and {sidecar.name} in {file.parent}: {remedy}")
    content = file.read_bytes()
    try:
        stored = json.loads(sidecar.read_text(encoding="utf-8"))
        intact, parts = stored["sha256"] == digest(content), dict(stored["parts"])
    except (ValueError, KeyError, TypeError):
        intact, parts = False, {}
    if not intact:
        raise ValueError(f"{file} is damaged: {remedy}")
    outdated = [name for name, mark in parts.items() if marks.get(name) != mark]
    if outdated:
        raise ValueError(
            f"{file} was made from other weights or settings ({outdated[0]}): {remedy}"
        )
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
    means = {name: float((both[name] - both[f"{name}_kept"]).abs().mean()) for name in tolerances}
    for name, mean in means.items():
        if not mean <= tolerances[name]:
            raise ValueError(f"{name} differs by {mean:.2g} from the table: measure it anew")
    return means
