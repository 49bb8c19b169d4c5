"""The models that the study measures, each pinned down so that a result names its model."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline

from t2i_lens.paths import DATA


@dataclass(frozen=True)
class ModelProfile:
    """One model and how it is run by default.

    Attributes:
        repo: Folder in diffusers' layout, or a repository of the Hub.
        revision: Commit of the Hub repository, for every component; None for a folder.
        dtype: Name of a torch dtype.
        height: Of the pictures, in pixels.
        width: Of the pictures, in pixels.
        num_inference_steps: DDIM steps.
        guidance_scale: Classifier-free guidance.
        cross_attention_layers: How many `attn2` modules the U-Net has.
    """

    name: str
    repo: str
    revision: str | None
    dtype: str
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    cross_attention_layers: int


PROFILES = {
    profile.name: profile
    for profile in [
        ModelProfile(
            name="toybox",
            repo=str(DATA / "models" / "toybox"),
            revision=None,
            dtype="float32",
            height=64,
            width=64,
            num_inference_steps=25,
            guidance_scale=7.5,
            cross_attention_layers=7,
        )
    ]
}


def get(name: str) -> ModelProfile:
    """The profile of that name.

    Raises: ValueError: unknown name; the message lists those there are.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; choose from: {', '.join(PROFILES)}")
    return PROFILES[name]


def load(profile: ModelProfile, device: str = "cpu") -> StableDiffusionPipeline:
    """The pipeline of a profile: DDIM, no safety checker, no progress bar.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a weight file is damaged, or the U-Net is not the one expected.
    """
    if profile.revision is None:
        for file in _model_files(profile):
            if file.suffix == ".safetensors":
                check_safetensors(file)
    with _quiet():
        pipe = StableDiffusionPipeline.from_pretrained(
            profile.repo,
            revision=profile.revision,
            local_files_only=profile.revision is None,
            dtype=getattr(torch, profile.dtype),
            safety_checker=None,
            requires_safety_checker=False,
        )
    found = sum(path.endswith("attn2") for path, _ in pipe.unet.named_modules())
    if found != profile.cross_attention_layers:
        raise ValueError(
            f"U-Net of {profile.name!r} has {found} cross-attention layers, its profile says "
            f"{profile.cross_attention_layers}: correct the profile or restore {profile.repo}"
        )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def fingerprint(profile: ModelProfile) -> str:
    """What a result depends on: the files' content for a folder, else repository and commit.

    Raises: FileNotFoundError: the folder or one of its files is missing.
    """
    if profile.revision is not None:
        return f"{profile.repo}@{profile.revision}:{profile.dtype}"
    folder, total = Path(profile.repo), hashlib.sha256(profile.dtype.encode())
    for file in _model_files(profile):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder)} {digest}\n".encode())
    return f"{profile.name}@{total.hexdigest()}"


def check_safetensors(file: Path) -> None:
    """Compares the size of a safetensors file with what its header promises.

    The format: 8 bytes little-endian length of the header, the header in JSON with each
    tensor's span, then exactly the spans' bytes.

    Raises: ValueError: the file is truncated or its header is damaged.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            # A damaged length must not make us read the whole file, or past its end.
            header = json.loads(stream.read(length)) if length <= size else None
            spans = [entry["data_offsets"] for key, entry in header.items() if key[:2] != "__"]
            expected = 8 + length + max((end for _, end in spans), default=0)
    except (ValueError, TypeError, KeyError, AttributeError):
        expected = None
    if expected != size:
        wanted = "its header is unreadable" if expected is None else f"{expected} are needed"
        raise ValueError(f"{file} is damaged ({size} bytes, {wanted}): restore it, or train anew")


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading shows no bars, and no warning that a tiny autoencoder is not the usual class."""
    logs = (diffusers.utils.logging, transformers.utils.logging)
    levels = [log.get_verbosity() for log in logs]
    bars = [log.is_progress_bar_enabled() for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        yield
    finally:
        for log, level, shown in zip(logs, levels, bars, strict=True):
            log.set_verbosity(level)
            if shown:
                log.enable_progress_bar()


def _model_files(profile: ModelProfile) -> list[Path]:
    """`model_index.json` and every file of the components it names, in a fixed order."""
    folder = Path(profile.repo)
    index = folder / "model_index.json"
    if not index.exists():
        raise FileNotFoundError(f"{index} is missing: restore {folder}, or train the model")
    try:
        entries = json.loads(index.read_text())
    except ValueError as error:
        raise ValueError(f"{index} is damaged ({error}): restore it") from None
    files = [index]
    for component, entry in sorted(entries.items()):
        if component.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        found = sorted(file for file in (folder / component).rglob("*") if file.is_file())
        # Networks need weights; tokenizers, schedulers and image processors have none.
        if "CLIPTextModel" in entry[1] or component in ("unet", "vae"):
            weights = [file for file in found if file.suffix == ".safetensors"]
            if not weights:
                raise FileNotFoundError(
                    f"no weights in {folder / component}: restore "
                    "*.safetensors there, or train the model"
                )
        elif not found:
            raise FileNotFoundError(f"{folder / component} is missing: restore it")
        files += found
    return files
