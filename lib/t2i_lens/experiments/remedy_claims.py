"""Numbers behind the claims on remedies, from the stored table of pictures.

Shown in: notebooks/23_remedies.ipynb, notebooks/24_clinic.ipynb
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline

from t2i_lens.experiments.clinic import KEPT_LIKENESS
from t2i_lens.experiments.remedy_axes import axes
from t2i_lens.experiments.remedy_edits import BETAS, TAU
from t2i_lens.experiments.remedy_pictures import ALONE, look, prompts
from t2i_lens.experiments.remedy_sweep import token_rows
from t2i_lens.inversion.embedding_table import read_table, sort_vocabulary
from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.inversion.training import initializer_rows
from t2i_lens.methods import remedies as adjusted
from t2i_lens.probes.sampling import generate, require
from t2i_lens.probes.unet_hooks import cross_attention_layers
from t2i_lens.stats.metrics import rank_correlation

EDIT = "Perfusion"
USUAL = "token, fewer steps"  # as many as every other way of teaching has
SHORT = "token, fewer steps, rescaled"
AT_POSITION = "edit at the position"
TEACHING = (USUAL, "Custom Diffusion", "DreamBooth LoRA", EDIT)
LIMITS = ("norm penalty", "direction only", "context regularised", "anchored")
# What the clinic compares, and what needs no retraining at all.
TREATMENTS = ("clipped", "rescaled", "turned and rescaled", "key lock, local", "key lock, global")
UNTRAINED = (*TREATMENTS, "layers found")
GROUPS = {
    "token as trained": (["token", USUAL, "token, fewer steps, other seed"], "placeholder"),
    "trained token, changed": ([*UNTRAINED, SHORT], "#D55E00"),
    "limits in training": ([*LIMITS, "encoder output", "per-layer tokens"], "random"),
    "other ways of teaching": ([*TEACHING[1:], AT_POSITION], "content"),
    "class word": (["class word"], "bos"),
}
WATCHED = {"token": "token", "key lock, local": "lock", "class word": "word"}
SLUGS = {"token": "token", "class word": "word", "rescaled": "rescaled"}
SENTENCES = ("a {} and a crown with an apple", "a {} next to a man with a friend")
Cells = dict[str, np.ndarray]


def named(points: pd.DataFrame) -> pd.DataFrame:
    """One setting of each remedy, with key-locked edits at the middle bias under a short name.

    Args:
        points: From `remedy_axes.axes`.
    """
    gate = f"β {BETAS[1]:g}, τ {TAU:g}"
    standard = (points["way"] == "Perfusion, standard") & (points["setting"] == gate)
    position = points["way"] == "Perfusion, position"
    plain = (points["setting"] == "") & ~points["way"].str.startswith("Perfusion")
    chosen = points[standard | position | plain].copy()
    return chosen.replace(
        {"way": {"Perfusion, standard": EDIT, "Perfusion, position": AT_POSITION}}
    )


def interval(points: pd.DataFrame, way: str, column: str):
    """Mean of a remedy over concepts, with its interval."""
    from t2i_lens.stats.bootstrap import crossed_bootstrap

    return crossed_bootstrap(_wide(points, column)[way].to_numpy())


def pareto(axes: pd.DataFrame) -> list[str]:
    """Names of the rows that no other row is at least as good as in all columns."""
    values = axes.to_numpy()
    beaten = [
        any((other >= row).all() and (other > row).any() for other in values) for row in values
    ]
    return [name for name, lost in zip(axes.index, beaten, strict=True) if not lost]


def effects(points: pd.DataFrame, table: pd.DataFrame, seed: int) -> dict[str, Cells]:
    """Value and control of every claim that is resampled over concepts.

    Args:
        points: From `named`.
        table: Rows of pictures.
        seed: Of the shuffled layers.

    Returns:
        Claim -> `value` and `control`, each [concept].
    """
    lost, kept, like = (_wide(points, column) for column in ("lost", "kept", "likeness"))
    cut = axes(table[table["setting"] == "rescaled"]).set_index("concept")["lost"]
    lowest = kept[list(TEACHING[1:])].mean().idxmin()
    # The limit is chosen on every second concept, and told of on the others.
    means = like[::2].mean()
    learned = [way for way in LIMITS if means[way] >= KEPT_LIKENESS * means[USUAL]]
    limit = lost[learned][::2].mean().idxmin()

    def saved(way: str, usual: str) -> pd.Series:
        """Nothing is saved where the concept is lost."""
        kept_likeness = like[way] >= KEPT_LIKENESS * like[usual]
        return (lost[usual] - lost[way]).where(kept_likeness, 0.0)

    by_layer, alone = layer_effects(table)
    shuffled = np.random.default_rng(seed).permuted(np.tile(alone, (len(by_layer), 1)), axis=1)
    found = {
        "B24": (kept[USUAL] - kept[lowest], np.zeros(len(kept))),
        "B25": (lost[USUAL] - lost["norm penalty"], lost[USUAL] - cut.reindex(lost.index)),
        "N02": (kept["direction only"] - kept[USUAL], kept[SHORT] - kept[USUAL]),
        "X12": ((lost[SHORT] - lost[limit])[1::2], (lost[SHORT] - lost[USUAL])[1::2]),
        "X13": (
            lost["token"] - lost["key lock, local"],
            lost["token"] - lost["key lock, other noun"],
        ),
        "X17": (
            _correlations(by_layer, np.tile(alone, (len(by_layer), 1))),
            _correlations(by_layer, shuffled),
        ),
        "X18": (
            saved("encoder output", USUAL),
            saved("token, fewer steps, other seed", USUAL),
        ),
        "X23": (saved("layers found", "token"), saved("random layers", "token")),
    }
    return {
        claim: {"value": np.asarray(value), "control": np.asarray(control)}
        for claim, (value, control) in found.items()
    }


def layer_effects(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Objects lost when one layer alone reads a row.

    Returns:
        With per-layer tokens, [concept, layer]; with a trained token, the mean of other concepts,
        [layer].
    """
    only = table[table["setting"].str.startswith("only ")]
    grids = {
        way: some.pivot_table(index="concept", columns="setting", values="lost", sort=False)
        for way, some in only.groupby("way")
    }
    alone = grids["token in one layer"]
    return grids["per-layer tokens"][alone.columns].to_numpy(), alone.to_numpy().mean(0)


