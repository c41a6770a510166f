"""What a forecast is: an object that answers `quantile(q)` for the peak, and carries its path and its own record.

All loads are in units of work per second, all instants in seconds since the epoch, all durations in seconds.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping
from statistics import NormalDist
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

MAX_STEPS = 3600
"""The longest path: one hour at a step of one second."""

MEAN = "mean"
"""The key of the mean among the rows of a path; every other key is a quantile."""


class UnknownQuantileError(ValueError):
    """A quantile was asked for that lies outside those the forecast was issued with."""


class Message(BaseModel):
    """Base of everything that crosses the wire: frozen, camelCase outside, no unknown field, no NaN, no infinity."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


def _inside_unit_interval(value: float) -> float:
    if not 0.0 < value < 1.0:
        raise ValueError(f"a quantile must be above 0 and below 1, was {value:g}")
    return value


Quantile = Annotated[float, AfterValidator(_inside_unit_interval)]
"""A probability above 0 and below 1: 0.95 is what the API calls percentile 95."""

Load = Annotated[float, Field(ge=0.0)]
"""Units of work per second; finite and never negative."""

SeriesId = Annotated[str, Field(min_length=1, max_length=320)]
"""The name of a demand series; the operator uses `<namespace>.<name>`."""


def quantile_key(quantile: float) -> str:
    """How a quantile is written as a JSON key: the shortest digits that read back as the same number (`0.95`)."""
    return repr(float(quantile))


class Sustained(Message):
    """What has to be carried over [issued_at, issued_at + lead_seconds] so that no work waits longer than `slack_seconds`.

    `load[q]` is the quantile q of the largest, over all runs of whole steps within the lead, of (work that arrives in the run) ÷ (its length +
    slack): a queue that is served first in, first out at that rate never holds work for longer than the slack. Without slack it is the peak.
    """

    lead_seconds: Annotated[int, Field(ge=1)]
    slack_seconds: Annotated[int, Field(ge=0)]
    load: Annotated[Mapping[Quantile, Load], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _rises(self) -> Self:
        loads = [load for _, load in sorted(self.load.items())]
        if any(lower > higher for lower, higher in itertools.pairwise(loads)):
            raise ValueError(f"sustained.load must not fall as the quantile rises, was {dict(sorted(self.load.items()))}")
        return self


class Forecast(Message):
    """The load of one series over [issued_at, issued_at + horizon_seconds].

    `peak[q]` is the quantile q of the largest step mean within the horizon; `path` has one row per key (`mean` and each quantile), each with
    ceil(horizon_seconds ÷ step_seconds) step means, the first of them ending one step after `issued_at`.
    """

    series: SeriesId
    issued_at: float
    step_seconds: Annotated[int, Field(ge=1)]
    horizon_seconds: Annotated[int, Field(ge=1)]
    mean: Load
    peak: Annotated[Mapping[Quantile, Load], Field(min_length=1, max_length=64)]
    path: Annotated[Mapping[str, tuple[Load, ...]], Field(min_length=1, max_length=65)]
    models: Mapping[str, Annotated[float, Field(ge=0.0, le=1.0)]]
    history_seconds: Annotated[float, Field(ge=0.0)]
    trained_at: float | None = None
    on_probation: bool = False
    recent_wape: Annotated[float, Field(ge=0.0)] | None = None
    naive_wape: Annotated[float, Field(ge=0.0)] | None = None
    coverage90: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    sustained: Sustained | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        loads = [load for _, load in sorted(self.peak.items())]
        if any(lower > higher for lower, higher in itertools.pairwise(loads)):
            raise ValueError(f"peak must not fall as the quantile rises, was {dict(sorted(self.peak.items()))}")
        if MEAN not in self.path:
            raise ValueError(f"path must have a row `{MEAN}`, has {sorted(self.path)}")
        for key, row in self.path.items():
            if key != MEAN:
                _read_quantile(key)
            if len(row) != self.steps:
                raise ValueError(f"path row `{key}` must have ceil(horizonSeconds ÷ stepSeconds) = {self.steps} values, had {len(row)}")
        return self

    @property
    def steps(self) -> int:
        """How many steps the path has: ceil(horizon_seconds ÷ step_seconds)."""
        return math.ceil(self.horizon_seconds / self.step_seconds)

    @property
    def ends_at(self) -> float:
        """The instant up to which the forecast speaks."""
        return self.issued_at + self.horizon_seconds

    def quantile(self, q: float) -> float:
        """The load the peak stays at or below with probability q, in units of work per second.

        Between two issued quantiles the answer is interpolated along the normal score of q, which keeps a tail a tail.
        Outside them nothing is known: UnknownQuantileError (a ValueError) names the allowed range.
        """
        known = sorted(self.peak)
        if not known[0] <= q <= known[-1]:
            raise UnknownQuantileError(f"quantile must be between {known[0]:g} and {known[-1]:g} (as issued), was {q:g}")
        at = bisect_left(known, q)
        if known[at] == q:
            return self.peak[known[at]]
        below, above = known[at - 1], known[at]
        score = NormalDist().inv_cdf
        share = (score(q) - score(below)) / (score(above) - score(below))
        return self.peak[below] + share * (self.peak[above] - self.peak[below])

    def path_of(self, key: float | str = MEAN) -> tuple[float, ...]:
        """The step means along the horizon: of the mean, or of one of the issued quantiles (UnknownQuantileError otherwise)."""
        name = key if isinstance(key, str) else quantile_key(key)
        if name not in self.path:
            raise UnknownQuantileError(f"path has the rows {sorted(self.path)}, was asked for {name}")
        return self.path[name]


def _read_quantile(key: str) -> float:
    try:
        return _inside_unit_interval(float(key))
    except ValueError:
        raise ValueError(f"a path row must be called `{MEAN}` or a quantile above 0 and below 1, was called {key[:40]!r}") from None
