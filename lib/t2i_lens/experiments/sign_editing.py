"""Editing the word of a sign by a change of prompt during sampling, and the scores of the edit."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from rapidfuzz.distance import Levenshtein

from t2i_lens.base.shapes import ImageGrid
from t2i_lens.experiments.prompt_sets import SignPrompt
from t2i_lens.judging.ocr import read_texts
from t2i_lens.probes.edits import Inject, Value
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.stats import sign_metrics

# Score -> the corrected one of the same quantity; the order of methods is compared between them.
ERRORS, TEXT = ("wrapped", "true"), ("character_f1", "word_f1")
SCORES = (*ERRORS, "masked", "published_psnr", "true_psnr", "ssim", *TEXT, "distance")


def switched(
    pipe,
    first: Sequence[str],
    second: Sequence[str],
    seeds: Sequence[int],
    start: int,
    *,
    num_inference_steps: int = 25,
    **sampling,
) -> ImageGrid:
    """Pictures whose first `start` steps follow one prompt and the others another.

    From that step on every cross-attention layer reads the other prompt, in the conditional half.

    Args:
        first: One prompt per picture and seed.
        second: The prompts to change to; from step 0 on they alone count.
        seeds: Of the initial latents, the same for all prompts.
        start: Step from which the second prompt is fed, 0 to `num_inference_steps`.
        sampling: Passed to `sampling.generate`.

    Returns:
        Bytes 0..255, [prompt, seed, height, width, 3].

    Raises:
        ValueError: the start is no step of the run, or as `generate`.
    """
    if not 0 <= start <= num_inference_steps:
        raise ValueError(f"start {start} is not within 0 and {num_inference_steps} steps")
    values = map(Value, second, text_states(pipe, second))
    edits = [[Inject(value, steps=(start, num_inference_steps))] for value in values]
    return generate(
        pipe, first, seeds, edits=edits, num_inference_steps=num_inference_steps, **sampling
    )


def edits(
    pipe, prompts: Sequence[dict], seeds: Sequence[int], starts: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Pictures of source words, and several ways to exchange the word.

    Args:
        prompts: Fields of `SignPrompt`.
        seeds: At least two; "other latents" are those of the next seed.
        starts: Steps from which the target prompt is fed; 0 is the whole run.

    Returns:
        `source` [prompt, seed, height, width, 3] and `edited` [method, prompt, seed, height,
        width, 3], the methods being those of `method_names`.

    Raises:
        ValueError: fewer than two seeds.
    """
    if len(seeds) < 2:
        raise ValueError("pictures from other latents need at least two seeds")
    signs = [SignPrompt(**fields) for fields in prompts]
    first, second = [s.source_text for s in signs], [s.target_text for s in signs]
    unique = list(dict.fromkeys([*first, *second]))
    drawn = dict(zip(unique, generate(pipe, unique, seeds, **sampling), strict=True))
    source, target = (np.stack([drawn[text] for text in texts]) for texts in (first, second))
    later = [
        switched(pipe, first, second, seeds, start, **sampling) if start else target
        for start in starts
    ]
    return {"source": source, "edited": np.stack([source, np.roll(target, -1, axis=1), *later])}


def method_names(starts: Sequence[int]) -> list[str]:
    """Names of the methods of `edits`, in their order."""
    return ["no edit", "other latents", *(f"from step {start}" for start in starts)]


