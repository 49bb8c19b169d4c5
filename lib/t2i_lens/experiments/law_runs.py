"""Trainings that test the optimiser's law of the norm, and what decay does to the picture.

The command `t2i-lens laws` trains the variants that are missing, draws the tokens of different
decay, and stores both. A chapter loads them, repeats a part and compares.
"""

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from t2i_lens.base.files import digest, write
from t2i_lens.base.lazy import Lazy, canonical
from t2i_lens.experiments import destruction
from t2i_lens.experiments.arms import Arm, Design, draw
from t2i_lens.experiments.growth import expected_norms
from t2i_lens.experiments.prompt_sets import load_prompts
from t2i_lens.inversion.embeddings import Concept, Inversion, load
from t2i_lens.inversion.training_data import InversionConfig
from t2i_lens.inversion.training_plan import TrainingRun, Variant, few_names
from t2i_lens.probes.edits import Swap, Value
from t2i_lens.toybox.likeness import likeness

LONG, SHORT = 3000, 300  # steps: the largest decay but one ends near its ceiling; pure norm laws
DECAYS = {0.0: LONG, 1e-2: LONG, 1e-1: LONG, 1.0: LONG // 2}  # weight decay -> steps
LONGEST = 3  # concepts that are trained for so long, and drawn
RATES = (2.5e-3, 5e-3, 1e-2, 2e-2)
# Steps of SGD are then about as long as AdamW's: lr·√d / G, for gradients G of about a hundredth.
SGD_RATE, MOMENTUM = 5.0, 0.9
TOGETHER = 9  # runs of a batch: all longest ones; at most these are lost by an interruption
PROMPT_SET = "dose"
SEEDS = (0, 1)
SAMPLING = {"num_inference_steps": 10, "guidance_scale": 7.5}
CHECKPOINTS = (200, 500, 1000, 2000, 3000)  # of the training without decay
CUTS = (1e-1, 1.0)  # decays to whose final norm the row without decay is scaled
FILE, SIDECAR = "pictures.parquet", "pictures.json"
KEYS = ["concept", "arm", "prompt", "seed"]
# A picture drawn in another batch differs by a grey level at most (see `sampling.generate`).
TOLERANCES = {"doubt": 0.05, "likeness": 0.01}


def variants(standard: InversionConfig, concepts: Sequence[Concept]) -> list[Variant]:
    """The trainings: decays over many steps, then rates, optimisers and kinds of rows over few.

    Batches hold one picture: the law contains no batch size.
    """
    base = replace(standard, batch_size=1)
    short = replace(base, steps=SHORT, record_every=10)
    sgd = replace(short, optimizer="sgd", learning_rate=SGD_RATE, weight_decay=0.0)
    slower = (1 - MOMENTUM) * SGD_RATE
    configs = {
        f"decay_{decay:g}": replace(base, steps=steps, weight_decay=decay, record_every=100)
        for decay, steps in DECAYS.items()
    }
    configs |= {f"rate_{rate:g}": replace(short, learning_rate=rate) for rate in RATES}
    configs |= {
        "sgd": sgd,
        "momentum": replace(sgd, learning_rate=slower, momentum=MOMENTUM),
        "sphere": replace(short, fixed_norm=True),
        "relative": replace(short, relative=True, weight_decay=1.0),
        "float16": replace(short, half_rows=True),
    }
    names = few_names(concepts)
    return [
        Variant(name, names[:LONGEST] if config.steps > SHORT else names, config)
        for name, config in configs.items()
    ]


def runs(standard: InversionConfig, concepts: Sequence[Concept], folder: Path) -> list[TrainingRun]:
    """All trainings, each with its concept and its folder below `folder`."""
    named = {concept.name: concept for concept in concepts}
    return [
        TrainingRun(variant, named[name], variant.config, Path(folder) / variant.name)
        for variant in variants(standard, concepts)
        for name in variant.concepts
    ]


def load_runs(planned: Sequence[TrainingRun]) -> dict[tuple[str, str], Inversion]:
    """The trained tokens by variant and concept, in the order of the plan.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is damaged.
    """
    try:
        return {(r.variant.name, r.concept.name): load(r.folder / r.concept.name) for r in planned}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}, with `t2i-lens laws`") from None


def paths(tokens: Mapping[tuple[str, str], Inversion]) -> pd.DataFrame:
    """Measured and expected norm over every training.

    For a relative row the two are of the difference from its start. For SGD with momentum the
    law's rate is lr / (1 - momentum).

    Returns:
        Columns `variant concept step norm expected no_decay gradient`.

    Shown in: notebooks/21_real_token_norms.ipynb
    """
    frames = []
    for (variant, concept), token in tokens.items():
        path, config = token.trajectory, dict(token.config)
        vectors, gradients = (
            np.stack(path["vector"]).astype(float),
            path["gradient"].to_numpy(float),
        )
        origin = vectors[0] if config["relative"] else 0.0
        norms, steps = np.linalg.norm(vectors - origin, axis=1), path["step"].to_numpy()
        config["learning_rate"] /= 1 - config["momentum"]
        about = {"variant": variant, "concept": concept, "step": steps, "norm": norms}
        for name, wd in (("expected", config["weight_decay"]), ("no_decay", 0.0)):
            with_decay = config | {"weight_decay": wd}
            about[name] = expected_norms(
                steps, gradients, float(norms[0]), vectors.shape[1], with_decay
            )
        frames.append(pd.DataFrame(about | {"gradient": gradients}))
    return pd.concat(frames, ignore_index=True)


