"""What is asked of the forecaster, and what of its answer may be acted on. Live and in replay alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepseek_forecaster.types import MAX_STEPS, Forecast
from deepseek_operator.api.v1alpha1 import DEFAULT_PERCENTILE, ForecastSpec
from deepseek_operator.core import coldstart
from deepseek_operator.core.types import PeakForecast

LONGEST_HORIZON_SECONDS = 86_400
"""A node that waited longer than a day for a machine says nothing about the next one, and a forecast has only so many steps."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a policy wants foreseen: how far ahead, and at which percentile of the peak."""

    horizon_seconds: float
    percentile: int

    @classmethod
    def of(
        cls, spec: ForecastSpec, cold_start_p90: float | None, tick_seconds: float, step_seconds: int, percentile: int | None = None
    ) -> Question:
        """What `scaling.forecast` asks for, further ahead where the measured cold start is longer. `percentile` is what `core.risk` makes of
        the whole of `scaling`, where costs may be given instead."""
        needed = coldstart.horizon(spec.horizon_seconds, cold_start_p90, tick_seconds)
        return cls(min(needed, LONGEST_HORIZON_SECONDS, MAX_STEPS * step_seconds), percentile or spec.percentile or DEFAULT_PERCENTILE)

    @property
    def whole_seconds(self) -> int:
        """The horizon to ask for."""
        return math.ceil(self.horizon_seconds)

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The quantiles to ask for: the percentile, and two to show beside it."""
        return tuple(sorted({0.5, 0.95, self.percentile / 100}))


def usable(forecast: Forecast, now: float, horizon_seconds: float, step_seconds: int, percentile: int) -> str:
    """Empty when the forecast may be acted on; otherwise a sentence that says why not."""
    age = now - forecast.issued_at
    # Two steps: one that is being collected, one of delay.
    oldest = max(2 * step_seconds, 30)
    if abs(age) > oldest:
        return f"the forecast is {age:.0f} s old; at most {oldest:.0f} s is used"
    if forecast.horizon_seconds < math.floor(horizon_seconds):
        return f"the forecast looks {forecast.horizon_seconds} s ahead; {horizon_seconds:.0f} s is needed"
    if forecast.on_probation:
        return "the forecaster is on probation: over the last day it did worse than the last value"
    try:
        forecast.quantile(percentile / 100)
    except ValueError as error:
        return str(error)
    return ""


def peak_of(forecast: Forecast, percentile: int) -> PeakForecast:
    """The figures of a usable forecast that the decision looks at."""
    return PeakForecast(forecast.quantile(percentile / 100), forecast.mean, percentile, forecast.horizon_seconds, forecast.issued_at)