def advised_on_half(table: pd.DataFrame) -> Cells:
    """Objects saved on half of the sentences by the remedy that was best on the other half.

    A remedy has to keep nine tenths of the token's likeness; the token as it is counts as one.

    Returns:
        `value`, of the chosen remedy; `control`, the mean over those that can be chosen; each
        [concept].
    """
    few = table[(table["setting"] == "") & table["way"].isin(["token", *TREATMENTS])]
    texts = [text for text in dict.fromkeys(few["prompt"]) if text != ALONE.text]
    like = few[few["asked"] == 0].groupby(["concept", "way"])["likeness"].mean()
    value, control, ways = [], [], ("token", *TREATMENTS)
    for concept, some in few[few["asked"] > 0].groupby("concept", sort=False):
        least = KEPT_LIKENESS * like[concept, "token"]
        fit = [way for way in ways if like[concept, way] >= least]
        sides = [
            some[some["prompt"].isin(half)].groupby("way")["lost"].mean()
            for half in (texts[::2], texts[1::2])
        ]
        saved = []
        for here, there in (sides, sides[::-1]):
            chosen = min(fit, key=lambda way, lost=here: lost[way])
            everyone = np.mean([there["token"] - there[way] for way in fit])
            saved.append((there["token"] - there[chosen], everyone))
        value.append(np.mean([each[0] for each in saved]))
        control.append(np.mean([each[1] for each in saved]))
    return {"value": np.array(value), "control": np.array(control)}


def patients(points: pd.DataFrame) -> dict[str, str]:
    """A dominant, a good and a failed token among the concepts, by the stored table.

    Returns:
        Kind -> concept: "dominant" loses most beyond its class word, "failed" is least more like
        the concept than its class word among the others, "good" has the highest coexistence of the
        rest.
    """
    own = points[points["way"] == "token"].set_index("concept")
    word = points[points["way"] == "class word"].set_index("concept")
    dominant = (own["lost"] - word["lost"]).idxmax()
    rest = own.drop(dominant)
    failed = (rest["likeness"] - word["likeness"]).idxmin()
    good = rest.drop(failed)["together"].idxmax()
    return {"good": good, "dominant": dominant, "failed": failed}


