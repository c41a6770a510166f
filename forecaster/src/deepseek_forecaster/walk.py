"""Walking forward over a recorded series: the forecasts the live service would have issued, by the code that runs live."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .models import OPTIONAL, TRAINABLE, UNTRAINED, new_expert
from .models.expert import Expert, Floats, History, Ints, Outlook, State, outlook_of
from .record import Member, TrackRecord
from .schedule import GROWTH
from .series import NAIVE, NoForecastError, SeriesForecaster
from .train import held_out
from .types import Forecast

LEAST_TAUGHT = 40
"""Fewer known steps than this teach no expert anything."""

PROVED = 4
"""Of the origins whose answers are worked out together, so many are asked again one by one."""
ROUNDING = 0.02
"""A filter that began elsewhere may differ by this share; an expert that looks ahead differs by more."""

Fitting = Callable[[str, History, int], Expert]
"""How an expert is fitted: (name, history, steps) → the fitted expert; whatever it raises leaves that expert out until the next refit."""


def fit_anew(name: str, history: History, steps: int) -> Expert:
    """A new expert fitted on this history, as the trainer does it; what the expert's `fit` raises."""
    expert = new_expert(name)
    expert.fit(history, steps)
    return expert


def walk(
    values: Sequence[float | None] | Floats,
    step_seconds: int,
    *,
    start: int,
    horizon_seconds: int,
    quantiles: Sequence[float],
    every: int = 1,
    season_seconds: float = 86_400.0,
    refit_seconds: float = 86_400.0,
    first: int = 0,
    experts: Sequence[str] | None = None,
    progress: Callable[[float], None] | None = None,
    fitting: Fitting = fit_anew,
    lead_seconds: int | None = None,
    slack_seconds: int = 0,
) -> Iterator[Forecast]:
    """Forecasts as the live service would have issued them: one after each `every`-th step from `start` on, knowing only `values[:i]`.

    `values[i]` is the mean load of step i in units of work per second (None or NaN: unknown). The forecast after `values[:i]` has
    `issued_at = (first + i) × step_seconds`; an origin with nothing to forecast from is left out. Trained experts are fitted at the
    first origin and then every `refit_seconds`, a young series whenever its history has grown by half, on what was known then.
    `experts` restricts who speaks (None: all). `progress` is told the share done. `lead_seconds` and `slack_seconds` as in `ForecastRequest`.
    """
    known = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    series = SeriesForecaster(step_seconds, season_seconds, experts, remembers=False)
    series.expect(horizon_seconds, lead_seconds, slack_seconds)
    steps = math.ceil(horizon_seconds / step_seconds)
    series.wants(steps)
    lengths = sorted({steps, *([] if lead_seconds is None else [math.ceil(lead_seconds / step_seconds)])})
    strides = {TrackRecord(series.day, length).stride for length in lengths}
    refit_every = max(1, round(refit_seconds / step_seconds))
    begin = start
    while begin <= len(known):
        end = min(begin + refit_every, max(begin + 1, math.ceil(GROWTH * begin)), len(known) + 1)
        end = begin + -(-(end - begin) // every) * every
        # step i ends at (first + i + 1) × step
        taught = History(known[:begin], first + 1, series.day)
        ahead = History(known[: end - 1], first + 1, series.day, taught.floor)
        heads = np.arange(begin, min(end, len(known) + 1), every) - 1
        rows = np.arange(max(0, begin - 1), len(ahead))
        judged = np.any([(rows + ahead.first) % stride == 0 for stride in strides], axis=0)
        origins = np.union1d(heads[heads >= 0], rows[judged])
        for member in [*_untrained(experts), *_fitted(series, taught, steps, experts, fitting)]:
            series.adopt(Member(Prepared(member.expert, ahead, origins, lengths), member.since, member.trained_at, member.before))
        for i in (heads + 1).tolist():
            series.observe(History(known[:i], ahead.first, series.day, ahead.floor))
            if progress is not None:
                progress((i - start) / max(1, len(known) - start))
            try:
                yield series.forecast("trace", float((first + i) * step_seconds), horizon_seconds, quantiles, lead_seconds, slack_seconds)
            except NoForecastError:
                continue
        begin = end


class Prepared:
    """An expert whose answers after many origins are worked out at once, when the first of them is asked for.

    That changes none of them, as what an expert says after an origin knows nothing that came later; a few are asked again with the history
    cut off at their origin, and an expert that then says something else has failed.
    """

    def __init__(self, expert: Expert, ahead: History, origins: Ints, lengths: Sequence[int]) -> None:
        """`ahead` is the history up to the last of `origins` (positions, rising); `lengths` are the horizons in steps."""
        self.expert = expert
        self._ahead, self._origins, self._lengths = ahead, origins, lengths
        self._said: dict[int, Outlook] = {}

    @property
    def name(self) -> str:
        """The expert's own."""
        return self.expert.name

    def minimum_history(self, day: float, steps: int) -> int:
        """The expert's own."""
        return self.expert.minimum_history(day, steps)

    def fit(self, history: History, steps: int) -> None:
        """The expert's own."""
        self.expert.fit(history, steps)

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The expert's own."""
        return self.expert.predict_many(history, origins, steps)

    def outlook_many(self, history: History, origins: Ints, steps: int) -> Outlook:
        """What was prepared, where all of the origins were; the expert's own answer otherwise."""
        at = np.searchsorted(self._origins, origins)
        there = steps in self._lengths and bool((at < len(self._origins)).all()) and bool((self._origins[at] == origins).all())
        if not there:
            return outlook_of(self.expert, history, origins, steps)
        if steps not in self._said:
            said = outlook_of(self.expert, self._ahead, self._origins, steps)
            self._prove(said, steps)
            self._said[steps] = said
        said = self._said[steps]
        return Outlook(*(None if answer is None else answer[at] for answer in (said.mean, said.path, said.peak)))  # type: ignore[arg-type]

    def _prove(self, said: Outlook, steps: int) -> None:
        for row in np.unique(np.linspace(0, len(self._origins) - 1, PROVED).round().astype(np.int64)):
            origin = self._origins[row : row + 1]
            alone = outlook_of(self.expert, self._ahead.until(int(origin[0])), origin, steps).mean
            if not np.allclose(said.mean[row], alone[0], rtol=ROUNDING, atol=self._ahead.floor * ROUNDING, equal_nan=True):
                raise ValueError(f"{self.name} says {said.mean[row]:g} at step {int(origin[0])}, and {alone[0]:g} when it cannot see beyond it")

    def state(self) -> State:
        """The expert's own."""
        return self.expert.state()

    def restore(self, state: State) -> None:
        """The expert's own."""
        self.expert.restore(state)


def _untrained(experts: Sequence[str] | None) -> list[Member]:
    return [Member(new_expert(name)) for name in UNTRAINED if experts is None or name in (*experts, NAIVE)]


def _fitted(series: SeriesForecaster, history: History, steps: int, experts: Sequence[str] | None, fitting: Fitting) -> list[Member]:
    """Fit the trainable experts as the trainer does: on all that is known, and at first also on all but the newest part, to be judged by it."""
    number = int(np.isfinite(history.values).sum())
    members: list[Member] = []
    if number < LEAST_TAUGHT:
        return members
    last = history.first + len(history) - 1
    for name in TRAINABLE if experts is None else [name for name in TRAINABLE + OPTIONAL if name in experts]:
        try:
            before = None
            if not series.knows(name):
                shorter = history.until(len(history) - 1 - held_out(number, series.day))
                before = Member(fitting(name, shorter, steps), shorter.first + len(shorter) - 1)
            members.append(Member(fitting(name, history, steps), last, float(last * series.step_seconds), before))
        except Exception:  # noqa: S112  # any failure of one fit leaves it out, as the trainer does
            continue
    return members
