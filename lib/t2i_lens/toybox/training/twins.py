"""Twins of the toybox: the same start, other text states or other captions, equally long trained.

Which property of a training makes a learned token take over? Every twin goes on from the shipped
autoencoder and U-Net for the same number of steps on the same scenes. Two text encoders, with and
without the loss that keeps words apart, are crossed with two kinds of captions; a fifth twin reads
states of an encoder without layers, in which no word knows of another. The four are trained once
more on other scenes, with other random numbers.

Twins are not shipped: `t2i-lens twins` trains them to `build/twins`.

Shown in: book/toybox.md
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from t2i_lens.base.files import digest, write
from t2i_lens.base.lazy import Lazy
from t2i_lens.base.paths import BUILD
from t2i_lens.models import profiles
from t2i_lens.models.model_files import quiet
from t2i_lens.toybox.nets import networks
from t2i_lens.toybox.training import export, stages
from t2i_lens.toybox.training.fit import Schedule, fast_precision
from t2i_lens.toybox.training.shipped import shipped_weights
from t2i_lens.toybox.world.captions import CARELESS, COMPLETE, Care, caption, careless
from t2i_lens.toybox.world.scenes import render, sample_scene

FOLDER = BUILD / "twins"
SCENES, SCENE_SEED, TOGETHER = 8_192, 17, 256
RECALL = 1.0  # weight of the loss that keeps words apart
# Learning rates of the shipped training; warm and cool so that the few steps end at rest.
ENCODER = Schedule(150, 96, 1e-3, warmup=20, decay=0.7, ema=0.97)
UNET = Schedule(600, 24, 8e-4, warmup=30, decay=0.8, ema=0.99)
PIPELINE, DONE = "pipeline", "twin.json"


@dataclass(frozen=True)
class Twin:
    """One training.

    Attributes:
        name: Of its folder.
        encoder: "contrastive" goes on with the shipped encoder's loss alone; "recall" goes on from
            the same weights with the loss that keeps words apart as well (`RecallingPair`);
            "unmixed" has the shipped embeddings of tokens and positions and the final layer norm.
        care: How careless the captions are that the U-Net learns from. Encoders always read
            careless ones, as the shipped one did.
        seed: Of scenes, captions, batches and noise; 0 for the first trainings.
    """

    name: str
    encoder: str
    care: Care
    seed: int = 0

    @property
    def recipe(self) -> dict:
        """All settings of its training, besides the shipped weights it starts from."""
        return asdict(self) | shared_settings()


def shared_settings() -> dict:
    """Settings that all twins have in common."""
    return {
        "steps": asdict(UNET), "encoder_steps": asdict(ENCODER), "recall": RECALL,
        "scenes": [SCENES, SCENE_SEED],
    }  # fmt: skip


FIRST = (
    Twin("recall_careless", "recall", CARELESS),
    Twin("contrastive_careless", "contrastive", CARELESS),
    Twin("contrastive_complete", "contrastive", COMPLETE),
    Twin("recall_complete", "recall", COMPLETE),
    Twin("unmixed_careless", "unmixed", CARELESS),
)
AGAIN = "_again"  # after the name of a twin that is trained once more
SECOND = tuple(
    replace(twin, name=twin.name + AGAIN, seed=1) for twin in FIRST if twin.encoder != "unmixed"
)
TWINS = {twin.name: twin for twin in (*FIRST, *SECOND)}


def twin_pipeline(name: str, folder: Path = FOLDER) -> Lazy:
    """A trained twin, opened as the shipped toybox is: a `StableDiffusionPipeline` when got.

    Args:
        name: One of `TWINS`.

    Raises:
        ValueError: no such twin.
        FileNotFoundError: it is not trained.

    Shown in: book/toybox.md
    """
    if name not in TWINS:
        raise ValueError(f"no twin {name!r}; there are: {', '.join(TWINS)}")
    mark = folder / name / DONE
    if not mark.exists():
        raise FileNotFoundError(f"twin {name} is not trained: run `t2i-lens twins`")
    told = json.loads(mark.read_text(encoding="utf-8"))
    return Lazy(lambda: _opened(mark.parent / PIPELINE), f"twin-{name}@{told['weights']}")


def _opened(folder: Path) -> StableDiffusionPipeline:
    with quiet():
        pipe = StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=None, requires_safety_checker=False, local_files_only=True
        )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(profiles.best_device())


def train(name: str, folder: Path = FOLDER, tell: Callable[[str], None] = print) -> Path:
    """Train a twin if it is not trained yet, going on where an earlier call stopped.

    Returns: Its folder, with the pipeline, the loss curve and `twin.json`: a hash of the weights,
        and seconds of the U-Net's training in this call.

    Raises:
        ValueError: what is in the folder was trained with other settings.

    Shown in: book/toybox.md
    """
    twin, place = TWINS[name], folder / name
    start = profiles.get("toybox")
    _require_settings(folder, shared_settings() | {"start": profiles.fingerprint(start)})
    if (place / DONE).exists():
        return place
    device, shipped = torch.device(profiles.best_device()), profiles.load(start)
    words, vae = shipped.tokenizer, shipped.vae.float()
    tell(f"{name}: text encoder")
    text = encoder_of(twin.encoder, folder, words, device, twin.seed)
    latents = latents_of_scenes(folder, vae, device, twin.seed)
    tell(f"{name}: text states of {len(latents)} captions")
    captions = captions_of_scenes(twin.care, twin.seed)
    pool, empty = _captioned(captions, latents, text, words, device)
    tell(f"{name}: U-Net, {UNET.steps} steps")
    began = time.perf_counter()
    # A short training does not pay for its compiling.
    with torch.compiler.set_stance("force_eager"):
        unet = stages.train_unet(place, pool, empty, UNET, UNET.batch, device,
                                 stages.Dials(care=twin.care), shipped_weights("unet"),
                                 twin.seed)  # fmt: skip
    seconds = time.perf_counter() - began
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=words, unet=unet, feature_extractor=None,
        scheduler=shipped.scheduler, safety_checker=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.to("cpu").save_pretrained(place / PIPELINE)
    export.forget_derived(place / PIPELINE / "vae")
    weights = [(place / PIPELINE / part).glob("*.safetensors") for part in ("text_encoder", "unet")]
    content = b"".join(file.read_bytes() for files in weights for file in sorted(files))
    told = {"weights": digest(content), "seconds": round(seconds)}
    write(place / DONE, (json.dumps(told, indent=1) + "\n").encode())
    return place


def _require_settings(folder: Path, settings: dict) -> None:
    """Write down what a folder is trained with, or refuse it where it was begun otherwise."""
    file = folder / "settings.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(file, (json.dumps(settings, indent=1) + "\n").encode())
    if json.loads(file.read_text(encoding="utf-8")) != settings:
        raise ValueError(f"{folder} was trained with other settings: move it away")


def seconds_per_step(steps: int = 2) -> float:
    """Seconds of a forward and a backward pass of the U-Net with a training's batch, here."""
    unet, device = networks.build_unet(), torch.device(profiles.best_device())
    unet = unet.to(device, memory_format=torch.channels_last)
    latents = torch.zeros(UNET.batch, 4, 16, 16, device=device)
    states = torch.zeros(UNET.batch, 77, networks.TEXT_WIDTH, device=device)
    began = time.perf_counter()
    for _ in range(steps):
        with fast_precision(device):
            loss = unet(latents, 1, states).sample.square().mean()
        loss.backward()
    return (time.perf_counter() - began) / steps


