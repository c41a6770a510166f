"""The track record: what each expert said of the horizon after each of the recent origins, so that it can be held against what came.

What was said stays said: an expert fitted anew speaks from then on, and is judged by nothing that it was taught with.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .models.expert import PEAK_QUANTILES, Bools, Expert, Floats, History, Ints, Outlook, outlook_of

log = logging.getLogger(__name__)

DAYS_KEPT = 10.0
ORIGINS_KEPT = 1_500
LAG_STEPS = 3
"""A forecast may stand on a value that many steps old and is then prepared for: the steps not yet seen count as part of the horizon."""
KNOTS = 12
"""The path is judged at one of at most this many steps of the horizon after each origin, in turn."""
MOST = 1e300
"""No load is larger than this."""


@dataclass(frozen=True)
class Member:
    """An expert at work. `since` is the first grid index it may be judged from: what lies before it was learned from (0: nothing was).

    `before` is the fit that it took over from: it speaks for the older origins when a record is built anew.
    """

    expert: Expert
    since: int = 0
    trained_at: float | None = None
    before: Member | None = None


@dataclass(frozen=True)
class Head:
    """What one expert says after the end of the history: the horizon's mean, its path (steps,), and its peak quantiles, if any."""

    mean: float
    path: Floats | None
    peak: Floats | None


