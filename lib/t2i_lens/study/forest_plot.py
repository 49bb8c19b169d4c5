"""A record as a small forest plot: value, control, bound and published value on one scale."""

from dataclasses import dataclass

from t2i_lens.study.scoreboard import number_text
from t2i_lens.study.verdicts import DEFAULT, Bound, Claim, Record

WIDTH = 200.0  # of the drawing, in its own units
MARGIN = 0.08  # of the range of all numbers, on either side


@dataclass(frozen=True)
class ForestPlot:
    """Places on a scale from 0 to `WIDTH`.

    Attributes:
        value: Place of the value.
        interval: Places of its ends.
        control: Place of the control; None where the claim stands alone.
        control_interval: Places of its ends.
        allowed: Ends of the region in which the bound holds.
        published: Place of the published value; None where none is printed.
        text: The same in words.
    """

    value: float
    interval: tuple[float, float]
    control: float | None
    control_interval: tuple[float, float] | None
    allowed: tuple[float, float]
    published: float | None
    text: str


def bound_of(claim: Claim, profile: str) -> Bound | None:
    """The bound that decides a claim on a profile: its own, or the toybox's."""
    return claim.bounds.get(profile, claim.bounds.get(DEFAULT))


def bound_text(bound: Bound | None) -> str:
    """A bound in words, such as `above 0.5`."""
    if bound is None:
        return "none yet"
    if bound.within is not None:
        return f"within {bound.within[0]:g} and {bound.within[1]:g}"
    side = bound.side
    return f"{side} {getattr(bound, side):g}"


def forest_plot(claim: Claim, record: Record) -> ForestPlot | None:
    """The plot of a measured record; None where nothing was measured."""
    bound = bound_of(claim, record.profile)
    if record.found is None or bound is None:
        return None
    control = record.control
    ends = list(bound.within) if bound.within else [getattr(bound, bound.side)]
    published = claim.reference.value if claim.reference else None
    numbers = [record.value, *record.interval, *ends]
    numbers += [control.value, *control.interval] if control else []
    low, high = min(numbers), max(numbers)
    if published is not None and low - (high - low) <= published <= high + (high - low):
        low, high = min(low, published), max(high, published)  # one far away would crush the rest
    else:
        published = None
    margin = MARGIN * ((high - low) or abs(high) or 1.0)
    low, high = low - margin, high + margin

    def place(number: float) -> float:
        return round(WIDTH * (number - low) / (high - low), 1)

    first = 0.0 if bound.below is not None else place(ends[0])
    last = WIDTH if bound.above is not None else place(ends[-1])
    said = [f"value {number_text(record.value, record.interval)}"]
    said += [f"control {number_text(control.value, control.interval)}"] if control else []
    said += [f"bound {bound_text(bound)}"]
    said += [] if published is None else [f"published {published:g}"]
    return ForestPlot(
        value=place(record.value),
        interval=(place(record.interval[0]), place(record.interval[1])),
        control=place(control.value) if control else None,
        control_interval=tuple(map(place, control.interval)) if control else None,
        allowed=(first, last),
        published=None if published is None else place(published),
        text=", ".join(said),
    )
