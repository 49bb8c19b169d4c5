"""Claims, records and verdicts: what an interval says against a bound and against a control.

A claim states a bound for a value and what its control must do. A record holds the value, the
control and their difference, each with an interval. `judge_claim` makes the verdict of them.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Verdict = Literal[
    "reproduced",
    "not specific",
    "not reproduced",
    "opposite",
    "no room",
    "not measurable",
    "not yet measured",
]
Interval = tuple[float, float]
Pairing = Literal["paired", "independent"]

# A shape beside the word, so that no verdict is told by its colour.
MARKS: dict[Verdict, str] = {
    "reproduced": "●",
    "not specific": "◐",
    "not reproduced": "○",
    "opposite": "▼",
    "no room": "□",
    "not measurable": "–",
    "not yet measured": "·",
}
DEFAULT = "toybox"  # its bound also decides on profiles that have none of their own
# Sums of 32-bit numbers differ in their last digits between machines and thread counts; a value
# that is exact has an interval of width zero, which only this slack lets another machine hit.
RELATIVE_SLACK = 1e-5
ABSOLUTE_SLACK = 1e-12


class ClaimError(ValueError):
    """Claims or records that cannot be used; the message names the file or claim."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Model):
    """A publication; `key` is its citation key in `book/references.bib`."""

    key: str
    title: str
    authors: str
    year: int
    url: str | None = None


class Reference(_Model):
    """Published value of the measured quantity, and its model."""

    text: str
    model: str
    value: float | None = None
    interval: Interval | None = None
    basis: Literal["published", "figure", "notes", "derived", "unverified"] = "published"


class Bound(_Model):
    """Bound that the whole interval must satisfy: exactly one of the three."""

    above: float | None = None
    below: float | None = None
    within: Interval | None = None

    @model_validator(mode="after")
    def _one_condition(self):
        if sum(x is not None for x in (self.above, self.below, self.within)) != 1:
            raise ValueError("a bound is one of above, below, within")
        if self.within is not None and self.within[0] >= self.within[1]:
            raise ValueError(f"within {list(self.within)} is empty; write [lower, upper]")
        return self

    @property
    def side(self) -> Literal["above", "below"] | None:
        """The side of a control on which a value that satisfies the bound lies; None: either."""
        if self.within is not None:
            return None
        return "above" if self.above is not None else "below"


class Control(_Model):
    """Control of a value: a measured control, or the reason why there is none.

    Attributes:
        name: What the control is.
        beyond: The whole interval of the difference, value minus control, lies farther from 0
            than this, on the bound's side. At least 0, in units of the value.
        side: The side for a bound of two sides, which has none of its own.
        alone: Why there is nothing to compare with; in place of the other three.
    """

    name: str | None = None
    beyond: float | None = Field(default=None, ge=0)
    side: Literal["above", "below", "either"] | None = None
    alone: str | None = None

    @model_validator(mode="after")
    def _measured_or_alone(self):
        measured = self.name is not None and self.beyond is not None
        if measured == (self.alone is not None):
            raise ValueError("a control has a name and a number to be beyond, or stands alone")
        if self.alone is not None and (self.name, self.beyond, self.side) != (None, None, None):
            raise ValueError("a claim that stands alone has no control to be beyond")
        return self

    @property
    def text(self) -> str:
        """Its name, or why there is none."""
        return f"none: {self.alone}" if self.alone else self.name


class Claim(_Model):
    """One sentence that can be true or false, and how it is decided. Fields: `data/claims.yaml`."""

    id: str = Field(pattern=r"^[BPTLNXR]\d{2}$")
    source: Source
    also: tuple[Source, ...] = ()
    kind: Literal["reproduce", "beyond"]
    statement: str
    question: str | None = None
    measured: str
    control: Control
    reference: Reference | None = None
    bounds: dict[str, Bound] = {}
    exact: str | None = None
    stays: str | None = None
    chapter: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _sided(self):
        if self.control.alone is None:
            for profile, bound in self.bounds.items():
                if (bound.side is None) != (self.control.side is not None):
                    raise ValueError(
                        f"bound on {profile}: a control has a side where the bound has two"
                    )
        return self


class Number(_Model):
    """A value inside its interval."""

    value: float
    interval: Interval

    @model_validator(mode="after")
    def _value_inside(self):
        lower, upper = self.interval
        if not all(map(math.isfinite, (self.value, lower, upper))):
            raise ValueError(f"value {self.value} with interval [{lower}, {upper}] is not finite")
        if lower > upper or not inside(self.value, self.interval):
            raise ValueError(
                f"value {self.value:.6g} is not inside its interval [{lower:.6g}, {upper:.6g}]"
            )
        return self

    @property
    def has_width(self) -> bool:
        lower, upper = self.interval
        return upper - lower > ABSOLUTE_SLACK + RELATIVE_SLACK * max(abs(lower), abs(upper))