def final_rows(variants: pd.DataFrame, names: Sequence[str]) -> Cells:
    """Trained rows of some concepts."""
    return {name: token_rows(variants)[0][name] for name in names}


def paths(
    variants: pd.DataFrame, names: Sequence[str], count: int
) -> dict[str, dict[int, np.ndarray]]:
    """Rows at some evenly spread recorded steps of the standard trainings, the first among them."""
    found = {}
    for token in variants.query("variant == 'standard'").itertuples():
        if token.concept in names:
            path = token.trajectory.set_index("step")["vector"]
            places = np.linspace(0, len(path) - 1, count).round().astype(int)
            found[token.concept] = {
                int(path.index[place]): np.asarray(path.iloc[place], np.float32)
                for place in dict.fromkeys(places)
            }
    return found


def other_nouns(words: Mapping[str, str], names: Sequence[str], place: int) -> dict[str, str]:
    """For each concept the class word of another one, the first or a later one after it."""
    listed = list(dict.fromkeys(words[name] for name in names))
    return {name: listed[(listed.index(words[name]) + 1 + place) % len(listed)] for name in names}


def draw_again(pipe, judge, eye, names: list[str], rows: Cells) -> pd.DataFrame:
    """Draw the trained tokens and their rows' remedies of some concepts, as the sweep did."""
    texts, frames = [p.text for p in prompts()], []
    for concept in [c for c in load_concepts() if c.name in names]:
        for remedy in _some(pipe, concept, rows[concept.name])[:2]:
            arm = adjusted.prepared(pipe, remedy, concept.superclass, texts, [])
            table = look(pipe, judge, eye, concept, *arm)
            frames.append(table.assign(way=remedy.name, setting=""))
    return pd.concat(frames, ignore_index=True)


def draw_shown(
    pipe, names: list[str], rows: Cells, num_inference_steps: int
) -> dict[str, np.ndarray]:
    """Remedies that need no retraining, a row each, with a column per concept and sentence.

    Returns:
        `pictures` [row, column, ...], with the labels of `rows` and `columns`.
    """
    require(pipe, StableDiffusionPipeline, "remedies are drawn with Stable Diffusion 1 and 2")
    layers, columns, labels = list(cross_attention_layers(pipe.unet)), [], []
    for concept in [c for c in load_concepts() if c.name in names]:
        drawn = []
        some = _some(pipe, concept, rows[concept.name])
        for remedy in some:
            arm = adjusted.prepared(pipe, remedy, concept.superclass, SENTENCES, layers)
            drawn.append(
                generate(pipe, arm[0], [0], edits=arm[1], num_inference_steps=num_inference_steps)
            )
        columns.append(np.stack(drawn)[:, :, 0])
        labels += [f"{concept.name.replace('_', ' ')}\n{t.split()[-1]}" for t in SENTENCES]
    kinds = np.array([remedy.name for remedy in some])
    return {
        "pictures": np.concatenate(columns, 1), "rows": kinds, "columns": np.array(labels),
    }  # fmt: skip


def _some(pipe, concept, row: np.ndarray) -> list[adjusted.Remedy]:
    """The token, its remedies that are rows or key locks, and the class word."""
    usual = initializer_rows(pipe, concept, 1)[0].clone()
    trained = sort_vocabulary(read_table(pipe), None).trained
    longest = float(np.linalg.norm(trained, axis=1).max())
    found = adjusted.remedies(torch.tensor(row), usual, concept.superclass, longest)
    return [*found, adjusted.Remedy("class word", usual)]


def _wide(points: pd.DataFrame, column: str) -> pd.DataFrame:
    """One of the axes, a row per concept and a column per remedy."""
    return points.pivot_table(index="concept", columns="way", values=column, sort=False)


def _correlations(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.array([rank_correlation(a, b) for a, b in zip(one, two, strict=True)]))
