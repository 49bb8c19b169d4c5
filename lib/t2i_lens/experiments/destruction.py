"""Prompt destruction: the number of context objects lost when one word of a prompt changes.

Every arm of a design is drawn from the same latents, and a judge reads the objects in the picture.
"""

import numpy as np
import xarray as xr
from jaxtyping import UInt8

from t2i_lens.experiments.arms import Design, draw
from t2i_lens.judging.protocols import FOUND, Judge


def read(
    judge: Judge, pictures: UInt8[np.ndarray, "*design height width 3"], design: Design
) -> xr.Dataset:
    """Let the judge look for every named object in the pictures of a design.

    Args:
        judge: Knows every context noun and every subject.
        pictures: From `arms.draw`.

    Returns:
        [concept, arm, prompt, seed]: `lost`, context objects that the judge does not find; `kept`,
        the share of them that it finds, in [0, 1]; `missed`, the names of the lost ones; `doubt`,
        1 minus the mean probability over them; `found`, 1 where the subject is found, else 0.
        [prompt]: `asked`, the number of context objects.

    Raises:
        ValueError: the judge does not know a noun that it is asked for.

    Shown in: notebooks/01_hero.ipynb
    """
    _require_nouns(judge, design)
    nouns = np.asarray(judge.read(pictures.reshape(-1, *pictures.shape[-3:])).nouns)
    chances = design.label(nouns, "noun").assign_coords(noun=list(judge.nouns))
    by_prompt = []
    for number, prompt in enumerate(design.prompts):
        context = chances.isel(prompt=[number]).sel(noun=list(prompt.context))
        missed = context < FOUND
        counted = {
            "lost": missed.sum("noun").astype(float),
            "kept": 1.0 - missed.mean("noun"),
            "missed": _names(missed),
            "doubt": 1.0 - context.mean("noun"),
            "asked": ("prompt", [len(prompt.context)]),
        }
        by_prompt.append(xr.Dataset(counted))
    readings = xr.concat(by_prompt, "prompt")
    subjects = np.reshape([arm.subject for arm in design.arms], chances.shape[:2])
    of_subject = chances.sel(noun=xr.DataArray(subjects, dims=("concept", "arm")))
    readings["found"] = (of_subject >= FOUND).astype(float).drop_vars("noun")
    return readings


def measure(pipe, judge: Judge, design: Design, **sampling) -> xr.Dataset:
    """Draw a design and let the judge read it: `read` of `arms.draw`."""
    _require_nouns(judge, design)
    return read(judge, draw(pipe, design, **sampling).to_numpy(), design)


def notes(missed: xr.DataArray) -> list[list[str]]:
    """Names of lost objects as short notes under pictures, by row and column."""
    return [[f"lost: {names}" if names else "all there" for names in row] for row in missed.values]


def _names(missed: xr.DataArray) -> xr.DataArray:
    nouns = missed["noun"].to_numpy()
    names = [", ".join(nouns[row]) for row in missed.to_numpy().reshape(-1, len(nouns))]
    cells = missed.isel(noun=0, drop=True)
    return cells.copy(data=np.reshape(names, cells.shape))


def _require_nouns(judge: Judge, design: Design) -> None:
    wanted = {arm.subject for arm in design.arms}
    wanted |= {noun for prompt in design.prompts for noun in prompt.context}
    if unknown := wanted - set(judge.nouns):
        raise ValueError(f"the judge does not know {', '.join(sorted(unknown))}")
