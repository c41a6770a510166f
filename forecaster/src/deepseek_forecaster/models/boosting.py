"""Gradient boosting on the columns of `columns.py`: the horizon's mean and quantiles of its peak, as log-ratios to the present level."""

from __future__ import annotations

from typing import Any

import numpy as np

from .columns import columns
from .expert import PEAK_QUANTILES, Floats, History, Ints, Outlook, State
from .trees import Forest, forest_of
from .windows import SEED, Windows, least_history, ready, windows_of

TREES = 150
LEAVES = 15
LEARNING_RATE = 0.05
LEAST_IN_LEAF = 20
LEAST_IN_TAIL = 60
"""… and for the highest quantile."""
COLUMN_SHARE = 0.6
ROW_SHARE = 0.7
LIMIT = 12.0
"""No answer is further from the present level than e¹²-fold."""


class Boosting:
    """LightGBM trained on absolute error (mean) and pinball loss (peak): 1 to 2 s to fit on one core, under a millisecond to answer."""

    name = "boosting"

    def __init__(self) -> None:
        self.steps = 0
        self.lags: tuple[int, ...] = ()
        self.columns = 0
        self.forest: Forest | None = None

    def minimum_history(self, day: float, steps: int) -> int:
        """An hour, the horizon, and 150 windows."""
        return least_history(day, steps)

    def fit(self, history: History, steps: int) -> None:
        """Train on up to 12,000 windows; the same history gives the same trees. NotEnoughHistoryError below 150 windows."""
        windows = windows_of(history, steps, self.name)
        self.steps, self.columns, self.lags = steps, windows.columns.shape[1], windows.lags
        self.forest = forest_of(_boosters(windows, steps))

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The horizon's mean, repeated: boosting has no opinion on the way there. Shape (origins, steps)."""
        return np.repeat(self.outlook_many(history, origins, steps).mean[:, None], steps, axis=1)

    def outlook_many(self, history: History, origins: Ints, steps: int) -> Outlook:
        """Mean and peak quantiles; a horizon longer than was learned is answered as the longest that was."""
        if self.forest is None:
            raise ValueError("boosting must be fitted or restored before it is asked")
        horizon = np.full(len(origins), min(steps, self.steps))
        seen = columns(history, origins, horizon, self.lags)
        if seen.rows.shape[1] != self.columns:
            raise ValueError(f"boosting was fitted on {self.columns} columns, was asked with {seen.rows.shape[1]}")
        ratios = np.clip(self.forest.predict(seen.rows), -LIMIT, LIMIT)
        level = np.where(ready(history, origins), seen.level, np.nan)
        loads = np.maximum(np.exp(level[:, None] + ratios) - history.floor, 0.0)
        mean, peak = loads[:, 0], loads[:, 1:]
        if self.steps == 1:
            peak = np.insert(peak, PEAK_QUANTILES.index(0.5), mean, axis=1)
        return Outlook(mean=mean, peak=np.sort(peak, axis=1))

    def state(self) -> State:
        """The forest and what it was taught with."""
        if self.forest is None:
            return {}
        return {"taught": np.array([self.steps, self.columns, *self.lags]), **self.forest.state()}

    def restore(self, state: State) -> None:
        """Take a forest over; ValueError when it is not of this expert."""
        if "taught" not in state or len(state["taught"]) < 2:
            raise ValueError(f"boosting needs the arrays taught, and those of a forest, had {sorted(state)}")
        steps, seen, *lags = (int(number) for number in state["taught"])
        forest, answers = Forest.restored(state, seen), len(PEAK_QUANTILES) + (steps > 1)
        if forest.outputs != answers:
            raise ValueError(f"a forest for {steps} steps needs {answers} answers, had {forest.outputs}")
        self.forest = forest
        self.steps, self.columns, self.lags = steps, seen, tuple(lags)


def _boosters(windows: Windows, steps: int) -> list[Any]:
    """One booster for the mean, and one for each quantile of the peak; with a single step the peak's median is the mean's."""
    # LightGBM needs OpenMP's runtime, which slim images lack; torch brings one along that serves once it is loaded
    import torch  # noqa: F401  # isort: skip
    import lightgbm  # isort: skip

    data = lightgbm.Dataset(windows.columns, windows.mean, weight=windows.load, free_raw_data=False, params={"verbosity": -1, "num_threads": 1})
    common = {
        "num_leaves": LEAVES,
        "learning_rate": LEARNING_RATE,
        "min_data_in_leaf": LEAST_IN_LEAF,
        "feature_fraction": COLUMN_SHARE,
        "bagging_fraction": ROW_SHARE,
        "bagging_freq": 1,
        "seed": SEED,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    boosters = [lightgbm.train({**common, "objective": "regression_l1"}, data, TREES)]
    # how likely a peak is has nothing to do with how much load it is: coming back from next to nothing is as likely as it was
    peaks = lightgbm.Dataset(windows.columns, windows.peak, free_raw_data=False, params={"verbosity": -1, "num_threads": 1})
    for quantile in PEAK_QUANTILES:
        if quantile == 0.5 and steps == 1:
            continue
        least = LEAST_IN_TAIL if quantile > 0.9 else LEAST_IN_LEAF
        boosters.append(lightgbm.train({**common, "objective": "quantile", "alpha": quantile, "min_data_in_leaf": least}, peaks, TREES))
    return boosters
