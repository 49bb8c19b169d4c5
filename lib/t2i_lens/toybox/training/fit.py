"""One training loop for every stage: warm-up, steady rate, decay; EMA; resumes where it stopped.

Processes of one thread each that average their gradients (`together`) make better use of a
processor's cores than one process of several threads.

Shown in: book/toybox.md
"""

import csv
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from t2i_lens.toybox.training.optimizer import Optimizer, fast_dtype

CHECKPOINT_SECONDS = 120
COMPILED_FROM = 300  # steps; compiling takes about two minutes and makes a step 1.7 times faster


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage trains; `decay` is the share of the steps that cool down."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.01
    ema: float = 0.998

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, constant, then linear to 2 % of it."""
        cool = self.steps * self.decay
        remaining = max(self.steps - step, 0) / max(cool, 1)
        return self.learning_rate * min((step + 1) / self.warmup, 1.0, max(remaining, 0.02))


class _Steps(IterableDataset):
    """Batches by step number, so that a resumed run sees what an uninterrupted one would."""

    def __init__(self, make: Callable[[np.random.Generator], object], seed: int, start: int):
        self.make, self.seed, self.start = make, seed, start

    def __iter__(self) -> Iterator:
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        step = self.start + first
        while True:
            yield self.make(np.random.default_rng([self.seed, step]))
            step += stride


def fast_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where that is faster than float32; see `optimizer.fast_dtype`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) is torch.bfloat16)


def together(processes: int, work: Callable[..., None], *arguments: object) -> None:
    """Run `work(*arguments)` in several processes of one thread that form a gloo group.

    Inside, `fit` gives each process its share of every batch and averages the gradients. An
    exception in one ends all. One process runs here, without a group.

    Args: work: Defined in a module.
    """
    if processes == 1:
        work(*arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        multiprocessing.spawn(_member, (processes, meeting, work, arguments), nprocs=processes)


def _member(rank: int, processes: int, meeting: str, work: Callable, arguments: tuple) -> None:
    # torch ends the members of a parent that is gone by SIGINT, which a background job ignores.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", meeting, rank=rank, world_size=processes)
    try:
        work(*arguments)
    finally:
        distributed.destroy_process_group()


def group() -> tuple[int, int]:
    """This process's number in its group of `together`, and how many there are."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _average_gradients(model: nn.Module, processes: int) -> None:
    """Replace the gradients by their mean over the group, all in one message."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    # The memory's own order: a kernel that is channels last must stay so.
    flat = torch.cat([g.permute(_memory_order(g)).reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    flat /= processes
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        order = _memory_order(gradient)
        gradient.permute(order).copy_(part.view([gradient.shape[axis] for axis in order]))


def _memory_order(tensor: torch.Tensor) -> tuple[int, ...]:
    """Axes from the slowest to the fastest in memory."""
    return tuple(sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis)))


def stream(make: Callable, seed: int, start: int = 0, workers: int = 1) -> Iterator:
    """Endless batches `make(rng)`, one rng per step, made in worker processes."""
    data = _Steps(make, seed, start)
    return iter(
        DataLoader(
            data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
        )
    )


def fit(
    stage: str,
    folder: Path,
    model: nn.Module,
    make_batch: Callable[[np.random.Generator], object],
    loss_of: Callable[[nn.Module, object], tuple[torch.Tensor, dict[str, float]]],
    schedule: Schedule,
    device: torch.device,
    workers: int = 1,
    seed: int = 0,
    initial: dict[str, torch.Tensor] | None = None,
    compiled: Sequence[nn.Module] = (),
    by_muon: Sequence[nn.Parameter] = (),
) -> nn.Module:
    """Train `model` and return its exponential moving average.

    Writes `<stage>.pt` (newest checkpoint) and `<stage>.csv` (loss curve) to folder, and
    continues from them if they exist.

    Args:
        make_batch: One batch from a rng; runs in worker processes.
        loss_of: `(model, batch) -> (loss, figures to log)`; called under
            `fast_precision`.
        initial: Weights to start from where there is no checkpoint; random ones by default.
        compiled: Parts of the model worth compiling, if there are many steps to go.
        by_muon: Weights that Muon trains (see `Optimizer`).

    In a group of processes (`together`) each makes its own batches, which should be shares of the
    schedule's batch; the first alone writes.
    """
    rank, processes = group()
    folder.mkdir(parents=True, exist_ok=True)
    if initial is not None:
        model.load_state_dict(initial)
    model = model.to(device, memory_format=torch.channels_last).train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema))
    optimizer = Optimizer(model, schedule.weight_decay, by_muon)
    checkpoint, start = folder / f"{stage}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    if start >= schedule.steps:
        return average.module.eval()

    if schedule.steps - start >= COMPILED_FROM:
        for part in compiled:
            part.compile()

    def save(step: int) -> None:
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        os.replace(checkpoint.with_suffix(".tmp"), checkpoint)

    # The backward pass of CPU flash attention is slower than plain matrix products.
    fastest = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    attention = SDPBackend.MATH if device.type == "cpu" else fastest
    batches = stream(make_batch, seed * processes + rank, start, workers)
    log = _Log(folder / f"{stage}.csv", start) if rank == 0 else None
    saved = time.monotonic()
    progress = tqdm(
        range(start, schedule.steps), stage, initial=start, total=schedule.steps,
        mininterval=10, disable=rank > 0,
    )  # fmt: skip
    for step in progress:
        # Noise and timesteps resume with the step.
        torch.manual_seed((seed * 1_000_003 + step) * processes + rank)
        with fast_precision(device), sdpa_kernel(attention):
            loss, figures = loss_of(model, next(batches))
        loss.backward()
        if processes > 1:
            _average_gradients(model, processes)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(schedule.rate(step))
        average.update_parameters(model)
        if log is None:
            continue
        log.add(step, {"loss": float(loss.detach()), **figures}, progress)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save(step + 1)
            saved = time.monotonic()
    if rank == 0:
        save(schedule.steps)
    return average.module.eval()


def finished(stage: str, folder: Path, model: nn.Module, steps: int) -> None:
    """Write a checkpoint as `fit` would have left it after its last step, without training.

    Args: model: With its final weights; a stage that Muon does not train.
    """
    state = {
        "model": model.state_dict(),
        "average": AveragedModel(model).state_dict(),
        "optimizer": Optimizer(model, 0.0).state_dict(),
        "step": steps,
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"{stage}.pt")


class _Log:
    """Means over 50 steps, appended to a CSV; rows after the resumed step are dropped."""

    def __init__(self, file: Path, start: int):
        self.file, self.sums, self.count = file, {}, 0
        if file.exists():
            with file.open() as lines:
                rows = list(csv.reader(lines))
            earlier = [row for i, row in enumerate(rows) if i == 0 or int(row[0]) < start]
            with file.open("w", newline="") as lines:
                csv.writer(lines).writerows(earlier if start else [])

    def add(self, step: int, figures: dict[str, float], progress: tqdm) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if self.count < 50:
            return
        means = {name: total / self.count for name, total in self.sums.items()}
        empty = not self.file.exists() or self.file.stat().st_size == 0
        with self.file.open("a", newline="") as lines:
            writer = csv.writer(lines)
            if empty:
                writer.writerow(["step", *means])
            writer.writerow([step, *(f"{value:.5g}" for value in means.values())])
        progress.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
        self.sums, self.count = {}, 0
