"""A chapter's answer in one sentence: the record of its leading claim, put into words.

A notebook names the claim that answers its title in its metadata, `answer: {claim, text, figure}`.
The text holds `{value}`, `{control}` and `{difference}`, which the record fills. A notebook without
this metadata is answered by the statement of its first claim.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2i_lens.study.scoreboard import number_text
from t2i_lens.study.verdicts import Claim, ClaimError, Number, Record


@dataclass(frozen=True)
class Answer:
    """What a chapter found.

    Attributes:
        chapter: Name of the notebook.
        title: Its title, the question.
        claim: The claim that decides.
        record: Its record; "not yet measured" where there is none.
        sentence: The finding with its numbers.
        figure: Name of the figure that shows it; None where the chapter has no figure.
    """

    chapter: str
    title: str
    claim: Claim
    record: Record
    sentence: str
    figure: str | None


def answer(
    chapter: str, notebook: Mapping, claims: Mapping[str, Claim], records: Sequence[Record]
) -> Answer:
    """The answer of a chapter.

    Args:
        chapter: Name of the notebook.
        notebook: As read from its file, executed or not.
        records: Of one profile; those of other chapters are passed over.

    Raises:
        ClaimError: the notebook names a claim of another chapter, a figure that it does not have,
            or a number that no record holds; or no claim belongs to the chapter.
    """
    own = {id: claim for id, claim in claims.items() if claim.chapter == chapter}
    about = notebook["metadata"].get("answer", {})
    id = about.get("claim") or next(iter(own), None)
    if id not in own:
        raise ClaimError(f"{chapter} is answered by claim {id}, which is not its own")
    shown = figures(notebook)
    if about.get("figure", shown and shown[0]) not in (shown or [None]):
        raise ClaimError(f"{chapter} has no figure {about['figure']} to show with its answer")
    blank = Record(id=id, profile="toybox", verdict="not yet measured")
    record = next((r for r in records if r.id == id), blank)
    sentence = _sentence(about.get("text"), own[id], record)
    figure = about.get("figure", shown[0] if shown else None)
    return Answer(chapter, title_of(notebook), own[id], record, sentence, figure)


def figures(notebook: Mapping) -> list[str]:
    """Names of a notebook's figures, in their order."""
    about = [cell["metadata"].get("mystnb", {}).get("figure") for cell in notebook["cells"]]
    return [figure["name"] for figure in about if figure]


def title_of(notebook: Mapping) -> str:
    """The first heading of a notebook."""
    text = "".join(notebook["cells"][0]["source"])
    return re.search(r"^# (.+)$", text, flags=re.M)[1]


def _sentence(text: str | None, claim: Claim, record: Record) -> str:
    if record.verdict == "not measurable":
        return f"This model cannot show it: {record.reason}."
    if record.verdict == "not yet measured":
        return "This is not measured yet."
    numbers = {"value": record.found, "control": record.control, "difference": record.difference}
    if text is None:
        text = f"{' '.join(claim.statement.split())} The value is {{value}}"
        text += ", the control {control}." if record.control else "."
    try:
        return text.format(**{name: _number(n) for name, n in numbers.items() if n is not None})
    except (KeyError, IndexError) as error:
        message = f"the answer by claim {claim.id} asks for {error}: no such number"
        raise ClaimError(message) from None


def _number(number: Number) -> str:
    return number_text(number.value, number.interval if number.has_width else None)
