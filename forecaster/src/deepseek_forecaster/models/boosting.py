"""Gradient boosting on the columns of `columns.py`: the horizon's mean and quantiles of its peak, as log-ratios to the present level."""

from __future__ import annotations

from typing import Any

import numpy as np

from .columns import columns, teachable
from .expert import PEAK_QUANTILES, Floats, History, Ints, NotEnoughHistoryError, Outlook, State
from .trees import Forest, forest_of

TREES = 150
LEAVES = 15
LEARNING_RATE = 0.05
LEAST_IN_LEAF = 20
COLUMN_SHARE = 0.6
ROW_SHARE = 0.7
WINDOWS = 12_000
"""Training windows: three weeks at ten minutes are 3,024, and more than these teach little more."""
ENOUGH_WINDOWS = 3_000
LEAST_WINDOWS = 150
LOAD_POWER = 0.5
"""A window counts with the square root of its load: between all alike (0) and by the units of work in it (1). On the first 70 % of public
traces 0.748 of the ten-minute mean's error, against 0.751 at 0."""
SHORTER_SHARE = 0.5
"""For each window one in two is learned again with a shorter horizon, so that any horizon up to the longest can be asked for."""
LIMIT = 12.0
SEED = 20_260
WARM_BLOCKS = 6


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
        return WARM_BLOCKS * max(1, round(day / 144)) + steps + LEAST_WINDOWS

    def fit(self, history: History, steps: int) -> None:
        """Train on up to 12,000 windows; the same history gives the same trees. NotEnoughHistoryError below 150 windows."""
        first = WARM_BLOCKS * history.window
        # windows a third of the horizon apart say nearly all there is, where there are enough of them
        apart = max(1, min(steps // 3, (len(history) - steps - first) // ENOUGH_WINDOWS))
        origins = np.arange(first, len(history) - steps, apart, dtype=np.int64)
        if len(origins):
            after = origins + 1
            seen = 2 * history.known_between(after - history.window, after) >= history.window
            origins = origins[seen & (2 * history.known_between(after, after + steps) >= steps)]
        if len(origins) < LEAST_WINDOWS:
            raise NotEnoughHistoryError(self._needs(history, steps))
        origins = origins[np.linspace(0, len(origins) - 1, min(WINDOWS, len(origins))).round().astype(np.int64)]
        self.lags = teachable(history, origins)
        horizons = np.full(len(origins), steps)
        if steps > 1:
            draw = np.random.default_rng(SEED)
            again = draw.random(len(origins)) < SHORTER_SHARE
            origins = np.concatenate((origins, origins[again]))
            horizons = np.concatenate((horizons, draw.choice(shorter_horizons(steps), int(again.sum()))))
        seen_by = columns(history, origins, horizons, self.lags)
        mean = np.log(history.mean_between(origins + 1, origins + 1 + horizons) + history.floor) - seen_by.level
        peak = np.empty(len(origins))
        for horizon in np.unique(horizons):
            chosen = horizons == horizon
            peak[chosen] = np.log(history.peak_between(origins[chosen] + 1, int(horizon)) + history.floor) - seen_by.level[chosen]
        usable = np.isfinite(seen_by.level) & np.isfinite(mean) & np.isfinite(peak)
        load = np.exp(LOAD_POWER * (seen_by.level - np.median(seen_by.level[usable])))
        self.steps, self.columns = steps, seen_by.rows.shape[1]
        self.forest = forest_of(_boosters(seen_by.rows[usable], mean[usable], peak[usable], load[usable], steps))

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
        ready = (origins + 1 >= WARM_BLOCKS * history.window) & np.isfinite(seen.level)
        loads = np.maximum(np.exp(np.where(ready, seen.level, np.nan)[:, None] + ratios) - history.floor, 0.0)
        mean = loads[:, 0]
        median = loads[:, 2] if self.steps > 1 else mean
        peak = np.sort(np.stack([loads[:, 1], median, loads[:, -1]], axis=1), axis=1)
        return Outlook(mean=mean, peak=peak)

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
        self.forest = Forest.restored(state, seen)
        self.steps, self.columns, self.lags = steps, seen, tuple(lags)

    def _needs(self, history: History, steps: int) -> str:
        known = int(np.isfinite(history.values).sum())
        return f"boosting needs at least {self.minimum_history(history.day, steps)} known steps, had {known}"


def shorter_horizons(steps: int) -> Ints:
    """Up to four horizons below `steps`, evenly spread: of 10 steps, 2, 4, 6 and 8."""
    return np.unique(np.maximum(1, np.round(steps * np.array([0.2, 0.4, 0.6, 0.8])))).astype(np.int64)


def _boosters(rows: Floats, mean: Floats, peak: Floats, load: Floats, steps: int) -> list[Any]:
    """One booster for the mean, and one for each quantile of the peak; with a single step the peak's median is the mean's."""
    # LightGBM needs OpenMP's runtime, which slim images lack; torch brings one along that serves once it is loaded
    import torch  # noqa: F401  # isort: skip
    import lightgbm  # isort: skip

    data = lightgbm.Dataset(rows, mean, weight=load, free_raw_data=False, params={"verbosity": -1, "num_threads": 1})
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
    for quantile in PEAK_QUANTILES:
        if quantile == 0.5 and steps == 1:
            continue
        data.set_label(peak)
        boosters.append(lightgbm.train({**common, "objective": "quantile", "alpha": quantile}, data, TREES))
    return boosters
