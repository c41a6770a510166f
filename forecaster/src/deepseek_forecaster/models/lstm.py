"""A small LSTM that answers the whole horizon at once, trained on one series.

Everything it sees is a log-ratio to the present ten-minute level, so it works at any size of load. One recurrence reads the newest steps one by
one; another reads ten-minute blocks, from three hours ago to past the end of the horizon: beside what is known of today stand yesterday, last
week and the mean of the last seven days, which go on where today ends. The columns that boosting sees come in at the side. It starts as "the
level stays" and learns what to add to the mean, and to three quantiles of the peak.
"""

from __future__ import annotations

import numpy as np

from .columns import columns
from .expert import PEAK_QUANTILES, Floats, History, Ints, Outlook, State
from .net import Net, Singles
from .windows import least_history, ready, windows_of

NEWEST = 16
BLOCKS = 18
MOST_AHEAD = 9
PROFILE_DAYS = 7
UPDATES = 700
"""About 10 s on one core."""
LIMIT = 4.0
"""Inputs are kept within this many of their standard deviations …"""
FURTHEST = 8.0
"""… and answers within this many of the training targets'."""
LEAST_KNOWN = 0.25
"""A column that is known in fewer of the training windows is left out: what cannot be learned from is noise."""
CHUNK = 2_048


