"""What an expert is given (a history on a regular grid) and what it owes (a path of step means from any origin)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
State = Mapping[str, NDArray[Any]]
"""What a fitted expert remembers: plain arrays by name, so that saving it needs no pickle."""

FLOOR_SHARE = 0.02
"""Loads are compared as log(load + floor), the floor being at least 2 % of the mean load: an empty step is low, not minus infinity."""
NOISE_SHARE = 0.5
"""… and at least half of the noise's own grain (variance ÷ mean; for Poisson counts the load of one request per step), at most half of the
mean load: between 0 and 1 request lies no ratio worth learning. Out of 2 %, this and the whole grain, on the first 70 % of public traces."""


RUNS = 6
"""What has to be carried is sought among the runs of up to so many steps, and the whole: at steps of a minute and a slack of 10 s, one of six
asks for 6 ÷ (6 + 1/6) = 97 % of its mean, and longer runs have lower means."""


class NotEnoughHistoryError(ValueError):
    """The history is too short, or too full of gaps, for this expert; the text says how much it needs."""


@dataclass(frozen=True)
class History:
    """A demand series on its grid: `values[i]` is the mean load of the step that ends at (first + i) × step, NaN where it is unknown.

    `day` is the season's length in steps (1,440 at one minute); it need not be whole. The week is seven of them.
    `given_floor` fixes `floor`, which is otherwise taken from the values: who looks at many origins at once keeps what comes later out of it.
    """

    values: Floats
    first: int
    day: float
    given_floor: float | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def week(self) -> float:
        """Steps in a week."""
        return 7.0 * self.day

    @property
    def window(self) -> int:
        """Steps in ten minutes of the day, at least one: 1,440 ÷ 144 = 10."""
        return max(1, round(self.day / 144))

    @cached_property
    def filled(self) -> Floats:
        """The values with each gap filled by the last known value before it (before the first known one: by that one); 0 if none is known."""
        known = np.flatnonzero(np.isfinite(self.values))
        if not len(known):
            return np.zeros(len(self.values))
        before = np.searchsorted(known, np.arange(len(self.values)), side="right") - 1
        return np.asarray(self.values[known[np.maximum(before, 0)]], dtype=np.float64)

    @cached_property
    def floor(self) -> float:
        """What is added before a logarithm is taken, in units of work per second; above zero also when every load is zero."""
        if self.given_floor is not None:
            return self.given_floor
        known = self.values[np.isfinite(self.values)]
        mean = float(known.mean()) if len(known) else 0.0
        if not mean > 1e-9:
            return 1e-9
        # neighbours differ by the noise of both: variance = mean square difference ÷ 2
        grain = float(np.mean(np.square(np.diff(known) / mean))) / 2 * mean if len(known) > 1 else 0.0
        return max(1e-9, FLOOR_SHARE * mean, min(NOISE_SHARE * grain, mean / 2))

    @cached_property
    def _running(self) -> tuple[Floats, Ints]:
        """Sums and numbers of the known values before each position, one longer than the values."""
        known = np.isfinite(self.values)
        sums = np.concatenate(([0.0], np.cumsum(np.where(known, self.values, 0.0))))
        return sums, np.concatenate(([0], np.cumsum(known)))

    def mean_between(self, starts: Ints, ends: Ints) -> Floats:
        """The mean of the known values at positions start … end − 1, NaN where none is known; shape as given."""
        sums, counts = self._running
        starts, ends = np.clip(starts, 0, len(self.values)), np.clip(ends, 0, len(self.values))
        number = counts[ends] - counts[starts]
        # a difference of running sums may come out a rounding error below zero
        mean = np.maximum(sums[ends] - sums[starts], 0.0) / np.maximum(number, 1)
        return np.asarray(np.where(number > 0, mean, np.nan))

    def known_between(self, starts: Ints, ends: Ints) -> Ints:
        """How many of the values at positions start … end − 1 are known; shape as given."""
        _, counts = self._running
        return np.asarray(counts[np.clip(ends, 0, len(self.values))] - counts[np.clip(starts, 0, len(self.values))])

    def peak_between(self, starts: Ints, length: int) -> Floats:
        """The largest known value at positions start … start + length − 1, NaN where none is known; shape as `starts`."""
        low, high = int(starts.min()), int(starts.max()) + length
        padded = np.full(high - low, -np.inf)
        inside = self.values[max(low, 0) : max(high, 0)]
        padded[max(low, 0) - low : max(low, 0) - low + len(inside)] = np.where(np.isfinite(inside), inside, -np.inf)
        # the filter looks around each place; moved by half its length it looks ahead
        ahead = maximum_filter1d(padded, length, mode="constant", cval=-np.inf, origin=-(length // 2))
        peak = ahead[starts - low]
        return np.asarray(np.where(np.isfinite(peak), peak, np.nan))

    def sustained_between(self, starts: Ints, length: int, slack: float) -> Floats:
        """The largest (work of a run of steps) ÷ (its length + `slack`, in steps) at positions start … start + length − 1; shape as `starts`.

        A queue that is served at this rate holds nothing for longer than the slack. Of the runs' lengths those up to RUNS and the whole are
        looked at: the longer a run, the less the slack matters. NaN where nothing is known.
        """
        low, high = int(starts.min()), int(starts.max())
        best = np.full(len(starts), -np.inf)
        for run in sorted({*range(1, min(length, RUNS) + 1), length}):
            at = np.arange(low, high + length - run + 1)
            mean = self.mean_between(at, at + run)
            carried = np.where(np.isfinite(mean), mean, -np.inf) * (run / (run + slack))
            size = length - run + 1
            ahead = maximum_filter1d(carried, size, mode="constant", cval=-np.inf, origin=-(size // 2))
            best = np.maximum(best, ahead[starts - low])
        return np.asarray(np.where(np.isfinite(best), best, np.nan))

    @cached_property
    def logs(self) -> Floats:
        """log(value + floor), gaps filled."""
        return np.asarray(np.log(self.filled + self.floor), dtype=np.float64)

    @cached_property
    def level(self) -> Floats:
        """log(mean of the last ten minutes + floor) at each position; in a gap longer than that, of the last known value."""
        mean = trailing_mean(self.values, self.window)
        return np.asarray(np.log(np.where(np.isfinite(mean), np.maximum(mean, 0.0), self.filled) + self.floor), dtype=np.float64)

    @cached_property
    def smooth(self) -> Floats:
        """The mean of `logs` over the ten minutes around each position, NaN in long gaps; its last half window means nothing."""
        half = self.window // 2
        known = np.where(np.isfinite(self.values), self.logs, np.nan)
        return np.roll(trailing_mean(known, 2 * half + 1), -half)

    def phase(self, positions: Ints) -> Floats:
        """Where in the day each position lies, in turns of 0 to 1."""
        return np.asarray(((self.first + positions) / self.day) % 1.0, dtype=np.float64)

    def until(self, position: int) -> History:
        """The history as it was known right after `position`."""
        return History(self.values[: position + 1], self.first, self.day, self.given_floor)


@dataclass(frozen=True)
class Outlook:
    """What an expert says after each of its origins, for the whole of the horizon, in units of work per second.

    `mean` (origins,) is the median of the horizon's mean; `path` (origins, steps) how the load moves within it, None without an opinion;
    `peak` (origins, len(PEAK_QUANTILES)) its own quantiles of the horizon's peak, None without an opinion.
    """

    mean: Floats
    path: Floats | None = None
    peak: Floats | None = None


PEAK_QUANTILES = (0.1, 0.5, 0.9, 0.99)
"""The quantiles of the peak that an expert with an opinion on the spread gives."""


class Expert(Protocol):
    """One idea about the next steps.

    `fit` learns from a history and may take seconds; NotEnoughHistoryError if it cannot. `predict_many` is quick and gives, for each origin
    (a position in the history), the means of the `steps` steps after it, knowing nothing after it: shape (origins, steps), in units of work
    per second. A row is NaN where this expert has no opinion yet. Whatever else is not finite, or raises, counts against the expert.
    """

    @property
    def name(self) -> str:
        """A word of lower case letters, digits and underscores."""
        ...

    def minimum_history(self, day: float, steps: int) -> int:
        """How many known steps `fit` needs before it is worth asking."""
        ...

    def fit(self, history: History, steps: int) -> None:
        """Learn to predict `steps` steps from this history."""
        ...

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The means after each origin, shape (len(origins), steps)."""
        ...

    def state(self) -> State:
        """What has been learned, as plain arrays."""
        ...

    def restore(self, state: State) -> None:
        """Become what `state` was taken from; ValueError when it is not this expert's."""
        ...


