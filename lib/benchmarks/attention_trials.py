"""Trial of other ways to have the maps of a fused attention layer, at Stable Diffusion 1.5's sizes.

`python -m benchmarks.attention_trials` prints how much longer each way takes than the fused kernel
alone, and how far its maps are from those in 64 bits. Processor times of one thread, all ways in
turns. What the recorder uses is `beside` and `shared`; the others were tried and lost.
"""

import json
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention as fused

from benchmarks.bench import machine, ratio
from t2i_lens.base.paths import DATA
from t2i_lens.models import profiles
from t2i_lens.probes.attention_kernels import probabilities
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.sampling import generate

FILE = DATA / "results" / "attention_trials.json"
LAYERS = ((4096, 40, 5), (1024, 80, 5), (256, 160, 5), (64, 160, 1))  # pixels, channels, how many
HEADS, TOKENS = 8, 77
ROUNDS, REPEATS = 7, 3
PROMPTS, STEPS = ("a cat next to a man", "a red car and a blue clock"), 50
Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def alone(query: Tensor, key: Tensor, value: Tensor, total: Tensor) -> Tensor:
    """The fused kernel, nothing recorded."""
    return fused(query, key, value)


def beside(query: Tensor, key: Tensor, value: Tensor, total: Tensor) -> Tensor:
    """Probabilities of the conditional half in addition to the fused kernel."""
    _add(total, probabilities(query[1:], key[1:], query.shape[-1] ** -0.5, None))
    return fused(query, key, value)


def shared(query: Tensor, key: Tensor, value: Tensor, total: Tensor) -> Tensor:
    """The conditional half drawn with its recorded probabilities."""
    pattern = probabilities(query[1:], key[1:], query.shape[-1] ** -0.5, None)
    _add(total, pattern)
    return torch.cat([fused(query[:1], key[:1], value[:1]), pattern @ value[1:]])


def identity_in_values(query: Tensor, key: Tensor, value: Tensor, total: Tensor) -> Tensor:
    """One fused call whose values are extended by the identity: its output carries the map."""
    width = value.shape[-1]
    size = -(-(width + TOKENS) // 8) * 8  # the kernel wants equal, even sizes
    eye = torch.eye(TOKENS).expand(1, HEADS, TOKENS, TOKENS)
    wide = pad(torch.cat([value[1:], eye], -1), (0, size - width - TOKENS))
    longer = (pad(part[1:], (0, size - width)) for part in (query, key))
    both = fused(*longer, wide, scale=query.shape[-1] ** -0.5)
    _add(total, both[..., width : width + TOKENS].contiguous())
    return torch.cat([fused(query[:1], key[:1], value[:1]), both[..., :width]])


def half_precision(query: Tensor, key: Tensor, value: Tensor, total: Tensor) -> Tensor:
    """As `beside`, with scores and probabilities in bfloat16."""
    scores = query[1:].bfloat16() @ key[1:].bfloat16().transpose(-1, -2)
    _add(total, (scores * query.shape[-1] ** -0.5).softmax(-1).float())
    return fused(query, key, value)


def from_log_sum(query: Tensor, key: Tensor, value: Tensor, total: Tensor) -> Tensor:
    """The fused kernel's own logarithms of the softmax's sums: a product and an exponential."""
    scale = query.shape[-1] ** -0.5
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, logarithms = kernel(query, key, value, 0.0, False, scale=scale)
    below = -logarithms[1:].reshape(HEADS, -1, 1)
    pattern = torch.baddbmm(below, query[1], key[1].transpose(1, 2), alpha=scale).exp_()
    _add(total, pattern[None])
    return output


WAYS: dict[str, Way] = {
    way.__name__: way
    for way in (alone, beside, shared, identity_in_values, half_precision, from_log_sum)
}


def _add(total: Tensor, pattern: Tensor) -> None:
    """Adds the mean over heads of a pattern [1, head, pixel, token] to total [pixel, token]."""
    weights = torch.full((1, 1, HEADS), 1 / HEADS)
    total.view(1, 1, -1).baddbmm_(weights, pattern.reshape(1, HEADS, -1))


@torch.no_grad()
def seconds(rounds: int = ROUNDS, repeats: int = REPEATS) -> dict[str, list[float]]:
    """Processor time of all layers of a step by way, a figure per round after a rehearsal."""
    layers = [(_inputs(pixels, channels), count) for pixels, channels, count in LAYERS]
    measured: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds + 1):
        for name, way in WAYS.items():
            whole = 0.0
            for given, count in layers:
                took = []
                for _ in range(repeats):
                    began = time.process_time()
                    way(*given)
                    took.append(time.process_time() - began)
                whole += count * median(took)
            measured[name].append(whole)
    return {name: each[1:] for name, each in measured.items()}


@torch.no_grad()
def errors(pixels: int = LAYERS[1][0], channels: int = LAYERS[1][1]) -> dict[str, float]:
    """Largest error of each way's maps, as a share of the mean entry, 1 / tokens."""
    query, key, value, total = _inputs(pixels, channels)
    scores = query[1].double() @ key[1].double().transpose(-1, -2) * channels**-0.5
    exact, found = scores.softmax(-1).mean(0), {}
    for name, way in WAYS.items():
        if way is not alone:
            way(query, key, value, total.zero_())
            found[name] = TOKENS * (total - exact).abs().max().item()
    return found


def _inputs(pixels: int, channels: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(pixels)
    sizes = (pixels, TOKENS, TOKENS)
    made = [torch.randn(2, HEADS, size, channels, generator=generator) for size in sizes]
    return (*made, torch.zeros(pixels, TOKENS))


def every_second_step(pipe) -> dict[str, float]:
    """Error of maps summed over every second step: mean difference over the mean, by layer."""
    maps = {}
    for name, steps in {"all": None, "half": tuple(range(0, STEPS, 2))}.items():
        with record(pipe, Keep(steps=steps)) as recorder:
            generate(pipe, PROMPTS, [0, 1], num_inference_steps=STEPS, recorder=recorder)
        found = recorder.maps()
        maps[name] = {path: layer / found.summed_steps for path, layer in found.layers.items()}
    apart = [
        ((maps["half"][path] - whole).abs().mean() / whole.mean()).item()
        for path, whole in maps["all"].items()
    ]
    return {"median": median(apart), "low": min(apart), "high": max(apart)}


def main() -> None:
    """Measure, print, and write `data/results/attention_trials.json`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print("about 1 min; keep the machine quiet meanwhile", flush=True)
    measured, far = seconds(), errors()
    torch.set_num_threads(threads)
    result = {
        "machine": machine(),
        "ratio to the fused kernel": {n: ratio(measured, n, "alone") for n in measured},
        "largest error of a map over its mean": far,
        "every second step, error by layer": every_second_step(
            profiles.load(profiles.get("toybox"))
        ),
    }
    FILE.write_text(json.dumps(result, indent=1) + "\n")
    table = Table("way", "over the fused kernel", "low", "high", "error of a map")
    for name, figure in result["ratio to the fused kernel"].items():
        numbers = (f"{figure[key]:.2f}" for key in ("median", "low", "high"))
        table.add_row(name, *numbers, f"{far.get(name, 0.0):.1e}")
    Console().print(table)
    print("every second step:", result["every second step, error by layer"])


if __name__ == "__main__":
    main()
