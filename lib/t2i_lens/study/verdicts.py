"""What a claim and a record are, and the verdict that follows from an interval and a bound."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Verdict = Literal["reproduced", "not reproduced", "opposite", "not measurable", "not yet measured"]
Interval = tuple[float, float]

# A shape beside the word, so that no verdict is told by its colour.
MARKS: dict[Verdict, str] = {
    "reproduced": "●",
    "not reproduced": "○",
    "opposite": "▼",
    "not measurable": "–",
    "not yet measured": "·",
}
DEFAULT = "toybox"  # its bound also decides on profiles that have none of their own
# Sums of 32-bit numbers differ in their last digits between machines and thread counts; a value
# that is exact has an interval of width zero, which only this slack lets another machine hit.
RELATIVE_SLACK = 1e-5


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


class Claim(_Model):
    """One sentence that can be true or false, and how it is decided. Fields: `data/claims.yaml`."""

    id: str = Field(pattern=r"^[BPTLNX]\d{2}$")
    source: Source
    also: tuple[Source, ...] = ()
    kind: Literal["reproduce", "beyond"]
    statement: str
    question: str | None = None
    measured: str
    control: str
    reference: Reference | None = None
    bounds: dict[str, Bound] = {}
    chapter: str | None = None
    note: str | None = None


class Record(_Model):
    """Measurement of one claim by one notebook on one profile.

    Attributes:
        value: The number that the claim's `measured` defines, with its `interval`.
        n: Independent units behind the interval.
        seeds: Number of seeds, or the seeds themselves.
        control: The control's number, or what it showed in words.
        result: Name of the stored result that the value came from.
        reason: Why the claim cannot be measured on this profile.

    A measured verdict comes with value, interval, n, control and notebook, or not at all.
    """

    id: str
    profile: str
    verdict: Verdict
    notebook: str | None = None
    value: float | None = None
    interval: Interval | None = None
    n: int | None = None
    seeds: int | tuple[int, ...] | None = None
    control: float | str | None = None
    result: str | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _complete(self):
        if self.verdict in ("not measurable", "not yet measured"):
            if self.value is not None or (self.verdict == "not measurable" and not self.reason):
                raise ValueError(f"'{self.verdict}' takes a reason and no value")
        elif None in (self.value, self.interval, self.n, self.control, self.notebook) or self.n < 1:
            raise ValueError(f"'{self.verdict}' needs value, interval, n, control and notebook")
        else:
            _check_value(self.value, self.interval)
        return self


def judge_claim(claim: Claim, profile: str, value: float, interval: Interval) -> Verdict:
    """The verdict that an interval earns against the claim's bound on a profile.

    Reproduced: the whole interval satisfies the bound. Opposite: the whole interval lies on the
    other side of a one-sided bound. Not reproduced: anything else.

    Args:
        value: The measured value, inside its interval.
        interval: Lower and upper end; twice the value for a number without sampling error.

    Raises:
        ClaimError: the claim has no bound on this profile and none on the toybox, or the numbers
            are not finite, not ordered, or the value is outside its interval.
    """
    bound = claim.bounds.get(profile, claim.bounds.get(DEFAULT))
    if bound is None:
        raise ClaimError(
            f"claim {claim.id} has no bound on {profile}; state one in data/claims.yaml first"
        )
    try:
        _check_value(value, interval)
    except ValueError as error:
        raise ClaimError(f"claim {claim.id}: {error}") from None
    lower, upper = interval
    if bound.within is not None:
        holds = bound.within[0] <= lower and upper <= bound.within[1]
        return "reproduced" if holds else "not reproduced"
    if bound.below is not None:  # mirrored, so that one rule serves both
        lower, upper, edge = -upper, -lower, -bound.below
    else:
        edge = bound.above
    if lower > edge:
        return "reproduced"
    return "opposite" if upper < edge else "not reproduced"


def _check_value(value: float, interval: Interval) -> None:
    lower, upper = interval
    if not all(map(math.isfinite, (value, lower, upper))):
        raise ValueError(f"value {value} with interval [{lower}, {upper}] is not finite")
    if lower > upper or not inside(value, interval):
        raise ValueError(f"value {value:.6g} is not inside its interval [{lower:.6g}, {upper:.6g}]")


def inside(value: float, interval: Interval) -> bool:
    """Whether a value lies in an interval, up to the slack that rounding needs."""
    slack = RELATIVE_SLACK * max(map(abs, interval))
    return interval[0] - slack <= value <= interval[1] + slack
