"""Trained placeholder tokens: save them, load them, attach them to a pipeline."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
import yaml
from diffusers import DiffusionPipeline
from PIL import Image
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from t2i_lens.base.files import file_digest, write
from t2i_lens.base.lazy import Lazy
from t2i_lens.base.paths import DATA
from t2i_lens.base.shapes import EmbeddingRows, Images, TowerRows
from t2i_lens.models.tokens import add_placeholder, text_towers

Kind = Literal["object", "style", "colour_scheme"]
WEIGHTS = "learned_embeds.safetensors"  # the name diffusers looks for
TRAJECTORY = "trajectory.parquet"
PROVENANCE = "provenance.json"
# Of a trajectory; one without rows belongs to a token whose training was not recorded.
COLUMNS = (
    "step", "index", "vector", "norm", "loss", "gradient", "cosine_to_initial", "cosine_to_final",
)  # fmt: skip
CONTEXTS = "contexts.yaml"


@dataclass(frozen=True, eq=False)
class Concept:
    """A concept: the placeholder, its class word and its training pictures.

    Attributes:
        name: Folder name of the result.
        placeholder_token: The new word, e.g. `<cat-toy>`.
        initializer_token: A word of one token; its row is where training starts.
        superclass: The word that the placeholder is compared with.
        images: Training pictures; empty for a concept read back from a result.
        hero: Whether the book's main example is this one.
        development: Whether the model was chosen by looking at this one; all others are held out.
        kind: An object, or something that pictures of different objects have in common.
        captions: One per picture, with `{}` for the placeholder; a picture that has None is
            trained with templates. Empty if no picture has one.
    """

    name: str
    placeholder_token: str
    initializer_token: str
    superclass: str
    images: Images
    hero: bool = False
    development: bool = False
    kind: Kind = "object"
    captions: tuple[str | None, ...] = ()


@dataclass(frozen=True, eq=False)
class Inversion:
    """A trained placeholder with its provenance.

    Attributes:
        embedding: Rows of the input embedding table, float32, [vector, d_model].
        trajectory: Columns `step` (optimiser steps taken; 0 is the initializer), `index`
            (of the vector, 0 for a single one), `vector` (the row itself, d_model
            floats), `norm`, `loss` (mean since the previous record; nan at step 0),
            `gradient` (root mean square, since the previous record, of the norm of the row's
            gradient, penalties included; nan at step 0), `cosine_to_initial`,
            `cosine_to_final`.
        config: The parameters of training.
        provenance: Model fingerprint, hashes of the images, versions of the libraries.
    """

    concept: Concept
    embedding: EmbeddingRows
    trajectory: pd.DataFrame
    config: dict
    provenance: dict = field(default_factory=dict)


class _ConceptEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    placeholder_token: str
    initializer_token: str
    superclass: str
    images: list[str]
    hero: bool = False
    development: bool = False
    kind: Kind = "object"


def load_concepts(folder: Path = DATA / "concepts") -> list[Concept]:
    """The concepts listed in `concepts.yaml`, with their pictures.

    Raises:
        FileNotFoundError: the list or a picture is missing.
        ValueError: an entry is malformed, or its pictures differ in size.
    """
    listing = folder / "concepts.yaml"
    if not listing.exists():
        raise FileNotFoundError(f"{listing} is missing: restore it, or draw the concepts anew")
    try:
        entries = TypeAdapter(list[_ConceptEntry]).validate_python(
            yaml.safe_load(listing.read_text())
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{listing}, entry {where}: {first['msg']}") from None
    concepts = []
    for entry in entries:
        images = [np.asarray(Image.open(folder / file).convert("RGB")) for file in entry.images]
        if len({image.shape for image in images}) != 1:
            raise ValueError(f"{listing}: {entry.name!r} needs pictures, all of one size")
        concepts.append(Concept(**{**entry.model_dump(), "images": np.stack(images)}))
    return concepts


def load_contexts(name: str, folder: Path = DATA / "concepts") -> tuple[Images, tuple[str, ...]]:
    """Pictures of a concept in scenes, with the caption of each.

    Returns:
        Pictures, and captions with `{}` for the placeholder.

    Raises:
        FileNotFoundError: the concept has no such pictures, or one is missing.
        ValueError: the list is malformed.
    """
    listing = folder / name / CONTEXTS
    if not listing.exists():
        raise FileNotFoundError(f"{listing} is missing: restore it, or draw the concepts anew")
    try:
        captions = TypeAdapter(dict[str, str]).validate_python(yaml.safe_load(listing.read_text()))
    except ValidationError as error:
        raise ValueError(
            f"{listing} should map pictures to captions: {error.errors()[0]['msg']}"
        ) from None
    wrong = [said for said in captions.values() if said.count("{}") != 1]
    if wrong or not captions:
        raise ValueError(f"{listing}: a caption needs one {{}} for the placeholder, {wrong} do not")
    images = [np.asarray(Image.open(folder / name / file).convert("RGB")) for file in captions]
    return np.stack(images), tuple(captions.values())


def save(inversion: Inversion, folder: Path) -> Path:
    """Writes `<folder>/<name>/`: the rows as diffusers saves them, trajectory, provenance.

    The rows load with `pipe.load_textual_inversion(<folder>/<name>)`. The provenance is
    written last and holds the hashes of the other two, so a torn write does not load.
    """
    target, concept = folder / inversion.concept.name, inversion.concept
    target.mkdir(parents=True, exist_ok=True)
    rows = {concept.placeholder_token: inversion.embedding.detach().cpu().contiguous()}
    write(target / WEIGHTS, safetensors.torch.save(rows, metadata={"format": "pt"}))
    write(target / TRAJECTORY, inversion.trajectory.to_parquet(index=False, use_dictionary=False))
    provenance = {
        "concept": identity(concept),
        "config": inversion.config,
        **inversion.provenance,
        "files": {name: file_digest(target / name) for name in (WEIGHTS, TRAJECTORY)},
    }
    text = json.dumps(provenance, indent=1, ensure_ascii=False) + "\n"
    write(target / PROVENANCE, text.encode())
    return target


def identity(concept: Concept) -> dict:
    """A concept without its pictures, as its provenance states it in JSON."""
    plain = {k: v for k, v in asdict(concept).items() if k != "images"}
    return plain | {"captions": list(concept.captions)}


def load(folder: Path) -> Inversion:
    """Reads what `save` wrote; the concept comes back without its pictures.

    Raises:
        FileNotFoundError: the folder has no provenance.
        ValueError: a file is missing or is not the one the provenance speaks of.
    """
    if not (folder / PROVENANCE).exists():
        raise FileNotFoundError(f"{folder} has no {PROVENANCE}: train the concept anew")
    try:
        provenance = json.loads((folder / PROVENANCE).read_text())
        files, config = provenance.pop("files"), provenance.pop("config")
        none = np.zeros((0, 1, 1, 3), dtype=np.uint8)
        entry = provenance.pop("concept")
        captions = tuple(entry.pop("captions", ()))  # absent from what was saved without
        concept = Concept(**entry, images=none, captions=captions)
        if set(files) != {WEIGHTS, TRAJECTORY}:
            raise ValueError("it does not list both files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / PROVENANCE} is damaged ({error}): train it anew") from None
    for name, digest in files.items():
        if not (folder / name).exists() or file_digest(folder / name) != digest:
            raise ValueError(f"{folder / name} is not the file that was saved: train it anew")
    rows = safetensors.torch.load_file(folder / WEIGHTS)
    return Inversion(
        concept=concept,
        embedding=rows[concept.placeholder_token],
        trajectory=pd.read_parquet(folder / TRAJECTORY),
        config=config,
        provenance=provenance,
    )


def attach(pipe: DiffusionPipeline, inversion: Inversion | Path) -> tuple[int, ...]:
    """Puts a trained placeholder into a pipeline; no other row of its table changes.

    Args:
        inversion: Or the folder that `save` wrote.

    Returns:
        The placeholder's ids, one per vector.

    Raises:
        ValueError: the rows do not fit the model, or the name is taken.
    """
    if not isinstance(inversion, Inversion):
        inversion = load(inversion)
    return attach_rows(pipe, inversion.concept.placeholder_token, [inversion.embedding])


def attach_rows(pipe: DiffusionPipeline, token: str, rows: Sequence[TowerRows]) -> tuple[int, ...]:
    """Puts a placeholder with given rows into a pipeline; no other row of its tables changes.

    Args:
        rows: One array per CLIP tower: one for Stable Diffusion, two for SDXL.

    Returns:
        The placeholder's ids, one per vector.

    Raises:
        ValueError: the rows do not fit the model, are not finite in its dtype, or the name is
            taken.
    """
    tables = [encoder.get_input_embeddings() for _, encoder in text_towers(pipe)]
    needed = " + ".join(str(table.embedding_dim) for table in tables)
    given = " + ".join(str(some.shape[1]) for some in rows)
    if given != needed:
        raise ValueError(
            f"{token!r} has rows of width {given}, the model needs {needed or 'none'}: "
            "attach it to the model it was trained on"
        )
    cast = [some.to(table.weight.dtype) for table, some in zip(tables, rows, strict=True)]
    for some in cast:
        if not some.isfinite().all():
            kind = str(some.dtype).removeprefix("torch.")
            raise ValueError(f"{token!r} has numbers that are not finite in the model's {kind}")
    ids = add_placeholder(pipe, token, len(rows[0]))
    for (_, encoder), some in zip(text_towers(pipe), cast, strict=True):
        weight = encoder.get_input_embeddings().weight
        with torch.no_grad():
            weight[list(ids)] = some.to(weight.device)
    return ids


def with_tokens(pipe: Lazy, inversions: Sequence[Inversion]) -> Lazy:
    """The pipeline with TI embeddings attached, loaded when first needed.

    Its fingerprint holds every attached row, so a retrained token is a different pipeline.
    The embeddings are attached to the pipeline given, not to a copy.
    """
    digest = hashlib.sha256(pipe.fingerprint.encode())
    for inversion in inversions:
        digest.update(inversion.concept.placeholder_token.encode())
        digest.update(inversion.embedding.numpy().tobytes())

    def attached():
        loaded = pipe.get()
        for inversion in inversions:
            attach(loaded, inversion)
        return loaded

    return Lazy(attached, digest.hexdigest())
