"""Dose and response: objects lost by every learned token at several steps of its training.

The command `t2i-lens doses` draws thousands of pictures, concept by concept, and stores the judge's
counts next to the embeddings. A chapter loads this table, draws a few of the pictures again and
compares. The fingerprint of the table covers all weights and settings, not the code.
"""

import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from t2i_lens.base.files import digest, write
from t2i_lens.base.lazy import Cache, Lazy, canonical
from t2i_lens.base.prompts import Prompt
from t2i_lens.experiments.arms import Arm, Design, draw_arms
from t2i_lens.experiments.destruction import read
from t2i_lens.experiments.rotation import slot_attention
from t2i_lens.judging.protocols import Judge
from t2i_lens.probes.cross_attention import record
from t2i_lens.probes.edits import Swap, Value
from t2i_lens.probes.heat_maps import token_shares

PROMPT_SET = "dose"
SEEDS = (0, 1)
SAMPLING = {"num_inference_steps": 10, "guidance_scale": 7.5}
SHARES = (0.1, 0.3, 0.6, 1.0)  # of a training's steps
TOKENS = ("standard", "seed_1")  # variants that are taken, see `training_plan`
FILE, SIDECAR = "doses.parquet", "doses.json"
KEYS = ["concept", "arm", "prompt", "seed"]
# A picture drawn in another batch differs by a grey level at most (see `sampling.generate`), and
# float32 sums in another order; both are far below what any of the chapter's numbers is told by.
TOLERANCES = {"share": 1e-3, "attention": 1e-3, "doubt": 0.05}


