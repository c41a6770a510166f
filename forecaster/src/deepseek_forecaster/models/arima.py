"""ARIMA on the logarithm of the load, around the daily and weekly waves where the history is long enough to show them.

The waves (Fourier terms) are removed by least squares, the rest is an ARIMA process fitted on its most recent part. Answers come from filtering
the newest values through the fitted model, never from a refit: the same pass gives the forecast after every one of its steps.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from statsmodels.tsa.statespace.sarimax import SARIMAX  # type: ignore[import-untyped]

from .expert import Floats, History, Ints, NotEnoughHistoryError, State
from .statespace import paths

ORDER = (2, 1, 2)
FITTED_STEPS = 3_000
"""The likelihood is taken over this many of the newest steps: about 4 s on one core, and its parameters do not get better with more."""
WARM_STEPS = 300
"""The filter forgets where it started well within this many steps."""
DAY_WAVES = 6
WEEK_WAVES = 3


class Arima:
    """ARIMA(2,1,2) of log(load + floor), with six waves a day from two days of history on and three a week from fourteen."""

    name = "arima"

    def __init__(self) -> None:
        self.parameters: Floats = np.zeros(0)
        self.waves: Floats = np.zeros(0)
        self.week_waves = 0
        self.floor = 1e-9

    def minimum_history(self, day: float, steps: int) -> int:
        """Sixty steps."""
        return 60

    def fit(self, history: History, steps: int) -> None:
        """Least squares for the waves, then maximum likelihood for the rest; NotEnoughHistoryError below 60 known steps."""
        logs = np.log(history.values + history.floor)
        known = np.isfinite(logs)
        if known.sum() < self.minimum_history(history.day, steps):
            raise NotEnoughHistoryError(f"arima needs at least {self.minimum_history(history.day, steps)} known steps, had {known.sum()}")
        self.floor = history.floor
        days = known.sum() / history.day
        self.week_waves = WEEK_WAVES if days >= 14 else 0
        self.waves = np.zeros(0)
        if days >= 2:
            columns = self._columns(history, np.arange(len(logs)))
            columns = np.column_stack([columns, np.ones(len(logs))])
            # a little ridge keeps a wave that the gaps hide from growing without bound
            square = columns[known].T @ columns[known] + 1e-3 * np.eye(columns.shape[1])
            self.waves = np.asarray(np.linalg.solve(square, columns[known].T @ logs[known])[:-1], dtype=np.float64)
        rest = self._rest(history, 0, len(history))[-FITTED_STEPS:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.parameters = np.asarray(self._model(rest).fit(disp=False, maxiter=40, cov_type="none").params, dtype=np.float64)
        if not np.all(np.isfinite(self.parameters)):
            raise NotEnoughHistoryError("arima found no finite parameters in this history")

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The conditional mean of the logarithm after each origin, brought back to loads; shape (origins, steps)."""
        start = max(0, int(origins.min()) + 1 - WARM_STEPS)
        rest = self._rest(history, start, int(origins.max()) + 1)
        if not np.isfinite(rest).any():
            return np.full((len(origins), steps), np.nan)
        path = paths(self._model(rest), self.parameters, origins - start, steps)
        if len(self.waves):
            ahead = origins[:, None] + np.arange(1, steps + 1)[None, :]
            path += (self._columns(history, ahead.ravel()) @ self.waves).reshape(path.shape)
        return np.asarray(np.maximum(np.exp(np.clip(path, -50.0, 50.0)) - self.floor, 0.0))

    def state(self) -> State:
        """Parameters, waves and floor."""
        return {"parameters": self.parameters, "waves": self.waves, "shape": np.array([self.floor, self.week_waves])}

    def restore(self, state: State) -> None:
        """Take over parameters, waves and floor; ValueError when they are not of ARIMA(2,1,2) with the waves of this version."""
        try:
            parameters, waves, (floor, week_waves) = state["parameters"], state["waves"], state["shape"]
        except (KeyError, ValueError) as error:
            raise ValueError(f"arima needs the arrays parameters, waves and shape, had {sorted(state)}") from error
        wanted, with_waves = ORDER[0] + ORDER[2] + 1, 2 * (DAY_WAVES + int(week_waves))
        if parameters.shape != (wanted,) or waves.shape not in ((0,), (with_waves,)):
            raise ValueError(f"arima needs {wanted} parameters and 0 or {with_waves} waves, had {parameters.shape} and {waves.shape}")
        self.parameters, self.waves, self.floor, self.week_waves = parameters, waves, float(floor), int(week_waves)

    def _model(self, rest: Floats) -> Any:
        return SARIMAX(rest, order=ORDER, enforce_stationarity=True, enforce_invertibility=True)

    def _rest(self, history: History, start: int, end: int) -> Floats:
        """What the waves leave of the logarithm, at positions start … end − 1; NaN in gaps, which the filter steps over."""
        logs = np.log(history.values[start:end] + self.floor)
        if len(self.waves):
            logs = logs - self._columns(history, np.arange(start, end)) @ self.waves
        return np.asarray(logs)

    def _columns(self, history: History, positions: Ints) -> Floats:
        """Sine and cosine of each wave at the positions: shape (positions, 2 × waves)."""
        turns = (history.first + positions) / history.day
        speeds = np.concatenate((np.arange(1, DAY_WAVES + 1), np.arange(1, self.week_waves + 1) / 7.0))
        angles: Floats = 2 * np.pi * np.mod(turns[:, None] * speeds[None, :], 1.0)
        return np.concatenate((np.sin(angles), np.cos(angles)), axis=1)
