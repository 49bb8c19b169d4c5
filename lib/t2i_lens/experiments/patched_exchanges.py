"""Patching and injection on pairs of prompts that differ in one word: arms, controls, readings.

Every pair exchanges the word on a sign. The judge reads how likely the picture shows the donor's.

Shown in: notebooks/25_patching.ipynb
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle

import numpy as np
import pandas as pd

from t2i_lens.experiments import contents
from t2i_lens.experiments.contents import Exchange
from t2i_lens.experiments.prompt_sets import SEED, SignPrompt
from t2i_lens.judging.protocols import FOUND
from t2i_lens.methods.localisation import Setting, first_enough, ordered, quarter, random_sets
from t2i_lens.methods.patching import Arm, draw_arms, single_heads, to_bytes
from t2i_lens.probes.patches import attention_sites

SAMPLING = {"num_inference_steps": 10}
SEEDS = (0, 1)
PAIRS = 48
TOGETHER = 8  # pairs in a part of the sweep
STRENGTHS = (0.25, 0.5, 0.75)
KEYS = ["arm", "pair", "seed"]


def word_pairs(signs: Sequence[SignPrompt], count: int = PAIRS) -> list[Exchange]:
    """Sign prompts in which each word of a bucket is exchanged for several others.

    Args:
        signs: Of one bucket, each word once as the source.
        count: How many pairs.

    Raises:
        ValueError: there are fewer ordered pairs of words.
    """
    words, frames = [sign.source for sign in signs], cycle(sign.template for sign in signs)
    pairs = _shifted(words, count)
    exchanged = [SignPrompt(next(frames), source, target) for source, target in pairs]
    return contents.word_exchanges(exchanged)


def unrelated_prompts(exchanges: Sequence[Exchange]) -> list[str]:
    """The target of another pair for each pair: the next one's in its part of the sweep."""
    parts = [exchanges[at : at + TOGETHER] for at in range(0, len(exchanges), TOGETHER)]
    return [other.target for part in parts for other in (*part[1:], part[0])]


def _shifted(words: Sequence[str], count: int) -> list[tuple[str, str]]:
    size = len(words)
    pairs = [(words[n], words[(n + by) % size]) for by in range(1, size) for n in range(size)]
    if count > len(pairs):
        raise ValueError(f"{count} pairs are wanted, {size} words make {len(pairs)}")
    return pairs[:count]


def arms(layers: Sequence[str], chosen: Sequence[str], heads: int) -> list[Arm]:
    """All arms: no change, injection, patching, its parts, its controls, its heads.

    Args:
        layers: All that read the text, in the order in which they run.
        chosen: Those that are patched, the localised ones.
        heads: Of each layer.
    """
    few, every = tuple(chosen), tuple(layers)
    (others,) = random_sets(layers, len(few), 1, 0, Setting(few))
    patch = Arm("patched", layers=few)
    return [
        Arm("source"),
        Arm("target", recipient="target"),
        Arm("injected", "inject", few),
        patch,
        replace(patch, name="patched again"),
        Arm("injected, all layers", "inject", every),
        Arm("patched, all layers", layers=every),
        replace(patch, name="keys alone", parts=("key",)),
        replace(patch, name="values alone", parts=("value",)),
        replace(patch, name="outputs", parts=("output",)),
        *(replace(patch, name=f"strength {s}", strength=s) for s in STRENGTHS),
        replace(patch, name="other direction", recipient="target", donor="source"),
        # Controls.
        replace(patch, name="own activations", parts=("key", "value", "output"), donor="source"),
        replace(patch, name="unrelated donor", donor="unrelated"),
        replace(patch, name="permuted channels", permutation=SEED),
        replace(patch, name="other layers", layers=others.layers),
        replace(patch, name="outputs at the object", parts=("output",), place="object"),
        replace(patch, name="outputs elsewhere", parts=("output",), place="elsewhere"),
        *single_heads(patch, heads),
    ]


def single_layers(layers: Sequence[str]) -> list[Arm]:
    """Every layer alone, injected and patched."""
    return [
        Arm(f"{done}, {path}", how, (path,))
        for path in layers
        for how, done in (("inject", "injected"), ("patch", "patched"))
    ]


