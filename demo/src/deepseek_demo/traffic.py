"""Request counts over time: read from a CSV, or made by a generator with the traits of real traffic.

The CSV has the columns `t_min` (minutes since its start, increasing) and `count` (requests in the step; empty = unknown).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepseek_forecaster.trace import TraceError
from deepseek_forecaster.trace import read_trace as read_counts

__all__ = ["MINUTES_PER_DAY", "Trace", "TraceError", "generate", "read_trace"]

Floats = NDArray[np.float64]

MINUTES_PER_DAY = 1440


@dataclass(frozen=True)
class Trace:
    """Requests per step; unknown steps are NaN."""

    name: str
    step_minutes: float
    counts: Floats  # shape (steps,)

    @property
    def minutes(self) -> float:
        """How long the trace is."""
        return len(self.counts) * self.step_minutes

    def requests_per_minute(self, minutes_per_step: float) -> Floats:
        """The mean rate in consecutive steps of `minutes_per_step`, shape (floor(minutes / minutes_per_step),).

        Shorter steps repeat the rate of the step they lie in (nothing is interpolated: a curve would know the next count);
        longer steps are the mean over the minutes that are known, NaN where none is.
        """
        steps = math.floor(self.minutes / minutes_per_step + 1e-9)
        edges = np.minimum(np.arange(steps + 1) * minutes_per_step / self.step_minutes, len(self.counts))
        known = ~np.isnan(self.counts)
        requests = _integral(np.where(known, self.counts, 0.0), edges)
        minutes_known = _integral(known.astype(np.float64) * self.step_minutes, edges)
        unknown = minutes_known <= 1e-9
        return np.where(unknown, np.nan, requests / np.where(unknown, 1.0, minutes_known))


def _integral(values: Floats, edges: Floats) -> Floats:
    """The integral of a step function between consecutive edges, which are given in steps: shape (len(edges) - 1,)."""
    cumulative = np.concatenate(([0.0], np.cumsum(values)))
    return np.diff(np.interp(edges, np.arange(len(cumulative)), cumulative))


def read_trace(path: Path) -> Trace:
    """Read a trace from a CSV, as the backtest and the replay do. TraceError names line, column and what is expected."""
    recorded = read_counts(path)
    counts = np.array([np.nan if count is None else count for count in recorded.counts])
    return Trace(recorded.name, recorded.step_seconds / 60, counts)


def generate(days: int = 12, seed: int = 7, mean_per_minute: float = 1500.0) -> Trace:
    """Traffic per minute with the traits of real services: a day with a morning and an evening hump, quieter weekends, a level that
    drifts, bursts that come at random and fade, and noise that is partly carried from minute to minute."""
    random = np.random.default_rng(seed)
    minutes = days * MINUTES_PER_DAY
    hour = (np.arange(minutes) / 60.0) % 24.0
    day = np.arange(minutes) // MINUTES_PER_DAY
    # Two humps, at 10:30 and 19:30, over a night that is about an eighth of the peak.
    daily = 0.13 + 0.8 * _hump(hour, 10.5, 2.6) + 0.95 * _hump(hour, 19.5, 3.0)
    weekly = np.where(day % 7 >= 5, 0.8, 1.0)
    each_day = np.exp(random.normal(0.0, 0.06, days))[day]
    drift = np.exp(np.cumsum(random.normal(0.0, 0.12 / math.sqrt(MINUTES_PER_DAY), minutes)))
    carried = np.zeros(minutes)
    shocks = random.normal(0.0, 0.012, minutes)
    for minute in range(1, minutes):
        carried[minute] = 0.97 * carried[minute - 1] + shocks[minute]
    bursts = np.zeros(minutes)
    for start in np.flatnonzero(random.random(minutes) < 2.0 / MINUTES_PER_DAY):  # two a day on average
        length = min(minutes - int(start), 60)
        bursts[start : start + length] += random.exponential(0.25) * np.exp(-np.arange(length) / 12.0)
    rate = daily * weekly * each_day * drift * np.exp(carried) * (1.0 + bursts)
    rate *= mean_per_minute / rate.mean()
    # Real counts scatter more than Poisson's: a gamma-mixed Poisson with a variance of four times the mean.
    counts = random.poisson(random.gamma(rate / 3.0, 3.0))
    return Trace(f"generated-{days}d-seed{seed}", 1.0, counts.astype(np.float64))


def _hump(hour: Floats, centre: float, width: float) -> Floats:
    distance = np.abs(hour - centre)
    return np.asarray(np.exp(-0.5 * (np.minimum(distance, 24.0 - distance) / width) ** 2))
