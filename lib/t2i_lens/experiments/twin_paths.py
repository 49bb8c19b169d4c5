"""By which path does a token cost a twin's prompts their other objects?

The exchanges of `mediation` that the question needs, in each twin: keys and values, the slot and
the other positions, and another noun's as the control.

Shown in: notebooks/30_twins.ipynb
"""

from collections.abc import Sequence

import pandas as pd

from t2i_lens.experiments import mediation
from t2i_lens.experiments import mediation_effects as effects
from t2i_lens.experiments.mediation import CLASS_WORD, NOUN, TOKEN, Exchange
from t2i_lens.stats.bootstrap import Estimate, crossed_bootstrap

SEEDS = (0,)
FAMILIES = ("paths", "own position")


def exchanges() -> list[Exchange]:
    """Those of all exchanges that divide a prompt in two."""
    halves = {mediator for family in FAMILIES for mediator in effects.FAMILIES[family]}
    families, words = ("whole", "paths", "positions"), (TOKEN, CLASS_WORD, NOUN)
    return [
        exchange
        for exchange in mediation.exchanges()
        if exchange.base in words
        and exchange.family in families
        and exchange.mediator in {"none", *halves}
    ]


def measure(
    pipe, judge, sentences: Sequence[dict], exchanges: Sequence[dict], seeds: Sequence[int],
    **sampling,
) -> pd.DataFrame:  # fmt: skip
    """Draw and read every exchange in one twin; arguments and rows as of `mediation.measure`."""
    parts = [
        mediation.measure(pipe, judge, sentences, exchange, seeds, **sampling)
        for exchange in exchanges
    ]
    return pd.concat(parts, ignore_index=True)


def restored(table: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """Objects that a twin's pictures get back where one part is the class word's.

    Args: table: Of `measure`, of one twin.

    Returns:
        `total`, objects lost with the token minus with the class word, and for each mediator of
        `FAMILIES` the objects restored by it alone: objects per picture, means over concepts with
        95 % bootstrap intervals.

    Shown in: notebooks/30_twins.ipynb
    """
    lost = effects.concept_means(table, "lost")
    found = {}
    for family in FAMILIES:
        for mediator in effects.FAMILIES[family]:
            part = effects.parts_of(lost, family, mediator)
            found["total"] = crossed_bootstrap(part["total"], seed=seed)
            found[mediator] = crossed_bootstrap(part["restored"], seed=seed)
    return found