def score(
    source: UInt8[np.ndarray, "pair seed height width 3"],
    edited: UInt8[np.ndarray, "method pair seed height width 3"],
    methods: Sequence[str],
    targets: Sequence[str],
) -> pd.DataFrame:
    """Every edited picture against its source and its target word.

    Args:
        source: Pictures before the edit.
        edited: After it, by each method.
        methods: Their names.
        targets: The word that should be read, one per pair.

    Returns:
        A row per method, pair and seed: those three, `text` as the OCR engine reads it
        (detections joined by blanks), `precision` and `recall` of its characters, and all of
        `SCORES` but `character_f1`, which exists for several pictures only. Errors in grey
        levels squared; `masked` leaves out the text regions of both pictures.
    """
    shape = edited.shape[:3]
    source_readings = read_texts(source.reshape(-1, *source.shape[2:]))
    edited_readings = read_texts(edited.reshape(-1, *edited.shape[3:]))
    rows = []
    for number, (method, pair, seed) in enumerate(np.ndindex(*shape)):
        a, b, target = source[pair, seed], edited[method, pair, seed], targets[pair]
        text = " ".join(edited_readings[number].lines)
        source_region = source_readings[pair * shape[2] + seed].region
        background = ~(source_region | edited_readings[number].region)
        wrapped, true = sign_metrics.wrapped_error(a, b), sign_metrics.true_error(a, b)
        precision, recall = sign_metrics.precision_recall(text, target)
        rows.append(
            {
                "method": methods[method],
                "pair": pair,
                "seed": seed,
                "text": text,
                "precision": precision,
                "recall": recall,
                "wrapped": wrapped,
                "true": true,
                "masked": sign_metrics.true_error(a, b, background),
                "published_psnr": float(sign_metrics.psnr(wrapped)),
                "true_psnr": float(sign_metrics.psnr(true)),
                "ssim": sign_metrics.ssim(a, b),
                "word_f1": sign_metrics.word_f1(text, target),
                "distance": float(Levenshtein.distance(text, target)),
            }
        )
    return pd.DataFrame(rows)


def method_means(
    scores: pd.DataFrame, picked: Sequence[int] | None = None
) -> dict[str, Float[np.ndarray, " method"]]:
    """Each score of each method, as it is reported: over all pictures or those picked.

    Args:
        scores: From `score`.
        picked: Places among a method's pictures (pair after pair, seed after seed); one that is
            picked twice counts twice.

    Returns:
        Score -> one number per method, in the methods' order. The character F1 comes from
        the mean precision and recall, all others are means.
    """
    fields = ["precision", "recall", *(name for name in SCORES if name != "character_f1")]
    values = scores[fields].to_numpy().reshape(scores["method"].nunique(), -1, len(fields))
    means = values[:, slice(None) if picked is None else np.asarray(picked)].mean(axis=1)
    columns = dict(zip(fields, means.T, strict=True))
    pairs = zip(columns.pop("precision"), columns.pop("recall"), strict=True)
    columns["character_f1"] = np.array([sign_metrics.harmonic_mean(p, r) for p, r in pairs])
    return {name: columns[name] for name in SCORES}


def agreement(scores: pd.DataFrame, picked: Sequence[int] | None = None) -> float:
    """Agreement of published and corrected orders of methods: mean tau-b of error and F1."""
    means = method_means(scores, picked)
    taus = [sign_metrics.order_agreement(means[a], means[b]) for a, b in (ERRORS, TEXT)]
    return float(np.mean(taus))


def errors(
    first: UInt8[np.ndarray, "*grid height width 3"],
    second: UInt8[np.ndarray, "*grid height width 3"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """True and wrapped mean squared error of each pair of pictures."""
    metrics = (sign_metrics.true_error, sign_metrics.wrapped_error)
    true, wrapped = (error(first, second).ravel() for error in metrics)
    return true, wrapped


def add_noise(
    pictures: UInt8[np.ndarray, "*grid height width 3"], sd: float, seed: int, limit: int = 255
) -> UInt8[np.ndarray, "*grid height width 3"]:
    """Pictures with rounded Gaussian noise, cut at `limit` grey levels and at black and white."""
    noise = np.random.default_rng(seed).normal(0, sd, pictures.shape).round()
    return np.clip(pictures + noise.clip(-limit, limit), 0, 255).astype(np.uint8)


def chance_f1(
    words: Sequence[str], lengths: Sequence[int], draws: int, seed: int
) -> dict[str, np.ndarray]:
    """F1 of unrelated texts, by their number of words.

    Args:
        words: Found and wanted texts are drawn from these, no word in both of a pair.
        lengths: Numbers of words.
        draws: Pairs per length.
        seed: Of the draws.

    Returns:
        `character` F1 as published and `word` F1, one number per length.
    """
    rng, published, correct = np.random.default_rng(seed), [], []
    for length in lengths:
        drawn = [rng.choice(words, 2 * length, replace=False) for _ in range(draws)]
        texts = [" ".join(row[:length]) for row in drawn]
        wanted = [" ".join(row[length:]) for row in drawn]
        published.append(sign_metrics.published_f1(texts, wanted))
        pairs = zip(texts, wanted, strict=True)
        correct.append(np.mean([sign_metrics.word_f1(a, b) for a, b in pairs]))
    return {"character": np.array(published), "word": np.array(correct)}
