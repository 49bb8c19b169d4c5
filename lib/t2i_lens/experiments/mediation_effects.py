"""Natural effects from the table of `mediation`: alone, all but one, and their interaction.

With Y(r, m) the mean outcome when the mediator m and the rest r are those of the token (1) or of
the class word (0), Pearl (2001) has the total effect Y(1,1) - Y(0,0), the natural indirect effect
Y(0,1) - Y(0,0) and the natural direct effect Y(1,0) - Y(0,0). What is left of the total,
Y(1,1) - Y(1,0) - Y(0,1) + Y(0,0), is the interaction of the mediator with the rest (VanderWeele
2014): objects that are lost only where both are the token's.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2i_lens.experiments.mediation import CLASS_WORD, LAYERS, NOISED, NOUN, TOKEN
from t2i_lens.stats.bootstrap import Estimate, crossed_bootstrap, over_cells, ratio_bootstrap

FAMILIES = {
    "paths": ("keys", "values"),
    "own position": ("slot", "others"),
    "positions": ("slot", "words after", "EOS", "padding"),
    "blocks": ("down", "middle", "up"),
    "steps": ("early", "middle steps", "late"),
}
# Of a division into two, the one mended is the other broken.
COUNTERPARTS = {"keys": "values", "values": "keys", "slot": "others", "others": "slot"}
TRACED = ("slot", "words after", "EOS and padding")
NONE = ("", "whole", "none")


def concept_means(table: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """Mean outcome over prompts and seeds, [concept, (base, donor, family, mediator)].

    Args:
        table: From `mediation.measure`.
        outcome: A column of it.
    """
    keys = ["base", "donor", "family", "mediator"]
    values = table.assign(value=table[outcome].astype(float))
    means = values.pivot_table(index="concept", columns=keys, values="value", sort=False)
    return means.sort_index(axis=1)


def _drawn(family: str) -> str:
    return "positions" if family == "own position" else family


def mended(means: pd.DataFrame, family: str, mediator: str) -> pd.Series:
    """Y(1, 0): the token's prompt with the class word's mediator, [concept].

    Raises:
        KeyError: it was not drawn.
    """
    key = (TOKEN, CLASS_WORD, _drawn(family), mediator)
    return means[key] if key in means else means[_other_way(key)]


def broken(means: pd.DataFrame, family: str, mediator: str) -> pd.Series:
    """Y(0, 1): the class word's prompt with the token's mediator, [concept].

    Raises:
        KeyError: it was not drawn.
    """
    key = (CLASS_WORD, TOKEN, _drawn(family), mediator)
    return means[key] if key in means else means[_other_way(key)]


def _other_way(key: tuple) -> tuple:
    base, donor, family, mediator = key
    return donor, base, family, COUNTERPARTS[mediator]


def parts_of(means: pd.DataFrame, family: str, mediator: str) -> dict[str, np.ndarray]:
    """Effects of one mediator by concept.

    Returns:
        `total`, the whole exchange; `alone`, the natural indirect effect; `all but it`, the
        natural direct effect; `restored`, total minus `all but it`; `interaction`, total minus
        `alone` minus `all but it`. Positive where the token's outcome is larger.
    """
    whole, none = means[(TOKEN, *NONE)], means[(CLASS_WORD, *NONE)]
    alone = broken(means, family, mediator) - none
    rest = mended(means, family, mediator) - none
    total = whole - none
    found = {
        "total": total, "alone": alone, "all but it": rest, "restored": total - rest,
        "interaction": total - alone - rest,
    }  # fmt: skip
    return {name: values.to_numpy() for name, values in found.items()}


def decomposition(means: pd.DataFrame, family: str, seed: int = 0) -> dict[str, dict]:
    """All mediators of a family, and what they do not explain one by one.

    Args:
        family: Of `FAMILIES`.

    Returns:
        Mediator -> effect of `parts_of` -> estimate over concepts; "together" -> `total`, `sum` of
        the effects alone, and `interaction`, total minus sum: by definition the two add up.

    Shown in: notebooks/31_mediation.ipynb
    """
    parts = {mediator: parts_of(means, family, mediator) for mediator in FAMILIES[family]}
    estimates = {
        mediator: {name: crossed_bootstrap(values, seed=seed) for name, values in part.items()}
        for mediator, part in parts.items()
    }
    total = next(iter(parts.values()))["total"]
    added = np.sum([part["alone"] for part in parts.values()], axis=0)
    whole = {"total": total, "sum": added, "interaction": total - added}
    together = {name: crossed_bootstrap(values, seed=seed) for name, values in whole.items()}
    return {**estimates, "together": together}


def share(means: pd.DataFrame, family: str, mediator: str, effect: str) -> Estimate | None:
    """An effect of `parts_of` over the total effect; None where the total may be zero."""
    part = parts_of(means, family, mediator)
    return ratio_bootstrap(part[effect], part["total"])


def changed_share(means: pd.DataFrame, change: str) -> Estimate | None:
    """Share of the total effect that a control restores at the other positions.

    Args:
        change: Mediator of the family "controls", such as "permuted".
    """
    (key,) = [k for k in means if k[2:] == ("controls", change)]
    whole = means[(TOKEN, *NONE)]
    restored, total = whole - means[key], whole - means[(CLASS_WORD, *NONE)]
    return ratio_bootstrap(restored.to_numpy(), total.to_numpy())


def values_over_keys(means: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Restored by values minus restored by keys, by concept; and the same for another noun.

    For the noun it is what its values cost the class word's prompt minus what its keys cost it.
    """
    ours = mended(means, "paths", "keys") - mended(means, "paths", "values")
    noun = means[(CLASS_WORD, NOUN, "paths", "values")] - means[(CLASS_WORD, NOUN, "paths", "keys")]
    return ours.to_numpy(), noun.to_numpy()


