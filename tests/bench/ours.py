"""This project's own policy in the benchmark: the operator's live `decide()`, fed with what the forecaster's walk foresaw. Nothing is copied.

The walk is the dear part and does not depend on the knob: it is made once per load and horizon with many quantiles, kept as an npz file, and
every percentile is swept over the same forecasts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench.loads import STEP_SECONDS, Load

from deepseek_operator.api.v1alpha1 import DEFAULT_PERCENTILE, ForecastSpec, ScalingSpec
from deepseek_operator.core.foresight import Question
from deepseek_operator.core.types import PeakForecast, Policy
from deepseek_operator.replay import Decider

TICK_SECONDS = 15.0
MAX_NODES = 40
QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)

DEFAULT = float(DEFAULT_PERCENTILE)
"""The percentile as shipped."""

PERCENTILES = (50.0, 70.0, 80.0, 90.0, 95.0, 98.0, 99.5)
"""The knob `forecast.percentile`, from daring to careful."""

SHORTEST_HORIZON_SECONDS = 10
"""spec.scaling.forecast.horizonSeconds at its least: the operator then looks as far ahead as it measured that a node takes."""


def policy() -> Policy:
    """What an object asks for that sets nothing but nodes.max."""
    scaling = ScalingSpec()
    return replace(
        Policy(max_nodes=MAX_NODES),
        scale_up_percent=scaling.scale_up_percent,
        scale_down_percent=scaling.scale_down_percent,
        between_thresholds=scaling.between_thresholds,
        scale_up_cooldown_seconds=scaling.scale_up_cooldown_seconds,
        scale_down_cooldown_seconds=scaling.scale_down_cooldown_seconds,
        scale_down_stabilization_seconds=scaling.scale_down_stabilization_seconds,
    )


def horizon_seconds(cold_start_seconds: float) -> int:
    """How far ahead the operator asks when it measured this cold start."""
    scaling = ScalingSpec(forecast=ForecastSpec(horizon_seconds=SHORTEST_HORIZON_SECONDS))
    return Question.of(scaling, None, cold_start_seconds, TICK_SECONDS, int(STEP_SECONDS)).whole_seconds


def predictive(percentile: float, load: Load, forecasts: Forecasts) -> Decider:
    """Mode Predictive at this percentile."""
    return Decider(replace(policy(), mode="Predictive"), load.capacity, forecasts.at(percentile / 100))


def full_nodes(percentile: float, load: Load, forecasts: Forecasts) -> Decider:
    """Mode Predictive with scaleUpPercent 100: the percentile alone keeps the distance."""
    return Decider(replace(policy(), mode="Predictive", scale_up_percent=100), load.capacity, forecasts.at(percentile / 100))


def faulty(factor: float | None, load: Load, forecasts: Forecasts) -> Decider:
    """Mode Predictive as shipped, with forecasts so many times the true ones, or none at all."""
    foreseen = forecasts.at(DEFAULT / 100)

    def forecaster(now: float) -> PeakForecast | None:
        forecast = foreseen(now)
        if forecast is None or factor is None:
            return None
        return replace(forecast, peak=forecast.peak * factor, mean=forecast.mean * factor)

    return Decider(replace(policy(), mode="Predictive"), load.capacity, forecaster)


def reactive(scale_up_percent: float, load: Load) -> Decider:
    """Mode Reactive: the last value with the 80/30 rule. The lower threshold keeps its distance where the upper one comes near."""
    up = round(scale_up_percent)
    return Decider(replace(policy(), mode="Reactive", scale_up_percent=up, scale_down_percent=min(30, up - 10)), load.capacity)


class Forecasts:
    """What was foreseen: arrays by origin, `peaks[i, k]` the k-th of QUANTILES of the peak, as issued at `issued[i]` (seconds)."""

    def __init__(self, issued: np.ndarray, mean: np.ndarray, peaks: np.ndarray, probation: np.ndarray, horizon_seconds: float) -> None:
        self.issued, self.mean, self.peaks, self.probation, self.horizon_seconds = issued, mean, peaks, probation, horizon_seconds

    def at(self, quantile: float) -> Callable[[float], PeakForecast | None]:
        """The forecast there was at an instant, as the decision gets it; None when it is older than live would use, or on probation."""
        issued, mean = self.issued.tolist(), self.mean.tolist()
        peak = self._peaks(quantile).tolist()
        probation, percentile = self.probation.tolist(), round(quantile * 100)

        def newest(now: float) -> PeakForecast | None:
            at = bisect_right(issued, now + 1e-6) - 1
            if at < 0 or now - issued[at] > 2 * STEP_SECONDS or probation[at]:
                return None
            return PeakForecast(peak[at], mean[at], percentile, self.horizon_seconds, issued[at])

        return newest

    def _peaks(self, quantile: float) -> np.ndarray:
        if quantile in QUANTILES:
            return self.peaks[:, QUANTILES.index(quantile)]
        raise ValueError(f"quantile must be one of {QUANTILES}, was {quantile:g}")

    def save(self, path: Path) -> None:
        """Keep them, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npz")
        np.savez_compressed(
            unfinished, issued=self.issued, mean=self.mean, peaks=self.peaks, probation=self.probation, horizon=self.horizon_seconds
        )
        unfinished.rename(path)

    @classmethod
    def read(cls, path: Path) -> Forecasts:
        """What `save` kept."""
        with np.load(path) as kept:
            return cls(kept["issued"], kept["mean"], kept["peaks"], kept["probation"], float(kept["horizon"]))

    @classmethod
    def walked(cls, load: Load, cold_start_seconds: float, every: int = 1) -> Forecasts:
        """Walk over the load. About 20 ms an origin and 10 s a day for fitting."""
        from deepseek_forecaster.walk import walk

        horizon = horizon_seconds(cold_start_seconds)
        issued, mean, peaks, probation = [], [], [], []
        for forecast in walk(load.seen, int(STEP_SECONDS), start=load.start, horizon_seconds=horizon, quantiles=QUANTILES, every=every):
            issued.append(forecast.issued_at)
            mean.append(forecast.mean)
            peaks.append([forecast.quantile(q) for q in QUANTILES])
            probation.append(forecast.on_probation)
        shape = (len(peaks), len(QUANTILES))
        return cls(np.array(issued), np.array(mean), np.array(peaks).reshape(shape), np.array(probation, dtype=bool), float(math.ceil(horizon)))
