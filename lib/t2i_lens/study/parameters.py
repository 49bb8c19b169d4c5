"""Parameters of notebooks: names, types and ranges are checked before anything runs.

papermill only warns about a parameter that a notebook does not have, and does not check types: a
typing error would run the defaults. The comment of a parameter ends with its range: `[1, 1000]`
for a number, both ends allowed, `{simple, creative}` for one of some words, or a regular expression
such as `/[a-z]+/` for a text of that form.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {"str": str, "int": int, "float": float, "bool": bool}
NUMBERS = r"\[(\S+), (\S+)\]$"
WORDS = r"\{(.+)\}$"
FORM = r"/(.+)/$"


class ParameterError(ValueError):
    """A parameter that does not exist or has a wrong type or value; the message names it."""


@dataclass(frozen=True)
class Parameter:
    """A parameter as its notebook declares it.

    Attributes:
        kind: Name of its type.
        ends: Least and largest value of a number; None if it has no range.
        words: The values of a text; empty if it is free.
        form: Regular expression that a text matches; None if it has none.
    """

    kind: str
    ends: tuple[float, float] | None = None
    words: tuple[str, ...] = ()
    form: str | None = None

    def refusal(self, value: Any) -> str | None:
        """What a value should be, where it is out of range; else None."""
        if self.ends and not self.ends[0] <= value <= self.ends[1]:  # nan is nowhere
            return f"from {self.ends[0]:.10g} to {self.ends[1]:.10g}"
        if self.words and value not in self.words:
            return " or ".join(self.words)
        if self.form and not re.fullmatch(self.form, value):
            return f"of the form {self.form}"
        return None


def declared(notebook: Path) -> dict[str, Parameter]:
    """Every parameter of a notebook by name, from the annotations and comments in its cell."""
    from papermill import inspect_notebook  # slow to import, and rarely needed

    found = inspect_notebook(str(notebook))
    return {name: _declaration(e["inferred_type_name"], e["help"]) for name, e in found.items()}


def _declaration(kind: str, comment: str) -> Parameter:
    comment = comment.strip()
    if numbers := re.search(NUMBERS, comment):
        return Parameter(kind, (float(numbers[1]), float(numbers[2])))
    if words := re.search(WORDS, comment):
        return Parameter(kind, words=tuple(words[1].split(", ")))
    form = re.search(FORM, comment)
    return Parameter(kind, form=form[1] if form else None)


def check(
    notebook: Path, given: Sequence[str], known: Mapping[str, Parameter] | None = None
) -> dict[str, Any]:
    """Parse `name=value` texts, each as the type that the notebook declares, and in its range.

    Args:
        known: What the notebook has `declared`, where it is known already.

    Raises:
        ParameterError: no such parameter, not of its type, out of its range, given twice, or no
            `=`.
        ValueError: no such profile, or the notebook does not run on it.
    """
    if not given:
        return {}
    known, values = declared(notebook) if known is None else known, {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"{text!r} is no parameter: write name=value")
        if name not in known:
            names = ", ".join(known) or "none"
            raise ParameterError(f"{notebook.stem} has no parameter '{name}'; it has: {names}")
        if name in values:
            raise ParameterError(f"parameter '{name}' is given twice")
        values[name] = _read(notebook.stem, name, value, known[name])
    if "profile" in values:
        from t2i_lens.models import profiles  # brings torch along
        from t2i_lens.study import support

        profiles.get(values["profile"])
        support.require(notebook.stem, values["profile"])
    return values


def _read(notebook: str, name: str, text: str, parameter: Parameter) -> Any:
    kind = parameter.kind
    try:
        if kind == "bool":
            value: Any = {"true": True, "false": False}[text.lower()]
        else:
            value = KINDS[kind](text)
    except (KeyError, ValueError):
        raise ParameterError(
            f"parameter '{name}' of {notebook} is {kind or 'not typed'}, not {text!r}"
        ) from None
    if needed := parameter.refusal(value):
        raise ParameterError(f"parameter '{name}' of {notebook} is {needed}, not {text!r}")
    return value
