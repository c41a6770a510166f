"""One series' forecaster: its experts, their track record, and the forecast made of both. Pure: told the time, and given the history.

`observe` and `adopt` do the work in the background and publish an immutable view; `forecast` only reads the newest view, so it can be called
from another thread at any moment and never waits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .calibrate import Calibrated, Calibration
from .ensemble import Blend, blend
from .evaluate import Record, judge
from .memory import pack, unpack
from .models import UNTRAINED, new_expert
from .models.expert import Floats, History
from .models.last_value import LastValue
from .record import LAG_STEPS, Member, TrackRecord
from .types import MEAN, Forecast, Sustained, quantile_key

log = logging.getLogger(__name__)

NAIVE = LastValue.name
SPANS_KEPT = 6
"""A record is kept for each of the spans asked for lately, at most for so many: horizon and lead, each with the samples that are not in yet."""


NOT_WORTH_A_RECORD = 10


@dataclass(frozen=True, order=True)
class Span:
    """So many steps after an origin, with the slack (in steps) that work may wait before it is carried."""

    steps: int
    slack: float = 0.0


class NoForecastError(ValueError):
    """There is nothing to forecast from; the text says what is missing."""


HEADROOM = 3.0
"""No quantile exceeds this many times the highest load there is on record (or the forecast itself, if that is higher). Errors are measured as
ratios, and around an outage ratios mean nothing: coming back from 0.01 to 5 req/s is an error of 500-fold, which 5 × 500 req/s would be.
With the least history the prior's p95 is 2.7 times the load, so it is not cut."""


@dataclass(frozen=True)
class Issued:
    """What holds after the end of a view's history for one span."""

    calibrated: Calibrated
    how: Record
    weights: Mapping[str, float]


@dataclass(frozen=True)
class View:
    """What was known at one moment; never changed after it is published. `last` is the grid index of the newest known sample."""

    history: History
    last: int
    known_seconds: float
    highest: float
    trained_at: float | None
    issued: Mapping[Span, Issued]
    failures: Mapping[str, str]


@dataclass
class Track:
    """All that is remembered about one span."""

    record: TrackRecord
    calibration: Calibration = field(default_factory=Calibration)