@runtime_checkable
class Direct(Protocol):
    """An expert that forecasts the horizon's mean and peak themselves, not only the steps that make them."""

    def outlook_many(self, history: History, origins: Ints, steps: int) -> Outlook:
        """What is to be expected of the `steps` steps after each origin; rows are NaN where this expert has no opinion."""
        ...


def outlook_of(expert: Expert, history: History, origins: Ints, steps: int) -> Outlook:
    """What the expert says of the horizon: its own answer, or what follows from its path."""
    if isinstance(expert, Direct):
        return expert.outlook_many(history, origins, steps)
    path = expert.predict_many(history, origins, steps)
    return Outlook(mean=path.mean(axis=1), path=path)


def predict(expert: Expert, history: History, steps: int) -> Floats:
    """The path of means after the end of the history, shape (steps,)."""
    path: Floats = expert.predict_many(history, np.array([len(history) - 1]), steps)[0]
    return path


class Untrained:
    """Base of the experts that learn nothing."""

    def fit(self, history: History, steps: int) -> None:
        """Nothing to learn."""

    def state(self) -> State:
        """Nothing to remember."""
        return {}

    def restore(self, state: State) -> None:
        """Nothing to restore."""


def trailing_mean(values: Floats, window: int) -> Floats:
    """The mean of the known values among the last `window` up to each position; NaN where none of them is known. Shape as `values`.

    It is taken from running sums, so means of zeros may come out a rounding error below zero.
    """
    known = np.isfinite(values)
    sums = np.concatenate(([0.0], np.cumsum(np.where(known, values, 0.0))))
    counts = np.concatenate(([0], np.cumsum(known)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    number = counts[ends] - counts[starts]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(number > 0, (sums[ends] - sums[starts]) / number, np.nan)
    return np.asarray(mean, dtype=np.float64)
