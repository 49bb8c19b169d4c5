"""Values of the card with their n and 95 % intervals.

Shown in: book/toybox.md
"""

from collections.abc import Sequence

import numpy as np
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW


def share(hits: Sequence[bool] | np.ndarray) -> dict:
    """A proportion with n and its 95 % Wilson interval."""
    hits = np.asarray(hits, bool)
    low, high = proportion_confint(hits.sum(), len(hits), method="wilson")
    return {"value": float(hits.mean()), "interval": [float(low), float(high)], "n": len(hits)}


def mean(values: Sequence[float] | np.ndarray) -> dict:
    """A mean with n and its 95 % t-interval."""
    low, high = DescrStatsW(values).tconfint_mean()
    interval = [float(low), float(high)]
    return {"value": float(np.mean(values)), "interval": interval, "n": len(values)}
