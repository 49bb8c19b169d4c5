"""TI embeddings in published file formats: read, write, and attach them under the right name.

Only tensors are read, see `tensor_files`.
"""

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from t2i_lens.base.files import write
from t2i_lens.inversion.concept_library import PublicToken, locate, public_tokens
from t2i_lens.inversion.embedding_table import folder_of
from t2i_lens.inversion.embeddings import COLUMNS, Concept, Inversion, Kind, attach_rows, save
from t2i_lens.inversion.own_tokens import check_addition
from t2i_lens.inversion.tensor_files import plain_rows, read_tensors

TOWERS = ("clip_l", "clip_g")  # SDXL's, in the order of the pipeline
MODELS = {
    (768,): "SD 1.x",
    (1024,): "SD 2.x",
    (1280,): "SDXL, second encoder alone",
    (768, 1280): "SDXL",
    (128,): "toybox",
}
# The names that trainers give to text encoders, in the order of the pipelines.
ENCODERS = {
    "clip_l": "clip_l", "text_encoders_0": "clip_l", "clip_g": "clip_g",
    "text_encoders_1": "clip_g", "clip_h": "clip_h", "t5xxl": "t5", "t5": "t5", "llama": "llama",
    "gemma": "gemma", "qwen": "qwen",
}  # fmt: skip
# The models that have these text encoders.
OF_ENCODERS = {
    ("clip_l",): "SD 1.x, or the first encoder of SDXL, SD3 or Flux",
    ("clip_g",): "second encoder of SDXL or SD3 alone",
    ("clip_h",): "SD 2.x",
    ("clip_l", "clip_g"): "SDXL",
    ("clip_l", "clip_g", "t5"): "SD3",
    ("clip_l", "t5"): "Flux",
    ("t5",): "T5 of SD3, Flux or PixArt alone",
    ("clip_l", "llama"): "HunyuanVideo",
}
ALONE = ("emb_params", "emp_params")  # one encoder; OneTrainer spells it so
OUTPUT = "_out"  # ends the names of rows that take the place of an encoder's output
Layout = Literal["diffusers", "a1111"]


class UnnamedTokenError(ValueError):
    """A file holds a tensor without a name, and none was given."""


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """A placeholder as stored in a file.

    Attributes:
        name: The placeholder token.
        rows: Rows of the input embedding table, in the file's dtype, one array per text encoder,
            [vector, d_model]: one for Stable Diffusion, two (CLIP-L, CLIP-G) for SDXL.
        layout: Which kind of file it was.
        step: Optimiser steps taken, where the file has an entry for them.
        encoders: Names of the text encoders, where the file says them.
        output: Whether the rows take the place of the encoders' output and not of their input.
        note: What a reader of the file should know; "" if nothing.
    """

    name: str
    rows: tuple[Float[Tensor, "_ _"], ...]
    layout: str
    step: int | None = None
    encoders: tuple[str, ...] = ()
    output: bool = False
    note: str = ""

    @property
    def likely_model(self) -> str:
        """The models that have such text encoders or tables of these widths, or "unknown"."""
        if self.encoders:
            return OF_ENCODERS.get(self.encoders, "unknown")
        return MODELS.get(tuple(some.shape[1] for some in self.rows), "unknown")


def read_tokens(file: Path, name: str | None = None) -> list[LearnedToken]:
    """All placeholders of a file.

    Args:
        name: In place of the file's own; needed for a bare tensor, and possible only where the file
            holds one placeholder.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        UnnamedTokenError: it holds a bare tensor, and no name was given.
        ValueError: it is damaged, holds code, or is no embedding; the message says which.
    """
    file = Path(file)
    content = read_tensors(file)
    if isinstance(content, Mapping) and any(_encoder(key) for key in content):
        tokens = _of_encoders(content, file)
    else:
        layout, entries = _entries(content, file, name)
        step = content.get("step") if isinstance(content, Mapping) else None
        step = step if type(step) is int and step >= 0 else None
        tokens = [
            LearnedToken(own, (plain_rows(t, f"{file}: {own!r}"),), layout, step)
            for own, t in entries.items()
        ]
    if name is not None:
        if len(tokens) > 1:
            held = ", ".join(repr(token.name) for token in tokens)
            raise ValueError(f"{file} holds {held}: --name is for a file of one token")
        return [replace(tokens[0], name=name)]
    return [_noted(token, file) for token in tokens]


def _noted(token: LearnedToken, file: Path) -> LearnedToken:
    """With a note where a file that is known by its own name has another name inside."""
    if not token.layout.startswith("A1111") or token.name == file.stem:
        return token
    note = f"{file.name} calls its token {token.name!r}: --name {file.stem} gives the file's name"
    return replace(token, note=note)


