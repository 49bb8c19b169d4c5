"""Patching and injection of another prompt in attention layers, in a U-Net and in joint attention.

Both replace the text that chosen layers read, and nothing else (Staniszewski et al., 2502.09935,
section 3). Injection computes keys and values of the other prompt's text states inside the run
that is changed. Patching records them in a run of the other prompt from the same latents, and
writes them. In a U-Net every layer reads the same text states, so the two are one computation; in
joint attention the states that a layer reads were changed by the layers before it.

Shown in: notebooks/25_patching.ipynb
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from jaxtyping import Bool, Float, UInt8

from t2i_lens.models.architectures import denoiser
from t2i_lens.probes.edits import Inject, Value
from t2i_lens.probes.hookable import execution_device
from t2i_lens.probes.joint_attention import injected_text
from t2i_lens.probes.patches import (
    Patch,
    Recording,
    What,
    Write,
    patched_attention,
    recorded_attention,
)
from t2i_lens.probes.sampling import require, text_states
from t2i_lens.probes.unet_hooks import edited_cross_attention

Run = Literal["source", "target", "unrelated"]
Place = Literal["object", "elsewhere"]
PATCHED = (StableDiffusionPipeline, StableDiffusion3Pipeline)
T5_TOKENS = 256  # SD3's own number; a pipeline without T5 needs no empty ones


@dataclass(frozen=True)
class Arm:
    """One way to bring parts of a donor's run into a recipient's.

    Attributes:
        name: For tables and figures.
        how: "patch" with recorded activations, or "inject" the donor's text.
        layers: Paths, from `patches.attention_sites`; none draws the recipient as it is.
        parts: As in `patches.Patch`; an injection is of keys and values.
        heads: As in `patches.Patch`.
        strength: As in `patches.Patch`.
        permutation: As in `patches.Patch`.
        recipient: The prompt that is drawn.
        donor: The prompt whose parts are written, from the same latents; "unrelated" is a third
            prompt, see `draw_arms`.
        place: Outputs are written only where the object is, or only as many places elsewhere.
    """

    name: str
    how: Literal["patch", "inject"] = "patch"
    layers: tuple[str, ...] = ()
    parts: tuple[What, ...] = ("key", "value")
    heads: tuple[int, ...] | None = None
    strength: float = 1.0
    permutation: int | None = None
    recipient: Run = "source"
    donor: Run = "target"
    place: Place | None = None

    @property
    def fingerprint(self) -> str:
        """What a result drawn with this arm depends on."""
        return repr(self)

    @property
    def patch(self) -> Patch:
        """What is written."""
        return Patch(self.layers, self.parts, self.heads, None, self.strength, self.permutation)


@dataclass(frozen=True)
class Texts:
    """Prompts as a pipeline's denoiser reads them.

    Attributes:
        states: By prompt, [token, d_model].
        pooled: By prompt, [d_pooled]; None where the denoiser reads none.
    """

    states: dict[str, torch.Tensor]
    pooled: dict[str, torch.Tensor] | None = None


@torch.no_grad()
def encode_texts(pipe, prompts: Sequence[str]) -> Texts:
    """Encode each prompt, and the empty one.

    Raises:
        ValueError: a prompt is too long, or a pipeline of another class.
    """
    require(pipe, PATCHED, "patching draws with Stable Diffusion 1, 2 and 3")
    unique = list(dict.fromkeys(["", *prompts]))
    if not isinstance(pipe, StableDiffusion3Pipeline):
        return Texts(dict(zip(unique, text_states(pipe, unique), strict=True)))
    states, _, pooled, _ = pipe.encode_prompt(
        prompt=unique, prompt_2=unique, prompt_3=unique, do_classifier_free_guidance=False,
        max_sequence_length=T5_TOKENS if pipe.text_encoder_3 is not None else 0,
    )  # fmt: skip
    return Texts(*(dict(zip(unique, part, strict=True)) for part in (states, pooled)))


def seeded_latents(pipe, seeds: Sequence[int]) -> Float[torch.Tensor, "row channel height width"]:
    """Unit Gaussian latents, each from a generator seeded with its seed alone."""
    network = denoiser(pipe)
    side = network.config.sample_size
    shape = (network.config.in_channels, side, side)
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(execution_device(network), network.dtype)


def draw_rows(
    pipe, texts: Texts, prompts: Sequence[str], seeds: Sequence[int], **sampling
) -> Float[np.ndarray, "row height width 3"]:
    """One batch of pictures, a prompt and a seed each, in [0, 1].

    Args:
        texts: Hold every prompt.
        sampling: `num_inference_steps` and `guidance_scale`.
    """
    text = {
        "prompt_embeds": torch.stack([texts.states[prompt] for prompt in prompts]),
        "negative_prompt_embeds": torch.stack([texts.states[""]] * len(prompts)),
    }
    if texts.pooled is not None:
        text["pooled_prompt_embeds"] = torch.stack([texts.pooled[prompt] for prompt in prompts])
        text["negative_pooled_prompt_embeds"] = torch.stack([texts.pooled[""]] * len(prompts))
    return pipe(latents=seeded_latents(pipe, seeds), output_type="np", **text, **sampling).images


@contextmanager
def injected(
    pipe, texts: Texts, layers: Sequence[tuple[str, ...]], donors: Sequence[str]
) -> Iterator[None]:
    """Inject a donor's text into the layers of each picture of the next batch, into K and V."""
    if isinstance(pipe, StableDiffusion3Pipeline):
        with injected_text(pipe, layers, torch.stack([texts.states[donor] for donor in donors])):
            yield
        return
    values = {donor: Value(donor, texts.states[donor]) for donor in donors}
    edits = [[Inject(values[d], of_row)] for of_row, d in zip(layers, donors, strict=True)]
    with edited_cross_attention(pipe, edits):
        yield


