"""Files of a model in diffusers' layout: the list of them, and a check that they are complete."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import diffusers
import transformers

# Components that are networks; the others (tokenizers, schedulers, processors) have no weights.
NETWORKS = ("unet", "transformer", "vae", "text_encoder")


def model_files(folder: Path) -> list[Path]:
    """`model_index.json` and every file of the components it names, in a fixed order.

    Raises:
        FileNotFoundError: the folder, a component or a component's weights are missing.
        ValueError: the index is damaged.
    """
    index = folder / "model_index.json"
    if not index.exists():
        raise FileNotFoundError(f"{index} is missing: restore {folder}, or train the model")
    try:
        entries = json.loads(index.read_text())
    except ValueError as error:
        raise ValueError(f"{index} is damaged ({error}): restore it") from None
    files = [index]
    for component, entry in sorted(entries.items()):
        if component.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        parts = sorted(file for file in (folder / component).rglob("*") if file.is_file())
        if component.startswith(NETWORKS):
            if not any(file.suffix == ".safetensors" for file in parts):
                raise FileNotFoundError(
                    f"no weights in {folder / component}: restore "
                    "*.safetensors there, or train the model"
                )
        elif not parts:
            raise FileNotFoundError(f"{folder / component} is missing: restore it")
        files += parts
    return files


def absent_components(folder: Path) -> list[str]:
    """Components that the model was saved without, such as SD3's largest text encoder."""
    entries = json.loads((folder / "model_index.json").read_text())
    return [name for name, entry in entries.items() if isinstance(entry, list) and entry[0] is None]


def check_safetensors(file: Path) -> None:
    """Compare the size of a safetensors file with the size in its header.

    The format: 8 bytes little-endian length of the header, the header in JSON with each
    tensor's span, then exactly the spans' bytes.

    Raises:
        ValueError: the file is truncated or its header is damaged.
    """
    size = file.stat().st_size
    try:
        length, header = _header(file)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        expected = None
    if expected != size:
        wanted = "its header is unreadable" if expected is None else f"{expected} are needed"
        raise ValueError(f"{file} is damaged ({size} bytes, {wanted}): restore it, or train anew")


def count_parameters(files: list[Path]) -> int:
    """Numbers in all tensors of the safetensors files among these, read from their headers.

    Raises:
        ValueError: a header is damaged.
    """
    total = 0
    for file in files:
        if file.suffix == ".safetensors":
            check_safetensors(file)
            total += sum(prod(entry["shape"]) for entry in _header(file)[1].values())
    return total


def _header(file: Path) -> tuple[int, dict]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        # A damaged length must not make us read the whole file, or past its end.
        if length > file.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(stream.read(length))
    return length, {key: entry for key, entry in header.items() if key[:2] != "__"}


@contextmanager
def quiet() -> Iterator[None]:
    """Loading shows no bars, and no warning that a tiny autoencoder is not the usual class."""
    logs = (diffusers.utils.logging, transformers.utils.logging)
    levels = [log.get_verbosity() for log in logs]
    bars = [log.is_progress_bar_enabled() for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        yield
    finally:
        for log, level, shown in zip(logs, levels, bars, strict=True):
            log.set_verbosity(level)
            if shown:
                log.enable_progress_bar()