class SeriesForecaster:
    """Forecasts one series on its grid of `step_seconds`, with a season of `season_seconds`."""

    def __init__(self, step_seconds: int, season_seconds: float, experts: Sequence[str] | None = None, *, remembers: bool = True) -> None:
        """`experts` restricts who speaks (None: all); the naive one always does, as the yardstick.

        `remembers`: prepare each view for the questions asked lately, too, and not only for those that are expected.
        """
        self._remembers = remembers
        self.step_seconds = step_seconds
        self.day = season_seconds / step_seconds
        self._fast = {name: Member(new_expert(name)) for name in UNTRAINED if experts is None or name in (*experts, NAIVE)}
        self._trained: dict[str, Member] = {}
        self._steps = 1
        self._asked: dict[Span, float] = {}
        self._tracks: dict[Span, Track] = {}
        self._view: View | None = None

    @property
    def steps(self) -> int:
        """The longest horizon that the experts are to learn: what was asked for, rounded up so that a slightly longer one changes nothing."""
        return self._steps

    @property
    def failures(self) -> dict[str, str]:
        """The experts that are left out, each with its reason."""
        return dict(self._view.failures) if self._view else {}

    @property
    def history(self) -> History | None:
        """The history of the newest view."""
        return self._view.history if self._view else None

    @property
    def known_seconds(self) -> float:
        """How much of the newest view's history is known."""
        return self._view.known_seconds if self._view else 0.0

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of the experts in the newest view, for the horizon asked for last."""
        if self._view is None:
            return {}
        span = max(self._asked, key=lambda one: self._asked[one], default=Span(0))
        issued = self._view.issued.get(span) or next(iter(self._view.issued.values()), None)
        return issued.weights if issued else {}

    def wants(self, steps: int) -> bool:
        """Note that paths of this length are asked for; True when they are longer than the experts were asked to learn so far."""
        if steps <= self._steps:
            return False
        grown = self._steps > 1
        # the first question is taken as it is; a horizon that grows, as measured cold starts do, gets room to grow further
        self._steps = max(steps, min(math.ceil(1.25 * steps), steps + 300)) if grown else steps
        return True

    def expect(self, horizon_seconds: int, lead_seconds: int | None = None, slack_seconds: int = 0) -> None:
        """Prepare each view for a question about this horizon and lead, as if it had been asked before; any quantile can be asked of it."""
        self._asked[Span(self._steps_in(horizon_seconds))] = 0.0
        if lead_seconds is not None:
            self._asked[self._carried(lead_seconds, slack_seconds)] = 0.0

    def knows(self, name: str) -> bool:
        """Whether a fit of this expert has been taken on."""
        return name in self._trained

    def adopt(self, member: Member) -> None:
        """Take a newly fitted expert on; it speaks from the next `observe` on."""
        self._trained = {**self._trained, member.expert.name: member}

    def remember(self) -> dict[str, dict[str, NDArray[Any]]]:
        """What is remembered of each span, as plain arrays. To be called where `observe` is."""
        return {f"{span.steps}+{span.slack}": pack(track.record, track.calibration) for span, track in self._tracks.items()}

    def recall(self, remembered: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Take over what `remember` gave, after the experts were adopted and before the first `observe`; what does not fit is left out."""
        names = self._fast.keys() | self._trained.keys()
        for span in self._asked:
            track = Track(TrackRecord(self.day, span.steps, span.slack))
            try:
                unpack(remembered[f"{span.steps}+{span.slack}"], track.record, track.calibration, names)
            except KeyError:
                continue
            except ValueError as error:
                log.warning("a record of %d steps is built anew: %s", span.steps, error)
                continue
            self._tracks[span] = track

    def observe(self, history: History) -> None:
        """Publish a view of this history: extend the records and let each member speak."""
        known = np.flatnonzero(np.isfinite(history.values))
        if not len(known):
            return
        members = list({**self._fast, **self._trained}.values())
        spans = list(self._asked)[-SPANS_KEPT:] or [Span(history.window)]
        self._tracks = {span: self._tracks.get(span) or Track(TrackRecord(self.day, span.steps, span.slack)) for span in spans}
        failures: dict[str, str] = {}
        issued: dict[Span, Issued] = {}
        for span, track in self._tracks.items():
            issued[span] = _issue(history, track, members)
            failures |= track.record.failures
        trained = [member.trained_at for member in members if member.trained_at is not None]
        self._view = View(
            # what was derived from the values while the experts spoke is not kept
            history=History(history.values, history.first, history.day, history.given_floor),
            last=history.first + int(known[-1]),
            known_seconds=float(len(known) * self.step_seconds),
            highest=float(history.values[known].max()),
            trained_at=max(trained) if trained else None,
            issued=issued,
            failures=failures,
        )

    def forecast(
        self, series: str, now: float, horizon_seconds: int, quantiles: Sequence[float], lead_seconds: int | None = None, slack_seconds: int = 0
    ) -> Forecast:
        """The forecast over [now, now + horizon], and with a lead what has to be carried over [now, now + lead].

        NoForecastError when no sample is known or the newest one is older than the horizon and than ten steps.
        """
        view = self._view
        if view is None:
            raise NoForecastError("no samples yet")
        steps = self._steps_in(horizon_seconds)
        lag = math.floor(now / self.step_seconds) - view.last
        allowed, age = max(10, steps) * self.step_seconds, lag * self.step_seconds
        if age > allowed:
            raise NoForecastError(f"the newest sample must be at most {allowed} s old (the horizon, or 10 steps), was {age} s")
        lag = max(0, lag)
        asked = tuple(sorted(quantiles))
        issued, prepared, wider, ceiling = self._prepared(view, Span(steps), lag, now)
        along = np.minimum(issued.calibrated.steps(asked, wider), ceiling)
        rows = {MEAN: _ahead(issued.calibrated.path, lag, steps)}
        rows |= {quantile_key(q): _ahead(row, lag, steps) for q, row in zip(asked, along, strict=True)}
        mean = issued.calibrated.mean if prepared == steps and not lag else sum(rows[MEAN]) / steps
        return Forecast(
            series=series,
            issued_at=now,
            step_seconds=self.step_seconds,
            horizon_seconds=horizon_seconds,
            mean=_finite(mean),
            peak=_peaks(issued, asked, wider, ceiling),
            path=rows,
            models=issued.weights,
            history_seconds=view.known_seconds,
            trained_at=view.trained_at,
            on_probation=issued.how.on_probation,
            recent_wape=issued.how.wape,
            naive_wape=issued.how.naive_wape,
            coverage90=issued.how.coverage90,
            sustained=None if lead_seconds is None else self._sustained(view, lag, now, asked, lead_seconds, slack_seconds),
        )

    def _sustained(self, view: View, lag: int, now: float, asked: Sequence[float], lead_seconds: int, slack_seconds: int) -> Sustained:
        issued, _, wider, ceiling = self._prepared(view, self._carried(lead_seconds, slack_seconds), lag, now)
        return Sustained(lead_seconds=lead_seconds, slack_seconds=slack_seconds, load=_peaks(issued, asked, wider, ceiling))

    def _prepared(self, view: View, span: Span, lag: int, now: float) -> tuple[Issued, int, float, float]:
        """What is issued for this span, for how many steps it was prepared, how much wider it has to be, and what no load exceeds."""
        # the steps that are not in yet are forecast like those to come; a tenth of the span more is not worth a record of its own
        window = span.steps + lag
        more = min(lag, LAG_STEPS) if NOT_WORTH_A_RECORD * lag > span.steps else 0
        if self._remembers:
            self._note(Span(span.steps + more, span.slack), now)
        nearest = _nearest(list(view.issued), span.steps + more, span.slack)
        # what no record is kept for (a much longer horizon than before, a late sample) is answered from the nearest there is, and wider
        wider = math.sqrt(max(1.0, window / nearest.steps))
        issued = view.issued[nearest]
        return issued, nearest.steps, wider, max(HEADROOM * view.highest, float(issued.calibrated.path.max()))

    def _steps_in(self, seconds: int) -> int:
        return math.ceil(seconds / self.step_seconds)

    def _carried(self, lead_seconds: int, slack_seconds: int) -> Span:
        return Span(self._steps_in(lead_seconds), slack_seconds / self.step_seconds)

    def _note(self, span: Span, now: float) -> None:
        """Keep this span among those that a record is kept for; the one asked for longest ago makes room."""
        if span in self._asked:
            self._asked[span] = now
            return
        asked = {**self._asked, span: now}
        while len(asked) > SPANS_KEPT:
            asked.pop(min(asked, key=lambda one: asked[one]))
        self._asked = asked


