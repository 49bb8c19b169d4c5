"""Store of results on disk, keyed by everything they depend on, and verified when read.

A result is a payload (npz or parquet, no pickle) with a JSON file of its provenance: the call, its
inputs, and the sha256 of the payload.
"""

import importlib.metadata
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from filelock import FileLock

from t2i_lens.base.files import digest, write
from t2i_lens.base.lazy import Lazy, canonical
from t2i_lens.study.closure import code_hash

Result = pd.DataFrame | np.ndarray | dict[str, np.ndarray] | xr.DataArray | xr.Dataset
LAYOUT = "layout.json"  # among the arrays of a payload: their axes, where these have names
# Their versions are part of every key: an upgrade may change numbers.
LIBRARIES = ("numpy", "pandas", "scipy", "torch", "diffusers", "transformers")


class Store:
    """A folder of results.

    Attributes:
        used: Payload file -> sha256, of every result that went through this store.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.used: dict[Path, str] = {}

    def cached(self, name: str, function: Callable[..., Result], **kwargs: Any) -> Result:
        """`function(**kwargs)`, read from disk if the same call was made before.

        Args:
            name: What the result is; the first part of its file name.
            function: Defined in a module; returns a data frame, an array, a dict of arrays, or an
                array or data set with labelled axes.
            kwargs: Numbers, texts, lists, dicts, arrays, edits, or `Lazy` things, which the
                function gets loaded and which are loaded only if it has to be called.

        Raises:
            TypeError: an argument has no canonical form, or the result is of another kind.
            ValueError: the function is defined in a notebook.
        """
        call = {
            "name": name,
            "function": f"{function.__module__}.{function.__qualname__}",
            "code": code_hash(function),
            "versions": versions(),
            "arguments": {key: canonical(value, key) for key, value in kwargs.items()},
        }
        key = digest(json.dumps(call, sort_keys=True).encode())
        base = self.folder / f"{name}-{key[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        # Chapters run side by side: the second to need a result waits for the first.
        with FileLock(f"{base}.lock"):
            result = self._read(base, key)
            if result is None:
                loaded = {k: v.get() if isinstance(v, Lazy) else v for k, v in kwargs.items()}
                self._write(base, {"key": key, **call}, function(**loaded))
                # What was written is returned, so that a first and a second run see the same.
                result = self._read(base, key)
        return result

    def _read(self, base: Path, key: str) -> Result | None:
        """The result if it is complete, else None; a damaged file is reported and removed."""
        sidecar = base.with_name(base.name + ".json")
        payloads = [
            p for s in (".npz", ".parquet") if (p := base.with_name(base.name + s)).exists()
        ]
        if not sidecar.exists() and not payloads:
            return None
        try:
            provenance = json.loads(sidecar.read_text(encoding="utf-8"))
            payload = self.folder / provenance["file"]
            content = payload.read_bytes()
            if provenance["key"] != key or digest(content) != provenance["sha256"]:
                raise ValueError("not the file that was written")
        except (OSError, ValueError, KeyError, TypeError):
            print(f"result {base.name} is damaged: deleted, computed anew", file=sys.stderr)
            for file in [sidecar, *payloads]:
                file.unlink(missing_ok=True)
            return None
        self.used[payload] = provenance["sha256"]
        if payload.suffix == ".parquet":
            return pd.read_parquet(io.BytesIO(content))
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return unpacked(dict(arrays))

    def _write(self, base: Path, call: dict, result: Result) -> None:
        buffer = io.BytesIO()
        if isinstance(result, pd.DataFrame):
            suffix = ".parquet"
            result.to_parquet(buffer, index=False)
        else:
            suffix = ".npz"
            np.savez_compressed(buffer, **packed(result, call["function"]))
        content, file = buffer.getvalue(), base.with_name(base.name + suffix)
        write(file, content)
        provenance = call | {"file": file.name, "sha256": digest(content)}
        text = json.dumps(provenance, indent=1, ensure_ascii=False)
        write(base.with_name(base.name + ".json"), text.encode())


def packed(result: Result, function: str) -> dict[str, np.ndarray]:
    """A result as plain arrays; those with labelled axes also have a `LAYOUT`, in JSON.

    Raises:
        TypeError: it is of another kind, or holds Python objects; the message names the function.
    """
    arrays, layout = result, None
    if isinstance(result, np.ndarray):
        arrays, layout = {"values": result}, {"kind": "array"}
    if isinstance(result, xr.DataArray):
        result, layout = result.to_dataset(name="values"), {"kind": "labelled", "name": result.name}
    if isinstance(result, xr.Dataset):
        layout = layout or {"kind": "dataset"}
        arrays = {str(name): part.to_numpy() for name, part in result.variables.items()}
        layout["axes"] = {str(name): list(part.dims) for name, part in result.variables.items()}
        layout["coordinates"] = [str(name) for name in result.coords]
    plain = isinstance(arrays, dict) and all(
        isinstance(array, np.ndarray) and not array.dtype.hasobject for array in arrays.values()
    )
    if not plain:
        raise TypeError(f"{function} must return a data frame or plain arrays to be kept")
    return arrays | ({LAYOUT: np.array(json.dumps(layout))} if layout else {})


def unpacked(arrays: dict[str, np.ndarray]) -> Result:
    """What `packed` was given."""
    if LAYOUT not in arrays:
        return arrays
    layout = json.loads(arrays.pop(LAYOUT).item())
    if layout["kind"] == "array":
        return arrays["values"]
    parts = {name: (layout["axes"][name], array) for name, array in arrays.items()}
    coordinates = {name: parts.pop(name) for name in layout["coordinates"]}
    dataset = xr.Dataset(parts, coordinates)
    return dataset["values"].rename(layout["name"]) if layout["kind"] == "labelled" else dataset


def versions() -> dict[str, str]:
    """Installed versions of the libraries that numbers depend on."""
    return {library: importlib.metadata.version(library) for library in LIBRARIES}