class Difference(Number):
    """Value minus control; paired: both were resampled together, over the same units."""

    pairing: Pairing


class Record(_Model):
    """Measurement of one claim by one notebook on one profile.

    Attributes:
        value: The number that the claim's `measured` defines, with its `interval`.
        n: Independent units of resampling behind the interval; the fewest of the axes where
            several are crossed, and 1 for a number that is counted.
        seeds: Number of seeds, or the seeds themselves.
        control: The claim's control, measured in the same way; None where it stands alone.
        difference: Value minus control.
        result: The stored result that the value came from, or a pattern where one name has
            several; None where it came from files of `data/`, such as a token's training.
        reason: Why the claim cannot be measured on this profile.

    A measured verdict comes with value, interval, n and notebook, or not at all.
    """

    id: str
    profile: str
    verdict: Verdict
    notebook: str | None = None
    value: float | None = None
    interval: Interval | None = None
    n: int | None = None
    seeds: int | tuple[int, ...] | None = None
    control: Number | None = None
    difference: Difference | None = None
    result: str | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _complete(self):
        if self.verdict in ("not measurable", "not yet measured"):
            numbers = (self.value, self.control, self.difference)
            if numbers != (None, None, None):
                raise ValueError(f"'{self.verdict}' takes a reason and no value")
            if self.verdict == "not measurable" and not self.reason:
                raise ValueError("'not measurable' needs a reason")
            return self
        if None in (self.value, self.interval, self.n, self.notebook) or self.n < 1:
            raise ValueError(f"'{self.verdict}' needs value, interval, n and notebook")
        if self.reason is not None:
            raise ValueError(f"'{self.verdict}' takes no reason")
        Number(value=self.value, interval=self.interval)
        if (self.control is None) != (self.difference is None):
            raise ValueError("a control comes with the difference, value minus control")
        if self.control is not None:
            apart = self.found.value - self.control.value
            size = max(abs(self.found.value), abs(self.control.value))
            if abs(apart - self.difference.value) > ABSOLUTE_SLACK + RELATIVE_SLACK * size:
                raise ValueError(
                    f"value minus control is {apart:.6g}, not {self.difference.value:.6g}"
                )
        return self

    @property
    def found(self) -> Number | None:
        """Value and interval together; None where nothing was measured."""
        if self.value is None:
            return None
        return Number(value=self.value, interval=self.interval)


def judge_claim(
    claim: Claim, profile: str, found: Number, difference: Difference | None = None
) -> Verdict:
    """The verdict of a value, and of its difference from the control, on a profile.

    No room: neither interval has a width, so that nothing could be seen to move; a claim whose
    number is exact is excepted. Opposite: the whole interval lies on the other side of a
    one-sided bound. Not reproduced: the interval does not satisfy the bound otherwise. Not
    specific: it does, and the difference from the control does not lie beyond what the claim
    asks for. Reproduced: both do.

    Args:
        found: The measured value with its interval; both ends are the value for a number without
            sampling error.
        difference: Value minus control; None where the claim stands alone.

    Raises:
        ClaimError: the claim has no bound on this profile and none on the toybox, or the difference
            is missing or has no control in the claim.
    """
    bound = claim.bounds.get(profile, claim.bounds.get(DEFAULT))
    if bound is None:
        raise ClaimError(
            f"claim {claim.id} has no bound on {profile}; state one in data/claims.yaml first"
        )
    control = claim.control
    if (difference is None) != (control.alone is not None):
        needs = "stands alone" if control.alone else f"is compared with a control ({control.name})"
        raise ClaimError(f"claim {claim.id} {needs}, see data/claims.yaml")
    if claim.exact is None and not any(n.has_width for n in (found, difference) if n is not None):
        return "no room"
    lower, upper = found.interval
    if bound.within is not None:
        holds, opposite = bound.within[0] <= lower and upper <= bound.within[1], False
    elif bound.above is not None:
        holds, opposite = lower > bound.above, upper < bound.above
    else:
        holds, opposite = upper < bound.below, lower > bound.below
    if not holds:
        return "opposite" if opposite else "not reproduced"
    if difference is None or _beyond(difference.interval, control, bound):
        return "reproduced"
    return "not specific"


def _beyond(interval: Interval, control: Control, bound: Bound) -> bool:
    side = bound.side or control.side
    above, below = interval[0] > control.beyond, interval[1] < -control.beyond
    return (side != "below" and above) or (side != "above" and below)


def inside(value: float, interval: Interval) -> bool:
    """Whether a value lies in an interval, up to the slack that rounding needs."""
    slack = RELATIVE_SLACK * max(map(abs, interval))
    return interval[0] - slack <= value <= interval[1] + slack