class Lstm:
    """The LSTM expert: 60 s at most to fit on one core, about 2 ms to answer."""

    name = "lstm"

    def __init__(self, updates: int = UPDATES) -> None:
        self._updates = updates
        self.steps = 0
        self.lags: tuple[int, ...] = ()
        self.spread = 1.0
        self.kept: Ints = np.zeros(0, dtype=np.int64)
        self.middle: Floats = np.zeros(0)
        self.scale: Floats = np.zeros(0)
        self.net: Net | None = None

    def minimum_history(self, day: float, steps: int) -> int:
        """An hour, the horizon, and 150 windows."""
        return least_history(day, steps)

    def fit(self, history: History, steps: int) -> None:
        """Train on up to 12,000 windows; the same history gives the same net. NotEnoughHistoryError below 150 windows."""
        windows = windows_of(history, steps, self.name)
        self.steps, self.lags = steps, windows.lags
        spread = float(np.std(windows.mean))
        self.spread = spread if spread > 1e-6 else 1.0
        share = np.isfinite(windows.columns).mean(axis=0)
        self.kept = np.flatnonzero(share >= LEAST_KNOWN)
        shown = windows.columns[:, self.kept]
        self.middle = np.nanmean(shown, axis=0)
        scale = np.nanstd(shown, axis=0)
        self.scale = np.where(scale > 1e-6, scale, 1.0)
        wanted = np.stack([windows.mean] + [windows.peak] * len(PEAK_QUANTILES), axis=1) / self.spread
        newest, blocks = self._sequences(history, windows.origins, windows.level)
        from .lstm_training import train  # half a gigabyte that only fitting needs

        wanted = np.clip(wanted, -FURTHEST, FURTHEST)
        arrays = train(newest, blocks, self._side(windows.columns), _single(wanted), windows.load, self._updates)
        self.net = Net.restored(arrays, len(self.kept))

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The horizon's mean, repeated. Shape (origins, steps)."""
        return np.repeat(self.outlook_many(history, origins, steps).mean[:, None], steps, axis=1)

    def outlook_many(self, history: History, origins: Ints, steps: int) -> Outlook:
        """Mean and peak quantiles; a horizon longer than was learned is answered as the longest that was."""
        if self.net is None:
            raise ValueError("lstm must be fitted or restored before it is asked")
        mean, peak = np.full(len(origins), np.nan), np.full((len(origins), len(PEAK_QUANTILES)), np.nan)
        for start in range(0, len(origins), CHUNK):
            part = slice(start, start + CHUNK)
            seen = columns(history, origins[part], np.full(len(origins[part]), min(steps, self.steps)), self.lags)
            level = np.where(ready(history, origins[part]), seen.level, np.nan)
            newest, blocks = self._sequences(history, origins[part], np.where(np.isfinite(level), level, 0.0))
            answer = self.net(newest, blocks, self._side(seen.rows)).astype(np.float64)
            ratios = np.clip(answer, -FURTHEST, FURTHEST) * self.spread
            loads = np.maximum(np.exp(level[:, None] + ratios) - history.floor, 0.0)
            mean[part], peak[part] = loads[:, 0], np.sort(loads[:, 1:], axis=1)
        return Outlook(mean=mean, peak=peak)

    def state(self) -> State:
        """The weights and what they were taught with."""
        if self.net is None:
            return {}
        weights = {f"net_{name}": array for name, array in self.net.weights.items()}
        taught = np.array([self.steps, self.spread, *self.lags])
        return {"taught": taught, "kept": self.kept, "middle": self.middle, "scale": self.scale, **weights}

    def restore(self, state: State) -> None:
        """Take weights over; ValueError when they are not of this net."""
        wanted = {"taught", "kept", "middle", "scale"}
        if not wanted <= set(state) or len(state["taught"]) < 2 or not len(state["kept"]) == len(state["middle"]) == len(state["scale"]):
            raise ValueError(f"lstm needs the arrays {', '.join(sorted(wanted))} and those of its net, had {sorted(state)}")
        weights = {name.removeprefix("net_"): array for name, array in state.items() if name.startswith("net_")}
        net = Net.restored(weights, len(state["kept"]))
        steps, spread, *lags = state["taught"].tolist()
        self.steps, self.spread, self.lags = int(steps), float(spread), tuple(int(days) for days in lags)
        self.kept, self.middle, self.scale, self.net = state["kept"], state["middle"], state["scale"], net

    def _side(self, rows: Floats) -> Singles:
        """The columns that could be learned, in standard deviations around their middle; 0 where unknown."""
        scaled = (rows[:, self.kept] - self.middle) / self.scale
        return _single(np.where(np.isfinite(scaled), np.clip(scaled, -LIMIT, LIMIT), 0.0))

    def _sequences(self, history: History, origins: Ints, level: Floats) -> tuple[Singles, Singles]:
        """The newest steps, and the blocks, as the net sees them: shapes (origins, NEWEST, 1) and (origins, BLOCKS + ahead, CHANNELS)."""
        window, after = history.window, origins[:, None] + 1
        places = after - np.arange(NEWEST, 0, -1)
        newest = _logs(history, places, places + 1) - level[:, None]
        ahead = min(MOST_AHEAD, -(-self.steps // window) + 2)
        blocks = after + window * np.arange(-BLOCKS, ahead)
        today = np.where(blocks < after, _logs(history, blocks, blocks + window) - level[:, None], np.nan)
        days = []
        for back in range(1, PROFILE_DAYS + 1):
            lag = round(back * history.day)
            reached = after - lag - window >= 0
            stood = _logs(history, after - lag - window, after - lag)
            # what lies ahead of that day's moment must still be past
            past = (blocks - lag + window <= after) & reached
            days.append(np.where(past, _logs(history, blocks - lag, blocks - lag + window) - stood, np.nan))
        together = np.stack(days)
        known = np.isfinite(together)
        number = known.sum(axis=0)
        profile = np.where(number > 0, np.where(known, together, 0.0).sum(axis=0) / np.maximum(number, 1), np.nan)
        yesterday = days[0] if 1 in self.lags else np.full(blocks.shape, np.nan)
        last_week = days[6] if 7 in self.lags else np.full(blocks.shape, np.nan)
        profile = profile if 1 in self.lags else np.full(blocks.shape, np.nan)
        told = [np.where(np.isfinite(one), np.clip(one / self.spread, -LIMIT, LIMIT), 0.0) for one in (today, yesterday, last_week, profile)]
        masks = [np.isfinite(one).astype(np.float64) for one in (today, yesterday, last_week)]
        steps = np.where(np.isfinite(newest), np.clip(newest / self.spread, -LIMIT, LIMIT), 0.0)
        return _single(steps[:, :, None]), _single(np.stack([*told, *masks], axis=2))


def _logs(history: History, starts: Ints, ends: Ints) -> Floats:
    return np.asarray(np.log(history.mean_between(starts, ends) + history.floor))


def _single(rows: Floats) -> Singles:
    return np.ascontiguousarray(rows, dtype=np.float32)
