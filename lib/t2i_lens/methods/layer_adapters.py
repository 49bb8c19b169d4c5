"""Low-rank adapters (LoRA) of chosen cross-attention layers, trained on pictures with captions.

Adapters of queries, keys, values and outputs of the chosen layers learn with the usual loss of the
predicted noise, as in the fine-tuning of Staniszewski et al. (2502.09935). They are those of `peft`
(Hu et al., arXiv 2106.09685).

Shown in: notebooks/27_lora_layers.ipynb
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import mse_loss

from t2i_lens.base.shapes import Latents, TextStates
from t2i_lens.probes.sampling import require, text_states
from t2i_lens.probes.unet_hooks import cross_attention_layers, unet_of

NAME = "layers"
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
WITHOUT_CAPTION = 0.1  # share of the pictures, so that the empty prompt is not forgotten


@dataclass(frozen=True)
class Training:
    """Parameters of the fine-tuning.

    Attributes:
        steps: Of AdamW.
        batch: Pictures in a step.
        rank: Of the adapters.
        rate: Learning rate.
        seed: Of the adapters' start, the order of pictures, noise and timesteps.
    """

    steps: int = 100
    batch: int = 4
    rank: int = 4
    rate: float = 1e-3
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """What a result trained with it depends on."""
        return repr(self)


@torch.no_grad()
def encoded(pipe, pictures: UInt8[Tensor, "picture height width 3"]) -> Latents:
    """Latents of pictures, scaled as the U-Net expects them.

    Raises:
        ValueError: the pipeline has no U-Net.
    """
    scaled = pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1).to(unet_of(pipe).dtype)
    found = pipe.vae.encode(scaled)
    latents = found.latents if hasattr(found, "latents") else found.latent_dist.mean
    return latents * pipe.vae.config.scaling_factor


@contextmanager
def adapted(
    pipe, layers: Sequence[str], latents: Latents, captions: Sequence[str], training: Training
) -> Iterator[Float[Tensor, " step"]]:
    """Trains adapters and keeps them while the context is open; the weights below do not change.

    Args:
        pipe: Stable Diffusion 1 or 2.
        layers: Paths of cross-attention layers; none trains nothing.
        latents: From `encoded`.
        captions: One for each.
        training: See `Training`.

    Yields:
        The loss of each step.

    Raises:
        ValueError: another kind of pipeline, a layer that there is not, or fewer or more captions
            than pictures.
    """
    require(pipe, StableDiffusionPipeline, "adapters are trained for Stable Diffusion 1 and 2")
    unknown = set(layers) - set(cross_attention_layers(pipe.unet))
    if unknown or len(latents) != len(captions):
        wrong = min(unknown, default=f"{len(captions)} captions for {len(latents)} pictures")
        raise ValueError(f"adapters need cross-attention layers and a caption a picture: {wrong}")
    if not layers:
        yield torch.zeros(0)
        return
    learned = {name: part.requires_grad for name, part in pipe.unet.named_parameters()}
    pipe.unet.requires_grad_(False)
    _add(pipe.unet, layers, training)
    try:
        yield _trained(pipe, latents, text_states(pipe, ["", *captions]), training)
    finally:
        pipe.unet.unload_lora()
        for name, part in pipe.unet.named_parameters():
            part.requires_grad_(learned[name])


def count(pipe, layers: Sequence[str], rank: int) -> int:
    """Parameters that adapters of these layers have.

    Raises:
        ValueError: the pipeline has no U-Net.
    """
    unet = unet_of(pipe)
    projections = [unet.get_submodule(f"{p}.{name}") for p in layers for name in PROJECTIONS]
    return rank * sum(part.in_features + part.out_features for part in projections)


def _add(unet, layers: Sequence[str], training: Training) -> None:
    from peft import LoraConfig  # brings much along

    places = [f"{path}.{name}" for path in layers for name in PROJECTIONS]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)  # peft draws the start from the global generator
        config = LoraConfig(r=training.rank, lora_alpha=training.rank, target_modules=places)
        unet.add_adapter(config, adapter_name=NAME)


def _trained(pipe, latents: Latents, states: TextStates, training: Training) -> Tensor:
    generator = torch.Generator().manual_seed(training.seed)
    parts = [part for part in pipe.unet.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(parts, lr=training.rate)
    losses = []
    with torch.enable_grad():
        for _ in range(training.steps):
            chosen = torch.randint(len(latents), (training.batch,), generator=generator)
            silent = torch.rand(training.batch, generator=generator) < WITHOUT_CAPTION
            loss = _loss(pipe, latents[chosen], states[(chosen + 1) * ~silent], generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return torch.tensor(losses)


def _loss(pipe, latents: Latents, states: TextStates, generator: torch.Generator) -> Tensor:
    scheduler = pipe.scheduler
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    # Stratified: each batch covers the whole schedule, so that its loss is less noisy.
    spread = (torch.rand(1, generator=generator) + torch.arange(len(latents)) / len(latents)) % 1
    timesteps = (spread * scheduler.config.num_train_timesteps).long().to(latents.device)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    predicted = pipe.unet(noisy, timesteps, encoder_hidden_states=states).sample
    wanted = noise
    if scheduler.config.prediction_type == "v_prediction":
        wanted = scheduler.get_velocity(latents, noise, timesteps)
    return mse_loss(predicted, wanted)
