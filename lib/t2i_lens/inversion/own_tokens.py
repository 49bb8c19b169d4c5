"""TI embeddings that a user brought or trained: check a new one, list them, remove one."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from t2i_lens.base.shapes import TowerRows
from t2i_lens.inversion.embeddings import PROVENANCE, load
from t2i_lens.models.clip_vocabulary import clip_tokenizer
from t2i_lens.models.tokens import add_names, encode_with


def check_addition(tokens: Sequence[tuple[str, TowerRows]], class_word: str, folder: Path) -> None:
    """Refuse placeholders that a chapter could not measure.

    Args:
        tokens: Name and rows of each.
        class_word: A word of one token, that they are compared with.
        folder: Of the profile's TI embeddings, whose names are taken.

    Raises:
        ValueError: the class word is not one word of one token; a name cannot stand in a prompt,
            is an ordinary word or taken; too many vectors, or numbers beyond float32.
    """
    tokenizer = clip_tokenizer()
    pieces = tokenizer.tokenize(class_word)
    if class_word.split() != [class_word] or len(pieces) != 1 or not pieces[0].endswith("</w>"):
        raise ValueError(f"the class word {class_word!r} is not one word of one token")
    for name, count in _taken(folder):
        add_names(tokenizer, name, count)
    for name, rows in tokens:
        if not name.isprintable() or not name or re.search(r"[\s{}]", name):
            raise ValueError(f"{name!r} cannot stand in a prompt: give another with --name")
        if not rows.float().isfinite().all():
            raise ValueError(f"{name!r} has numbers beyond float32: bring the trained file")
        add_names(tokenizer, name, len(rows))
        encode_with(tokenizer, name)  # more vectors than a prompt holds are refused


def _taken(folder: Path) -> list[tuple[str, int]]:
    """Names and numbers of vectors of what is in a folder; damaged ones are passed over."""
    table = listed(folder)
    table = table[table["vectors"] > 0]
    return list(zip(table["token"], table["vectors"], strict=True))


def listed(folder: Path) -> pd.DataFrame:
    """The TI embeddings of a folder.

    Returns:
        Columns folder (its name), token, vectors (0 if damaged), width, class_word, source.
    """
    rows = []
    for file in sorted(folder.glob(f"*/{PROVENANCE}")):
        try:
            found = load(file.parent)
        except (ValueError, OSError, KeyError):
            rows.append((file.parent.name, "", 0, 0, "", "damaged"))
            continue
        source = found.provenance.get("source", "trained here")
        name, (vectors, width) = found.concept.placeholder_token, found.embedding.shape
        word = found.concept.superclass
        rows.append((file.parent.name, name, vectors, width, word, source))
    columns = ["folder", "token", "vectors", "width", "class_word", "source"]
    return pd.DataFrame(rows, columns=columns)


def remove(folder: Path, name: str) -> Path:
    """Delete one TI embedding.

    Args:
        folder: Of a profile's.
        name: The placeholder, or the name of its folder.

    Returns:
        The folder that is no more.

    Raises:
        ValueError: there is no such TI embedding.
    """
    table = listed(folder)
    found = table[(table["token"] == name) | (table["folder"] == name)]
    if found.empty:
        known = ", ".join(table["token"].where(table["token"] != "", table["folder"]))
        raise ValueError(f"no token {name!r} in {folder}; there are: {known or 'none'}")
    target = folder / found["folder"].iloc[0]
    shutil.rmtree(target)
    return target
