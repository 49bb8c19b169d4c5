"""The two axes of a remedy, likeness of the concept and objects kept, from the rows of pictures.

Shown in: notebooks/23_remedies.ipynb, notebooks/24_clinic.ipynb
"""

import numpy as np
import pandas as pd

from t2i_lens.experiments.remedy_edits import BETAS, TAU


def axes(table: pd.DataFrame) -> pd.DataFrame:
    """Per way, setting and concept: the two axes, and coexistence and balance.

    Returns:
        `likeness` of the concept drawn alone; `kept`, the share of the other objects; `lost`,
        objects per picture; `found`, share of pictures with the concept among others; `together`,
        share with the concept and all others; `balance`, found minus kept.
    """
    groups = ["way", "setting", "concept"]
    alone = table[table["asked"] == 0].groupby(groups, sort=False)["likeness"].mean()
    among = table[table["asked"] > 0].copy()
    among["kept"] = 1 - among["lost"] / among["asked"]
    among["together"] = among["found"] * (among["lost"] == 0)
    means = among.groupby(groups, sort=False)[["kept", "lost", "found", "together"]].mean()
    return means.assign(likeness=alone, balance=means["found"] - means["kept"]).reset_index()


def fronts(table: pd.DataFrame, way: str, tau: float = TAU) -> pd.Series:
    """Area under the front of likeness against objects kept, by concept, sweeping the gate's bias.

    The area that is dominated by the points of the sweep, with both axes in [0, 1].

    Args:
        table: Rows of `pictures`.
    """
    names = [f"β {beta:g}, τ {tau:g}" for beta in BETAS]
    points = axes(table[(table["way"] == way) & table["setting"].isin(names)])
    return points.groupby("concept", sort=False).apply(
        lambda some: dominated(some[["likeness", "kept"]].to_numpy()), include_groups=False
    )


def dominated(points: np.ndarray) -> float:
    """Area of the union of rectangles from the origin to points [point, 2] in [0, 1]²."""
    area, height = 0.0, 0.0
    for x, y in sorted(np.clip(points, 0, 1).tolist(), reverse=True):
        if y > height:
            area, height = area + x * (y - height), y
    return area
