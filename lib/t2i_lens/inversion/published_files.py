"""TI embeddings in published file formats: read, write, and attach them under the right name.

Only tensors are read: a pickle goes through torch's weights-only reader, which refuses code.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from filelock import FileLock
from torch import Tensor

from t2i_lens.base.shapes import TowerRows
from t2i_lens.inversion.concept_library import PublicToken, locate, public_tokens
from t2i_lens.inversion.embedding_table import folder_of
from t2i_lens.inversion.embeddings import COLUMNS, Concept, Inversion, Kind, attach_rows, save
from t2i_lens.models.architectures import read_config
from t2i_lens.models.model_files import check_safetensors

PICKLED = (".bin", ".pt")
TOWERS = ("clip_l", "clip_g")  # SDXL's, in the order of the pipeline
MODELS = {
    (768,): "SD 1.x",
    (1024,): "SD 2.x",
    (1280,): "SDXL, second encoder alone",
    (768, 1280): "SDXL",
    (128,): "toybox",
}
Layout = Literal["diffusers", "a1111"]


class UnnamedTokenError(ValueError):
    """A file holds a tensor without a name, and none was given."""


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """A placeholder as stored in a file.

    Attributes:
        name: The placeholder token.
        rows: Rows of the input embedding table, in the file's dtype, one array per text encoder:
            one for Stable Diffusion, two (CLIP-L, CLIP-G) for SDXL.
        layout: Which kind of file it was.
        step: Optimiser steps taken, where the file has an entry for them.
    """

    name: str
    rows: tuple[TowerRows, ...]
    layout: str
    step: int | None = None

    @property
    def likely_model(self) -> str:
        """The models whose text encoders have tables of these widths, or "unknown"."""
        return MODELS.get(tuple(some.shape[1] for some in self.rows), "unknown")


def read_tokens(file: Path, name: str | None = None) -> list[LearnedToken]:
    """All placeholders of a file.

    Args:
        name: In place of the file's own; needed for a bare tensor, and possible only where the file
            holds one placeholder.

    Raises:
        FileNotFoundError: there is no such file.
        UnnamedTokenError: it holds a bare tensor, and no name was given.
        ValueError: it is damaged, holds code, or is no embedding; the message says which.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: check the path")
    suffix = file.suffix.lower()
    if suffix == ".safetensors":
        content = _read_safetensors(file)
    elif suffix in PICKLED:
        content = _read_pickle(file)
    else:
        raise ValueError(f"{file} ends in {suffix!r}: .safetensors, .bin and .pt are read")
    layout, entries = _entries(content, file, name)
    if name is not None and len(entries) > 1:
        raise ValueError(f"{file} holds {', '.join(entries)}: --name is for a file of one token")
    step = content.get("step") if isinstance(content, Mapping) else None
    step = step if type(step) is int and step >= 0 else None
    return [
        LearnedToken(name or own, tuple(_rows(t, own, file) for t in tensors), layout, step)
        for own, tensors in entries.items()
    ]


