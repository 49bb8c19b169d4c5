"""Flow matching for the toybox with joint attention (Esser et al. 2024, sections 2 and 3).

Shown in: book/toybox.md
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from tqdm import tqdm
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from t2i_lens.toybox.nets import joint
from t2i_lens.toybox.training.fit import Schedule, fit
from t2i_lens.toybox.world.captions import Care, caption, careless
from t2i_lens.toybox.world.scenes import sample_scene

CAPTION_DROPPED = 0.1  # of the samples: the whole caption, for guidance
POOLED_DROPPED = 0.5  # of the samples: the pooled text alone, so that the tokens must be read
ENCODED = 256  # captions at once


def text_pool(
    scenes: range, seed: int, encoder: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer,
    care: Care,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Conditions of the scenes of `stages.encode_pool`; their captions are drawn anew.

    Returns: fp16 `states` `[scene, 32, width]`, `pooled` `[scene, width]`, and the same of the
        empty caption without the first axis, `empty_states` and `empty_pooled`.
    """
    parts = []
    for start in tqdm(range(0, len(scenes), ENCODED), desc="text states", mininterval=10):
        captions = [_caption_of(seed, n, care) for n in scenes[start : start + ENCODED]]
        parts.append([p.half() for p in joint.text_conditions(encoder, tokenizer, captions)])
    states, pooled = (torch.cat(part) for part in zip(*parts, strict=True))
    empty_states, empty_pooled = joint.text_conditions(encoder, tokenizer, [""])
    return {"states": states, "pooled": pooled, "empty_states": empty_states[0].half(),
            "empty_pooled": empty_pooled[0].half()}  # fmt: skip


def _caption_of(seed: int, number: int, care: Care) -> str:
    scene = sample_scene(np.random.default_rng([seed, number]))
    rng = np.random.default_rng([seed, number, 1])
    return caption(careless(scene, rng, care), rng)


@dataclass(frozen=True)
class JointBatches:
    """Callable for `fit`: random latents with their conditions."""

    latents: torch.Tensor
    texts: dict[str, torch.Tensor]
    batch: int

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        rows = torch.from_numpy(rng.integers(0, len(self.latents), self.batch))
        parts = (self.latents, self.texts["states"], self.texts["pooled"])
        return tuple(part[rows].float() for part in parts)


def times_of(count: int) -> torch.Tensor:
    """Logit-normal times in (0, 1), stratified: every batch covers the whole distribution."""
    spread = (torch.rand(1) + torch.arange(count) / count) % 1
    return torch.special.ndtri(spread.clamp(1e-4, 1 - 1e-4)).sigmoid()


def train_transformer(
    folder: Path, latents: torch.Tensor, texts: dict[str, torch.Tensor], schedule: Schedule,
    batch: int, device: torch.device,
) -> SD3Transformer2DModel:  # fmt: skip
    """The velocity from latents to noise, on straight paths between them.

    Muon trains the matrices of the blocks.

    Args:
        latents: Scaled `[scene, 4, 16, 16]`.
        texts: From `text_pool`.
        batch: This process's share of the schedule's batch.
    """
    empty_states, empty_pooled = (texts[f"empty_{n}"].float().to(device) for n in
                                  ("states", "pooled"))  # fmt: skip

    def loss_of(model: SD3Transformer2DModel, members):
        clean, states, pooled = (part.to(device) for part in members)
        count = len(clean)
        times = times_of(count).to(device)
        noise = torch.randn(clean.shape).to(device)
        chance = torch.rand(2, count).to(device)
        dropped = chance[0] < CAPTION_DROPPED
        states = torch.where(dropped[:, None, None], empty_states, states)
        pooled = torch.where((dropped | (chance[1] < POOLED_DROPPED))[:, None],
                             empty_pooled, pooled)  # fmt: skip
        noisy = torch.lerp(clean, noise, times[:, None, None, None])
        predicted = model(noisy, states, pooled, times * 1000).sample
        loss = (predicted.float() - (noise - clean)).square().mean()
        return loss, {}

    model = joint.build_transformer()
    hidden = [w for w in model.transformer_blocks.parameters() if w.ndim == 2]
    return fit("transformer", folder, model, JointBatches(latents, texts, batch), loss_of,
               schedule, device, workers=0, compiled=(model,), by_muon=hidden)  # fmt: skip