def write_tokens(tokens: Sequence[LearnedToken], folder: Path, layout: Layout) -> list[Path]:
    """One safetensors file `<name>.safetensors` per placeholder, as the other tools read them.

    For SDXL both tools read the same `clip_l` and `clip_g`. In A1111's layout, and for SDXL, the
    name is the file's name and stands nowhere inside.

    Returns:
        The files written.

    Raises:
        ValueError: a name is no file name, the file exists, or its rows are for other text
            encoders.
        OSError: a file cannot be written; none of those written before is left.
    """
    folder, contents = Path(folder), {}
    for token in tokens:
        target = folder / f"{token.name}.safetensors"
        # Path("..").name is "..", that of "" is "".
        unfit = token.name.strip() in ("", "..") or Path(token.name).name != token.name
        if unfit or not token.name.isprintable():
            raise ValueError(f"{token.name!r} cannot name a file: give another with --name")
        if token.output or len(token.rows) > len(TOWERS):
            raise ValueError(f"{token.name!r} has rows that neither tool reads")
        own = [token.name] if layout == "diffusers" else ["emb_params"]
        keys = TOWERS if len(token.rows) == len(TOWERS) else own
        if target in contents:
            raise ValueError(f"{target} exists: choose another folder")
        contents[target] = {k: r.contiguous() for k, r in zip(keys, token.rows, strict=True)}
    written: list[Path] = []
    try:
        if existing := [target for target in contents if target.exists()]:
            raise ValueError(f"{existing[0]} exists: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        for target, content in contents.items():
            write(target, safetensors.torch.save(content, metadata={"format": "pt"}))
            written.append(target)
    except OSError as error:
        for target in written:
            target.unlink(missing_ok=True)
        raise OSError(f"{folder} cannot be written to: {error.strerror}") from None
    return written


def attach_token(pipe: DiffusionPipeline, token: LearnedToken) -> tuple[int, ...]:
    """Puts a placeholder into a pipeline, with all its vectors.

    Returns:
        Its ids, one per vector.

    Raises:
        ValueError: the widths do not fit the model, or the name is taken or unusable.
    """
    return attach_rows(pipe, token.name, token.rows)


def add_tokens(
    tokens: Sequence[LearnedToken],
    class_word: str,
    profile: str,
    source: str,
    *,
    hero: bool = False,
    kind: Kind = "object",
) -> list[Path]:
    """Saves placeholders among a profile's TI embeddings, without a record of their training.

    Args:
        class_word: A word of one token, that they are compared with.
        profile: Of the model that they were trained on, see `embedding_table.folder_of`.
        source: Where they came from, kept in their provenance.
        hero, kind: See `embeddings.Concept`.

    Returns:
        Their folders.

    Raises:
        ValueError: no such profile, or a shipped one; rows of another model or for two encoders; a
            name that cannot stand in a prompt or is taken. Nothing is saved then.
        OSError: the folder cannot be written to.
    """
    from t2i_lens.models.profiles import (
        get,  # loads pipelines, which talk; other commands do not need it
        text_widths,
    )

    model = get(profile)
    if not model.on_hub:
        raise ValueError(f"the TI embeddings of {profile} are shipped: name another profile")
    widths = text_widths(model)
    for token in tokens:
        given = tuple(rows.shape[1] for rows in token.rows)
        if token.output:
            raise ValueError(f"{token.name!r} replaces an encoder's output: no chapter measures it")
        if given != widths:
            needed = " + ".join(map(str, widths)) or "no"
            likely = "" if token.likely_model == "unknown" else f" ({token.likely_model})"
            raise ValueError(
                f"{token.name!r} has rows of width {' + '.join(map(str, given))}{likely}, "
                f"{profile} takes rows of width {needed}: name the profile that it was trained on"
            )
        if len(given) != 1:
            raise ValueError(f"{token.name!r} is for two text encoders: no chapter measures those")
    folder, named = folder_of(profile), {}
    check_addition([(t.name, t.rows[0]) for t in tokens], class_word, folder, profile)
    for token in tokens:
        slug = re.sub(r"\W+", "_", token.name).strip("_") or "token"
        if slug in named or (folder / slug).exists():
            raise ValueError(
                f"{folder / slug} is taken: remove it, or give another name with --name"
            )
        named[slug] = token
    none, nothing = np.zeros((0, 1, 1, 3), dtype=np.uint8), pd.DataFrame(columns=list(COLUMNS))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Built apart, so that an interruption leaves no half of a token in its place.
        with tempfile.TemporaryDirectory(prefix=".adding-", dir=folder) as apart:
            for slug, token in named.items():
                concept = Concept(
                    slug, token.name, class_word, class_word, images=none, hero=hero, kind=kind
                )  # fmt: skip
                rows, origin = token.rows[0].float(), {"source": source}
                save(Inversion(concept, rows, nothing, {}, origin), Path(apart))
            for slug in named:
                os.replace(Path(apart) / slug, folder / slug)
    except OSError as error:
        raise OSError(f"{folder} cannot be written to: {error.strerror}") from None
    return [folder / slug for slug in named]


def add_public(token: PublicToken, profile: str) -> list[Path]:
    """Fetches a token of the concept library by its commit and adds it, see `add_tokens`.

    The commit is kept in the provenance; one that the list leaves open is looked up.

    Raises:
        OSError: it is neither cached nor reachable.
        ValueError: as `read_tokens` and `add_tokens`.
    """
    from t2i_lens.models.profiles import hub_commit  # loads pipelines, as above

    commit = token.commit or hub_commit(token.id)
    tokens = read_tokens(locate(token.id, commit))
    source = f"{token.id}@{commit}"
    return add_tokens(tokens, token.class_word, profile, source, hero=token.hero, kind=token.kind)


def bring_public(profile: str, tell: Callable[[str], None] = print) -> None:
    """Adds the listed public tokens of a profile that has no TI embeddings, and says the cost.

    A token that cannot be had is named and left out.

    Raises:
        OSError: none of them can be had.
    """
    listed, folder = public_tokens(), folder_of(profile)
    if profile not in listed.profiles:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Chapters run side by side: the second to need the tokens waits for the first.
    with FileLock(folder.with_suffix(".lock")):
        if any(folder.glob("*/provenance.json")):
            return
        count, size = len(listed.tokens), len(listed.tokens) * listed.bytes / 1000
        tell(f"no token of {profile} at hand: fetching {count} public ones, about {size:.0f} kB")
        missing = []
        for token in listed.tokens:
            try:
                add_public(token, profile)
            except (OSError, ValueError) as error:
                missing.append(token.id)
                tell(f"left out: {error}")
        if len(missing) == count:
            raise OSError(f"no public token of {profile} can be had: connect to the network, or "
                          "bring one with `t2i-lens embeddings add FILE`")  # fmt: skip


def _encoder(key: object) -> str | None:
    """The text encoder that an entry of a file is named after, such as `t5` for `t5xxl_out`."""
    stem = str(key).removesuffix(OUTPUT)
    return stem if stem in ALONE else ENCODERS.get(stem)


def _of_encoders(content: Mapping, file: Path) -> list[LearnedToken]:
    """One placeholder, named as its file, of a file with an entry for each text encoder."""
    if other := [str(key)[:60] for key in content if not _encoder(key)]:
        raise ValueError(f"{file} has entries of text encoders and others, such as {other[0]!r}")
    order = list(dict.fromkeys([*ENCODERS.values(), *ALONE]))
    given = [key for key in content if not str(key).endswith(OUTPUT)]
    keys = sorted(given or content, key=lambda key: order.index(_encoder(key)))
    rows = tuple(plain_rows(content[key], f"{file}: {key!r}") for key in keys)
    counts = {len(r) for key, r in zip(keys, rows, strict=True) if _encoder(key) in TOWERS}
    if len(counts) > 1:
        raise ValueError(f"{file} has other numbers of vectors in clip_l and clip_g")
    named = tuple(_encoder(key) for key in keys)
    if len(set(named)) < len(named):
        raise ValueError(f"{file} has two entries for one text encoder")
    alone = set(named) <= set(ALONE)
    trainer = "emp_params" in named or any(str(key).endswith(OUTPUT) for key in content)
    layout = "OneTrainer" if trainer else "A1111 .safetensors" if alone else " + ".join(named)
    note = ""
    if given and len(given) < len(content):
        note = f"{file.name} also has rows for the encoders' output, which are left out"
    return [
        LearnedToken(
            file.stem, rows, "SDXL" if named == TOWERS and not trainer else layout,
            encoders=() if alone else named, output=not given, note=note,
        )
    ]  # fmt: skip


def _entries(content: object, file: Path, name: str | None) -> tuple[str, dict[str, object]]:
    """The layout, and name -> tensor."""
    if isinstance(content, Tensor):
        if name is None:
            raise UnnamedTokenError(
                f"{file} holds a bare tensor without a name: give one with --name"
            )
        return "bare tensor", {name: content}
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{file} holds no embedding but a {type(content).__name__}")
    if "string_to_param" in content:
        return "A1111 .pt", _string_to_param(content, file)
    for key, value in content.items():
        if not isinstance(value, Tensor) or re.search(r"\.(weight|bias|alpha)$", str(key)):
            raise ValueError(f"{file} is no embedding: its entry {str(key)[:60]!r} is no token")
    # "*" stands for "whatever the token is called": the file's name is all there is.
    return "diffusers", {file.stem if k == "*" else str(k): value for k, value in content.items()}


def _string_to_param(content: Mapping, file: Path) -> dict[str, object]:
    params = content["string_to_param"]
    if isinstance(params, torch.nn.ParameterDict):
        params = params.__dict__.get("_parameters", {})
    if not isinstance(params, Mapping) or not params:
        raise ValueError(f"{file} has an empty string_to_param")
    if len(params) > 1:
        return {str(key): value for key, value in params.items()}
    own = content.get("name")
    (tensor,) = params.values()
    return {own if isinstance(own, str) and own not in ("", "*") else file.stem: tensor}
