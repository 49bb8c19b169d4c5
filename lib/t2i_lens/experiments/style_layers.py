"""Which layers decide the look of a sign, the word on it and the drawing style of an object.

Each layer alone reads a target prompt, then the first layers of an order do, more and more of them.

Shown in: notebooks/29_style_layers.ipynb
"""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2i_lens.experiments.contents import Exchange, exchanges, read_targets, word_exchanges
from t2i_lens.experiments.prompt_sets import SignPrompt
from t2i_lens.experiments.sign_scenes import boards, named_colours
from t2i_lens.experiments.word_exchange import sign_prompts
from t2i_lens.judging.protocols import FOUND
from t2i_lens.methods.localisation import Setting, draw_settings, ordered

BOARD, WORD, DRAWING = "board", "word", "drawing style"
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
FRAME = 'a {} sign that says "{}"'
CHANGES = 2  # changes of colour for each validation word
PAIRS = 48  # of boards and of words
STYLES, CHOOSING = 24, 8  # nouns, and how many of them choose the order of layers
SEEDS = (0, 1)
KEYS = ["kind", "layers", "pair", "seed"]
HALF = 0.5  # of the change that all layers make


def board_pairs(words: Sequence[str], count: int) -> list[Exchange]:
    """Pairs of prompts of a sign whose board changes its colour; words and colours in turn."""
    pairs, said = [], cycle(words)
    for number in range(count):
        old, new = (COLOURS[(2 * number + step) % len(COLOURS)] for step in (0, 3))
        word = next(said)
        pairs.append(Exchange(BOARD, FRAME.format(old, word), FRAME.format(new, word), "sign", new))
    return pairs


def single_pairs(validation: Sequence[SignPrompt], words: dict) -> list[Exchange]:
    """Pairs that choose the order of layers: boards of validation words, and drawing styles."""
    said = [sign.source for sign in validation]
    styles = exchanges("style", words, CHOOSING)
    return [*board_pairs(said, CHANGES * len(said)), *styles]


def growing_pairs(test: Sequence[SignPrompt], words: dict) -> dict[str, list[Exchange]]:
    """Kind -> other pairs: boards and words of test signs, and drawing styles of other nouns."""
    said = [sign.source for sign in test]
    return {
        BOARD: board_pairs(said, PAIRS),
        WORD: word_exchanges(sign_prompts(test)[:PAIRS]),
        DRAWING: exchanges("style", words, STYLES)[CHOOSING:],
    }


def measure(
    judge,
    pipe,
    pairs: Sequence[Exchange],
    settings: Sequence[Setting],
    names: Sequence[str],
    seeds: Sequence[int],
    **sampling,
) -> pd.DataFrame:
    """Draw pairs with a target prompt in some layers, and read whether the target is there.

    Args:
        judge: The toybox's.
        pairs: Of the kinds `BOARD`, "word" and "style".
        settings: Layers that read the target prompt.
        names: Of the settings.
        seeds: One latent each.
        sampling: Passed to `localisation.draw_settings`.

    Returns:
        A row per setting, pair and seed: `KEYS`, with the setting's name as `layers`; `target`, the
        target prompt; `shown`, whether the picture shows what it says.
    """
    drawn = draw_settings(pipe, [pair.pair for pair in pairs], settings, seeds, **sampling)
    shown = _shown(judge, drawn["pictures"], pairs)
    rows = [
        {
            "kind": DRAWING if pairs[pair].kind == "style" else pairs[pair].kind,
            "layers": names[place], "pair": pair, "seed": seeds[column],
            "target": pairs[pair].target, "shown": float(shown[place, pair, column]),
        }
        for place, pair, column in np.ndindex(*shown.shape)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _shown(judge, pictures: np.ndarray, pairs: Sequence[Exchange]) -> np.ndarray:
    shown = np.zeros(pictures.shape[:3], dtype=bool)
    of_board = np.array([pair.kind == BOARD for pair in pairs])
    if of_board.any():
        seen = named_colours(boards(judge, pictures[:, of_board]))
        new = np.array([pair.new for pair in pairs])[of_board]
        shown[:, of_board] = seen == new[:, None]
    others = [pair for pair in pairs if pair.kind != BOARD]
    if others:
        found = read_targets(judge, pictures[:, ~of_board], others)["target"]
        shown[:, ~of_board] = found > FOUND
    return shown


def order_of(single: pd.DataFrame, kind: str, layers: Sequence[str]) -> list[str]:
    """Layers by the share of pictures that show the target when each alone reads it.

    Args:
        single: Rows of `measure` whose settings are named by their layer.
    """
    of_kind = single[single["kind"] == kind].groupby("layers")["shown"].mean()
    return ordered(layers, of_kind.loc[list(layers)].to_numpy())


def layers_needed(shares: Float[np.ndarray, " count"]) -> float:
    """Number of layers that make half of the change that all layers make.

    Between whole numbers of layers the change is interpolated linearly, so that the number moves
    with the shares and not in steps of one.

    Args:
        shares: Share of pictures with the target, for no layer, one, two, … all, in [0, 1].

    Returns:
        In [0, count of layers]; nan where all layers show no more targets than none.
    """
    change = shares - shares[0]
    if change[-1] <= 0:
        return float("nan")
    wanted = HALF * change[-1]
    last = int(np.argmax(change >= wanted))
    before, there = change[last - 1 : last + 1]
    return float(last - 1 + (wanted - before) / (there - before))
