"""What the trained experts learn from: windows of the past with what came after them, as log-ratios to the level at their origin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .columns import columns, teachable
from .expert import Floats, History, Ints, NotEnoughHistoryError

WINDOWS = 12_000
"""Training windows: three weeks at ten minutes are 3,024, and more than these teach little more."""
ENOUGH_WINDOWS = 3_000
LEAST_WINDOWS = 150
WARM_BLOCKS = 6
"""An origin has an hour of the day before it."""
LOAD_POWER = 0.5
"""A window counts with the square root of its load: between all alike (0) and by the units of work in it (1). On the first 70 % of public
traces 0.748 of the ten-minute mean's error, against 0.751 at 0."""
SHORTER_SHARE = 0.5
"""For each window one in two is learned again with a shorter horizon, so that any horizon up to the longest can be asked for."""
SEED = 20_260


@dataclass(frozen=True)
class Windows:
    """Windows by row: `columns` (rows, columns) are seen at `origins` beside `level`; `mean` and `peak` of the `horizons` steps came after.

    `load` is the weight of a window.
    """

    origins: Ints
    horizons: Ints
    lags: tuple[int, ...]
    columns: Floats
    level: Floats
    mean: Floats
    peak: Floats
    load: Floats


def least_history(day: float, steps: int) -> int:
    """An hour, the horizon, and 150 windows: in steps."""
    return WARM_BLOCKS * max(1, round(day / 144)) + steps + LEAST_WINDOWS


def ready(history: History, origins: Ints) -> Ints:
    """1 where an origin has an hour of the day before it, else 0."""
    return np.asarray(origins + 1 >= WARM_BLOCKS * history.window, dtype=np.int64)


def windows_of(history: History, steps: int, expert: str) -> Windows:
    """The training windows for horizons up to `steps`, every other one also with a shorter horizon.

    NotEnoughHistoryError below 150 windows, in the name of the `expert` that asks.
    """
    first = WARM_BLOCKS * history.window
    # windows a third of the horizon apart say nearly all there is, where there are enough of them
    apart = max(1, min(steps // 3, (len(history) - steps - first) // ENOUGH_WINDOWS))
    origins = np.arange(first, len(history) - steps, apart, dtype=np.int64)
    if len(origins):
        after = origins + 1
        seen = 2 * history.known_between(after - history.window, after) >= history.window
        origins = origins[seen & (2 * history.known_between(after, after + steps) >= steps)]
    if len(origins) < LEAST_WINDOWS:
        known = int(np.isfinite(history.values).sum())
        raise NotEnoughHistoryError(f"{expert} needs at least {least_history(history.day, steps)} known steps, had {known}")
    origins = origins[np.linspace(0, len(origins) - 1, min(WINDOWS, len(origins))).round().astype(np.int64)]
    lags = teachable(history, origins)
    horizons = np.full(len(origins), steps)
    if steps > 1:
        draw = np.random.default_rng(SEED)
        again = draw.random(len(origins)) < SHORTER_SHARE
        origins = np.concatenate((origins, origins[again]))
        horizons = np.concatenate((horizons, draw.choice(shorter_horizons(steps), int(again.sum()))))
    seen_by = columns(history, origins, horizons, lags)
    mean = np.log(history.mean_between(origins + 1, origins + 1 + horizons) + history.floor) - seen_by.level
    peak = np.empty(len(origins))
    for horizon in np.unique(horizons):
        chosen = horizons == horizon
        peak[chosen] = np.log(history.peak_between(origins[chosen] + 1, int(horizon)) + history.floor) - seen_by.level[chosen]
    usable = np.isfinite(seen_by.level) & np.isfinite(mean) & np.isfinite(peak)
    level = seen_by.level[usable]
    load = np.exp(LOAD_POWER * (level - np.median(level)))
    return Windows(origins[usable], horizons[usable], lags, seen_by.rows[usable], level, mean[usable], peak[usable], load)


def shorter_horizons(steps: int) -> Ints:
    """Up to four horizons below `steps`, evenly spread: of 10 steps, 2, 4, 6 and 8."""
    return np.unique(np.maximum(1, np.round(steps * np.array([0.2, 0.4, 0.6, 0.8])))).astype(np.int64)
