"""The sweep of remedies: every way of teaching and every remedy, trained and drawn once.

The command `t2i-lens remedies` prints a time estimate first and resumes after an interruption. It
writes a table with a row per picture, and the key-locked edits of the standard setting; chapters
replay the table and draw a sample anew.

Shown in: notebooks/23_remedies.ipynb
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd

from t2i_lens.base.lazy import Cache, Lazy
from t2i_lens.experiments.remedies import (
    ROW_WAYS,
    STEPS,
    WEIGHT_WAYS,
    measure_layer_tokens,
    measure_rows,
    measure_single_layers,
    measure_tokens,
    measure_weights,
)
from t2i_lens.experiments.remedy_edits import (
    EDIT_STEPS,
    EDITS,
    captions,
    draw_edits,
    inverse,
    measure_pairs,
    settings_of,
    train_edits,
)
from t2i_lens.experiments.remedy_pictures import (
    CONCEPTS,
    SAMPLING,
    SEEDS,
    held_out,
    pictures_mark,
    prompts,
)
from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.methods.localisation import ordered, quarter
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.unet_hooks import cross_attention_layers

TOGETHER = 6  # concepts of a batch, which are trained together


@contextmanager
def _telling(tell: Callable[[str], None], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    tell(f"{what}: {time.perf_counter() - began:.0f} s")


def carry_out(
    store: Cache, pipe: Lazy, judge: Lazy, eye: Lazy, variants: pd.DataFrame,
    count: int = CONCEPTS, tell: Callable[[str], None] = print,
) -> tuple[dict[str, pd.DataFrame], dict[str, bytes]]:  # fmt: skip
    """Train and draw everything; every part is kept as it is done.

    Args:
        variants: Of the trained tokens, see `embedding_table.load_variants`.
        count: Of the held-out concepts.

    Returns:
        Tables `pictures` and `pairs`, and the files of the standard edits by concept.
    """
    seen = {"pipe": pipe, "judge": judge, "eye": eye}
    frames, edits = [], {}
    for number in range(len(shares(count))):
        tables, trained = measure_share(store, **seen, variants=variants, number=number,
                                        count=count, tell=tell)  # fmt: skip
        frames += tables
        edits |= trained
    names = list(edits)
    with _telling(tell, "pairs"):
        pairs = store.cached("remedy_pairs", measure_pairs, pipe=pipe, judge=judge, names=names,
                             rows=_only(token_rows(variants)[0], names), edits=edits,
                             mark=pictures_mark(load_concepts()))  # fmt: skip
    files = {name: content.tobytes() for name, content in edits.items()}
    return {"pictures": pd.concat(frames, ignore_index=True), "pairs": pairs}, files


def shares(count: int) -> list[list[str]]:
    """Names of the held-out concepts, in batches that are trained together."""
    names = [c.name for c in held_out(load_concepts(), count)]
    return [names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER)]


def measure_share(
    store: Cache, pipe: Lazy, judge: Lazy, eye: Lazy, variants: pd.DataFrame, number: int,
    count: int = CONCEPTS, tell: Callable[[str], None] = print,
) -> tuple[list[pd.DataFrame], dict[str, np.ndarray]]:  # fmt: skip
    """Train and draw one batch of concepts; shares can be measured side by side.

    Args:
        variants, count: As in `carry_out`.
        number: Of the batch, from 0.

    Returns:
        Tables of pictures, the first batch's with those of single layers on other concepts, and
        the bytes of the standard edits by concept.
    """
    every, names = load_concepts(), shares(count)[number]
    rows, earlier, others = token_rows(variants)
    seen = {"pipe": pipe, "judge": judge, "eye": eye, "mark": pictures_mark(every)}

    def part(name, function, **more):
        with _telling(tell, f"{number}: {name} {more.get('way', more.get('variant', ''))}"):
            return store.cached(name, function, **{"names": names, **more})

    looked_at = [c.name for c in every if c.development]
    alone = part("remedy_layers", measure_single_layers, **seen | {"names": looked_at},
                 rows=_only(rows, looked_at))  # fmt: skip
    few = {"earlier": _only(earlier, names)}
    frames = [
        part("remedy_tokens", measure_tokens, rows=_only(rows, names), others=_only(others, names),
             layers=layer_choice(alone), **few, **seen),
        *(part("remedy_rows", measure_rows, way=way, **few, **seen) for way in ROW_WAYS),
        part("remedy_layer_tokens", measure_layer_tokens, **seen),
        *(part("remedy_weights", measure_weights, way=way, **seen) for way in WEIGHT_WAYS),
    ]  # fmt: skip
    whitening = store.cached("remedy_inverse", inverse, pipe=pipe, said=captions())
    kept = {}
    for variant in EDITS:
        trained = part("remedy_edits", train_edits, variant=variant, inverse=whitening, pipe=pipe,
                       mark=seen["mark"])  # fmt: skip
        frames.append(part("remedy_drawn", draw_edits, variant=variant, edits=trained, **seen))
        if variant == "standard":
            kept = _only(trained, names)
    return frames if number else [alone, *frames], kept


def _only(rows: Mapping, names: Sequence[str]) -> dict:
    return {name: rows[name] for name in names if name in rows}


def token_rows(variants: pd.DataFrame) -> tuple[dict, dict, dict]:
    """Trained rows by concept: final, at `STEPS` steps, and of another seed at these."""
    final, earlier, others = {}, {}, {}
    for token in variants.itertuples():
        if token.variant not in ("standard", "seed_1"):
            continue
        path = token.trajectory.set_index("step")["vector"]
        at_few = earlier if token.variant == "standard" else others
        at_few[token.concept] = np.asarray(path[STEPS], np.float32)
        if token.variant == "standard":
            final[token.concept] = np.asarray(token.vector, np.float32)
    return final, earlier, others


def layer_choice(alone: pd.DataFrame, seed: int = 0) -> dict[str, list[str]]:
    """The quarter of the layers that lose most when they alone read a token, and a random one.

    Args:
        alone: From `measure_single_layers`, of concepts that nothing else is told of.
    """
    lost = alone.groupby("setting", sort=False)["lost"].mean()
    paths = [setting.removeprefix("only ") for setting in lost.index]
    ranked = ordered(paths, lost.to_numpy())
    count = quarter(len(paths))
    rest = [str(p) for p in np.random.default_rng(seed).permutation(ranked[count:])[:count]]
    return {"layers found": ranked[:count], "random layers": rest}


def estimate(pipe, concepts: int, tell: Callable[[str], None]) -> None:
    """Say what `carry_out` costs at most, from one small batch drawn here."""
    generate(pipe, ["a toy"], [0], num_inference_steps=1)
    began = time.perf_counter()
    generate(pipe, ["a toy"] * 4, [0, 1], num_inference_steps=5)
    picture = (time.perf_counter() - began) / 40 * SAMPLING["num_inference_steps"]
    layers = len(cross_attention_layers(pipe.unet))
    gates = sum(len(settings_of(variant)) for variant in EDITS) + 1
    arms = 14 + len(ROW_WAYS) + 1 + 1 + layers + len(WEIGHT_WAYS) + gates
    pictures = arms * len(prompts()) * len(SEEDS) * concepts
    steps = STEPS * (len(ROW_WAYS) + 2 + 2 * len(WEIGHT_WAYS)) + EDIT_STEPS * len(EDITS)
    # A step of two pictures, forward and backward, costs about as much as 1.3 steps of drawing.
    seconds = picture * pictures + steps * concepts * 1.3 * picture / 10
    tell(f"{pictures} pictures and {steps * concepts} steps of training: about "
         f"{seconds / 60:.0f} min on one core")  # fmt: skip
