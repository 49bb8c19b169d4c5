"""What the table of fine-tuned layers says: gains over all layers, random layers and before.

Shown in: notebooks/27_lora_layers.ipynb
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2i_lens.stats.bootstrap import Estimate, over_cells

LOCALISED, EVERY, BEFORE = "localised layers", "all layers", "before"
RANDOM = "random layers"

Key = tuple[str, int] | str
Cells = Float[np.ndarray, "prompt seed"]


def cells(table: pd.DataFrame, kind: str) -> dict[Key, Cells]:
    """(Set of layers, amount), or `BEFORE` -> what is shown, [prompt, seed], of one kind.

    Raises:
        ValueError: there is no prompt of this kind.
    """
    found: dict[Key, Cells] = {}
    for (way, amount), rows in table[table["kind"] == kind].groupby(["way", "amount"], sort=False):
        wide = rows.pivot(index="prompt", columns="seed", values="shown")
        found[BEFORE if way == BEFORE else (str(way), int(amount))] = wide.to_numpy(float)
    if not found:
        raise ValueError(f"no prompts of kind {kind!r}; there are {sorted(set(table['kind']))}")
    return found


def random_names(table: pd.DataFrame) -> list[str]:
    """Names of the random sets of layers."""
    return [way for way in dict.fromkeys(table["way"]) if way.startswith(RANDOM)]


def smallest_gain(
    shown: Mapping[Key, Cells], amounts: Sequence[int], seed: int = 0
) -> tuple[Estimate, Estimate, Estimate]:
    """Localised layers minus all layers, the smallest over the amounts of data, anew each time.

    Returns:
        The gain; the same with the model before in place of the localised layers; the first minus
        the second.
    """
    values = [shown[name, amount] for name in (LOCALISED, EVERY) for amount in amounts]
    stacked, count = np.stack([*values, shown[BEFORE]]), len(amounts)

    def gain(means: np.ndarray) -> float:
        return float((means[:count] - means[count:-1]).min())

    def control(means: np.ndarray) -> float:
        return float((means[-1] - means[count:-1]).min())

    first, second = over_cells(stacked, gain, seed), over_cells(stacked, control, seed)
    return first, second, over_cells(stacked, lambda means: gain(means) - control(means), seed)


def over_random(
    shown: Mapping[Key, Cells], amount: int, names: Sequence[str], seed: int = 0
) -> tuple[Estimate, Estimate, Estimate]:
    """Localised layers minus the best of random sets, the best anew each time.

    Returns:
        The gain; the same with the model before in place of the localised layers; the first minus
        the second.
    """
    values = [shown[LOCALISED, amount], shown[BEFORE], *(shown[name, amount] for name in names)]
    stacked = np.stack(values)
    return (
        over_cells(stacked, lambda means: means[0] - means[2:].max(), seed),
        over_cells(stacked, lambda means: means[1] - means[2:].max(), seed),
        over_cells(stacked, lambda means: means[0] - means[1], seed),
    )
