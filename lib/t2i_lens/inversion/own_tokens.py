"""TI embeddings that a user brought or trained: check a new one, list them, remove one."""

import re
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
import torch
import yaml
from transformers import CLIPTokenizer

from t2i_lens.base.paths import DATA
from t2i_lens.base.shapes import TowerRows
from t2i_lens.inversion.embeddings import load
from t2i_lens.models.clip_vocabulary import clip_tokenizer
from t2i_lens.models.tokens import PUNCTUATION, add_names, check_name

# Words that name nothing that a picture could show.
FUNCTION_WORDS = frozenset(
    "a an the this that these those some any no not all both each every i you he she it we they me "
    "him her us them my your his its our their who what which and or but nor so if than then as of "
    "to in on at by for from with without into over under above below about up down out off is are "
    "was were be been am do does did has have had will would can could may must here there".split()
)


def check_addition(
    tokens: Sequence[tuple[str, TowerRows]], class_word: str, folder: Path, profile: str
) -> None:
    """Refuse placeholders that a chapter could not measure.

    Args:
        tokens: Name and rows of each.
        class_word: A word of one token, that they are compared with.
        folder: Of the profile's TI embeddings, whose names are taken.
        profile: Of the model that they were trained on.

    Raises:
        ValueError: as `check_class_word` and `check_token`; or a name is taken.
    """
    tokenizer = clip_tokenizer()
    check_class_word(tokenizer, class_word)
    for name, count in _taken(folder):
        add_names(tokenizer, name, count)
    for name, rows in tokens:
        check_token(tokenizer, name, rows, profile)
        add_names(tokenizer, name, len(rows))


def check_class_word(tokenizer: CLIPTokenizer, word: str) -> None:
    """Refuse what a token cannot be compared with.

    Raises:
        ValueError: it is not one word of one token, or a function word.
    """
    pieces = tokenizer.tokenize(word)
    if not word.isalpha() or len(pieces) != 1 or not pieces[0].endswith("</w>"):
        raise ValueError(f"the class word {word!r} is not one word of one token")
    if word.lower() in FUNCTION_WORDS:
        raise ValueError(f"the class word {word!r} names nothing that a picture shows: give a noun")


def check_token(tokenizer: CLIPTokenizer, name: str, rows: TowerRows, profile: str) -> None:
    """Refuse a placeholder that a chapter could not measure.

    Args:
        tokenizer: Of the profile's first text encoder, or one with the same vocabulary.
        rows: Rows of the input embedding table, [vector, d_model].
        profile: Of the model that it was trained on.

    Raises:
        ValueError: the name cannot stand in a prompt, is an ordinary word, taken, or a word of the
            profile's prompts; a row has no direction, or numbers beyond the profile's dtype; the
            prompts have no room for all vectors.
    """
    from t2i_lens.models.profiles import get  # loads pipelines, which not every command needs

    if not name.isprintable() or not name or re.search(r"[\s{}]", name):
        raise ValueError(f"{name!r} cannot stand in a prompt: give another with --name")
    check_name(tokenizer, name, len(rows))
    model = get(profile)
    prompts = _prompts(model.world)
    words = {word.strip(PUNCTUATION).casefold() for text in prompts for word in text.split()}
    if name.strip(PUNCTUATION).casefold() in words:
        raise ValueError(f"{name!r} is a word of the prompts of {profile}: rename it")
    longest = max(len(tokenizer.tokenize(text.replace("{}", " "))) for text in prompts)
    room = tokenizer.model_max_length - 2 - longest  # BOS and EOS
    if len(rows) > room:
        raise ValueError(
            f"{name!r} has {len(rows)} vectors, the prompts of {profile} have room for {room}: "
            "train one with fewer"
        )
    fed = rows.float().to(getattr(torch, model.dtype)).float()
    lengths = fed.norm(dim=1)
    if not (fed.isfinite().all() and lengths.isfinite().all()):
        raise ValueError(
            f"{name!r} has numbers beyond {model.dtype}, in which {profile} runs: "
            "bring the trained file"
        )
    if not lengths.all():
        raise ValueError(f"{name!r} has a row of zeros: bring the trained file")


@cache
def _prompts(world: str) -> tuple[str, ...]:
    """Every text of the prompt sets that profiles of a world are asked."""
    files = (DATA / "prompts" / f"{name}.yaml" for name in ("prompts", world))
    contents = (yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader) for file in files)
    return tuple(text for content in contents for text in _texts(content))


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _texts(part)


def _taken(folder: Path) -> list[tuple[str, int]]:
    """Names and numbers of vectors of what is in a folder; damaged ones are passed over."""
    table = listed(folder)
    table = table[table["vectors"] > 0]
    return list(zip(table["token"], table["vectors"], strict=True))


def listed(folder: Path) -> pd.DataFrame:
    """The TI embeddings of a folder, the damaged ones and remains of interrupted commands too.

    Returns:
        Columns folder (its name), token, vectors (0 if damaged), width, class_word, source.
    """
    rows = []
    for place in sorted(folder.iterdir()) if folder.exists() else ():
        if not place.is_dir():
            continue
        try:
            found = load(place)
        except (ValueError, OSError, KeyError):
            rows.append((place.name, "", 0, 0, "", "damaged"))
            continue
        source = found.provenance.get("source", "trained here")
        name, (vectors, width) = found.concept.placeholder_token, found.embedding.shape
        word = found.concept.superclass
        rows.append((place.name, name, vectors, width, word, source))
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
    known = table["token"].where(table["token"] != "", table["folder"])  # damaged: no token
    found = table[(known == name) | (table["folder"] == name)]
    if found.empty:
        raise ValueError(f"no token {name!r} in {folder}; there are: {', '.join(known) or 'none'}")
    target = folder / found["folder"].iloc[0]
    shutil.rmtree(target)
    return target