class TrackRecord:
    """What was said of the `steps` steps after each of `origins` (grid indices, `stride` apart, oldest first).

    What is taken as the peak is what has to be carried so that no work waits longer than `slack` steps; without slack it is the peak itself.
    For each member `means` (origins,); `bends` (origins,), its path at the origin's knot ÷ its mean; and `peaks` (origins, 3) if it has any.
    """

    def __init__(self, day: float, steps: int, slack: float = 0.0) -> None:
        self.steps, self.slack = steps, slack
        # overlapping windows say nearly the same; five minutes of the day apart they still follow a change at once
        self.stride = max(1, min(math.ceil(DAYS_KEPT * day / ORIGINS_KEPT), max(steps // 2, round(day / 288))))
        self.kept = max(64, min(ORIGINS_KEPT, math.ceil(DAYS_KEPT * day / self.stride)))
        self.knots: Ints = np.unique(np.linspace(0, steps - 1, min(steps, KNOTS)).round().astype(np.int64))
        self.origins: Ints = np.zeros(0, dtype=np.int64)
        self.means: dict[str, NDArray[np.float32]] = {}
        self.bends: dict[str, NDArray[np.float32]] = {}
        self.peaks: dict[str, NDArray[np.float32]] = {}
        self.failures: dict[str, str] = {}

    @property
    def windows_per_row(self) -> float:
        """How many independent windows one origin stands for."""
        return min(1.0, self.stride / self.steps)

    def rows_per_day(self, day: float) -> float:
        """Origins in a day of so many steps."""
        return day / self.stride

    def knot_of(self, origins: Ints) -> Ints:
        """The step of the path that each origin is judged at."""
        return np.asarray(self.knots[(origins // self.stride) % len(self.knots)])

    def extend(self, history: History, members: Sequence[Member]) -> int:
        """Let every member speak after each origin the record does not have yet, up to the end of the history; gives how many those were."""
        last = history.first + len(history) - 1
        newest = int(self.origins[-1]) if len(self.origins) else history.first - 1
        oldest = max(newest + 1, history.first, last - self.kept * self.stride + 1)
        added = np.arange(-(-oldest // self.stride) * self.stride, last + 1, self.stride, dtype=np.int64)
        if not len(added):
            return 0
        before = len(self.origins)
        self.origins = np.concatenate((self.origins, added))[-self.kept :]
        for member in members:
            self._append(member.expert.name, before, *self._speak(member, history, added))
        return len(added)

    def introduce(self, history: History, member: Member) -> None:
        """Let a member that never spoke before speak after every origin it may be judged by."""
        self._append(member.expert.name, 0, *self._speak(member, history, self.origins))

    def heads(self, history: History, members: Sequence[Member]) -> dict[str, Head]:
        """What each member says now, after the end of the history; those without an opinion are left out."""
        origin = np.array([history.first + len(history) - 1])
        heads = {}
        for member in members:
            said = self._ask(member, history, origin)
            if said is not None and np.isfinite(said.mean[0]):
                path = None if said.path is None else np.asarray(said.path[0], dtype=np.float64)
                heads[member.expert.name] = Head(float(said.mean[0]), path, None if said.peak is None else said.peak[0])
        return heads

    def _append(self, name: str, before: int, means: Floats, bends: Floats, peaks: Floats | None) -> None:
        def joined(rows: NDArray[np.float32] | None, added: Floats) -> NDArray[np.float32]:
            earlier = np.full((before, *added.shape[1:]), np.nan, dtype=np.float32) if rows is None or not before else rows
            return np.concatenate((earlier, added.astype(np.float32)))[-self.kept :]

        self.means[name] = joined(self.means.get(name), means)
        self.bends[name] = joined(self.bends.get(name), bends)
        if peaks is not None or name in self.peaks:
            said = np.full((len(means), len(PEAK_QUANTILES)), np.nan) if peaks is None else peaks
            self.peaks[name] = joined(self.peaks.get(name), said)

    def _speak(self, member: Member, history: History, origins: Ints) -> tuple[Floats, Floats, Floats | None]:
        """Means, bends and peaks after the origins that the member, or the fit before it, may be judged by; the others are NaN."""
        means, bends = np.full(len(origins), np.nan), np.full(len(origins), np.nan)
        peaks: Floats | None = None
        fits, until = [member], history.first + len(history)
        while (earlier := fits[-1].before) is not None:
            fits.append(earlier)
        for one in fits if len(origins) else []:
            mine = (origins >= one.since) & (origins >= history.first) & (origins < until)
            said = self._ask(one, history, origins[mine]) if mine.any() else None
            if said is not None:
                means[mine] = said.mean
                bends[mine] = _bends(said, self.knot_of(origins[mine]))
                if said.peak is not None:
                    peaks = np.full((len(origins), len(PEAK_QUANTILES)), np.nan) if peaks is None else peaks
                    peaks[mine] = said.peak
            until = min(until, one.since)
        return means, bends, peaks

    def _ask(self, member: Member, history: History, origins: Ints) -> Outlook | None:
        """What the member says; None when it fails, a row NaN where it has no opinion or what it says is no load."""
        name = member.expert.name
        try:
            with np.errstate(all="ignore"):
                said = outlook_of(member.expert, history, origins - history.first, self.steps)
            for answer, shape in ((said.mean, ()), (said.path, (self.steps,)), (said.peak, (len(PEAK_QUANTILES),))):
                if answer is not None and answer.shape != (len(origins), *shape):
                    raise ValueError(f"an answer must have the shape {(len(origins), *shape)}, had {answer.shape}")
        except Exception as error:  # an expert may fail in any way; the others answer
            self._failed(name, f"{type(error).__name__}: {error}")
            return None
        whole = [answer.reshape(len(origins), -1) for answer in (said.mean, said.path, said.peak) if answer is not None]
        rows = np.concatenate(whole, axis=1)
        silent: Bools = np.asarray(np.isnan(rows).all(axis=1))
        broken: Bools = ~silent & ~(np.isfinite(rows) & (rows >= 0.0) & (rows <= np.finfo(np.float32).max)).all(axis=1)
        if broken.any():
            self._failed(name, f"{int(broken.sum())} of {len(rows)} answers were negative or not finite")
            return Outlook(*(None if answer is None else _without(answer, broken) for answer in (said.mean, said.path, said.peak)))  # type: ignore[arg-type]
        self.failures.pop(name, None)
        return said

    def _failed(self, name: str, reason: str) -> None:
        if self.failures.get(name) != reason:
            log.warning("expert %s is left out: %s", name, reason)
        self.failures[name] = reason


def _bends(said: Outlook, knots: Ints) -> Floats:
    """The path at each row's knot ÷ the mean; 1 without a path."""
    if said.path is None:
        return np.ones(len(said.mean))
    at = said.path[np.arange(len(knots)), knots]
    with np.errstate(all="ignore"):
        return np.asarray(np.where(said.mean > 0, at / said.mean, 1.0))


def _without(answer: Floats, broken: Bools) -> Floats:
    answer = np.array(answer, dtype=np.float64)
    answer[broken] = np.nan
    return answer
