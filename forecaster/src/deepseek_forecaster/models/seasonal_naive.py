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
        moves = np.stack(
            [
                np.where(here >= lag + window, history.smooth[np.maximum(ahead - lag, 0)] - history.level[np.maximum(here - lag, 0)], np.nan)
                for lag in lags
            ]
        )
        known = np.isfinite(moves)
        count = known.sum(axis=0)
        move = np.where(known, moves, 0.0).sum(axis=0) / np.maximum(count, 1)
        # steps that no day knows move as the others did on average; with fewer than half of the steps known there is no opinion
        seen = count > 0
        average = move.sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
        move = np.clip(np.where(seen, move, average[:, None]), -3.0, 3.0)
        path = np.maximum(np.exp(history.level[origins][:, None] + move) - history.floor, 0.0)
        return np.asarray(np.where(2 * seen.sum(axis=1, keepdims=True) >= steps, path, np.nan))
