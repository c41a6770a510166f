"""What is asked of the forecaster, and what of its answer may be acted on. Live and in replay alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from deepseek_forecaster.types import MAX_STEPS, Forecast
from deepseek_operator.api.v1alpha1 import ScalingSpec
from deepseek_operator.core import risk
from deepseek_operator.core.types import PeakForecast

LONGEST_HORIZON_SECONDS = 86_400
"""A node that waited longer than a day for a machine says nothing about the next one, and a forecast has only so many steps."""


QUANTILES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""What is always asked for: the decision weighs how likely each node is needed (`core.risk`), and that is read off these."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a policy wants foreseen: how far ahead, at which percentile of the peak, and until when a node asked for now can be there.

    `cold_start_seconds` is how long that takes; None while it was never measured: then the whole horizon is provided for. Work may wait for
    `slack_seconds`, so a minute's peak has not to be carried in full: 60 s of 1.16 times what the nodes can do make nobody wait for 10 s.
    """

    horizon_seconds: float
    percentile: int
    cold_start_seconds: float | None = None
    lead_seconds: float | None = None
    slack_seconds: int = 0
    quantile: float = 0.0
    """What is provided for, where it is finer than the percentile; 0: the percentile says it."""

    @classmethod
    def of(
        cls, scaling: ScalingSpec, node_capacity: float | None, cold_start_p90: float | None, tick_seconds: float, step_seconds: int
    ) -> Question:
        """What `scaling` asks for, further ahead where the measured cold start is longer; `node_capacity` is requests per second of a node."""
        longest = min(LONGEST_HORIZON_SECONDS, MAX_STEPS * step_seconds)
        asked_for, slack = scaling.forecast.horizon_seconds, scaling.late_after_seconds
        quantile = risk.quantile(scaling, node_capacity)
        at = risk.percent(quantile)
        if cold_start_p90 is None:
            horizon = min(asked_for, longest)
            return cls(horizon, at, None, horizon, slack, quantile)
        # Asked for at the next tick and there a cold start later; what is read then is as old as a step.
        lead = min(cold_start_p90 + tick_seconds + step_seconds, longest)
        return cls(min(max(asked_for, lead), longest), at, cold_start_p90, lead, slack, quantile)

    @property
    def whole_seconds(self) -> int:
        """The horizon to ask for."""
        return math.ceil(self.horizon_seconds)

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The quantiles to ask for."""
        return tuple(sorted({*QUANTILES, self.percentile / 100}))

    @property
    def whole_lead_seconds(self) -> int:
        """The lead to ask for."""
        return math.ceil(self.horizon_seconds if self.lead_seconds is None else self.lead_seconds)

    def read(self, forecast: Forecast, now: float, step_seconds: int) -> PeakForecast | str:
        """What of the answer the decision looks at, or a sentence that says why it may not be acted on."""
        problem = usable(forecast, now, self.horizon_seconds, step_seconds, self.percentile)
        return problem or replace(peak_of(forecast, self.percentile, self.cold_start_seconds), quantile=self.quantile)


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


def peak_of(forecast: Forecast, percentile: int, cold_start_seconds: float | None = None) -> PeakForecast:
    """The figures of a usable forecast that the decision looks at.

    `cold_start_seconds` is how long a node asked for now takes; None: what comes before it is there counts as what comes later.
    """
    sustained = forecast.sustained
    # Without the load that has to be carried until then, the peak over the whole horizon stands for it: never less.
    carried = forecast.peak if sustained is None else sustained.load
    lead = forecast.horizon_seconds if sustained is None else sustained.lead_seconds
    return PeakForecast(
        forecast.quantile(percentile / 100),
        forecast.mean,
        percentile,
        forecast.horizon_seconds,
        forecast.issued_at,
        loads=tuple((q, load) for q, load in sorted(carried.items()) if q >= 0.5),
        later=1.0 if cold_start_seconds is None else _later(forecast, lead, cold_start_seconds),
        lead_seconds=lead,
        slack_seconds=0.0 if sustained is None else sustained.slack_seconds,
    )


def _later(forecast: Forecast, lead_seconds: float, cold_start_seconds: float) -> float:
    """Of the highest expected step within the lead, the share that the highest one after the cold start has: 1 while the load rises."""
    steps = forecast.path_of()[: max(1, math.ceil(lead_seconds / forecast.step_seconds))]
    after = steps[min(int(cold_start_seconds // forecast.step_seconds), len(steps) - 1) :]
    return max(after) / max(steps) if max(steps) > 0 else 1.0
