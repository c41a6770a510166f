"""Playing a trace forward: what the ensemble, and each of its experts alone, would have said at every horizon boundary."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deepseek_forecaster.models import ALL, TRAINABLE, UNTRAINED, new_expert
from deepseek_forecaster.models.expert import PEAK_QUANTILES, Bools, Expert, Floats, History, Ints, outlook_of
from deepseek_forecaster.types import Forecast
from deepseek_forecaster.walk import Fitting, fit_anew, walk

from .blocks import Blocks
from .yardsticks import CONFORMAL_DAYS, rolling_conformal

QUANTILES = (0.5, 0.9, 0.95)
MOST_REFITS = 5
"""Experts are fitted anew daily, or so often over a tested part longer than that: daily gains nothing measurable on months of history."""
DAY = 86_400.0


@dataclass(frozen=True)
class Said:
    """What one forecaster said at each origin, per second; NaN where it said nothing. Quantiles have the shape (len(QUANTILES), origins)."""

    mean: Floats
    mean_quantiles: Floats
    peak_quantiles: Floats


@dataclass(frozen=True)
class Fitted:
    """An expert that speaks from the origin `speaks_from` on and has seen so many steps of a history whose first grid index was `first`."""

    speaks_from: int
    seen: int
    first: int
    expert: Expert


@dataclass
class Fits:
    """A `Fitting` that keeps each fit, from which origin on it spoke, and what it cost."""

    fitting: Fitting = fit_anew
    reached: int = 0
    """The first origin that has not been forecast yet."""
    fitted: dict[str, list[Fitted]] = field(default_factory=dict)
    """Per expert, in the order they were made."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str, history: History, steps: int) -> Expert:
        """Fit, and note it."""
        started = time.process_time()
        try:
            expert = self.fitting(name, history, steps)
        except Exception as error:
            self.failures[name] = f"{type(error).__name__}: {error}"
            raise
        self.seconds.setdefault(name, []).append(time.process_time() - started)
        self.fitted.setdefault(name, []).append(Fitted(self.reached, len(history), history.first, expert))
        self.failures.pop(name, None)
        return expert


@dataclass(frozen=True)
class Played:
    """The whole play: the ensemble's forecasts (None where there was none), what each expert said alone, and what it cost in processor time."""

    blocks: Blocks
    forecasts: tuple[Forecast | None, ...]
    ensemble: Said
    alone: Mapping[str, Said]
    fit_seconds: Mapping[str, Sequence[float]]
    predict_seconds: Mapping[str, float]
    """Per expert: to answer one origin, when many are asked for at once."""
    answer_seconds: float
    """For the ensemble, per origin: taking the newest samples in, weighing, calibrating and answering, without the fits."""
    failures: Mapping[str, str]
    processor_seconds: float
    wall_seconds: float


def play(
    blocks: Blocks,
    experts: Sequence[str] | None = None,
    progress: Callable[[float], None] | None = None,
    fitting: Fitting = fit_anew,
    refit_seconds: float | None = None,
) -> Played:
    """Walk over the blocks once with the code that runs live, then let each expert speak alone with the same fits."""
    began, started = time.perf_counter(), time.process_time()
    fits = Fits(fitting)
    forecasts = ensemble(blocks, experts, fits, progress, refit_seconds)
    walked = time.process_time() - started
    fitting_seconds = sum(sum(seconds) for seconds in fits.seconds.values())
    names = [*UNTRAINED, *TRAINABLE] if experts is None else [name for name in ALL if name in experts]
    said, predict_seconds = {}, {}
    for name in names:
        path, seconds = speak_alone(blocks, name, fits)
        if path is not None:
            said[name], predict_seconds[name] = path, seconds
    return Played(
        blocks=blocks,
        forecasts=forecasts,
        ensemble=said_by(forecasts),
        alone=said,
        fit_seconds=fits.seconds,
        predict_seconds=predict_seconds,
        answer_seconds=(walked - fitting_seconds) / max(1, len(blocks.origins)),
        failures=fits.failures,
        processor_seconds=time.process_time() - started,
        wall_seconds=time.perf_counter() - began,
    )


