"""Growth of the norm in textual inversion: the predicted norm, and a training's first steps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from t2i_lens.inversion.embeddings import Concept
from t2i_lens.inversion.training import train
from t2i_lens.inversion.training_data import InversionConfig

# Runs of one batch and a run by itself are rounded otherwise, and in bfloat16, in which other
# profiles than the toybox train, to eight bits. A step's length is Adam's and not the gradient's,
# so norms hardly see that; the direction does.
NORM_TOLERANCE, COSINE_TOLERANCE = 0.02, 0.1


def expected_norms(
    steps: Int[np.ndarray, " record"],
    gradients: Float[np.ndarray, " record"],
    initial: float,
    width: int,
    config: Mapping[str, Any],
) -> Float[np.ndarray, " record"]:
    """Norm of a row with steps orthogonal to it, except for decay and penalties.

    Step by step n² grows by the squared length of the step: d·lr² in Adam, whatever the
    gradient, lr²·G² in SGD. Decay takes 2·lr·wd·n². A penalty pulls along the row with 2·l2·n
    and, for the mean |e| of a Gaussian row, l1·√(2d/π); SGD takes that times lr, Adam times
    lr·√d/G, as it divides by the gradient's root mean square. With neither this is
    `metrics.predicted_norm`, and nothing is fitted.

    Args:
        steps: At which the norm is wanted, rising, the first being 0.
        gradients: G, norm of the row's gradient, root mean square since the step before; the
            first is not used. Adam without penalties does not ask for it, so it may be nan.
        initial: Norm at step 0.
        width: d, coordinates of the row.
        config: Of the training, see `inversion_data.InversionConfig`.

    Returns:
        Norms at these steps.

    Shown in: notebooks/09_norm_growth.ipynb
    """
    c = {"optimizer": "adamw", "l1_penalty": 0.0, "l2_penalty": 0.0, "fixed_norm": False} | config
    rate, square = c["learning_rate"], initial**2
    expected = [initial]
    for gradient, count in zip(gradients[1:], np.diff(steps), strict=True):
        size = rate * gradient if c["optimizer"] == "sgd" else rate * np.sqrt(width)
        pulled = rate if c["optimizer"] == "sgd" else rate * np.sqrt(width) / gradient
        for _ in range(0 if c["fixed_norm"] else int(count)):
            lost = 2 * rate * c["weight_decay"] * square
            if c["l1_penalty"] or c["l2_penalty"]:
                l1 = c["l1_penalty"] * np.sqrt(2 * width / np.pi) * np.sqrt(square)
                lost += 2 * pulled * (2 * c["l2_penalty"] * square + l1)
            square = max(square + size**2 - lost, 0.0)
        expected.append(np.sqrt(square))
    return np.array(expected)


def laws(runs: pd.DataFrame) -> pd.DataFrame:
    """Measured and expected norm over every training.

    Args:
        runs: From `embedding_table.load_variants`; `gradient` has to be recorded in their
            trajectories where SGD or a penalty was used.

    Returns:
        A row per run and recorded step: columns `variant concept step norm expected`.
    """
    frames = []
    for run in runs.itertuples():
        path = run.trajectory[run.trajectory["index"] == 0]
        gradients = path.get("gradient", pd.Series(np.nan, path.index)).to_numpy(float)
        steps, norms = path["step"].to_numpy(), path["norm"].to_numpy(float)
        width = len(run.vector)
        expected = expected_norms(steps, gradients, float(norms[0]), width, run.config)
        columns = {"variant": run.variant, "concept": run.concept, "step": steps}
        frames.append(pd.DataFrame(columns | {"norm": norms, "expected": expected}))
    return pd.concat(frames, ignore_index=True)


def first_steps(pipe, concept: Concept, config: dict, steps: int) -> pd.DataFrame:
    """Repeat the first steps of a training.

    Args:
        concept: With its pictures.
        config: Of the training, as its provenance has it.
        steps: How many; a multiple of the steps between two records.

    Returns:
        As `embeddings.Inversion.trajectory`, its cosines to the end left out.
    """
    settings = InversionConfig(**(config | {"templates": tuple(config["templates"])}))
    (inversion,) = train(pipe, [concept], replace(settings, steps=steps), progress=False)
    return inversion.trajectory.drop(columns="cosine_to_final")


def compare_trajectories(repeated: pd.DataFrame, stored: pd.DataFrame) -> dict[str, float]:
    """Differences between a repeated training and the stored one, at the steps of both.

    Args:
        Trajectories from the same start.

    Returns:
        `norm`, the largest relative difference of norms; `cosine`, the smallest cosine
        between the ways gone since the start.

    Raises:
        ValueError: they start apart, or differ by more than rounding can do.
    """
    steps = repeated.merge(stored, on=["step", "index"], suffixes=("", "_stored"))
    rows, stored_rows = (np.stack(steps[c]).astype(float) for c in ("vector", "vector_stored"))
    # The start is copied from the table, not computed.
    if steps["step"].iloc[0] != 0 or not np.array_equal(rows[0], stored_rows[0]):
        raise ValueError("the two trainings start apart: they are not of one model or concept")
    ways, stored_ways = rows[1:] - rows[0], stored_rows[1:] - stored_rows[0]
    lengths = np.linalg.norm(ways, axis=1) * np.linalg.norm(stored_ways, axis=1)
    differences = {
        "norm": float((steps["norm"] / steps["norm_stored"] - 1).abs().max()),
        "cosine": float(((ways * stored_ways).sum(1) / lengths).min()),
    }
    if differences["norm"] > NORM_TOLERANCE or differences["cosine"] < 1 - COSINE_TOLERANCE:
        listed = ", ".join(f"{name} {value:.3f}" for name, value in differences.items())
        raise ValueError(f"the training made anew differs from the one kept: {listed}")
    return differences
