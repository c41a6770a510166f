"""Unobserved components: a level that wanders, a deviation that dies away, and a day whose shape may change, in the logarithm of the load.

Unlike the fixed waves around which ARIMA is fitted, the day's waves are states of the model: they follow the traffic (Harvey 1989; Durbin and
Koopman 2012, section 3.2). That takes two days of filtering before each answer, so it speaks only where it is named.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from statsmodels.tsa.statespace.structural import UnobservedComponents  # type: ignore[import-untyped]

from .expert import Floats, History, Ints, NotEnoughHistoryError, State
from .statespace import paths

FITTED_STEPS = 3_000
"""The likelihood is taken over this many of the newest steps."""
WARM_STEPS = 300
WARM_DAYS = 2.0
"""The waves are known two days after the filter started."""
HARMONICS = 3
LEAST_DAYS = 2.0
"""Within the fitted steps, for a day's waves to be seen."""
ROUNDS = 50
LEAST_KNOWN = 60


class Ucm:
    """UCM: 2 to 10 s to fit on one core, 20 to 200 ms to answer."""

    name = "ucm"

    def __init__(self) -> None:
        self.parameters: Floats = np.zeros(0)
        self.day = 0.0
        self.floor = 1e-9

    def minimum_history(self, day: float, steps: int) -> int:
        """Sixty steps."""
        return LEAST_KNOWN

    def fit(self, history: History, steps: int) -> None:
        """Maximum likelihood over the newest part; NotEnoughHistoryError below 60 known steps, or where no finite parameters are found."""
        logs = np.log(history.values + history.floor)[-FITTED_STEPS:]
        known = int(np.isfinite(logs).sum())
        if known < LEAST_KNOWN:
            raise NotEnoughHistoryError(f"ucm needs at least {LEAST_KNOWN} known steps, had {known}")
        self.floor = history.floor
        self.day = history.day if known >= LEAST_DAYS * history.day and history.day > 2 * HARMONICS else 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._model(logs).fit(disp=False, maxiter=ROUNDS, cov_type="none").params
        self.parameters = np.asarray(found, dtype=np.float64)
        if not np.all(np.isfinite(self.parameters)):
            raise NotEnoughHistoryError("ucm found no finite parameters in this history")

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The expected logarithm after each origin, brought back to loads; shape (origins, steps)."""
        if not len(self.parameters):
            raise ValueError("ucm must be fitted or restored before it is asked")
        warm = max(WARM_STEPS, round(WARM_DAYS * self.day))
        start = max(0, int(origins.min()) + 1 - warm)
        logs = np.log(history.values[start : int(origins.max()) + 1] + self.floor)
        if not np.isfinite(logs).any():
            return np.full((len(origins), steps), np.nan)
        path = paths(self._model(logs), self.parameters, origins - start, steps)
        return np.asarray(np.maximum(np.exp(np.clip(path, -50.0, 50.0)) - self.floor, 0.0))

    def state(self) -> State:
        """Parameters, floor and the day's length (0: without its waves)."""
        return {"parameters": self.parameters, "shape": np.array([self.floor, self.day])}

    def restore(self, state: State) -> None:
        """Take them over; ValueError when they are not of this model."""
        try:
            parameters, (floor, day) = state["parameters"], state["shape"]
        except (KeyError, ValueError) as error:
            raise ValueError(f"ucm needs the arrays parameters and shape, had {sorted(state)}") from error
        wanted = 4 + (day > 0)
        if parameters.shape != (wanted,):
            raise ValueError(f"ucm needs {wanted} parameters, had {parameters.shape}")
        self.parameters, self.floor, self.day = parameters, float(floor), float(day)

    def _model(self, logs: Floats) -> Any:
        waves = [{"period": self.day, "harmonics": HARMONICS}] if self.day else None
        return UnobservedComponents(logs, level="local level", autoregressive=1, freq_seasonal=waves)