def _issue(history: History, track: Track, members: Sequence[Member]) -> Issued:
    record = track.record
    record.extend(history, members)
    for member in members:
        rows = record.means.get(member.expert.name)
        if rows is None or (member.since > 0 and not np.isfinite(rows).any()):
            record.introduce(history, member)
    blended = blend(history, record, record.heads(history, members), NAIVE)
    rows_per_day, windows_per_row = record.rows_per_day(history.day), record.windows_per_row
    calibrated = track.calibration.extend(blended, rows_per_day, windows_per_row)
    hits = track.calibration.hits(blended, 0.9, max(1, round(rows_per_day)))
    return Issued(calibrated, judge(blended, hits, rows_per_day, windows_per_row), _weights(blended))


def _weights(blended: Blend) -> dict[str, float]:
    """The weight of each expert that speaks."""
    return {name: min(1.0, float(weight)) for name, weight in zip(blended.names, blended.head_weights, strict=True) if weight > 0}


def _nearest(prepared: Sequence[Span], steps: int, slack: float) -> Span:
    """The shortest prepared span that holds so many steps, or the longest there is. One with another slack will do where there is none with
    this: without slack it asks for more, never for less."""
    alike = [span for span in prepared if span.slack == slack] or [span for span in prepared if not span.slack] or list(prepared)
    longer = [span for span in alike if span.steps >= steps]
    return min(longer) if longer else max(alike)


def _peaks(issued: Issued, asked: Sequence[float], wider: float, ceiling: float) -> dict[float, float]:
    loads = np.minimum(issued.calibrated.peak(asked, wider), ceiling)
    return {q: _finite(load) for q, load in zip(asked, loads.tolist(), strict=True)}


def _finite(load: float) -> float:
    """A load the wire accepts: between 0 and 1e300."""
    return float(min(max(load, 0.0), 1e300))


def _ahead(row: Floats, lag: int, steps: int) -> tuple[float, ...]:
    """`steps` values of the row from `lag` on, the last one repeated where it ends before."""
    taken = [_finite(load) for load in row[min(lag, len(row) - 1) :][:steps].tolist()]
    return tuple(taken) + (taken[-1],) * (steps - len(taken))
