"""Exponential smoothing: the level follows the load, and a trend, where there is one, dies away along the horizon.

The constants are fixed, so both speak from the second sample on; with a slow and a quick one the ensemble finds how noisy the load is.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter  # type: ignore[import-untyped]

from .expert import Floats, History, Ints, Untrained

MEMORY_WINDOWS = 2.0
"""Simple smoothing: a step of twenty minutes ago counts half."""
QUICK_MEMORY_WINDOWS = 0.5
TREND_SHARE = 0.1
"""The trend follows a tenth as fast as the level."""
DAMPING_WINDOWS = 3.0
"""The trend is worth half after half an hour."""
SHORTEST_MEMORY_STEPS = 0.2
FORGOTTEN = 7.0
"""The pass over the past begins where a step counts less than e⁻⁷, a thousandth, in level and trend."""


class _Smoothing(Untrained):
    """Smoothing of √(load + floor) in its error-correction form (Hyndman & Athanasopoulos, FPP3, chapter 8).

    The root evens out the noise of counts and, unlike the logarithm, lets a few empty seconds weigh little more than their share.
    """

    name: str
    memory_windows: float
    trend_share: float

    def minimum_history(self, day: float, steps: int) -> int:
        """Two steps: with one it is the last value."""
        return 2

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """Level and dying trend after each origin; shape (origins, steps)."""
        level_gain = 1.0 - 0.5 ** (1.0 / max(SHORTEST_MEMORY_STEPS, self.memory_windows * history.window))
        damping = 0.5 ** (1.0 / (DAMPING_WINDOWS * history.window))
        start = max(0, int(origins.min()) - round(2.0 * FORGOTTEN * (1.0 / level_gain + 1.0 / (1.0 - damping))))
        roots = np.sqrt(np.maximum(history.filled[start : int(origins.max()) + 1], 0.0) + history.floor)
        level, trend = smoothed(roots, level_gain, self.trend_share * level_gain, damping)
        at = origins - start
        # damping + damping² + … up to each step
        along = np.cumsum(damping ** np.arange(1, steps + 1))
        path = level[at, None] + trend[at, None] * along[None, :]
        return np.asarray(np.maximum(np.square(np.maximum(path, 0.0)) - history.floor, 0.0))


class Ses(_Smoothing):
    """Simple exponential smoothing that remembers twenty minutes."""

    name = "ses"
    memory_windows = MEMORY_WINDOWS
    trend_share = 0.0


class Holt(_Smoothing):
    """Holt's damped trend on a level that remembers five minutes."""

    name = "holt"
    memory_windows = QUICK_MEMORY_WINDOWS
    trend_share = TREND_SHARE


def smoothed(loads: Floats, level_gain: float, trend_gain: float, damping: float) -> tuple[Floats, Floats]:
    """Level and trend after each step, starting at the first value without a trend.

    level += damping·trend + level_gain·error and trend = damping·trend + trend_gain·error make error a linear filter of the input:
    (1 − z⁻¹)(1 − damping z⁻¹) ÷ (1 + (level_gain + damping·trend_gain − damping − 1) z⁻¹ + damping (1 − level_gain) z⁻²).
    """
    moved = loads - loads[0]
    feedback = [1.0, level_gain + damping * trend_gain - damping - 1.0, damping * (1.0 - level_gain)]
    error = lfilter([1.0, -1.0 - damping, damping], feedback, moved)
    trend = lfilter([trend_gain], [1.0, -damping], error)
    # the level is what was expected of the step and the gain's share of the error: the step less the rest of the error
    level = loads - (1.0 - level_gain) * error
    return np.asarray(level, dtype=np.float64), np.asarray(trend, dtype=np.float64)