def encoder_of(
    kind: str, folder: Path, words: CLIPTokenizer, device: torch.device, seed: int = 0
) -> CLIPTextModel:
    """A twin's text encoder, trained from the shipped one if it has layers.

    Args: kind: "contrastive", "recall" or "unmixed".
    """
    start = shipped_weights("text_encoder", words)
    if kind != "unmixed":
        dials = stages.Dials(recall=RECALL if kind == "recall" else 0.0)
        place = folder / f"encoder_{kind}{_suffix(seed)}"
        return stages.train_text_encoder(place, words, ENCODER, device, dials, start, seed).text
    text = networks.build_text_encoder(len(words), layers=0)
    kept = text.state_dict().keys()
    texts = {name.removeprefix("text."): weight for name, weight in start.items()}
    text.load_state_dict({name: texts[name] for name in kept})
    return text.to(device).eval()


def _suffix(seed: int) -> str:
    """Of files and folders that twins of one seed share."""
    return AGAIN if seed else ""


def latents_of_scenes(
    folder: Path, vae: AutoencoderTiny, device: torch.device, seed: int = 0
) -> torch.Tensor:
    """Latents of the scenes that twins of a seed share, fp16 `[scene, 4, 16, 16]`, kept there."""
    file = folder / f"latents{_suffix(seed)}.pt"
    if not file.exists():
        parts = []
        for first in range(0, SCENES, TOGETHER):
            numbers = range(first, min(first + TOGETHER, SCENES))
            pictures = [
                render(_scene(n, seed), np.random.default_rng([SCENE_SEED + seed, n, 1]))
                for n in numbers
            ]
            with torch.no_grad(), fast_precision(device):
                batch = stages.to_range(torch.from_numpy(np.stack(pictures)).to(device))
                encoded = vae.to(device).encoder(batch).mul(vae.config.scaling_factor)
            parts.append(encoded.half().cpu())
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.cat(parts), file)
    return torch.load(file, weights_only=True)


def captions_of_scenes(care: Care, seed: int = 0) -> list[str]:
    """A caption of each scene; two kinds of captions start from the same random numbers."""
    captions = []
    for number in range(SCENES):
        rng = np.random.default_rng([SCENE_SEED + seed, number, 2])
        captions.append(caption(careless(_scene(number, seed), rng, care), rng))
    return captions


def _scene(number: int, seed: int):
    return sample_scene(np.random.default_rng([SCENE_SEED + seed, number]))


@torch.no_grad()
def _captioned(
    captions: list[str], latents: torch.Tensor, text: CLIPTextModel, words: CLIPTokenizer,
    device: torch.device,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:  # fmt: skip
    """The pool that a U-Net learns from, as `stages.encode_pool` gives it, and the empty states."""
    ids = words(
        ["", *captions], padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    with fast_precision(device):
        states = [text(part.to(device)).last_hidden_state.half().cpu() for part in ids.split(256)]
    empty, states = torch.cat(states).split([1, len(latents)])
    lengths = (ids[1:] == words.eos_token_id).int().argmax(1) + 1
    return {"latents": latents, "states": states, "lengths": lengths}, empty[0].float()
