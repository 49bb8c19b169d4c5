"""Numbers behind the claims on key-locked rank-one editing, from the stored table of pictures.

Shown in: notebooks/22_perfusion.ipynb
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from t2i_lens.experiments.remedies import STEPS
from t2i_lens.experiments.remedy_axes import axes, fronts
from t2i_lens.experiments.remedy_edits import BETAS, EDIT_STEPS, TAU, draw_edit, pair_swaps
from t2i_lens.experiments.remedy_pictures import prompts
from t2i_lens.experiments.remedy_sweep import token_rows
from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.methods.perfusion import concept_edits, equations
from t2i_lens.models.tokens import encode
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.edits import Inject, Swap, Value
from t2i_lens.probes.heat_maps import heat_maps
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.probes.unet_hooks import cross_attention_layers, unet_of
from t2i_lens.stats.metrics import rank_correlation

SENTENCES = ("a {} and a crown with an apple", "a {} next to a man with a friend")
STANDARD = "Perfusion, standard"
SAYS = {
    "P03": "area: locked minus trained keys",
    "P04": "kept: global minus local lock",
    "P05": "rank correlation: training bias and area",
    "P06": "area: higher minus training temperature",
    "P07": "kept: mask minus no mask",
    "P08": "kept: one picture minus all",
    "P09": "rank correlation: bias and likeness",
}
Cells = Mapping[str, np.ndarray]


def gates(tau: float) -> list[str]:
    """Names of the settings of a sweep over the gate's bias."""
    return [f"β {beta:g}, τ {tau:g}" for beta in BETAS]


def equation_errors(
    pipe, edit: concept_edits.ConceptEdit, rng: np.random.Generator, states: int = 20
) -> dict[str, float]:
    """Largest difference between a layer's output and the equation, relative to its own size.

    At the target input the equation gives the target output times the gate; at inputs that are
    orthogonal to it under C⁻¹ it gives W x with what the closed gate lets through. The ungated
    edit is ROME's, with r in place of the gate.

    Returns:
        `gated edit` and `ungated edit`.
    """
    path, layer = next(iter(cross_attention_layers(unet_of(pipe)).items()))
    target, direction = edit.target, edit.direction
    random = torch.from_numpy(rng.normal(size=(states, len(target)))).float()
    across = random - equations.similarity(random[None], target[None], direction[None])[0][
        :, None
    ] * target  # fmt: skip
    inputs = torch.cat([target[None], across])
    ratio = torch.cat([torch.ones(1), torch.zeros(states)])
    plain = (inputs @ layer.to_v.weight.detach().T) * (1 - ratio)[:, None]
    wanted = plain + equations.gate(ratio, edit.beta, edit.tau)[:, None] * edit.values[path]
    with concept_edits.applied(pipe, [edit]):
        gated = layer.to_v(inputs[None])[0].detach()
    ungated = plain + ratio[:, None] * edit.values[path]
    size = wanted.abs().max()
    return {
        "gated edit": float((gated - wanted).abs().max() / size),
        "ungated edit": float((ungated - wanted).abs().max() / size),
    }


def open_gates(pipe, files: Cells, beta: float, tau: float) -> pd.DataFrame:
    """How far the gate opens at the concept's own token, and at the others.

    Returns:
        A row per concept and sentence of the sweep: `own`; `most other`, the largest over all other
        tokens from BOS to EOS; `padding`, mean after EOS.
    """
    found = []
    for name, content in files.items():
        edit = concept_edits.from_bytes(content.tobytes())
        for prompt in prompts():
            sentence = prompt.text.replace("{}", edit.superclass)
            row = encode(pipe, sentence)
            (slot,) = row.positions(edit.superclass)
            swap = Swap(Value("word", edit.embedding[0][0]), positions=(slot,))
            states = text_states(pipe, [sentence], edits=[[swap]]).float().cpu()
            ratio = equations.similarity(states, edit.target[None], edit.direction[None])[0]
            gate = equations.gate(ratio, beta, tau)
            others = torch.cat([gate[:slot], gate[slot + 1 : row.eos + 1]])
            found.append({"concept": name, "prompt": prompt.text, "own": float(gate[slot]),
                          "most other": float(others.max()),
                          "padding": float(gate[row.eos + 1 :].mean())})  # fmt: skip
    return pd.DataFrame(found)


