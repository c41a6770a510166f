"""Whether the forecasts keep their word: each is held against the demand that came, by the operator itself.

The forecaster keeps a record of its own and puts itself on probation, after hours. A wrong unit, another series, or a forecaster whose record
is wrong with the rest would not be found there. Two faults count, both far from what a calibrated forecast does:

- **too low**: 7 % more came in a minute than the highest one that can hide in the load which is passed with 5 %. Work may wait for
  `slack_seconds`, so a minute of r asks for r × 60 ÷ (60 + slack): with 10 s the limit is 1.25 times the load. On three traces true
  forecasts are passed in 0 to 3 of a hundred, in the worst hour in 14; three times too low in 90 to 100, twice too low in 75 to 100.
- **too high**: it asked for more nodes than what came needed, and not half of its median came. True: 0 to 1 of a hundred, in the worst
  hour 16; three times too high 82 to 100.

While they run too low a release waits as long as it would without a forecast; they may still add nodes, so that is hardly later than mode
Reactive. While they run too high they are not followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from deepseek_operator.core.capacity import nodes_for

if TYPE_CHECKING:
    from deepseek_operator.core.types import PeakForecast, Situation

REMEMBERED = 60
"""Forecasts that a verdict rests on, the latest weighing most: an hour of them where there is one each minute."""

BENEFIT_OF_DOUBT = 20
"""Good forecasts that every record begins with: a forecaster is not judged by its first ten minutes, in which the load may well jump."""

TOO_LOW_LOST, TOO_LOW_REGAINED = 0.3, 0.15
TOO_HIGH_LOST, TOO_HIGH_REGAINED = 0.5, 0.25
"""The share of broken promises above which trust is lost, and below which it is there again. Not to trust forecasts that run too low costs some
node-hours, to follow none some lateness: so it takes more."""

OPEN = 10
"""Promises that are open at once: with a longer lead they are taken further apart."""

HELD_AT = 0.95
TOO_LOW_ABOVE = 1.07
MEASURED_SECONDS = 60.0
"""The window over which demand is measured."""
TOO_HIGH_BELOW = 0.5


class Promise(NamedTuple):
    """One forecast until its lead is over. Loads are requests per second: the median, more than should come, and the highest that came."""

    until: float
    middle: float
    high: float
    came: float


@dataclass(frozen=True, slots=True)
class Trust:
    """The record of the forecasts: weighted counts of those judged, and of those that were too low and too high."""

    judged: float = BENEFIT_OF_DOUBT
    low: float = 0.0
    high: float = 0.0
    lost_low: bool = False
    lost_high: bool = False
    open: tuple[Promise, ...] = ()
    taken_at: float = -math.inf
    """When the last promise was taken."""
    taken: float = math.nan
    """When the forecast that was taken last had been issued."""

    @property
    def too_low(self) -> str:
        """What is wrong, in words, while forecasts run too low; else empty."""
        share = f"in {100 * self.low / self.judged:.0f} % of the last {self.judged:.0f} forecasts"
        return f"the forecasts run too low: what they give 5 % was passed by a quarter {share}" if self.lost_low else ""

    @property
    def too_high(self) -> str:
        """What is wrong, in words, while forecasts run too high; else empty."""
        share = f"in {100 * self.high / self.judged:.0f} % of the last {self.judged:.0f} forecasts"
        return f"the forecasts run too high: not half of the load they expect came {share}" if self.lost_high else ""

    def _keeping(self, promises: tuple[Promise, ...], taken_at: float, taken: float) -> Trust:
        """The same record with these promises open."""
        return Trust(self.judged, self.low, self.high, self.lost_low, self.lost_high, promises, taken_at, taken)

    def _with(self, low: float, high: float) -> Trust:
        """One promise more is judged."""
        kept = math.exp(-1.0 / REMEMBERED)
        judged, lows, highs = self.judged * kept + 1.0, self.low * kept + low, self.high * kept + high
        lost_low = lows > (TOO_LOW_REGAINED if self.lost_low else TOO_LOW_LOST) * judged
        lost_high = highs > (TOO_HIGH_REGAINED if self.lost_high else TOO_HIGH_LOST) * judged
        return Trust(judged, lows, highs, lost_low, lost_high, self.open, self.taken_at, self.taken)


def judged(trust: Trust, s: Situation) -> Trust:
    """The record after this moment: open promises meet the present demand, and the forecast of this moment is a new one."""
    if s.demand is None or not s.demand.complete:
        return trust._keeping((), trust.taken_at, trust.taken) if trust.open else trust  # what came is not known
    came = s.demand.rate if s.demand.arrivals is None else s.demand.arrivals
    if trust.open:
        trust = _held(trust, s, came)
    forecast = s.forecast
    if forecast is None or forecast.issued_at == trust.taken:
        return trust
    lead = forecast.lead_seconds or forecast.horizon_seconds
    if s.now - trust.taken_at < lead / OPEN:
        return trust
    most = TOO_LOW_ABOVE * (1.0 + forecast.slack_seconds / MEASURED_SECONDS) * _at(forecast, HELD_AT)
    promise = Promise(s.now + lead, forecast.middle if forecast.loads else 0.0, most, 0.0)
    return trust._keeping((*trust.open, promise), s.now, forecast.issued_at)


def _held(trust: Trust, s: Situation, came: float) -> Trust:
    """Every open promise that is broken by now, or whose time is over, is judged."""
    still: list[Promise] = []
    closed: list[tuple[bool, bool]] = []
    for until, middle, high, before in trust.open:
        highest = came if came > before else before
        if highest > high:
            closed.append((True, False))
        elif s.now >= until:
            closed.append((False, highest < TOO_HIGH_BELOW * middle and _dear(middle, highest, s)))
        else:
            still.append(Promise(until, middle, high, highest))
    for low, too_high in closed:
        trust = trust._with(float(low), float(too_high))
    return trust._keeping(tuple(still), trust.taken_at, trust.taken)


def _dear(middle: float, highest: float, s: Situation) -> bool:
    """Whether the difference is one of nodes: of a load that one node carries, half or twice makes none."""
    if s.node_capacity is None:
        return False
    percent, least = s.policy.scale_up_percent, max(1, s.policy.min_nodes)
    return nodes_for(middle, s.node_capacity, percent) > max(least, nodes_for(highest, s.node_capacity, percent))


def _at(forecast: PeakForecast, quantile: float) -> float:
    """The load at a quantile, between the quantiles there are; the peak where no load was issued."""
    below = None
    for q, load in forecast.loads:
        if q >= quantile:
            return load if below is None or q == quantile else below[1] + (load - below[1]) * (quantile - below[0]) / (q - below[0])
        below = q, load
    return forecast.peak if below is None else below[1]
