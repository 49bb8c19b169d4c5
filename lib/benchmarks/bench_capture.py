"""Benchmark of recording cross-attention at Stable Diffusion's sizes: seconds, bytes, operations.

Part of `make bench`. Times are processor times of one thread, so that other work on the machine
counts little, and all tools take turns in one run. A layer is called several times at its place in
the step, with the hooks of the tool.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bench import machine, ratio, summary
from benchmarks.capture_tools import (
    NONE,
    NONE_EAGER,
    TOOLS,
    denoise,
    held_after,
    operations,
    random_pipeline,
)
from t2i_lens.probes.unet_hooks import cross_attention_layers
from t2i_lens.study.pages import CAPTURE

ROUNDS, REPEATS = 4, 5
STEPS = (1, 10, 50)
HEADS = (8, 20)
# Kept apart, heads change the state and not the way to it.
TIMED = [name for name in TOOLS if "heads apart" not in name]
# A U-Net with the blocks of SD 1.5 at a size that takes no time; only operations are counted.
REDUCED = {"block_out_channels": [160] * 4, "sample_size": 16, "cross_attention_dim": 32}


def layer_and_step_seconds(pipe, tool, repeats: int) -> tuple[float, float]:
    """Processor time of all cross-attention layers, each the median of its calls, and of a step."""
    with (
        tool.open(pipe),
        _step_clock(pipe.unet) as whole,
        _layer_clock(pipe.unet, repeats) as layers,
    ):
        denoise(pipe, 999)
    (step,) = whole
    extra = sum(sum(each) for each in layers.values())
    return sum(median(each) for each in layers.values()), step - extra


@contextmanager
def _step_clock(unet) -> Iterator[list[float]]:
    found, began = [], []
    handles = [
        unet.register_forward_pre_hook(lambda *_: began.append(time.process_time()), prepend=True),
        unet.register_forward_hook(lambda *_: found.append(time.process_time() - began[-1])),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _layer_clock(unet, repeats: int) -> Iterator[dict[str, list[float]]]:
    """Calls each layer so many times more, before its own turn, and times those calls."""
    found: dict[str, list[float]] = {}
    inside = False

    def again(path: str) -> Callable:
        def call(layer, inputs: tuple, named: dict) -> None:
            nonlocal inside
            if inside:
                return
            inside = True
            for _ in range(repeats):
                began = time.process_time()
                layer(*inputs, **named)
                found.setdefault(path, []).append(time.process_time() - began)
            inside = False

        return call

    handles = [
        layer.register_forward_pre_hook(again(path), prepend=True, with_kwargs=True)
        for path, layer in cross_attention_layers(unet).items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def memory(work: Callable[[], Any]) -> tuple[Any, int | None]:
    """What a call returns, and by how many bytes the process grew at most meanwhile.

    None where the system does not say (it is Linux that does).
    """
    gc.collect()
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return work(), None
    reset.write_text("5")  # the peak is now what is in use
    before = _kilobytes(status, "VmRSS")
    result = work()
    return result, 1024 * (_kilobytes(status, "VmHWM") - before)


def _kilobytes(status: Path, field: str) -> int:
    (line,) = [x for x in status.read_text().splitlines() if x.startswith(field)]
    return int(line.split()[1])


def memory_and_maps(pipe, tool) -> dict[str, int | float | None]:
    """Growth during a step, and time and growth of making the heat maps of it."""
    with tool.open(pipe) as opened:
        _, step = memory(lambda: denoise(pipe, 999))
        held = tool.held(opened)  # making maps may let go of what they are made of
        began = time.process_time()
        _, maps = memory(lambda: tool.maps(opened))
        return {
            "step_bytes": step,
            "held_bytes": held,
            "maps_bytes": maps,
            "maps_seconds": time.process_time() - began,
        }


def count_operations() -> dict[str, dict[int, int]]:
    """Most operations per cross-attention layer of each tool, by the number of heads."""
    found: dict[str, dict[int, int]] = {name: {} for name in TOOLS}
    for heads in HEADS:
        pipe = random_pipeline("sd1", **REDUCED, attention_head_dim=heads)
        for name, tool in TOOLS.items():
            with tool.open(pipe):
                # In the second step there is something to add to.
                counts = operations(pipe.unet, partial(denoise, pipe, 2, 1))
            found[name][heads] = max(counts)
    return found


def measure(pipe, rounds: int = ROUNDS, repeats: int = REPEATS) -> dict[str, Any]:
    """Times and memory of every tool on a pipeline from `random_pipeline`, in turns.

    The first round is a rehearsal, in which memory is measured.
    """
    denoise(pipe, 999)  # the process's first step also takes what it keeps for all others
    used = {name: memory_and_maps(pipe, TOOLS[name]) for name in track(TIMED, "memory")}
    layers: dict[str, list[float]] = {name: [] for name in TIMED}
    steps: dict[str, list[float]] = {name: [] for name in TIMED}
    for name in track(TIMED * rounds, "time"):
        layer, step = layer_and_step_seconds(pipe, TOOLS[name], repeats)
        layers[name].append(layer)
        steps[name].append(step)
    return {
        "layers, seconds": {name: summary(each) for name, each in layers.items()},
        "step, seconds": {name: summary(each) for name, each in steps.items()},
        "layers, ratio": {name: ratio(layers, name, NONE) for name in TIMED},
        "layers, ratio to eager": {name: ratio(layers, name, NONE_EAGER) for name in TIMED},
        "step, ratio": {name: ratio(steps, name, NONE) for name in TIMED},
        "memory": used,
    }


def main() -> None:
    """Measure, print, and write `data/results/capture.json`, which the book shows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print("about 15 min, 6 GB of memory; keep the machine quiet meanwhile", flush=True)
    result = {
        "machine": machine(),
        "versions": {
            tool.package: version(tool.package) for tool in TOOLS.values() if tool.package
        },
        "operations": count_operations(),
        "state": {},
        "state_sdxl": {},
    }
    for name, key, steps in (("sd1", "state", STEPS), ("sdxl", "state_sdxl", STEPS[:1])):
        pipe = random_pipeline(name, meta=True)
        for tool in track(TOOLS, f"state, {name}"):
            result[key][tool] = held_after(pipe, TOOLS[tool], steps)
    result |= measure(random_pipeline("sd1"))
    torch.set_num_threads(threads)
    CAPTURE.parent.mkdir(parents=True, exist_ok=True)
    CAPTURE.write_text(json.dumps(result, indent=1) + "\n")
    table = Table("tool", "layers, s", "step, s", "layers over none", "operations")
    for name in TIMED:
        table.add_row(
            name,
            *(f"{result[key][name]['median']:.3f}" for key in ("layers, seconds", "step, seconds")),
            f"{100 * (result['layers, ratio'][name]['median'] - 1):+.1f} %",
            str(result["operations"][name][HEADS[0]]),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
