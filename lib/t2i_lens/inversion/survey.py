"""Survey of embedding files: norms of every token, series of checkpoints, refused files.

Reads what `published_files.read_tokens` reads, tensors only. The tables have the columns of
`data/public_tokens`, so that a folder of one's own can be laid beside the public tokens.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kurtosis
from tqdm import tqdm

from t2i_lens.base.shapes import TowerRows
from t2i_lens.inversion.public_norms import DECAY, vocabulary_norm
from t2i_lens.inversion.published_files import LearnedToken, UnnamedTokenError, read_tokens
from t2i_lens.inversion.tensor_files import PICKLED
from t2i_lens.stats.metrics import predicted_norm

SUFFIXES = (".safetensors", *PICKLED)
# A number at the end of a name, after a separator: `learned_embeds-steps-500`, `easy-500`.
NUMBER = re.compile(
    r"^(?P<stem>.*?)(?P<word>[-_. ]?(?:global)?[-_]?steps?)?[-_. ](?P<step>\d{1,9})$"
)
FEWEST = 50  # largest number of a series that may be steps if no word says so; versions are below
CHECKPOINT = re.compile(r"^(?P<stem>checkpoint|step|steps)[-_](?P<step>\d{1,9})$")

TOKENS = (
    "run_id", "file", "copies", "blob", "name", "layout", "d", "n_vectors", "step", "step_source",
    "norm_min", "norm_mean", "norm_max", "coord_mean", "coord_std", "kurtosis",
)  # fmt: skip
SERIES = (
    "run_id", "step", "norm", "displacement", "cosine_prev", "cosine_of_displacements", "lr", "d",
    "n_vectors",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Survey:
    """Tables of a survey.

    Attributes:
        tokens: A row per distinct tensor, of a series its last checkpoint only; the columns of
            `data/public_tokens/tokens.csv` that a file can fill, `file`, `copies`, and `law`, the
            norm that the optimiser's law gives, where step, rate and decay are known.
        series: A row per checkpoint; the columns of `data/public_tokens/series.csv`.
        refused: Columns `file` and `reason`.
        files: Files that were looked at.
    """

    tokens: pd.DataFrame
    series: pd.DataFrame
    refused: pd.DataFrame
    files: int


@dataclass(frozen=True)
class Place:
    """Where a file's name puts it in a series: a name for the series, and the step if given."""

    series: str
    step: int | None
    sure: bool = False


@dataclass(frozen=True, eq=False)
class Measured:
    """A tensor of a file: figures for the table, and its rows while a series may need them."""

    file: str
    place: Place
    key: str
    figures: dict
    rows: np.ndarray


def find(paths: Iterable[Path]) -> list[Path]:
    """Files at these paths, and all files with an embedding's suffix in folders, sorted.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: check the path")
        if path.is_file():
            found[path] = None
        for folder, folders, names in os.walk(path) if path.is_dir() else ():
            folders.sort()
            some = (name for name in sorted(names) if name.lower().endswith(SUFFIXES))
            found |= dict.fromkeys(Path(folder) / name for name in some)
    return list(found)


def printable(text: str) -> str:
    """A text of a file without characters that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def place_of(file: Path) -> Place:
    """The series that a file's name says it belongs to, with its step."""
    if (numbered := NUMBER.match(file.stem)) and not re.search("epoch$", numbered["stem"], re.I):
        series = file.parent / (numbered["stem"] or "#")
        return Place(str(series), int(numbered["step"]), sure=numbered["word"] is not None)
    if numbered := CHECKPOINT.match(file.parent.name):
        series = file.parent.parent / file.stem
        return Place(str(series), int(numbered["step"]), sure=True)
    return Place(str(file.parent / file.stem), None)


def survey(
    paths: Iterable[Path],
    *,
    learning_rate: float | None = None,
    weight_decay: float = DECAY,
    progress: bool = True,
) -> Survey:
    """Measure every embedding file at these paths; a file that cannot be read is listed.

    Args:
        learning_rate: That reached the optimiser of all files, where known.
        weight_decay: Of AdamW.

    Raises:
        FileNotFoundError: a path does not exist.

    Shown in: notebooks/21_real_token_norms.ipynb
    """
    files, measured, refused = find(paths), [], []
    places = {file: place_of(file) for file in files}
    sizes = Counter(place.series for place in places.values())
    for file in tqdm(files, "survey", unit="file", disable=not progress):
        try:
            measured += _measure(file, places[file], keep=sizes[places[file].series] > 1)
        # Whatever a damaged or hostile file does to its reader, the survey goes on.
        except Exception as error:
            refused.append({"file": str(file), "reason": _reason(error, file)})
    distinct, copies = _distinct(measured)
    runs = _runs(distinct)
    rows = [_row(name, path, copies[path[-1].key]) for name, path in runs.items()]
    several = [(name, path) for name, path in runs.items() if len(path) > 1]
    checkpoints = [row for run in several for row in _checkpoints(*run, learning_rate)]
    tokens = _with_law(pd.DataFrame(rows, columns=TOKENS), learning_rate, weight_decay)
    series = pd.DataFrame(checkpoints, columns=SERIES)
    return Survey(tokens, series, pd.DataFrame(refused, columns=["file", "reason"]), len(files))


