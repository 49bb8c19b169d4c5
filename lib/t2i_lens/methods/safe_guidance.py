"""Safe latent diffusion: guidance away from an unwanted concept, where the prompt moves towards it.

The guided noise is ε∅ + s (ε_p − ε∅ − γ) with a third prediction ε_S of the unwanted concept and

    γ_t = μ (ε_S − ε∅) + s_m ν_t,    ν_{t+1} = β_m ν_t + (1 − β_m) γ_t,
    μ = min(1, s_S |ε_p − ε_S|) where ε_p − ε_S < λ, else 0;    γ_t = 0 before the step δ

(Schramowski et al., arXiv 2211.05105; the printed max in μ is a min in the released code, and the
momentum is kept during the steps before δ). The pipeline's own loop runs: γ is taken from the
conditional half of the U-Net's output.

Shown in: notebooks/28_unwanted_words.ipynb
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import UInt8
from torch import Tensor, nn

from t2i_lens.base.shapes import TextStates
from t2i_lens.probes.sampling import generate, require, text_states
from t2i_lens.probes.unet_hooks import check_guidance, guidance_branches, hold, unet_of

PUBLISHED_STEPS = 50  # of the drawings that the warm-up steps are stated for


@dataclass(frozen=True)
class Safety:
    """Parameters of safe guidance.

    Attributes:
        scale: s_S, how fast the correction grows with the difference to the unwanted prediction.
        warmup: Steps before the correction acts, as a share of all steps.
        threshold: λ, below which a difference counts as moving towards the concept.
        momentum: s_m, weight of the momentum.
        decay: β_m, of the momentum.
    """

    scale: float
    warmup: float
    threshold: float
    momentum: float
    decay: float

    @property
    def fingerprint(self) -> str:
        """What a result drawn with it depends on."""
        return repr(self)


# The published configurations; warm-up steps as shares of their 50 steps.
CONFIGURATIONS = {
    "medium": Safety(1000.0, 10 / PUBLISHED_STEPS, 0.01, 0.3, 0.4),
    "strong": Safety(2000.0, 7 / PUBLISHED_STEPS, 0.025, 0.5, 0.7),
    "max": Safety(5000.0, 0.0, 1.0, 0.5, 0.7),
}


def correction(
    safety: Safety, empty: Tensor, prompt: Tensor, unwanted: Tensor, momentum: Tensor
) -> tuple[Tensor, Tensor]:
    """γ of a step, and the momentum after it.

    Args:
        safety: Its parameters; the warm-up is left to the caller.
        empty: ε∅, predicted noise, [picture, channel, height, width].
        prompt: ε_p, of the same shape, as all others.
        unwanted: ε_S.
        momentum: ν before the step.
    """
    weight = ((prompt - unwanted).abs() * safety.scale).clamp(max=1.0)
    weight = torch.where(prompt - unwanted < safety.threshold, weight, torch.zeros_like(weight))
    gamma = weight * (unwanted - empty) + safety.momentum * momentum
    return gamma, safety.decay * momentum + (1 - safety.decay) * gamma


@contextmanager
def guided_safely(pipe, safety: Safety, states: TextStates) -> Iterator[None]:
    """Guides one drawing away from an unwanted concept.

    Args:
        pipe: Stable Diffusion 1 or 2, called once while the context is open, with guidance.
        safety: See `Safety`.
        states: Text states of the unwanted concept of each picture, [picture, token, d_model].

    Raises:
        ValueError: the pipeline has no U-Net, draws without guidance, or another number of
            pictures.
    """
    unet, step, momentum = unet_of(pipe), -1, None

    def guide(_: nn.Module, inputs: tuple, named: dict, output):
        nonlocal step, momentum
        step += 1
        sample = inputs[0]
        halves = guidance_branches(pipe, len(sample))
        if len(halves) < 2:
            raise ValueError("safe guidance corrects guidance: the guidance scale must be above 1")
        rows = halves["conditional"]
        if rows.stop - rows.start != len(states):
            raise ValueError(f"{len(states)} unwanted texts for {rows.stop - rows.start} pictures")
        predicted = output[0]
        own = {**named, "encoder_hidden_states": states.to(predicted)}
        # Not a call of the module: its own hooks count the pipeline's calls alone.
        unwanted = unet.forward(sample[rows], inputs[1], **own)[0]
        empty, prompt = predicted[halves["unconditional"]], predicted[rows]
        if momentum is None:
            momentum = torch.zeros_like(prompt)
        gamma, momentum = correction(safety, empty, prompt, unwanted, momentum)
        if step < round(safety.warmup * pipe.num_timesteps):
            return None
        changed = predicted.clone()
        changed[rows] = prompt - gamma
        return (changed, *output[1:])

    with ExitStack() as hooks:
        check_guidance(hooks, pipe)
        hold(hooks, unet.register_forward_hook(guide, with_kwargs=True))
        yield


def draw_safely(
    pipe,
    prompts: Sequence[str],
    unwanted: Sequence[str],
    safety: Safety,
    seeds: Sequence[int],
    *,
    batch_size: int = 16,
    **sampling,
) -> UInt8[np.ndarray, "prompt seed height width 3"]:
    """Draw prompts, each guided away from a text of its own.

    Args:
        pipe: Stable Diffusion 1 or 2.
        prompts: What is to be drawn.
        unwanted: The unwanted concept's text for each prompt.
        safety: See `Safety`.
        seeds: One latent each, the same for all prompts.
        batch_size: Pictures drawn together, at least one prompt with all its seeds.
        sampling: Passed to `sampling.generate`.

    Returns:
        Bytes, [prompt, seed, height, width, 3].

    Raises:
        ValueError: as `guided_safely` and `sampling.generate`, or another kind of pipeline.
    """
    require(pipe, StableDiffusionPipeline, "safe guidance draws with Stable Diffusion 1 and 2")
    states, pictures = text_states(pipe, unwanted), []
    together = max(1, batch_size // len(seeds))
    for start in range(0, len(prompts), together):
        batch = list(prompts[start : start + together])
        own = states[start : start + together].repeat_interleave(len(seeds), 0)
        with guided_safely(pipe, safety, own):
            drawn = generate(pipe, batch, seeds, batch_size=len(own), **sampling)
        pictures.append(drawn)
    return np.concatenate(pictures)