def others_over_slot(means: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Restored at the other positions minus at the slot, by concept; and for another noun."""
    ours = mended(means, "positions", "slot") - mended(means, "positions", "others")
    noun = (CLASS_WORD, NOUN, "positions")
    return ours.to_numpy(), (means[(*noun, "others")] - means[(*noun, "slot")]).to_numpy()


def recoveries(means: pd.DataFrame, donor: str, part: str) -> Float[np.ndarray, "layer concept"]:
    """Restored by a part of each text layer at all positions but the slot's.

    Args:
        donor: `CLASS_WORD` or, for a control, `NOUN`.
        part: "residual", "attention" or "MLP".
    """
    whole = means[(TOKEN, *NONE)].to_numpy()
    names = [(TOKEN, donor, f"text {part}", f"{part} {n + 1}") for n in range(LAYERS)]
    return np.stack([whole - means[name].to_numpy() for name in names])


def text_costs(means: pd.DataFrame, part: str) -> Float[np.ndarray, "layer concept"]:
    """Lost where a part of a text layer is the token's at all positions but the slot's.

    The other direction of `recoveries`: the rest is the class word's prompt.

    Args:
        part: "residual", "attention" or "MLP".
    """
    none = means[(CLASS_WORD, *NONE)].to_numpy()
    names = [(CLASS_WORD, TOKEN, f"text {part}", f"{part} {n + 1}") for n in range(LAYERS)]
    return np.stack([means[name].to_numpy() - none for name in names])


def first_layer_lead(recovered: Float[np.ndarray, " layer"]) -> float:
    """Recovery at layer 1 minus the largest recovery that a later layer adds."""
    return float(recovered[0] - np.diff(recovered).max())


def compared_leads(
    ours: Float[np.ndarray, "layer concept"], control: Float[np.ndarray, "layer concept"]
) -> tuple[Estimate, Estimate, Estimate]:
    """`first_layer_lead` of two sets of recoveries, and their difference over the same concepts."""
    count = len(ours)

    def difference(stacked: np.ndarray) -> float:
        return first_layer_lead(stacked[:count]) - first_layer_lead(stacked[count:])

    return (
        over_cells(ours, first_layer_lead),
        over_cells(control, first_layer_lead),
        over_cells(np.concatenate([ours, control]), difference),
    )


def traced(means: pd.DataFrame, word: str) -> Float[np.ndarray, "arm concept"]:
    """Outcomes of causal tracing: clean, noised, then restored role by role, layers fastest."""
    noised = NOISED + word
    names = [(word, *NONE), (noised, *NONE)]
    names += [
        (noised, word, "tracing", f"{role} {layer + 1}")
        for role in TRACED
        for layer in range(LAYERS)
    ]
    return np.stack([means[name].to_numpy() for name in names])


def recovery_grid(outcomes: Float[np.ndarray, " arm"]) -> Float[np.ndarray, "role layer"]:
    """Share of what noise took away that each restored state gives back; 0 none, 1 all."""
    clean, noised, *restored = outcomes
    # A resample in which the noise took nothing away is not finite, and does not count.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.reshape((np.array(restored) - noised) / (clean - noised), (len(TRACED), LAYERS))


def lead_of(outcomes: Float[np.ndarray, " arm"], role: int) -> float:
    """Recovery of layer 1 at a role minus the largest recovery of any other layer and role.

    The others are without layer 1 at the subject, the first role, so that the lead of another role
    is not that of the subject with its sign changed.
    """
    grid = recovery_grid(outcomes)
    others = np.delete(grid.ravel(), [0, role * LAYERS])
    return float(grid[role, 0] - others.max())


def tracing_leads(outcomes: Float[np.ndarray, "arm concept"]) -> tuple[Estimate, ...]:
    """`lead_of` the subject, of the words after it, and their difference."""
    return (
        over_cells(outcomes, lambda means: lead_of(means, 0)),
        over_cells(outcomes, lambda means: lead_of(means, 1)),
        over_cells(outcomes, lambda means: lead_of(means, 0) - lead_of(means, 1)),
    )


def decomposition_table(found: dict[str, dict[str, dict]], effects: Sequence[str]) -> pd.DataFrame:
    """Decompositions as texts, a row per mediator; their last row says what adds up.

    Args:
        found: Family -> from `decomposition`.
        effects: Columns.
    """
    rows = {}
    for family, mediators in found.items():
        for name, estimates in mediators.items():
            cells = {e: f"{estimates[e]:.2f}" for e in effects if e in estimates}
            if name == "together":
                cells["alone"] = f"sum {estimates['sum']:.2f}"
            rows[family, name] = cells
    return pd.DataFrame(rows).T.fillna("")


def beyond_permuted(means: pd.DataFrame) -> Estimate | None:
    """Share restored by the other positions minus that with permuted channels, same concepts."""
    (key,) = [k for k in means if k[2:] == ("controls", "permuted")]
    part = parts_of(means, "own position", "others")
    gap = means[key] - mended(means, "own position", "others")
    return ratio_bootstrap(gap.to_numpy(), part["total"])


def first_layer_share(means: pd.DataFrame) -> Estimate | None:
    """Share of the total effect that the residual stream after the first text layer restores."""
    total = means[(TOKEN, *NONE)] - means[(CLASS_WORD, *NONE)]
    return ratio_bootstrap(recoveries(means, CLASS_WORD, "residual")[0], total.to_numpy())
