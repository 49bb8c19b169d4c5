"""Parameters of notebooks: types and names of given values are checked before anything runs.

papermill only warns about a parameter that a notebook does not have, and does not check types: a
typing error would run the defaults.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KINDS = {"str": str, "int": int, "float": float, "bool": bool}


class ParameterError(ValueError):
    """A parameter that does not exist or is of the wrong type; the message names it."""


def declared(notebook: Path) -> dict[str, str]:
    """Name and type of every parameter of a notebook, from the annotations in its cell."""
    from papermill import inspect_notebook  # slow to import, and rarely needed

    found = inspect_notebook(str(notebook))
    return {name: entry["inferred_type_name"] for name, entry in found.items()}


def check(
    notebook: Path, given: Sequence[str], types: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Parse `name=value` texts, each as the type that the notebook declares.

    Args:
        types: What the notebook has `declared`, where it is known already.

    Raises:
        ParameterError: no such parameter, not of its type, given twice, or no `=`.
    """
    if not given:
        return {}
    types, values = declared(notebook) if types is None else types, {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"'{text}' is no parameter: write name=value")
        if name not in types:
            known = ", ".join(types) or "none"
            raise ParameterError(f"{notebook.stem} has no parameter '{name}'; it has: {known}")
        if name in values:
            raise ParameterError(f"parameter '{name}' is given twice")
        values[name] = _read(notebook.stem, name, value, types[name])
    return values


def _read(notebook: str, name: str, text: str, kind: str) -> Any:
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        return KINDS[kind](text)
    except (KeyError, ValueError):
        raise ParameterError(
            f"parameter '{name}' of {notebook} is {kind or 'not typed'}, not '{text}'"
        ) from None
