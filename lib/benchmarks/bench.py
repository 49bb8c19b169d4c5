"""Benchmark of sampling, textual inversion and localisation on the toybox: pictures per second.

`make bench` prints the numbers and writes them next to the weights. The two sides of a ratio take
turns in one run, so that other work on the machine affects both alike.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from copy import deepcopy
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.plain_inversion import train_plainly
from t2i_lens.base.paths import DATA
from t2i_lens.inversion import embeddings, training
from t2i_lens.inversion.training_data import InversionConfig
from t2i_lens.methods.localisation import Setting, draw_settings
from t2i_lens.models import profiles
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.unet_hooks import cross_attention_layers

FILE = DATA / "models" / "toybox" / "bench.json"
ROUNDS = 5
SAMPLING_STEPS = 25
INVERSION = InversionConfig(steps=40, learning_rate=5e-3, batch_size=4)
TOGETHER = 6  # concepts that share one batch


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rates(work: dict[str, tuple[int, Callable[[], object]]], rounds: int) -> dict[str, list[float]]:
    """Units per second of each kind of work, a figure per round; the kinds take turns.

    Args:
        work: Name -> (units that one call does, the call). Each is called once unmeasured.
    """
    for _, call in work.values():
        call()
    measured: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, (units, call) in work.items():
            measured[name].append(units / seconds(call))
    return measured


def ratio(measured: dict[str, list[float]], name: str, peer: str) -> dict[str, float]:
    """`name` over `peer`, round by round: median, lowest, highest."""
    each = [a / b for a, b in zip(measured[name], measured[peer], strict=True)]
    return summary(each)


def summary(each: list[float]) -> dict[str, float]:
    """Median, lowest and highest round, and how many there were."""
    return {"median": median(each), "low": min(each), "high": max(each), "rounds": len(each)}


def machine() -> dict[str, str | int | None]:
    """What the figures depend on besides the code."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def sampling_rates(pipe, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Pictures per second, alone and sixteen together, 25 DDIM steps with guidance."""

    def draw(count: int) -> Callable[[], object]:
        steps = {"num_inference_steps": SAMPLING_STEPS}
        return lambda: generate(pipe, ["a cat next to a man"], list(range(count)), **steps)

    return rates({"batch 1": (1, draw(1)), "batch 16": (16, draw(16))}, rounds)


def inversion_rates(pipe, concepts: list, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Steps per second of textual inversion, ours and the plain loop, on the same concept."""
    steps = INVERSION.steps

    def ours(some: list) -> Callable[[], object]:
        return lambda: training.train(pipe, some, INVERSION, progress=False)

    return rates(
        {
            "plain loop": (steps, lambda: train_plainly(deepcopy(pipe), concepts[0], INVERSION)),
            "ours": (steps, ours(concepts[:1])),
            f"ours, {TOGETHER} concepts": (steps * TOGETHER, ours(concepts[:TOGETHER])),
            "U-Net alone": (steps, lambda: unet_passes(pipe, steps)),
        },
        rounds,
    )


def unet_passes(pipe, steps: int) -> None:
    """What no step of inversion can do without: the U-Net forward, and back to its text states."""
    config, count = pipe.unet.config, INVERSION.batch_size
    side, width = config.sample_size, config.cross_attention_dim
    sample = torch.randn(count, config.in_channels, side, side)
    states = torch.randn(count, pipe.tokenizer.model_max_length, width, requires_grad=True)
    pipe.unet.requires_grad_(False)
    for _ in range(steps):
        states.grad = None
        pipe.unet(sample, 500, states).sample.square().mean().backward()


def localisation_rates(pipe, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Pictures per second of a pair of prompts with each layer in turn fed the second one.

    One pass over all layers, and one run per layer.
    """
    settings = [Setting((path,)) for path in cross_attention_layers(pipe.unet)]
    pairs, steps = [("a cat next to a man", "a dog")], {"num_inference_steps": SAMPLING_STEPS}

    def one_by_one() -> None:
        for setting in settings:
            draw_settings(pipe, pairs, [setting], [0], **steps)

    return rates(
        {
            "one run per layer": (len(settings), one_by_one),
            "all layers in one pass": (
                len(settings),
                lambda: draw_settings(pipe, pairs, settings, [0], **steps),
            ),
        },
        rounds,
    )


def main() -> None:
    """Measure, print, and write `data/models/toybox/bench.json`."""
    profile = profiles.get("toybox")
    pipe, concepts = profiles.load(profile), embeddings.load_concepts()
    pipe.set_progress_bar_config(disable=True)
    print(f"about {ROUNDS} x 40 s; keep the machine quiet meanwhile", flush=True)
    measured = {
        "sampling, pictures per second": sampling_rates(pipe),
        "textual inversion, steps per second": inversion_rates(pipe, concepts),
        "localisation, pictures per second": localisation_rates(pipe),
    }
    layers = measured["localisation, pictures per second"]
    speeds = measured["textual inversion, steps per second"]
    result = {
        "weights": profiles.fingerprint(profile),
        "machine": machine(),
        "rates": {
            kind: {name: summary(each) for name, each in some.items()}
            for kind, some in measured.items()
        },
        "ratios to the plain loop": {
            name: ratio(speeds, name, "plain loop") for name in speeds if name != "plain loop"
        }
        | {
            "localisation, all layers in one pass": ratio(
                layers, "all layers in one pass", "one run per layer"
            )
        },
    }
    FILE.write_text(json.dumps(result, indent=1) + "\n")
    table = Table("measure", "median", "low", "high", title=f"{result['machine']}")
    for kind, some in [*result["rates"].items(), ("ratio", result["ratios to the plain loop"])]:
        for name, figure in some.items():
            values = (f"{figure[key]:.2f}" for key in ("median", "low", "high"))
            table.add_row(f"{kind}: {name}", *values)
    Console().print(table)


if __name__ == "__main__":
    main()
