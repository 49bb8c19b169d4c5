"""Import closure of a function or notebook: the library files it depends on, and one hash of them.

A result is out of date when any of these modules has changed, not only the function that made it.
Imports are read from the source, so nothing is loaded.
"""

import ast
import hashlib
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def imports(source: str, package: Path = PACKAGE) -> set[Path]:
    """Files of the package that Python source imports directly, its packages' `__init__` included.

    Imports inside functions count; names that are not modules count as the module they are in.

    Raises:
        SyntaxError: the source is not Python.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found: set[Path] = set()
    for name in names:
        first, *rest = name.split(".")
        if first == package.name:
            # Importing a module also runs the packages that it is in.
            for depth in range(len(rest) + 1):
                base = package.joinpath(*rest[:depth])
                found |= {f for f in (base / "__init__.py", base.with_suffix(".py")) if f.is_file()}
    return found


def closure(files: Iterable[Path], package: Path = PACKAGE) -> list[Path]:
    """The files and everything of the package that they import, directly or not, sorted."""
    waiting, known = {file.resolve() for file in files}, set()
    while waiting:
        file = waiting.pop()
        known.add(file)
        waiting |= imports(file.read_text(encoding="utf-8"), package) - known
    return sorted(known)


def code_hash(function: Callable) -> str:
    """Hash of the module that defines a function and of all library modules it depends on.

    Raises:
        ValueError: the function has no module file, such as one defined in a notebook.
    """
    file = getattr(import_module(function.__module__), "__file__", None)
    if file is None or function.__module__ == "__main__":
        raise ValueError(
            f"{function.__qualname__} is defined in {function.__module__}, whose code cannot be "
            "tracked; move it to the library"
        )
    total = hashlib.sha256()
    for path in closure([Path(file)]):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