def doses(tokens: pd.DataFrame, words: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Table of all rows to place in the slot: tokens at some of their checkpoints, and controls.

    The controls are the start of the training, and the class word's row made as long as the
    standard token was at each checkpoint.

    Args:
        tokens: From `embedding_table.load_variants`; `TOKENS` of the objects among them count.
        words: Row of each superclass, [d_model].

    Returns:
        Columns `concept`, `variant` ("start", the variant's name, or "stretched"), `step`,
        `arm` (both of them), `word`, `subject`, `vector`, `norm`, and `cosine` to the class
        word's row. Concepts are in the order of `tokens`.
    """
    objects = tokens[(tokens["kind"] == "object") & tokens["variant"].isin(TOKENS)]
    by_concept = (group.itertuples() for _, group in objects.groupby("concept", sort=False))
    rows = []
    for token in chain.from_iterable(by_concept):
        path, word = token.trajectory.set_index("step")["vector"], words[token.superclass]
        steps = checkpoints(path.index.to_numpy())
        placed_at = [(token.variant, step, path[step]) for step in steps]
        if token.variant == TOKENS[0]:
            unit = word.astype(np.float64) / norm_of(word)
            lengths = [(step, norm_of(path[step])) for step in steps]
            placed_at.insert(0, ("start", 0, path[0]))
            placed_at += [("stretched", step, unit * length) for step, length in lengths]
        for variant, step, vector in placed_at:
            norm = norm_of(vector)
            rows.append(
                {
                    "concept": token.concept,
                    "variant": variant,
                    "step": int(step),
                    "arm": f"{variant} {step}",
                    "word": token.superclass,
                    "subject": token.concept,
                    "vector": np.array(vector, dtype=np.float32),
                    "norm": norm,
                    "cosine": float(vector @ word / (norm * norm_of(word))),
                }
            )
    return pd.DataFrame(rows)


def norm_of(vector: np.ndarray) -> float:
    """Euclidean norm, rounded once, so that it is the same bits on every processor.

    The rows made from it are part of the table's key, and BLAS sums in the processor's own order.
    """
    return math.sqrt(math.fsum(float(value) ** 2 for value in vector))


def checkpoints(recorded: np.ndarray) -> list[int]:
    """The recorded steps nearest to `SHARES` of the last, without the start."""
    steps = recorded[recorded > 0]
    nearest = [steps[np.abs(steps - share * steps[-1]).argmin()] for share in SHARES]
    return sorted({int(step) for step in nearest})


def arms(table: pd.DataFrame) -> list[Arm]:
    """Rows of `doses` as arms: the class word is in the slot, and its row is replaced."""
    return [
        Arm(
            row.concept,
            row.arm,
            row.word,
            row.subject,
            (Swap(Value("dose", torch.from_numpy(row.vector)), positions=()),),
        )
        for row in table.itertuples()
    ]


def measure(pipe, judge: Judge, design: Design, **sampling) -> pd.DataFrame:
    """Draw a design and say of every picture what is lost and how attention fell.

    Args:
        As in `destruction.measure`.

    Returns:
        A row per concept, arm, prompt and seed: these columns; `lost`, `asked`, `doubt` and
        `found` of `destruction.read`; `share`, the slot's share of cross-attention; `attention`,
        of the slot to itself in the first text layer.

    Raises:
        ValueError: as `destruction.read` and `arms.placed`.

    Shown in: notebooks/10_destruction.ipynb
    """
    arms, prompts, seeds = design.arms, design.prompts, design.seeds
    with record(pipe) as recorder:
        pictures = draw_arms(pipe, arms, prompts, seeds, recorder=recorder, **sampling)
    maps = recorder.maps()
    shares = token_shares(maps).cpu().numpy()
    words = np.repeat([arm.word for arm in arms], len(prompts) * len(seeds))
    slots = [maps.indices(sample, word) for sample, word in enumerate(words)]
    share = np.array([tokens[slot].sum() for tokens, slot in zip(shares, slots, strict=True)])
    readings = read(judge, pictures, design)[["lost", "asked", "doubt", "found"]]
    readings = readings.assign(share=design.label(share), attention=slot_attention(pipe, design))
    table = readings.to_dataframe(dim_order=KEYS).reset_index()
    return table.astype({"lost": int, "found": bool})


def marks(
    pipe: Lazy, judge: Lazy, table: pd.DataFrame, prompts: Sequence[Prompt]
) -> dict[str, str]:
    """For each concept of `doses` a hash of the weights and settings behind its pictures."""
    shared = {"model": pipe.fingerprint, "judge": judge.fingerprint, "seeds": list(SEEDS)}
    shared |= {"prompts": [vars(prompt) for prompt in prompts], "sampling": SAMPLING}

    def mark(rows: pd.DataFrame) -> str:
        settings = shared | {"arms": [arm.fields for arm in arms(rows)]}
        return digest(json.dumps(canonical(settings)).encode())

    return {concept: mark(rows) for concept, rows in table.groupby("concept", sort=False)}


def carry_out(
    store: Cache,
    pipe: Lazy,
    judge: Lazy,
    table: pd.DataFrame,
    prompts: Sequence[Prompt],
    tell: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Print a time estimate, then draw and measure all rows of `doses`.

    Args:
        store: Keeps each concept as it is done, so an interrupted call can be resumed.
    """
    designs = [
        Design(arms(rows), prompts, SEEDS) for _, rows in table.groupby("concept", sort=False)
    ]
    pictures = len(prompts) * len(SEEDS)
    loaded, began = (pipe.get(), judge.get()), time.perf_counter()
    measure(*loaded, Design(arms(table[:1]), prompts, SEEDS), **SAMPLING)
    seconds = (time.perf_counter() - began) * len(table)
    tell(f"{len(table) * pictures} pictures, at most {seconds / 60:.0f} min")
    measured, began = [], time.perf_counter()
    for done, design in enumerate(designs, start=1):
        models = {"pipe": pipe, "judge": judge}
        measured.append(store.cached("doses", measure, **models, design=design, **SAMPLING))
        minutes = (time.perf_counter() - began) / done * (len(designs) - done) / 60
        tell(f"{done} of {len(designs)} concepts, about {minutes:.0f} min left")
    return pd.concat(measured, ignore_index=True)


def save(measured: pd.DataFrame, marked: Mapping[str, str], folder: Path) -> Path:
    """Write the table and, last, its provenance; return the table's file."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    measured.to_parquet(buffer, index=False)
    write(folder / FILE, buffer.getvalue())
    sidecar = {"sha256": digest(buffer.getvalue()), "concepts": dict(marked)}
    write(folder / SIDECAR, (json.dumps(sidecar, indent=1) + "\n").encode())
    return folder / FILE


def load(folder: Path, marked: Mapping[str, str]) -> pd.DataFrame:
    """Read the table of `save`; it may hold only some of the concepts.

    Args:
        marked: What `marks` gives now.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    remedy = "run `t2i-lens doses`"
    if not (folder / SIDECAR).exists() or not (folder / FILE).exists():
        raise FileNotFoundError(f"no {FILE} with its {SIDECAR} in {folder}: {remedy}")
    content = (folder / FILE).read_bytes()
    try:
        sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        intact, concepts = sidecar["sha256"] == digest(content), dict(sidecar["concepts"])
    except (ValueError, KeyError, TypeError):
        intact, concepts = False, {}
    if not intact:
        raise ValueError(f"{folder / FILE} is damaged: {remedy}")
    outdated = [name for name, mark in concepts.items() if marked.get(name) != mark]
    if outdated:
        raise ValueError(f"{folder / FILE} was made from other weights ({outdated[0]}): {remedy}")
    return pd.read_parquet(io.BytesIO(content))


def compare_doses(redrawn: pd.DataFrame, stored: pd.DataFrame) -> dict[str, float]:
    """Largest difference between pictures drawn again and the same pictures in the table.

    Returns:
        By column of `TOLERANCES`.

    Raises:
        ValueError: one is above its tolerance, or the table does not hold a picture.
    """
    pairs = redrawn.merge(stored, on=KEYS, suffixes=("", "_stored"))
    if missing := len(redrawn) - len(pairs):
        raise ValueError(f"{missing} of {len(redrawn)} pictures are not in the table")
    differences = {
        name: float((pairs[name] - pairs[f"{name}_stored"]).abs().max()) for name in TOLERANCES
    }
    for name, difference in differences.items():
        if difference > TOLERANCES[name]:
            raise ValueError(f"{name} differs by {difference:.2g} from the table: draw it anew")
    return differences


def per_dose(measured: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Means of `measure` over prompts and seeds, joined with the columns of `doses`."""
    columns = ["lost", "found", "share", "attention"]
    means = measured.groupby(["concept", "arm"], sort=False)[columns].mean().reset_index()
    return means.merge(table, on=["concept", "arm"], validate="one_to_one")
