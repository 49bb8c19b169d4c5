"""Lazy values with a fingerprint, and the canonical form of arguments for cache keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from t2i_lens.base.files import digest, file_digest


class Lazy:
    """A value that is loaded when first needed and has a fingerprint before that.

    Attributes:
        fingerprint: Changes whenever what `load` returns would change.
    """

    def __init__(self, load: Callable[[], Any], fingerprint: str):
        self._load, self.fingerprint = load, fingerprint
        self._value: Any = None
        self._loaded = False

    def get(self) -> Any:
        """The value; `load` is called once."""
        if not self._loaded:
            self._value, self._loaded = self._load(), True
        return self._value


@runtime_checkable
class Cache(Protocol):
    """Keeps results of function calls, as `study.store.Store` does; lower rooms know only this."""

    def cached(self, name: str, function: Callable[..., Any], **kwargs: Any) -> Any: ...


def canonical(value: Any, name: str = "value") -> Any:
    """A JSON form of an argument that is equal exactly when the argument is.

    What has a `fingerprint`, as edits and `Lazy` things have, is known by it.

    Raises:
        TypeError: there is none; the message names the argument.
    """
    if isinstance(fingerprint := getattr(value, "fingerprint", None), str):
        return {"fingerprint": fingerprint}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {
            "array": digest(np.ascontiguousarray(value).tobytes()),
            "dtype": value.dtype.str,
            "shape": list(value.shape),
        }
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [canonical(item, name) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: canonical(item, name) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"argument {name} is a {type(value).__name__}, which cannot be part of a key")


def lazy_file(load: Callable[[Path], object], file: Path) -> Lazy:
    """Lazy value that `load` reads from the file's folder; its fingerprint is the file's hash.

    Raises:
        FileNotFoundError: the file is missing.
    """
    return Lazy(lambda: load(file.parent), file_digest(file))