def end_over_law(
    tokens: Mapping[tuple[str, str], Inversion], variant: str
) -> Float[np.ndarray, " concept"]:
    """Last norm of whole rows over the law of a plain row at the rate as it stands.

    For momentum and for relative rows this is the law that leaves out what is special in them.
    """
    ratios = []
    for (name, _), token in tokens.items():
        if name == variant:
            path, config = token.trajectory, dict(token.config) | {"momentum": 0.0}
            steps, gradients = path["step"].to_numpy(), path["gradient"].to_numpy(float)
            first, width = float(path["norm"].iloc[0]), token.embedding.shape[1]
            law = expected_norms(steps, gradients, first, width, config)
            ratios.append(float(path["norm"].iloc[-1]) / law[-1])
    return np.array(ratios)


def growth_exponent(paths: pd.DataFrame) -> Float[np.ndarray, " concept"]:
    """Exponent of the learning rate in the growth of n² over the same steps; the law says 2."""
    last = paths[paths["variant"].str.startswith("rate_")].groupby(
        ["concept", "variant"], sort=False
    )
    grown = last["norm"].agg(lambda norms: norms.iloc[-1] ** 2 - norms.iloc[0] ** 2).unstack()
    rates = np.array([float(name.removeprefix("rate_")) for name in grown.columns])
    return np.polyfit(np.log(rates), np.log(grown.to_numpy(float)).T, 1)[0]


def variogram_exponent(
    vectors: Float[np.ndarray, "step d_model"], shares: tuple[float, float] = (0.02, 0.5)
) -> float:
    """Exponent of the mean squared displacement in the lag: 1 for a free walk, 2 for a drift.

    Args:
        vectors: Row at evenly spaced steps, the start first.
        shares: Smallest and largest lag, as shares of the path; at least one record.

    Shown in: notebooks/21_real_token_norms.ipynb
    """
    count = len(vectors) - 1
    least, most = max(1, round(shares[0] * count)), max(2, round(shares[1] * count))
    lags = np.unique(np.geomspace(least, most, 8).round().astype(int))
    squares = [np.square(vectors[lag:] - vectors[:-lag]).sum(1).mean() for lag in lags]
    return float(np.polyfit(np.log(lags), np.log(squares), 1)[0])


def scrambled(
    vectors: Float[np.ndarray, "step d_model"], seed: int
) -> Float[np.ndarray, "step d_model"]:
    """A path of the same steps, each with a random sign: what has no direction to keep."""
    ways = np.diff(vectors, axis=0)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (len(ways), 1))
    return np.concatenate([vectors[:1], vectors[0] + np.cumsum(signs * ways, axis=0)])


def arms(tokens: Mapping[tuple[str, str], Inversion], concept: str) -> list[Arm]:
    """The class word, the path without decay, the ends of all decays, and scaled rows."""
    longest = tokens["decay_0", concept]
    path = longest.trajectory.set_index("step")["vector"]
    word, last = longest.concept.superclass, path[LONG]
    ends = {f"decay {d:g}": _end(tokens[f"decay_{d:g}", concept]) for d in DECAYS if d}
    rows = {f"no decay, {step} steps": path[step] for step in CHECKPOINTS} | ends
    for decay in CUTS:
        norm = np.linalg.norm(ends[f"decay {decay:g}"]) / np.linalg.norm(last)
        rows[f"no decay, cut to {decay:g}"] = np.float32(norm) * last
    edited = [
        Arm(
            concept,
            name,
            word,
            concept,
            (Swap(Value(name, torch.from_numpy(np.array(row))), positions=()),),
        )
        for name, row in rows.items()
    ]
    return [Arm(concept, "class word", word, word), *edited]


def designs(
    tokens: Mapping[tuple[str, str], Inversion], concepts: Sequence[Concept]
) -> tuple[dict[str, Design], dict[str, np.ndarray]]:
    """A design for each concept of the trainings, and the concept's training pictures."""
    prompts = load_prompts(PROMPT_SET)
    named = {concept.name: concept.images for concept in concepts}
    drawn = [concept for variant, concept in tokens if variant == "decay_0"]
    found = {name: Design(arms(tokens, name), prompts, SEEDS) for name in drawn}
    return found, {name: named[name] for name in drawn}


