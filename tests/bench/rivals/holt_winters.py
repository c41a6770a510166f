"""predictive-horizontal-pod-autoscaler (PHPA) by formula: Holt-Winters on an HPA's replica counts, the higher of both.

Its own code calls the HPA's replica calculator and statsmodels' ExponentialSmoothing (additive) with the smoothing given by the user. Here the
same recursion runs on, step by step, instead of being started anew on four stored seasons each time; a test holds it against statsmodels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from bench.loads import Load
from bench.rivals.seen import load as load_of

from deepseek_operator.replay import Observation

TICK_SECONDS = 15.0
MODEL_EVERY_TICKS = 20
"""perInterval: the model is recalculated every five minutes."""

SEASON = 288
"""seasonalPeriods: a day of five minutes."""

STORED_SEASONS = 4
ALPHA, BETA, GAMMA = 0.3, 0.01, 0.3
"""PHPA has no default smoothing; the 0.9 of its examples overshoots to the maximum on a daily cycle."""

TOLERANCE = 0.1
DOWNSCALE_STABILIZATION_SECONDS = 300.0


class Begin(NamedTuple):
    """Where the recursion starts."""

    level: float
    trend: float
    seasonal: tuple[float, ...]


class HoltWinters:
    """Additive triple exponential smoothing, started from the first seasons of a series as the textbook does."""

    def __init__(self, series: Sequence[float], season: int, alpha: float, beta: float, gamma: float) -> None:
        """Raises ValueError for less than two seasons."""
        if len(series) < 2 * season:
            raise ValueError(f"series must hold two seasons ({2 * season} values), had {len(series)}")
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        begun = self.begun(series, season)
        self._level, self._trend, self._seasonal, self._at = begun.level, begun.trend, list(begun.seasonal), 1
        for value in series[1:]:
            self.observe(value)

    @staticmethod
    def begun(series: Sequence[float], season: int) -> Begin:
        """The state after the first value: its own level, the mean rise from one season to the next, and each place's distance to the mean."""
        seasons = len(series) // season
        means = [sum(series[k * season : (k + 1) * season]) / season for k in range(seasons)]
        seasonal = tuple(sum(series[k * season + i] - means[k] for k in range(seasons)) / seasons for i in range(season))
        return Begin(series[0], sum((series[season + i] - series[i]) / season for i in range(season)) / season, seasonal)

    def forecast(self, ahead: int = 1) -> float:
        """The value so many steps after the last one observed."""
        return self._level + ahead * self._trend + self._seasonal[(self._at + ahead - 1) % len(self._seasonal)]

    def observe(self, value: float) -> None:
        """Take the next value in."""
        place = self._at % len(self._seasonal)
        before = self._level + self._trend
        level = self.alpha * (value - self._seasonal[place]) + (1 - self.alpha) * before
        self._trend = self.beta * (level - self._level) + (1 - self.beta) * self._trend
        self._seasonal[place] = self.gamma * (value - before) + (1 - self.gamma) * self._seasonal[place]
        self._level, self._at = level, self._at + 1


class Phpa:
    """The HPA's formula and, above it, Holt-Winters on the counts it gave; a release waits for the highest count of five minutes."""

    def __init__(self, target: float, load: Load) -> None:
        self._target, self._capacity = target, load.capacity
        self._ticks, self._predicted = 0, 0
        self._recent: deque[tuple[float, int]] = deque()
        counts = self._of_history(load)
        self._model = HoltWinters(counts, SEASON, ALPHA, BETA, GAMMA) if len(counts) >= 2 * SEASON else None

    def _of_history(self, load: Load) -> list[float]:
        """What the HPA would have held every five minutes of the stored seasons before the test."""
        minutes = SEASON * STORED_SEASONS * 5
        first = max(0, load.start - minutes)
        known = [rate for rate in load.seen[first : load.start : 5] if rate is not None]
        return [float(max(1, math.ceil(rate / (self._target * self._capacity)))) for rate in known]

    def __call__(self, now: float, seen: Observation) -> int:
        demand = load_of(seen, self._capacity)
        if demand is None:
            return seen.asked
        wanted = replicas(demand, seen.asked, self._target)
        if self._model is not None and self._ticks % MODEL_EVERY_TICKS == 0:
            self._model.observe(float(wanted))
            self._predicted = math.ceil(self._model.forecast())
        self._ticks += 1
        wanted = max(wanted, self._predicted)
        self._recent.append((now, wanted))
        while self._recent[0][0] < now - DOWNSCALE_STABILIZATION_SECONDS:
            self._recent.popleft()
        return max(nodes for _, nodes in self._recent) if wanted < seen.asked else wanted

    def close(self) -> None:
        """Nothing to end."""


def replicas(demand: float, current: int, target: float) -> int:
    """The HPA's documented formula, ceil(current × metric ÷ target), unless the ratio is within a tenth of 1; `demand` in node capacities."""
    ratio = demand / (current * target)
    return current if abs(ratio - 1) <= TOLERANCE else max(1, math.ceil(current * ratio - 1e-9))