def contents(files: Sequence[Path], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Bytes of the concepts' files by name, in the order of the names."""
    found = {file.stem: np.frombuffer(file.read_bytes(), np.uint8) for file in files}
    return {name: found[name] for name in names}


def rows_of(variants: pd.DataFrame, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Trained rows of the concepts."""
    return {name: token_rows(variants)[0][name] for name in names}


def draw_again(pipe, judge, eye, files: Cells, beta: float, tau: float) -> pd.DataFrame:
    """Draw stored edits at one gate, as the sweep did."""
    named = {c.name: c for c in load_concepts()}
    frames = []
    for name, content in files.items():
        edit = concept_edits.from_bytes(content.tobytes())
        table = draw_edit(pipe, judge, eye, named[name], edit, beta, tau)
        frames.append(table.assign(way=STANDARD, setting=f"β {beta:g}, τ {tau:g}"))
    return pd.concat(frames, ignore_index=True)


def draw_shown(pipe, files: Cells, rows: Cells, num_inference_steps: int) -> dict[str, np.ndarray]:
    """The TI token, the class word and the edit at several gates, a row per concept and sentence.

    Returns:
        `pictures` [row, column, ...], with the labels of `rows` and `columns`.
    """
    drawn, labels = [], []
    for name, content in files.items():
        edit = concept_edits.from_bytes(content.tobytes())
        for text in SENTENCES:
            drawn.append(_shown_row(pipe, edit, rows[name], text, num_inference_steps))
            labels.append(f"{name.replace('_', ' ')}\n{' '.join(text.split()[-3:])}")
    columns = ["TI token", "class word", *(f"β {beta:g}" for beta in BETAS), "global"]
    return {
        "pictures": np.stack(drawn), "rows": np.array(labels), "columns": np.array(columns),
    }  # fmt: skip


def _shown_row(pipe, edit, row: np.ndarray, text: str, steps: int) -> np.ndarray:
    sentence = text.format(edit.superclass)
    slot = encode(pipe, sentence).positions(edit.superclass)
    token = Swap(Value("token", torch.tensor(row)), positions=slot)
    word = Swap(Value("word", edit.embedding[0][0]), positions=slot)
    usual = Inject(Value("class", text_states(pipe, [sentence])[0]), into=("key",))
    free = concept_edits.ConceptEdit(**{**vars(edit), "keys": {}})
    arms = [([token], []), ([], [])]
    arms += [([word], [edit.tuned(beta)]) for beta in BETAS]
    arms += [([word, usual], [free.tuned(BETAS[0])])]
    found = []
    for swaps, concepts in arms:
        with concept_edits.applied(pipe, concepts):
            found.append(
                generate(pipe, [sentence], [0], edits=[swaps], num_inference_steps=steps)[0, 0]
            )
    return np.stack(found)


def draw_maps(pipe, files: Cells, rows: Cells, num_inference_steps: int) -> dict[str, np.ndarray]:
    """Heat maps of every token of a sentence: with the TI token, the edit and the class word.

    Args:
        files, rows: Of one concept.

    Returns:
        `pictures` [arm, ...]; `maps` [arm, token, height, width], shares of attention, mean over
        steps, layers and heads; `pieces` [arm, token] and `arms`, labels.
    """
    ((name, content),) = files.items()
    edit = concept_edits.from_bytes(content.tobytes()).tuned(BETAS[1])
    sentence = SENTENCES[0].format(edit.superclass)
    prompt = encode(pipe, sentence)
    slot = prompt.positions(edit.superclass)
    arms = {
        "TI token": ([Swap(Value("token", torch.tensor(rows[name])), positions=slot)], []),
        "key-locked": ([Swap(Value("word", edit.embedding[0][0]), positions=slot)], [edit]),
        "class word": ([], []),
    }
    drawn, maps = [], []
    for swaps, concepts in arms.values():
        with concept_edits.applied(pipe, concepts), record(pipe, Keep()) as recorder:
            drawn.append(generate(pipe, [sentence], [0], edits=[swaps], recorder=recorder,
                                  num_inference_steps=num_inference_steps)[0, 0])  # fmt: skip
        maps.append(heat_maps(recorder.maps())[0, : prompt.eos + 1] / num_inference_steps)
    pieces = [piece.removesuffix("</w>") for piece in prompt.pieces[1 : prompt.eos]]
    return {
        "pictures": np.stack(drawn), "maps": torch.stack(maps).cpu().numpy(),
        "pieces": np.array([["BOS", *pieces, "EOS"]] * len(arms)), "arms": np.array(list(arms)),
    }  # fmt: skip


def draw_together(
    pipe, files: Cells, rows: Cells, num_inference_steps: int
) -> dict[str, np.ndarray]:
    """Two concepts in one picture, in all ways of combining them, a row per pair.

    Returns:
        As `draw_shown`.
    """
    names, drawn, labels = list(files), [], []
    edits = {n: concept_edits.from_bytes(content.tobytes()) for n, content in files.items()}
    for pair in zip(names[::2], names[1::2], strict=False):
        both = [edits[name].tuned(BETAS[1]) for name in pair]
        sentence = "a {} and a {}".format(*(edit.superclass for edit in both))
        words = [edit.embedding[0][0] for edit in both]
        tokens = [torch.tensor(rows[name]) for name in pair]
        arms = [(words, both, True), (words, both, False), (tokens, [], True), (None, [], True)]
        found = []
        for placed, concepts, joint in arms:
            swaps = pair_swaps(pipe, sentence, both, placed)
            with concept_edits.applied(pipe, concepts, joint=joint):
                found.append(generate(pipe, [sentence], [0], edits=[swaps],
                                      num_inference_steps=num_inference_steps)[0, 0])  # fmt: skip
        drawn.append(np.stack(found))
        labels.append("\n".join(name.replace("_", " ") for name in pair))
    columns = ["joint", "one by one", "TI tokens", "class words"]
    return {
        "pictures": np.stack(drawn), "rows": np.array(labels), "columns": np.array(columns),
    }  # fmt: skip


def effects(tables: Mapping[str, pd.DataFrame]) -> dict[str, Cells]:
    """Value and control of every claim that is resampled over concepts.

    Returns:
        Claim -> `value` and `control`, each [concept, 1 or more]; a number that has no second axis
        is repeated, so that concepts alone are resampled.
    """
    table = tables["pictures"]
    points = axes(table)
    area = {
        way: _column(fronts(table, f"Perfusion, {way}"))
        for way in ("standard", "trained keys", "values only", "bias 0.5", "bias 0.9", "other seed")
    }
    warm, cold = (_column(fronts(table, STANDARD, tau)) for tau in (0.1, 0.05))
    kept = {
        way: _axis(points, f"Perfusion, {way}", gates(TAU)[1], "kept")
        for way in ("standard", "no mask", "random mask", "one picture", "another picture")
    }
    low = gates(TAU)[0]
    local = _axis(points, STANDARD, low, "kept")
    world = _axis(points, STANDARD, "global lock", "kept")
    unlocked = _axis(points, "Perfusion, trained keys", low, "kept")
    biases = np.column_stack([area["bias 0.5"], area["standard"], area["bias 0.9"]])
    closed = [name for name in dict.fromkeys(points["setting"]) if name.startswith("closed")]
    away = {way: outside(table, way) for way in ("token", STANDARD, "class word")}
    minutes = {
        way: table[table["way"] == way].groupby("concept", sort=False)["seconds"].first() / 60
        for way in (STANDARD, "direction only")
    }
    both = tables["pairs"].assign(both=lambda t: t["first"] * t["second"])
    pairs = {
        arm: both[both["arm"] == arm].groupby("pair", sort=False)["both"].mean().to_numpy()
        for arm in ("edits, joint", "tokens", "class words")
    }
    found = {
        "P03": (area["standard"] - area["trained keys"],
                area["values only"] - area["trained keys"]),
        "P04": (world - local, unlocked - local),
        "P05": (_trend(biases, [0.5, 0.75, 0.9]),
                np.sign(area["standard"] - area["other seed"])),
        "P06": (area["standard"] - warm, cold - warm),
        "P07": (kept["standard"] - kept["no mask"], kept["random mask"] - kept["no mask"]),
        "P08": (kept["one picture"] - kept["standard"],
                kept["another picture"] - kept["one picture"]),
        "P09": (_likeness_trend(points, gates(TAU)), _likeness_trend(points, closed)),
        "P10": _complete(away["token"] - away[STANDARD], away["class word"] - away[STANDARD]),
        "P11": (pairs["edits, joint"] - pairs["tokens"], pairs["class words"] - pairs["tokens"]),
        "P12": (minutes[STANDARD].to_numpy(),
                minutes["direction only"].to_numpy() * EDIT_STEPS / STEPS),
    }  # fmt: skip
    return {
        claim: {"value": np.asarray(value), "control": np.asarray(control)}
        for claim, (value, control) in found.items()
    }


def outside(table: pd.DataFrame, way: str) -> np.ndarray:
    """Share of the heat map outside the concept's object, by concept; nan where never found."""
    some = table[table["way"] == way].copy()
    if way == STANDARD:
        some = some[some["setting"] == gates(TAU)[1]]
    names = list(dict.fromkeys(table[table["way"] == "token"]["concept"]))
    return some.groupby("concept", sort=False)["outside"].mean().reindex(names).to_numpy()


def _complete(value: np.ndarray, control: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without concepts that have no value somewhere."""
    there = np.isfinite(value) & np.isfinite(control)
    return value[there], control[there]


def _column(series: pd.Series) -> np.ndarray:
    return series.to_numpy(float)


def _axis(points: pd.DataFrame, way: str, setting: str, column: str) -> np.ndarray:
    return points[(points["way"] == way) & (points["setting"] == setting)][column].to_numpy(float)


def _trend(values: np.ndarray, over: Sequence[float]) -> np.ndarray:
    """Rank correlation of each row with `over`; 0 where a row does not change."""
    found = [rank_correlation(np.asarray(over, float), row) for row in values]
    return np.nan_to_num(np.array(found))


def _likeness_trend(points: pd.DataFrame, settings: Sequence[str]) -> np.ndarray:
    columns = [_axis(points, STANDARD, setting, "likeness") for setting in settings]
    # Below the third digit likeness is rounding of the pictures.
    return _trend(np.round(np.column_stack(columns), 3), np.arange(float(len(settings))).tolist())