def _measure(file: Path, place: Place, keep: bool) -> list[Measured]:
    if not file.stat().st_size:
        raise ValueError(f"{file} is empty")
    try:
        tokens = read_tokens(file)
    except UnnamedTokenError:
        tokens = read_tokens(file, file.stem)
    content = file.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    found = []
    for token in tokens:
        own = place if len(tokens) == 1 else replace(place, series=f"{place.series} {token.name}")
        if token.step is not None:
            own = replace(own, step=token.step, sure=True)
        for tower, rows in enumerate(token.rows):
            at = own if len(token.rows) == 1 else replace(own, series=f"{own.series} {tower}")
            found.append(_figures(file, at, token, rows, blob, keep or token.step is not None))
    return found


def _figures(
    file: Path, place: Place, token: LearnedToken, rows: TowerRows, blob: str, keep: bool
) -> Measured:
    values = rows.float().numpy()
    norms = np.linalg.norm(values.astype(float), axis=1)
    source = ("file" if token.step is not None else "name") if place.step is not None else None
    figures = {
        "blob": blob, "name": printable(token.name), "layout": token.layout, "d": values.shape[1],
        "n_vectors": len(values), "step": place.step, "step_source": source,
        "norm_min": norms.min(), "norm_mean": norms.mean(), "norm_max": norms.max(),
        "coord_mean": values.mean(dtype=float), "coord_std": values.std(dtype=float),
        "kurtosis": float(kurtosis(values, axis=None, fisher=False)) if values.std() else np.nan,
    }  # fmt: skip
    shape = f"{values.shape}".encode()
    key = hashlib.sha256(shape + np.ascontiguousarray(values).tobytes()).hexdigest()
    return Measured(str(file), place, key, figures, values if keep else values[:0])


def _distinct(measured: Sequence[Measured]) -> tuple[list[Measured], Counter]:
    """One entry for each tensor, one with a step if there is any, and the number of copies."""
    first: dict[str, Measured] = {}
    for token in measured:
        kept = first.setdefault(token.key, token)
        if kept.place.step is None and token.place.step is not None:
            first[token.key] = token
    return list(first.values()), Counter(token.key for token in measured)


def _runs(distinct: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Name of each run -> its checkpoints, steps rising; or one token without a series."""
    groups: dict[tuple, list[Measured]] = {}
    for token in distinct:
        shape = (token.place.series, token.figures["d"], token.figures["n_vectors"])
        groups.setdefault(shape, []).append(token)
    runs = []
    for members in groups.values():
        # Of several tensors with one step only one can be its checkpoint.
        by_step = {m.place.step: m for m in members if m.place.step is not None}
        path = [by_step[step] for step in sorted(by_step)]
        counts = any(m.place.sure or m.place.step >= FEWEST for m in path)
        path = path if len(path) > 1 and counts else []
        runs += [path] if path else []
        runs += [[m] for m in members if m not in path]
    names = (printable(Path(run[-1].place.series).name) for run in runs)
    return {f"{name}#{i}": run for i, (name, run) in enumerate(zip(names, runs, strict=True))}


def _row(run: str, path: Sequence[Measured], copies: int) -> dict:
    """The row of a run's last checkpoint; a number in a lone file's name need not be its step."""
    token = path[-1]
    known = len(path) > 1 or token.place.sure
    figures = token.figures if known else token.figures | {"step": None, "step_source": None}
    return {"run_id": run, "file": token.file, "copies": copies} | figures


def _checkpoints(run: str, path: Sequence[Measured], learning_rate: float | None) -> Iterator[dict]:
    before = way_before = None
    for token in path:
        rows = token.rows.astype(float)
        way = None if before is None else rows - before
        yield {
            "run_id": run,
            "step": token.place.step,
            "norm": float(np.sqrt(np.square(rows).sum(1).mean())),
            "displacement": np.nan if way is None else float(np.sqrt(np.square(way).sum(1).mean())),
            "cosine_prev": _cosine(rows, before),
            "cosine_of_displacements": _cosine(way, way_before),
            "lr": np.nan if learning_rate is None else learning_rate,
            "d": rows.shape[1],
            "n_vectors": len(rows),
        }
        before, way_before = rows, way


def _cosine(first: np.ndarray | None, second: np.ndarray | None) -> float:
    """Mean cosine over vectors; nan where one is missing or zero."""
    if first is None or second is None:
        return np.nan
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(((first * second).sum(1) / lengths).mean())


def _with_law(tokens: pd.DataFrame, rate: float | None, decay: float) -> pd.DataFrame:
    law = np.full(len(tokens), np.nan)
    if rate is not None:
        starts = {width: vocabulary_norm(width) for width in set(tokens["d"])}
        for place, row in enumerate(tokens.itertuples()):
            if pd.notna(row.step):
                steps = np.array([row.step])
                law[place] = predicted_norm(steps, starts[row.d], row.d, rate, decay)[0]
    return tokens.assign(lr=np.nan if rate is None else rate, law=law)


def _reason(error: Exception, file: Path) -> str:
    """One line that says why, without the path."""
    if not isinstance(error, (ValueError, OSError)):
        return f"cannot be read ({type(error).__name__})"
    text = " ".join(str(error).replace(str(file), "").split()).strip(" :")
    return printable(text) or type(error).__name__
