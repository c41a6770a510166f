"""One series' forecaster: its experts, their track record, and the forecast made of both. Pure: told the time, and given the history.

`observe` and `adopt` do the work in the background and publish an immutable view; `forecast` only reads the newest view, so it can be called
from another thread at any moment and never waits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .calibrate import Calibrated, calibrate
from .ensemble import Blend, blend
from .evaluate import Record, judge
from .models import UNTRAINED, new_expert
from .models.expert import Floats, History
from .models.last_value import LastValue
from .record import LAG_STEPS, Member, TrackRecord
from .types import MEAN, Forecast, quantile_key

NAIVE = LastValue.name
JUDGED_EVERY = 0.25
"""The day's record (WAPE, coverage) is taken anew after a quarter of a horizon, or one step."""


class NoForecastError(ValueError):
    """There is nothing to forecast from; the text says what is missing."""


HEADROOM = 3.0
"""No quantile exceeds this many times the highest load there is on record (or the forecast itself, if that is higher). Errors are measured as
ratios, and around an outage ratios mean nothing: coming back from 0.01 to 5 req/s is an error of 500-fold, which 5 × 500 req/s would be.
With the least history the prior's p95 is 2.7 times the load, so it is not cut."""


@dataclass(frozen=True)
class View:
    """What was known at one moment; never changed after it is published (the caches only save work)."""

    history: History
    record: TrackRecord
    members: dict[str, Member]
    head: dict[str, Floats]
    blends: dict[tuple[int, int], Blend] = field(default_factory=dict)
    calibrations: dict[tuple[int, int, tuple[float, ...], float], Calibrated] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The grid index of the newest known sample; the history holds at least one."""
        return self.history.first + int(np.flatnonzero(np.isfinite(self.history.values))[-1])


class SeriesForecaster:
    """Forecasts one series on its grid of `step_seconds`, with a season of `season_seconds`."""

    def __init__(self, step_seconds: int, season_seconds: float, experts: Sequence[str] | None = None) -> None:
        """`experts` restricts who speaks (None: all); the naive one always does, as the yardstick."""
        self.step_seconds = step_seconds
        self.day = season_seconds / step_seconds
        self._fast = {name: Member(new_expert(name)) for name in UNTRAINED if experts is None or name in (*experts, NAIVE)}
        self._trained: dict[str, Member] = {}
        self._steps = 10
        self._asked: dict[tuple[int, tuple[float, ...]], float] = {}
        self._view: View | None = None
        self._judged: dict[int, tuple[int, Record]] = {}

    @property
    def steps(self) -> int:
        """The longest path the record is kept for: what was asked for, rounded up so that a slightly longer horizon changes nothing."""
        return self._steps

    @property
    def failures(self) -> dict[str, str]:
        """The experts that are left out, each with its reason."""
        return dict(self._view.record.failures) if self._view else {}

    @property
    def history(self) -> History | None:
        """The history of the newest view."""
        return self._view.history if self._view else None

    def wants(self, steps: int) -> bool:
        """Note that paths of this length are asked for; True when they are longer than the experts were asked to learn so far."""
        if steps <= self._steps:
            return False
        self._steps = max(steps, min(math.ceil(1.25 * steps), steps + 300))
        return True

    def expect(self, horizon_seconds: int, quantiles: Sequence[float]) -> None:
        """Prepare each view for this question, as if it had been asked before."""
        self._asked[math.ceil(horizon_seconds / self.step_seconds), tuple(sorted(quantiles))] = 0.0

    def adopt(self, member: Member) -> None:
        """Take a newly fitted expert on; it speaks from the next `observe` on."""
        self._trained = {**self._trained, member.expert.name: member}

    def observe(self, history: History) -> None:
        """Publish a view of this history: extend the record (or rebuild what has changed) and let each member speak."""
        if not np.isfinite(history.values).any():
            return
        members = {**self._fast, **self._trained}
        before = self._view
        if before is not None and before.record.steps == self._steps + LAG_STEPS:
            record = copy.copy(before.record)
            record.said, record.failures = dict(record.said), dict(record.failures)
            for name, member in members.items():
                if before.members.get(name) is not member:
                    record.replace(history, member)
        else:
            record = TrackRecord(self.day, self._steps + LAG_STEPS)
        record.extend(history, list(members.values()))
        view = View(history, record, members, record.head(history, list(members.values())))
        for steps, quantiles in list(self._asked)[-4:]:
            for lag in (0, 1):
                self._calibrated(view, lag, steps, quantiles, 1.0)
            self._judge(view, steps)
        self._view = view

    def forecast(self, series: str, now: float, horizon_seconds: int, quantiles: Sequence[float]) -> Forecast:
        """The forecast over [now, now + horizon].

        NoForecastError when no sample is known or the newest one is older than the horizon and than ten steps.
        """
        view = self._view
        if view is None:
            raise NoForecastError("no samples yet")
        steps = math.ceil(horizon_seconds / self.step_seconds)
        lag = math.floor(now / self.step_seconds) - view.last
        allowed, age = max(10, steps) * self.step_seconds, lag * self.step_seconds
        if age > allowed:
            raise NoForecastError(f"the newest sample must be at most {allowed} s old (the horizon, or 10 steps), was {age} s")
        lag = max(0, lag)
        asked = tuple(sorted(quantiles))
        self._asked.pop((steps, asked), None)
        self._asked[steps, asked] = now
        while len(self._asked) > 8:
            self._asked.pop(next(iter(self._asked)), None)
        # what the record cannot hold (a much longer horizon than before, a late sample) is answered from its last steps, and wider
        window = min(steps, view.record.steps)
        used_lag = min(lag, view.record.steps - window, LAG_STEPS)
        stale = math.sqrt((steps + lag) / (window + used_lag))
        calibrated = self._calibrated(view, used_lag, window, asked, stale)
        blended = view.blends[used_lag, window]
        how = self._judge(view, window)
        rows = {MEAN: blended.head} | {quantile_key(q): row for q, row in zip(asked, calibrated.path, strict=True)}
        trained = [member.trained_at for member in view.members.values() if member.trained_at is not None]
        return Forecast(
            series=series,
            issued_at=now,
            step_seconds=self.step_seconds,
            horizon_seconds=horizon_seconds,
            mean=_finite(blended.head.mean()),
            peak={q: _finite(load) for q, load in zip(asked, calibrated.peak, strict=True)},
            path={key: _stretched(row, steps) for key, row in rows.items()},
            models={name: min(1.0, float(weight)) for name, weight in zip(blended.names, blended.head_weights, strict=True) if weight > 0},
            history_seconds=float(int(np.isfinite(view.history.values).sum()) * self.step_seconds),
            trained_at=max(trained) if trained else None,
            on_probation=how.on_probation,
            recent_wape=how.wape,
            naive_wape=how.naive_wape,
            coverage90=how.coverage90,
        )

    def _calibrated(self, view: View, lag: int, steps: int, quantiles: tuple[float, ...], stale: float) -> Calibrated:
        steps = min(steps, view.record.steps)
        key = (lag, steps, quantiles, round(stale, 3))
        if key not in view.calibrations:
            blended = self._blend(view, lag, steps)
            rows_per_day, windows_per_row = self._rates(view, steps)
            free = calibrate(blended, quantiles, rows_per_day, windows_per_row, stale)
            view.calibrations[key] = free.below(HEADROOM * max(float(np.nanmax(view.history.values)), float(blended.head.max())))
        return view.calibrations[key]

    def _blend(self, view: View, lag: int, steps: int) -> Blend:
        if (lag, steps) not in view.blends:
            view.blends[lag, steps] = blend(view.history, view.record, view.head, lag, steps, NAIVE)
        return view.blends[lag, steps]

    def _judge(self, view: View, steps: int) -> Record:
        steps = min(steps, view.record.steps)
        at, how = self._judged.get(steps, (-1, None))
        if how is None or abs(view.last - at) >= max(1.0, JUDGED_EVERY * steps):
            how = judge(self._blend(view, 0, steps), *self._rates(view, steps))
            self._judged[steps] = (view.last, how)
        return how

    def _rates(self, view: View, steps: int) -> tuple[float, float]:
        """Rows of the record per day, and independent windows per row."""
        return view.history.day / view.record.stride, min(1.0, view.record.stride / steps)


def _finite(load: float) -> float:
    """A load the wire accepts: between 0 and 1e300."""
    return float(min(max(load, 0.0), 1e300))


def _stretched(row: Floats, steps: int) -> tuple[float, ...]:
    """The row with its last value repeated up to `steps`."""
    return tuple(_finite(load) for load in row) + (_finite(row[-1]),) * (steps - len(row))
