"""The blocks a backtest forecasts: the last part of a trace, cut at every horizon boundary, and what came in each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deepseek_forecaster.models.expert import Bools, Floats, Ints
from deepseek_forecaster.trace import Trace

TESTED_SHARE = 0.3
"""The last 30 % of a trace are forecast; nothing was chosen by them."""


class TooShortError(ValueError):
    """The trace leaves nothing to forecast; the text says how long it must be."""


@dataclass(frozen=True)
class Blocks:
    """A trace as loads per second, and its horizon boundaries.

    The forecast at origin i (a number of steps) knows `loads[:i]` and speaks of `loads[i : i + steps]`.
    """

    name: str
    loads: Floats
    step_seconds: int
    steps: int
    start: int

    @property
    def horizon_seconds(self) -> int:
        """The horizon in whole steps."""
        return self.steps * self.step_seconds

    @property
    def seconds(self) -> int:
        """How long the trace is."""
        return len(self.loads) * self.step_seconds

    @property
    def per_day(self) -> float:
        """Blocks in a day."""
        return 86_400 / self.horizon_seconds

    @cached_property
    def origins(self) -> Ints:
        """Every boundary from `start` on after which a whole horizon is recorded: shape (origins,)."""
        return np.arange(self.start, len(self.loads) - self.steps + 1, self.steps, dtype=np.int64)

    def before(self, seconds: float) -> Ints:
        """The boundaries of the last `seconds` before `start`, to warm a yardstick up: shape (origins,)."""
        number = min(self.start // self.steps, math.ceil(seconds / self.horizon_seconds))
        return np.asarray(self.start - self.steps * np.arange(number, 0, -1, dtype=np.int64))

    def came(self, origins: Ints) -> tuple[Floats, Floats]:
        """Mean and peak of the block after each origin, per second; NaN where fewer than half of its steps are known. Shapes (origins,)."""
        at = origins[:, None] + np.arange(self.steps)[None, :]
        inside = (at >= 0) & (at < len(self.loads))
        block = np.where(inside, self.loads[np.clip(at, 0, len(self.loads) - 1)], np.nan)
        known: Bools = np.isfinite(block)
        enough = 2 * known.sum(axis=1) >= self.steps
        mean = np.where(known, block, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        peak = np.where(known, block, 0.0).max(axis=1)
        return np.where(enough, mean, np.nan), np.where(enough, peak, np.nan)


def cut(trace: Trace, horizon_seconds: float, tested_share: float = TESTED_SHARE) -> Blocks:
    """The last `tested_share` of a trace in blocks of the horizon, rounded up to whole steps. TooShortError below one block."""
    steps = max(1, math.ceil(horizon_seconds / trace.step_seconds - 1e-9))
    loads = np.array([np.nan if load is None else load for load in trace.loads()], dtype=np.float64)
    if len(loads) < 2 * steps:
        raise TooShortError(
            f"{trace.name}: a trace must have at least {2 * steps} steps of {trace.step_seconds} s to be forecast"
            f" {steps * trace.step_seconds} s ahead, had {len(loads)}"
        )
    # 0.7 × 2,016 = 1,411.2: in blocks of one step the first is 1,412; at least the last whole block is forecast
    start = min(math.ceil((1.0 - tested_share) * len(loads) / steps - 1e-9), len(loads) // steps - 1) * steps
    return Blocks(trace.name, loads, trace.step_seconds, steps, start)
