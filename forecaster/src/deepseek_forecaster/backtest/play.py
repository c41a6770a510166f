"""Playing a trace forward: what the ensemble, and each of its experts alone, would have said at every horizon boundary."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deepseek_forecaster.models import TRAINABLE, UNTRAINED, new_expert
from deepseek_forecaster.models.expert import Bools, Expert, Floats, History, Ints
from deepseek_forecaster.types import Forecast
from deepseek_forecaster.walk import Fitting, fit_anew, walk

from .blocks import Blocks
from .yardsticks import CONFORMAL_DAYS, rolling_conformal

QUANTILES = (0.5, 0.9, 0.95)
MOST_REFITS = 8
"""Experts are fitted anew daily, or so often over a tested part longer than that: daily gains nothing measurable on months of history."""
DAY = 86_400.0


@dataclass(frozen=True)
class Said:
    """What one forecaster said at each origin, per second; NaN where it said nothing. Quantiles have the shape (len(QUANTILES), origins)."""

    mean: Floats
    mean_quantiles: Floats
    peak_quantiles: Floats


@dataclass
class Fits:
    """A `Fitting` that keeps each fit, from which origin on it spoke, and what it cost."""

    fitting: Fitting = fit_anew
    reached: int = 0
    """The first origin that has not been forecast yet."""
    fitted: dict[str, list[tuple[int, int, Expert]]] = field(default_factory=dict)
    """Per expert: (speaks from this origin on, has seen so many steps, the expert)."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str, history: History, steps: int) -> Expert:
        """Fit, and note it."""
        started = time.perf_counter()
        try:
            expert = self.fitting(name, history, steps)
        except Exception as error:
            self.failures[name] = f"{type(error).__name__}: {error}"
            raise
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        self.fitted.setdefault(name, []).append((self.reached, len(history), expert))
        self.failures.pop(name, None)
        return expert


@dataclass(frozen=True)
class Played:
    """The whole play: the ensemble's forecasts (None where there was none), what each expert said alone, and what it all cost in seconds."""

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
    wall_seconds: float


def play(
    blocks: Blocks,
    experts: Sequence[str] | None = None,
    progress: Callable[[float], None] | None = None,
    fitting: Fitting = fit_anew,
    refit_seconds: float | None = None,
) -> Played:
    """Walk over the blocks once with the code that runs live, then let each expert speak alone with the same fits."""
    started = time.perf_counter()
    fits = Fits(fitting)
    forecasts = ensemble(blocks, experts, fits, progress, refit_seconds)
    walked = time.perf_counter() - started
    fitting_seconds = sum(sum(seconds) for seconds in fits.seconds.values())
    names = [name for name in (*UNTRAINED, *TRAINABLE) if experts is None or name in experts]
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
        wall_seconds=time.perf_counter() - started,
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
    fitted = [(0, 0, new_expert(name))] if name in UNTRAINED else fits.fitted.get(name, [])
    if not fitted:
        return None, 0.0
    for number, (speaks_from, seen, expert) in enumerate(fitted):
        until = fitted[number + 1][0] if number + 1 < len(fitted) else len(blocks.loads) + 1
        mine = (origins >= (seen if number == 0 else speaks_from)) & (origins < until) & (origins > 0)
        if not mine.any():
            continue
        history = History(blocks.loads[: int(origins[mine][-1])], 0, DAY / blocks.step_seconds)
        started = time.perf_counter()
        path = _paths(expert, history, origins[mine] - 1, blocks.steps)
        spoken += time.perf_counter() - started
        mean[mine], peak[mine] = path.mean(axis=1), path.max(axis=1)
    mean_came, peak_came = blocks.came(origins)
    tested = slice(len(origins) - len(blocks.origins), None)
    answered = max(1, int(np.isfinite(mean).sum()))
    return Said(
        mean=mean[tested],
        mean_quantiles=rolling_conformal(mean, mean_came, QUANTILES, blocks)[:, tested],
        peak_quantiles=rolling_conformal(peak, peak_came, QUANTILES, blocks)[:, tested],
    ), spoken / answered


def _paths(expert: Expert, history: History, positions: Ints, steps: int) -> Floats:
    """The expert's paths from these positions; NaN where it fails or says what is no load. Shape (positions, steps)."""
    try:
        with np.errstate(all="ignore"):
            path = expert.predict_many(history, positions, steps)
    except Exception:  # an expert may fail in any way; here it then has said nothing
        return np.full((len(positions), steps), np.nan)
    sound: Bools = np.asarray((np.isfinite(path) & (path >= 0)).all(axis=1))
    return np.asarray(np.where(sound[:, None], path, np.nan))
