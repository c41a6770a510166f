"""Yesterday's shape at today's level: the load moves from here as it moved from here on the days before."""

from __future__ import annotations

import numpy as np

from .expert import Floats, History, Ints, Untrained

DAYS_BACK = (1, 2, 3, 7)


class SeasonalNaive(Untrained):
    """The present ten-minute level, moved as the load moved (mean of logarithms) after the same time of day 1, 2, 3 and 7 days ago."""

    name = "seasonal_naive"

    def minimum_history(self, day: float, steps: int) -> int:
        """One day and the horizon."""
        return round(day) + steps

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The present level times yesterday's relative movement; a row is NaN within the first day. Shape (origins, steps)."""
        window = history.window
        lags = [round(days * history.day) for days in DAYS_BACK]
        # the smoothed past must end before the origin: a lag serves only if the horizon and half a window fit into it
        lags = [lag for lag in lags if steps + window <= lag]
        if not lags:
            return np.full((len(origins), steps), np.nan)
        ahead = origins[:, None] + np.arange(1, steps + 1)[None, :]
        here = origins[:, None]
        moves = np.stack([np.where(here >= lag + window, history.smooth[ahead - lag] - history.level[here - lag], np.nan) for lag in lags])
        known = np.isfinite(moves)
        count = known.sum(axis=0)
        move = np.where(known, moves, 0.0).sum(axis=0) / np.maximum(count, 1)
        path = np.exp(history.level[origins][:, None] + np.clip(move, -3.0, 3.0)) - history.floor
        return np.asarray(np.where(count > 0, np.maximum(path, 0.0), np.nan))