def write_tokens(tokens: Sequence[LearnedToken], folder: Path, layout: Layout) -> list[Path]:
    """One safetensors file `<name>.safetensors` per placeholder, as the other tools read them.

    For SDXL both tools read the same `clip_l` and `clip_g`. In A1111's layout, and for SDXL, the
    name is the file's name and stands nowhere inside.

    Returns:
        The files written.

    Raises:
        ValueError: a name is no file name, or the file exists.
    """
    folder, contents = Path(folder), {}
    for token in tokens:
        target = folder / f"{token.name}.safetensors"
        if Path(token.name).name != token.name:
            raise ValueError(f"{token.name!r} cannot name a file: give another with --name")
        if target.exists() or target in contents:
            raise ValueError(f"{target} exists: choose another folder")
        own = [token.name] if layout == "diffusers" else ["emb_params"]
        keys = TOWERS if len(token.rows) == len(TOWERS) else own
        contents[target] = {k: r.contiguous() for k, r in zip(keys, token.rows, strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    for target, content in contents.items():
        safetensors.torch.save_file(content, target, metadata={"format": "pt"})
    return list(contents)


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
    """
    from t2i_lens.models.profiles import (
        get,  # loads pipelines, which talk; other commands do not need it
    )

    model = get(profile)
    if not model.on_hub:
        raise ValueError(f"the TI embeddings of {profile} are shipped: name another profile")
    components = read_config(model.config)["components"]
    towers = [components[name] for name in sorted(components) if name.startswith("text_encoder")]
    widths = tuple(t["config"]["hidden_size"] for t in towers if t["class"].startswith("CLIP"))
    folder, named = folder_of(profile), {}
    for token in tokens:
        given = tuple(rows.shape[1] for rows in token.rows)
        # Whether rows of no known model fit, the model says when they are attached.
        if token.likely_model != "unknown" and given != widths:
            needed = " + ".join(map(str, widths)) or "no"
            raise ValueError(
                f"{token.name!r} has the widths of {token.likely_model}, {profile} takes rows of "
                f"width {needed}: name the profile that it was trained on"
            )
        if len(given) != 1:
            raise ValueError(f"{token.name!r} is for two text encoders: no chapter measures those")
        if re.search(r"\s", token.name):
            raise ValueError(f"{token.name!r} cannot stand in a prompt: give another with --name")
        slug = re.sub(r"\W+", "_", token.name).strip("_") or "token"
        if slug in named or (folder / slug).exists():
            raise ValueError(f"{folder / slug} is taken: give another name with --name")
        named[slug] = token
    none, nothing = np.zeros((0, 1, 1, 3), dtype=np.uint8), pd.DataFrame(columns=list(COLUMNS))
    saved = []
    for slug, token in named.items():
        concept = Concept(
            slug, token.name, class_word, class_word, images=none, hero=hero, kind=kind
        )  # fmt: skip
        rows, origin = token.rows[0].float(), {"source": source}
        saved.append(save(Inversion(concept, rows, nothing, {}, origin), folder))
    return saved


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


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        check_safetensors(file)
        return safetensors.torch.load_file(file)
    except (ValueError, safetensors.SafetensorError):
        raise ValueError(f"{file} is damaged: download it again") from None


def _read_pickle(file: Path) -> object:
    # CompVis's trainer leaves a ParameterDict. Letting it in runs none of its code: the reader
    # only fills its `__dict__`, from which the tensors are taken.
    allowed = [torch.nn.ParameterDict]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what is no file of its own
        found = re.search(r"(?:GLOBAL|class|function|global) `?([\w.]+\.[\w.]+)", str(error))
        if "Weights only load failed" in str(error) and found:
            raise ValueError(
                f"{file} wants to run or build {found[1]}: refused, only tensors are read"
            ) from None
        raise ValueError(f"{file} is damaged or no PyTorch file: download it again") from None


def _entries(
    content: object, file: Path, name: str | None
) -> tuple[str, dict[str, tuple[Tensor, ...]]]:
    """The layout, and name -> a tensor per text encoder."""
    if isinstance(content, Tensor):
        if name is None:
            raise UnnamedTokenError(
                f"{file} holds a bare tensor without a name: give one with --name"
            )
        return "bare tensor", {name: (content,)}
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{file} holds no embedding but a {type(content).__name__}")
    if "string_to_param" in content:
        return "A1111 .pt", _string_to_param(content, file)
    if set(content) == set(TOWERS):
        counts = {len(torch.atleast_2d(content[tower])) for tower in TOWERS}
        if len(counts) > 1:
            raise ValueError(f"{file} has other numbers of vectors in clip_l and clip_g")
        return "SDXL", {file.stem: tuple(content[tower] for tower in TOWERS)}
    if set(content) == {"emb_params"}:
        return "A1111 .safetensors", {file.stem: (content["emb_params"],)}
    for key, value in content.items():
        if not isinstance(value, Tensor) or re.search(r"\.(weight|bias|alpha)$", str(key)):
            raise ValueError(f"{file} is no embedding: its entry {str(key)[:60]!r} is no token")
    return "diffusers", {str(key): (value,) for key, value in content.items()}


def _string_to_param(content: Mapping, file: Path) -> dict[str, tuple[Tensor, ...]]:
    params = content["string_to_param"]
    if isinstance(params, torch.nn.ParameterDict):
        params = params.__dict__.get("_parameters", {})
    if not isinstance(params, Mapping) or not params:
        raise ValueError(f"{file} has an empty string_to_param")
    if len(params) > 1:
        return {str(key): (value,) for key, value in params.items()}
    own = content.get("name")
    (tensor,) = params.values()
    # "*" stands for "whatever the token is called"; then the file's name is all there is.
    return {own if isinstance(own, str) and own else file.stem: (tensor,)}


def _rows(tensor: object, name: str, file: Path) -> TowerRows:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise ValueError(f"{file}: {name!r} is no tensor of real numbers")
    if tensor.ndim not in (1, 2) or tensor.numel() == 0:
        raise ValueError(f"{file}: {name!r} has shape {tuple(tensor.shape)}, not [vector, d_model]")
    # Strides can make a file of a kilobyte claim a tensor of terabytes.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{file}: {name!r} claims more numbers than the file holds")
    if not tensor.isfinite().all():
        raise ValueError(f"{file}: {name!r} holds numbers that are not finite")
    return torch.atleast_2d(tensor.detach())