def measure(
    pipe, judge, eye, design: Design, references: Mapping[str, np.ndarray], **sampling
) -> pd.DataFrame:
    """Draw a design; count lost objects, and compare the pictures with the training pictures.

    Args:
        references: Training pictures of each concept.

    Returns:
        A row per concept, arm, prompt and seed: these columns, and `lost`, `doubt`, `found` (see
        `destruction.read`) and `likeness`.

    Shown in: notebooks/21_real_token_norms.ipynb
    """
    pictures = draw(pipe, design, **sampling).to_numpy()
    readings = destruction.read(judge, pictures, design)[["lost", "doubt", "found"]]
    alike = [
        likeness(eye, some, references[name])["likeness"]
        for name, some in zip(design.concepts, pictures, strict=True)
    ]
    table = readings.assign(likeness=design.label(np.stack(alike)))
    return table.to_dataframe(dim_order=KEYS).reset_index()


def mark(pipe: Lazy, judge: Lazy, design: Design) -> str:
    """A hash of the weights and settings behind the pictures of a design."""
    about = {"model": pipe.fingerprint, "judge": judge.fingerprint, "design": design.fingerprint}
    return digest(json.dumps(canonical(about | {"sampling": SAMPLING})).encode())


def carry_out(
    pipe: Lazy,
    judge: Lazy,
    eye: Lazy,
    designs: Mapping[str, Design],
    references: Mapping[str, np.ndarray],
    folder: Path,
    tell: Callable[[str], None] = print,
) -> Path:
    """Draw and measure the designs of all concepts; prints a time estimate after the first.

    A concept whose table stands is not drawn again.
    """
    kept, marks = _read(folder)
    parts = []
    for done, (concept, design) in enumerate(designs.items(), start=1):
        now, began = mark(pipe, judge, design), time.perf_counter()
        if marks.get(concept) == now:
            parts.append(kept[kept["concept"] == concept])
            continue
        loaded = (pipe.get(), judge.get(), eye.get())
        parts.append(measure(*loaded, design, references, **SAMPLING))
        marks = marks | {concept: now}
        others = kept[~kept["concept"].isin(designs)] if len(kept) else kept
        _write(pd.concat([*parts, others]), marks, folder)
        left = (time.perf_counter() - began) * (len(designs) - done) / 60
        tell(f"{done} of {len(designs)} concepts drawn, about {left:.1f} min left")
    return folder / FILE


def load_pictures(
    folder: Path, pipe: Lazy, judge: Lazy, designs: Mapping[str, Design]
) -> pd.DataFrame:
    """The table of `carry_out`.

    Raises:
        FileNotFoundError: there is none for these concepts.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    kept, marks = _read(folder)
    for concept, design in designs.items():
        if concept not in marks:
            raise FileNotFoundError(f"{folder} has no pictures of {concept}: run `t2i-lens laws`")
        if marks[concept] != mark(pipe, judge, design):
            raise ValueError(f"{folder}: {concept} is of other weights: run `t2i-lens laws`")
    return kept[kept["concept"].isin(designs)].reset_index(drop=True)


def compare(again: pd.DataFrame, kept: pd.DataFrame) -> dict[str, float]:
    """Largest difference between pictures drawn again and the stored table, by column.

    Raises:
        ValueError: one is above `TOLERANCES`, or the table does not hold a picture.
    """
    both = again.merge(kept, on=KEYS, suffixes=("", "_kept"))
    if len(both) < len(again):
        raise ValueError(f"{len(again) - len(both)} of {len(again)} pictures are not in the table")
    found = {name: float((both[name] - both[f"{name}_kept"]).abs().max()) for name in TOLERANCES}
    for name, difference in found.items():
        if difference > TOLERANCES[name]:
            raise ValueError(f"{name} differs by {difference:.2g} from the table: draw it anew")
    return found


def saved_at_equal_likeness(
    lost: Float[np.ndarray, " arm"],
    alike: Float[np.ndarray, " arm"],
    path: Sequence[int],
    arm: int,
) -> float:
    """Objects that an arm keeps beyond the training without decay at the same likeness.

    The path's losses are interpolated at the arm's likeness; beyond its ends, the end counts.

    Args:
        lost: Objects lost per picture, mean of each arm.
        alike: Likeness to the concept, mean of each arm.
        path: Arms of the training without decay.
        arm: That is compared.

    Shown in: notebooks/21_real_token_norms.ipynb
    """
    order = np.asarray(path)[np.argsort(alike[list(path)])]
    return float(np.interp(alike[arm], alike[order], lost[order]) - lost[arm])


def _end(token: Inversion) -> np.ndarray:
    return token.embedding[0].numpy()


def _read(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Table and marks of a folder; empty where there is none.

    Raises:
        ValueError: the table is damaged.
    """
    if not (folder / SIDECAR).exists() or not (folder / FILE).exists():
        return pd.DataFrame(columns=KEYS), {}
    content = (folder / FILE).read_bytes()
    sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    if sidecar.get("sha256") != digest(content):
        raise ValueError(f"{folder / FILE} is damaged: delete it and run `t2i-lens laws`")
    return pd.read_parquet(io.BytesIO(content)), dict(sidecar["concepts"])


def _write(table: pd.DataFrame, marks: Mapping[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write(folder / FILE, buffer.getvalue())
    sidecar = {"sha256": digest(buffer.getvalue()), "concepts": dict(marks)}
    write(folder / SIDECAR, (json.dumps(sidecar, indent=1) + "\n").encode())