def reading(
    pipe, judge, exchanges: Sequence[Exchange], arms: Sequence[Arm], seeds: Sequence[int],
    unrelated: Sequence[str] = (), **sampling,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Draw every arm x exchange x seed and read the target in each picture.

    Args:
        judge: Knows every word of the exchanges.
        unrelated: As in `patching.draw_arms`.
        sampling: Passed to `patching.draw_arms`.

    Returns:
        `pictures` [arm, pair, seed, height, width, 3] in [0, 1], and `target` and `source`
        [arm, pair, seed], the probability that the picture shows the exchange's new or its old
        word.
    """
    pairs = [exchange.pair for exchange in exchanges]
    find = partial(contents.sign_region, judge)
    pictures = draw_arms(pipe, pairs, arms, seeds, find, unrelated, **sampling)
    read = partial(contents.read_targets, judge, to_bytes(pictures))
    old = [_reversed(exchange) for exchange in exchanges]
    return {
        "pictures": pictures,
        "target": read(exchanges)["target"],
        "source": read(old)["target"],
    }


def _reversed(exchange: Exchange) -> Exchange:
    (old,) = (part for part in exchange.source.split('"')[1:2])
    return replace(exchange, new=old)


def measure(
    pipe, judge, exchanges: Sequence[dict], arms: Sequence[dict], seeds: Sequence[int],
    unrelated: Sequence[str] = (), **sampling,
) -> pd.DataFrame:  # fmt: skip
    """A row per arm, pair and seed: what the judge reads, and how far pictures are apart.

    Args:
        exchanges: Fields of `Exchange`.
        arms: Fields of `Arm`.
        unrelated: As in `patching.draw_arms`.
        sampling: Passed to `patching.draw_arms`.

    Returns:
        `arm`, `pair` (source and target prompt), `seed`; `target` and `source`, see `reading`;
        `moved`, mean absolute difference from the recipient's own picture in grey levels;
        `apart`, the same from the injection of the same layers, and `largest`, the largest
        difference from it of any value, in grey levels; both nan where nothing is injected there.
    """
    drawn_arms = [Arm(**{k: _tuple(v) for k, v in fields.items()}) for fields in arms]
    said = [Exchange(**fields) for fields in exchanges]
    read = reading(pipe, judge, said, drawn_arms, seeds, unrelated, **sampling)
    by_name = dict(zip((arm.name for arm in drawn_arms), read["pictures"], strict=True))
    injections = {arm.layers: by_name[arm.name] for arm in drawn_arms if arm.how == "inject"}
    rows = []
    for number, arm in enumerate(drawn_arms):
        own = read["pictures"][number]
        plain = by_name["target" if arm.recipient == "target" else "source"]
        whole = arm == Arm(arm.name, layers=arm.layers)
        other = injections.get(arm.layers) if whole else None
        for pair, seed in np.ndindex(own.shape[:2]):
            apart = None if other is None else 255 * np.abs(own - other)[pair, seed]
            rows.append(
                {
                    "arm": arm.name,
                    "pair": f"{said[pair].source} -> {said[pair].target}",
                    "seed": seeds[seed],
                    "target": read["target"][number, pair, seed],
                    "source": read["source"][number, pair, seed],
                    "moved": 255 * float(np.abs(own - plain)[pair, seed].mean()),
                    "apart": np.nan if apart is None else float(apart.mean()),
                    "largest": np.nan if apart is None else float(apart.max()),
                }
            )
    return pd.DataFrame(rows)


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


def fields_of(items: Sequence[Exchange] | Sequence[Arm]) -> list[dict]:
    """Exchanges or arms as arguments of `measure`."""
    return [asdict(item) for item in items]


def column(table: pd.DataFrame, arm: str, name: str) -> np.ndarray:
    """A column of one arm as [pair, seed].

    Raises:
        KeyError: there is no such arm.
    """
    rows = table[table["arm"] == arm]
    if rows.empty:
        raise KeyError(f"no arm {arm!r}")
    return rows.pivot(index="pair", columns="seed", values=name).to_numpy(float)


def shown(table: pd.DataFrame, arm: str, which: str = "target") -> np.ndarray:
    """Whether each picture of an arm shows the target (or the source), as 0 or 1, [pair, seed]."""
    return (column(table, arm, which) > FOUND).astype(float)


def localised_layers(
    pipe, judge, exchanges: Sequence[Exchange], seeds: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Choose the fewest layers that together show the target when they are patched.

    As `contents.find_word_layers` does by injection: layers in the order of the target's mean
    probability with each alone, added up until they show it in `localisation.ENOUGH` of the
    pictures that all layers show it in, a quarter of the layers at most.

    Args:
        exchanges: Validation pairs.
        sampling: Passed to `patching.draw_arms`.

    Returns:
        `localised` [chosen], paths; `response` [layer], mean probability with each layer alone,
        in the order in which they run; `shares` [2], share of pictures that show the target with
        the chosen and with all layers.
    """
    layers = list(attention_sites(pipe))

    def read(sets: Sequence[Sequence[str]]) -> np.ndarray:
        tried = [Arm(str(number), layers=tuple(paths)) for number, paths in enumerate(sets)]
        return reading(pipe, judge, exchanges, tried, seeds, **sampling)["target"]

    single = read([*([path] for path in layers), layers])
    response, whole = single[:-1].mean((1, 2)), float((single[-1] > FOUND).mean())
    order = ordered(layers, response)
    joint = (read([order[: n + 1] for n in range(quarter(len(layers)))]) > FOUND).mean((1, 2))
    last = first_enough(joint.tolist(), whole)
    return {
        "localised": np.array(order[: last + 1]),
        "response": response,
        "shares": np.array([joint[last], whole]),
    }
