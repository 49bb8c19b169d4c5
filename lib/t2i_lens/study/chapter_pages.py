"""A chapter's page from its executed notebook: the answer first, plumbing folded, claims linked.

The notebook still runs from top to bottom; only the copy of the book is arranged. A figure is
shown with the answer and keeps its code where it was computed.
"""

import json
import re
from collections.abc import Mapping

from t2i_lens.figures.interactive import MIME
from t2i_lens.study.answers import Answer
from t2i_lens.study.claims import load_claims
from t2i_lens.study.render import render
from t2i_lens.study.verdicts import MARKS

BADGE = re.compile(r"\[!\[Open in Colab\].*\n?")
# Cells whose code is read: one opens the model, the other shows the definition.
OPEN = ("instrument", "source")


def arranged(notebook: dict, answer: Answer | None) -> dict:
    """The notebook of a chapter's page.

    Args:
        notebook: Executed; it is not changed.
        answer: None for a chapter without claims, which keeps its order.
    """
    cells = json.loads(json.dumps(notebook["cells"]))
    title, *rest = cells
    # The badge is a picture from elsewhere; in the book a button does its work.
    title["source"] = BADGE.sub("", "".join(title["source"]))
    if answer is not None:
        heading, _, opening = title["source"].partition("\n")
        first, rest = _signature(rest, answer.figure)
        top = _markdown(
            "answer",
            f"{heading}\n\n{render('answer.md', answer=answer, mark=MARKS[answer.record.verdict])}",
        )
        cells = [top, *first, _markdown("opening", opening.strip()), *rest]
    else:
        cells = [title, *rest]
    pages = [part for cell in cells for part in _shown(cell)]
    return {**notebook, "cells": pages}


def _signature(cells: list[dict], name: str | None) -> tuple[list[dict], list[dict]]:
    """The cell of a figure as it stands under the answer, and the others with its code."""
    for number, cell in enumerate(cells):
        about = cell["metadata"].get("mystnb", {}).get("figure", {})
        if name is not None and about.get("name") == name:
            tags = [*cell["metadata"].get("tags", []), "remove-input"]
            shown = {**cell, "id": f"{cell['id']}-shown"}
            shown["metadata"] = {**cell["metadata"], "tags": tags}
            code = {**cell, "outputs": []}
            code["metadata"] = {k: v for k, v in cell["metadata"].items() if k != "mystnb"}
            note = f"This code draws {{numref}}`{name}`, at the top of the page."
            pointer = _markdown(f"{cell['id']}-pointer", note)
            return [shown], [*cells[:number], code, pointer, *cells[number + 1 :]]
    return [], cells


def _shown(cell: dict) -> list[dict]:
    """A cell as the page shows it, with what follows from it."""
    if cell["cell_type"] != "code":
        return [cell]
    tags = cell["metadata"].setdefault("tags", [])
    if cell["id"] not in OPEN and not {"remove-cell", "remove-input", "hide-input"} & set(tags):
        tags.append("hide-input")
    parts, outputs = [cell], []
    for output in cell["outputs"]:
        if MIME in output.get("data", {}):
            parts.append(_interactive(cell["id"], output["data"][MIME]))
        else:
            outputs.append(output)
    cell["outputs"] = outputs
    if "claims" in tags:
        parts.append(_links(cell))
    return parts


def _interactive(id: str, about: Mapping) -> dict:
    # A closing tag inside of the data would end the script that holds it.
    data = json.dumps(about, ensure_ascii=True).replace("</", "<\\/")
    block = render("interactive.html", kind=about["kind"], label=about["label"], data=data)
    return _markdown(f"{id}-interactive", f"```{{raw}} html\n{block}```")


def _links(cell: dict) -> dict:
    """Links to the addresses of all claims that a cell names."""
    named, claims = re.findall(r"\"([A-Z]\d\d)\"", "".join(cell["source"])), load_claims()
    ids = [id for id in dict.fromkeys(named) if id in claims]
    links = ", ".join(f'<a href="../scoreboard.html#{id}">{id}</a>' for id in ids)
    return _markdown(f"{cell['id']}-links", f"On the scoreboard: {links}.")


def _markdown(id: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": text}
