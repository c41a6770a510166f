"""Walking forward over a recorded series: the forecasts the live service would have issued, by the code that runs live."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .models import TRAINABLE, new_expert
from .models.expert import Expert, Floats, History
from .record import Member
from .series import NoForecastError, SeriesForecaster
from .train import held_out
from .types import Forecast

LEAST_TAUGHT = 60
"""Fewer known steps than this teach no expert anything."""

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
) -> Iterator[Forecast]:
    """Forecasts as the live service would have issued them: one after each `every`-th step from `start` on, knowing only `values[:i]`.

    `values[i]` is the mean load of step i in units of work per second (None or NaN: unknown). The forecast after `values[:i]` has
    `issued_at = (first + i) × step_seconds`; an origin with nothing to forecast from is left out. Trained experts are fitted at the
    first origin and then every `refit_seconds`, on what was known then. `experts` restricts who speaks (None: all). `progress` is told
    the share done.
    """
    known = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    series = SeriesForecaster(step_seconds, season_seconds, experts)
    series.expect(horizon_seconds, quantiles)
    if series.wants(-(-horizon_seconds // step_seconds)):
        series.expect(horizon_seconds, quantiles)
    refit_every, refitted = max(1, round(refit_seconds / step_seconds)), None
    for i in range(start, len(known) + 1, every):
        history = History(known[:i], first, series.day)
        if refitted is None or i - refitted >= refit_every:
            _refit(series, history, experts, fitting)
            refitted = i
        series.observe(history)
        if progress is not None:
            progress((i - start) / max(1, len(known) - start))
        try:
            yield series.forecast("trace", float((first + i) * step_seconds), horizon_seconds, quantiles)
        except NoForecastError:
            continue


def _refit(series: SeriesForecaster, history: History, experts: Sequence[str] | None, fitting: Fitting) -> None:
    """Fit the trainable experts as the trainer does: on all but the newest part, by which they are then judged."""
    number = int(np.isfinite(history.values).sum())
    if number < LEAST_TAUGHT:
        return
    taught = history.until(len(history) - 1 - held_out(number, series.day))
    for name in TRAINABLE:
        if experts is not None and name not in experts:
            continue
        try:
            expert = fitting(name, taught, series.steps)
        except Exception:  # noqa: S112  # any failure of one fit leaves it out, as the trainer does
            continue
        series.adopt(Member(expert, history.first + len(taught) - 1, float((history.first + len(history)) * series.step_seconds)))