@torch.no_grad()
def draw_arms(
    pipe,
    pairs: Sequence[Sequence[str]],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    find: Callable[[UInt8[np.ndarray, "n height width 3"]], Bool[np.ndarray, "n rows columns"]]
    | None = None,
    unrelated: Sequence[str] = (),
    batch_size: int = 16,
    **sampling,
) -> Float[np.ndarray, "arm pair seed height width 3"]:
    """Draw every arm x pair x seed; donors are drawn and recorded once for all arms of a batch.

    Args:
        pipe: Stable Diffusion 1, 2 or 3.
        pairs: Source and target prompt of each pair.
        arms: See `Arm`.
        seeds: One latent each, the same for all arms and pairs.
        find: Places of the object in a picture, for arms with a `place`; asked for the donor's
            and the recipient's picture, whose places are joined.
        unrelated: For arms with an unrelated donor: its prompt, one for each pair.
        sampling: Passed to `draw_rows`.

    Returns:
        Pictures in [0, 1].

    Raises:
        ValueError: no pair, seed or arm, an arm with a place and nothing that finds it, or an arm
            with an unrelated donor and not one for each pair.
    """
    if not (len(pairs) and len(arms) and len(seeds)):
        raise ValueError("draw_arms needs at least one pair, one arm and one seed")
    if find is None and any(arm.place for arm in arms):
        raise ValueError("an arm with a place needs `find`")
    if len(unrelated) != len(pairs) and any(arm.donor == "unrelated" for arm in arms):
        raise ValueError("an arm with an unrelated donor needs `unrelated`, a prompt for each pair")
    prompts = {
        "source": [source for source, _ in pairs],
        "target": [target for _, target in pairs],
    } | ({"unrelated": list(unrelated)} if unrelated else {})
    texts = encode_texts(pipe, [prompt for of_run in prompts.values() for prompt in of_run])
    jobs = [(number, seed) for number in range(len(pairs)) for seed in seeds]
    drawn = [
        _draw_batch(pipe, texts, prompts, jobs[start : start + batch_size], arms, find, sampling)
        for start in range(0, len(jobs), batch_size)
    ]
    pictures = np.concatenate(drawn, axis=1)
    return pictures.reshape(len(arms), len(pairs), len(seeds), *pictures.shape[2:])


def _draw_batch(
    pipe, texts: Texts, prompts: dict[str, list[str]], jobs: list[tuple[int, int]],
    arms: Sequence[Arm], find: Callable | None, sampling: dict,
) -> np.ndarray:  # fmt: skip
    seeds = [seed for _, seed in jobs]
    said = {run: [of_run[number] for number, _ in jobs] for run, of_run in prompts.items()}
    patching = [arm for arm in arms if arm.how == "patch" and arm.layers]
    recordings: dict[str, Recording] = {}
    plain: dict[str, np.ndarray] = {}
    needed = dict.fromkeys(run for arm in arms for run in (arm.recipient, arm.donor))
    for run in needed:
        of_run = [arm for arm in patching if arm.donor == run]
        layers = dict.fromkeys(path for arm in of_run for path in arm.layers)
        parts = dict.fromkeys(part for arm in of_run for part in arm.parts)
        recorder = recorded_attention(pipe, list(layers), list(parts)) if of_run else nullcontext()
        with recorder as recording:
            plain[run] = draw_rows(pipe, texts, said[run], seeds, **sampling)
        if of_run:
            recordings[run] = recording
    pictures = []
    for arm in arms:
        if not arm.layers:
            pictures.append(plain[arm.recipient])
            continue
        regions = [None] * len(jobs)
        if arm.place:
            regions = _regions(find, plain[arm.recipient], plain[arm.donor], arm.place)
        with ExitStack() as changes:
            if arm.how == "inject":
                layers = [arm.layers] * len(jobs)
                changes.enter_context(injected(pipe, texts, layers, said[arm.donor]))
            else:
                writes = [
                    [Write(arm.patch, recordings[arm.donor], row, region)]
                    for row, region in enumerate(regions)
                ]
                changes.enter_context(patched_attention(pipe, writes))
            pictures.append(draw_rows(pipe, texts, said[arm.recipient], seeds, **sampling))
    return np.stack(pictures)


def to_bytes(pictures: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Pictures in [0, 1] as bytes."""
    return np.round(pictures * 255).astype(np.uint8)


def _regions(
    find: Callable, recipient: np.ndarray, donor: np.ndarray, place: Place
) -> list[Bool[np.ndarray, "rows columns"]]:
    regions = find(to_bytes(recipient)) | find(to_bytes(donor))
    if place == "object":
        return list(regions)
    return [_elsewhere(region) for region in regions]


def _elsewhere(region: Bool[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """As many places outside a region as it has, or all there are: the farthest from its middle."""
    rows, columns = np.indices(region.shape)
    if not region.any():
        return region
    distance = np.hypot(rows - rows[region].mean(), columns - columns[region].mean())
    distance[region] = -1
    order = np.argsort(-distance, axis=None, kind="stable")
    chosen = np.zeros(region.size, bool)
    chosen[order[: min(region.sum(), (~region).sum())]] = True
    return chosen.reshape(region.shape)


def single_heads(arm: Arm, heads: int) -> list[Arm]:
    """The arm with each head of each of its layers alone, at all timesteps."""
    return [
        replace(arm, name=f"{path}, head {head}", layers=(path,), heads=(head,))
        for path in arm.layers
        for head in range(heads)
    ]