def ensemble(
    blocks: Blocks,
    experts: Sequence[str] | None,
    fits: Fits,
    progress: Callable[[float], None] | None = None,
    refit_seconds: float | None = None,
) -> tuple[Forecast | None, ...]:
    """The ensemble's forecast at each origin of the blocks; None where it had nothing to say."""
    issued: dict[int, Forecast] = {}
    fits.reached = blocks.start
    tested = (len(blocks.loads) - blocks.start) * blocks.step_seconds
    forecasts = walk(
        blocks.loads,
        blocks.step_seconds,
        start=blocks.start,
        horizon_seconds=blocks.horizon_seconds,
        quantiles=QUANTILES,
        every=blocks.steps,
        refit_seconds=refit_seconds or max(DAY, tested / MOST_REFITS),
        experts=experts,
        progress=progress,
        fitting=fits,
    )
    last = int(blocks.origins[-1])
    for forecast in forecasts:
        origin = round(forecast.issued_at / blocks.step_seconds)
        issued[origin] = forecast
        fits.reached = origin + 1
        if origin >= last:
            break
    return tuple(issued.get(int(origin)) for origin in blocks.origins)


def said_by(forecasts: Sequence[Forecast | None]) -> Said:
    """The forecasts as arrays."""
    nothing = (np.nan,) * len(QUANTILES)
    return Said(
        mean=np.array([np.nan if one is None else one.mean for one in forecasts]),
        mean_quantiles=np.array([nothing if one is None else [mean_quantile(one, q) for q in QUANTILES] for one in forecasts]).T,
        peak_quantiles=np.array([nothing if one is None else [one.quantile(q) for q in QUANTILES] for one in forecasts]).T,
    )


def mean_quantile(forecast: Forecast, quantile: float) -> float:
    """The quantile of the mean over the horizon."""
    return float(np.mean(forecast.path_of(quantile)))


def speak_alone(blocks: Blocks, name: str, fits: Fits) -> tuple[Said | None, float]:
    """What one expert says with the fits of the walk, with rolling conformal quantiles around it; and the seconds per answer.

    The quantiles warm up on the days before the tested part, as far as the expert had not learned from them. None if it was never fitted.
    """
    origins = np.concatenate((blocks.before(CONFORMAL_DAYS * DAY), blocks.origins))
    mean, peak = np.full(len(origins), np.nan), np.full(len(origins), np.nan)
    spoken = 0.0
    fitted = [Fitted(0, 0, 0, new_expert(name))] if name in UNTRAINED else fits.fitted.get(name, [])
    if not fitted:
        return None, 0.0
    for number, one in enumerate(fitted):
        until = fitted[number + 1].speaks_from if number + 1 < len(fitted) else len(blocks.loads) + 1
        # before its time the first one may speak of what it has not learned from
        mine = (origins >= (one.seen if number == 0 else one.speaks_from)) & (origins < until) & (origins > 0)
        if not mine.any():
            continue
        floor = History(blocks.loads[: int(origins[mine][0])], one.first, DAY / blocks.step_seconds).floor
        history = History(blocks.loads[: int(origins[mine][-1])], one.first, DAY / blocks.step_seconds, floor)
        started = time.process_time()
        mean[mine], peak[mine] = _outlook(one.expert, history, origins[mine] - 1, blocks.steps)
        spoken += time.process_time() - started
    mean_came, peak_came = blocks.came(origins)
    tested = slice(len(origins) - len(blocks.origins), None)
    answered = max(1, int(np.isfinite(mean).sum()))
    return Said(
        mean=mean[tested],
        mean_quantiles=rolling_conformal(mean, mean_came, QUANTILES, blocks)[:, tested],
        peak_quantiles=rolling_conformal(peak, peak_came, QUANTILES, blocks)[:, tested],
    ), spoken / answered


def _outlook(expert: Expert, history: History, positions: Ints, steps: int) -> tuple[Floats, Floats]:
    """The expert's mean and peak of the horizon after these positions; NaN where it fails or says what is no load. Shapes (positions,)."""
    try:
        with np.errstate(all="ignore"):
            said = outlook_of(expert, history, positions, steps)
    except Exception:  # an expert may fail in any way; here it then has said nothing
        return np.full(len(positions), np.nan), np.full(len(positions), np.nan)
    peak = said.mean
    if said.peak is not None:
        peak = said.peak[:, PEAK_QUANTILES.index(0.5)]
    elif said.path is not None:
        peak = said.path.max(axis=1)
    return _loads(said.mean), _loads(peak)


def _loads(said: Floats) -> Floats:
    sound: Bools = np.asarray(np.isfinite(said) & (said >= 0.0))
    return np.asarray(np.where(sound, said, np.nan))
