"""Estimates with their intervals: arms compared, quantities side by side."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from t2i_lens.figures.style import ROLES, WIDTH, styled
from t2i_lens.stats.bootstrap import Estimate


def whisker(
    axis: Axes, estimate: Estimate, y: float | int, role: str, label: str | None = None
) -> None:
    """Draw an estimate as a dot on the line of its interval."""
    axis.hlines(y, estimate.low, estimate.high, color=ROLES[role], linewidth=1.5)
    axis.plot(estimate.value, y, "o", color=ROLES[role], markersize=4.5, label=label)


@styled
def compared_arms(
    values: Mapping[str, Mapping[str, Estimate]],
    differences: Mapping[str, Estimate],
    roles: Mapping[str, str],
    quantity: str,
    difference: str,
) -> Figure:
    """Each subject's value per arm on the left, its paired difference on the right.

    Args:
        values: Subject -> arm -> estimate.
        differences: Subject -> paired difference, on the same scale.
        roles: Arm -> role, which gives its colour.
        quantity: Label of the left axis.
        difference: Label of the right axis.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 0.9 + 0.27 * len(values)), sharey=True, width_ratios=[3, 2]
    )
    for y, (subject, arms) in enumerate(values.items()):
        for arm, estimate in arms.items():
            offset = (list(roles).index(arm) - (len(roles) - 1) / 2) * 0.22
            whisker(left, estimate, y + offset, roles[arm])
        if subject in differences:
            whisker(right, differences[subject], y, "law")
    for arm, role in roles.items():
        left.plot([], [], "o-", color=ROLES[role], markersize=4.5, label=arm)
    right.axvline(0, color="0.6", linewidth=0.8)
    labels = [f"{name} (n={min(e.n for e in arms.values())})" for name, arms in values.items()]
    left.set(xlabel=quantity, yticks=range(len(values)), yticklabels=labels)
    left.invert_yaxis()
    if min(e.low for arms in values.values() for e in arms.values()) >= 0:
        left.set_xlim(left=0)
    else:
        left.axvline(0, color="0.6", linewidth=0.8)
    right.set(xlabel=f"{difference}\n(95 % intervals)")
    figure.legend(loc="outside upper left", ncols=len(roles))
    return figure


@styled
def interval_panels(
    panels: Mapping[str, Mapping[str, Mapping[str, Estimate]]], roles: Mapping[str, str]
) -> Figure:
    """Estimates with their intervals: a panel per quantity, a row per subject.

    Args:
        panels: Quantity -> subject -> series -> estimate; the same subjects in all panels.
        roles: Series -> role, which gives its colour.
    """
    subjects = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 1.0 + 0.3 * len(subjects)), sharey=True, squeeze=False
    )
    every = [
        (name, e.n) for rows in panels.values() for name, s in rows.items() for e in s.values()
    ]
    fewest = {name: min(n for other, n in every if other == name) for name in subjects}
    labels = [f"{name} (n={fewest[name]})" for name in subjects]
    for axis, (quantity, rows) in zip(axes[0], panels.items(), strict=True):
        axis.axvline(0, color="0.6", linewidth=0.8)
        for subject, series in rows.items():
            for name, estimate in series.items():
                offset = (list(roles).index(name) - (len(roles) - 1) / 2) * 0.22
                whisker(axis, estimate, subjects.index(subject) + offset, roles[name])
        axis.set(xlabel=quantity, yticks=range(len(subjects)), yticklabels=labels)
    axes[0, 0].invert_yaxis()
    for name, role in roles.items():
        axes[0, 0].plot([], [], "o-", color=ROLES[role], markersize=4.5, label=name)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure
