"""This project's own policy in the benchmark: the operator's live `decide()`, fed with what the forecaster's walk foresaw. Nothing is copied.

The walk is the dear part and does not depend on the knob: it is made once per load and cold start, kept as an npz file, and every setting is
swept over the same forecasts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench.loads import STEP_SECONDS, Load
from numpy.typing import NDArray

from deepseek_operator.api.v1alpha1 import DEFAULT_PERCENTILE, ForecastSpec, Mode, ScalingSpec
from deepseek_operator.core.foresight import Question
from deepseek_operator.core.types import PeakForecast, Policy
from deepseek_operator.replay import Decider

Floats = NDArray[np.float64]

TICK_SECONDS = 15.0
MAX_NODES = 40
SETTINGS: tuple[tuple[int, float], ...] = (
    (100, 0.90), (100, 0.95), (95, 0.95), (90, 0.95), (90, 0.98), (85, 0.98), (80, 0.95), (80, 0.99), (75, 0.995), (70, 0.998), (60, 0.998),
    (40, 0.999), (25, 0.999),
)  # fmt: skip
"""The knob, from daring to careful: scaleUpPercent, and the quantile that nodes are provided for (forecast.percentile, or costOfLateRequest
where it is finer). One number in the tables: which of these, from 1."""

CARE = tuple(float(number) for number in range(1, len(SETTINGS) + 1))
DEFAULT = 1.0 + SETTINGS.index((ScalingSpec().scale_up_percent, DEFAULT_PERCENTILE / 100))
"""The settings as shipped."""

SHORTEST_HORIZON_SECONDS = 10
"""spec.scaling.forecast.horizonSeconds at its least. What the decision stands on reaches as far as a node takes, whatever is asked for; a
longer horizon is for show and would only cost time here."""


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


def swept(mode: Mode, scale_up_percent: int) -> Policy:
    """The same at another upper threshold. The lower one keeps its distance where the upper one comes near."""
    return replace(policy(), mode=mode, scale_up_percent=scale_up_percent, scale_down_percent=min(30, scale_up_percent - 10))


def question(cold_start_seconds: float) -> Question:
    """What the operator asks when it measured this cold start."""
    scaling = ScalingSpec(forecast=ForecastSpec(horizon_seconds=SHORTEST_HORIZON_SECONDS))
    return Question.of(scaling, None, cold_start_seconds, TICK_SECONDS, int(STEP_SECONDS))


def predictive(care: float, load: Load, forecasts: Forecasts) -> Decider:
    """Mode Predictive with the care-th of SETTINGS."""
    percent, quantile = SETTINGS[round(care) - 1]
    return Decider(swept("Predictive", percent), load.capacity, forecasts.at(quantile), lead_seconds=forecasts.question.whole_lead_seconds)


def faulty(factor: float | None, load: Load, forecasts: Forecasts) -> Decider:
    """Mode Predictive as shipped, with forecasts so many times the true ones, or none at all."""
    foreseen = forecasts.at(SETTINGS[round(DEFAULT) - 1][1])

    def forecaster(now: float) -> PeakForecast | None:
        forecast = foreseen(now)
        if forecast is None or factor is None:
            return None
        wrong = tuple((q, factor * carried) for q, carried in forecast.loads)
        return replace(forecast, peak=forecast.peak * factor, mean=forecast.mean * factor, loads=wrong)

    return Decider(replace(policy(), mode="Predictive"), load.capacity, forecaster, lead_seconds=forecasts.question.whole_lead_seconds)


def reactive(scale_up_percent: float, load: Load) -> Decider:
    """Mode Reactive: the last value with the 80/30 rule."""
    return Decider(swept("Reactive", round(scale_up_percent)), load.capacity)


class Forecasts:
    """What was foreseen, as the operator reads the forecaster's answers (`Question.read`): one row per origin, issued at `issued[i]` (seconds).

    `loads[i, k]` is what has to be carried at the k-th of the question's quantiles; a row that may not be acted on is NaN.
    """

    def __init__(self, question: Question, issued: Floats, mean: Floats, later: Floats, loads: Floats) -> None:
        self.question, self.issued, self.mean, self.later, self.loads = question, issued, mean, later, loads

    def at(self, quantile: float) -> Callable[[float], PeakForecast | None]:
        """The forecast there was at an instant, as the decision gets it when it provides for this quantile; None where live has none."""
        issued, mean, later, rows = self.issued.tolist(), self.mean.tolist(), self.later.tolist(), self.loads.tolist()
        quantiles, horizon = self.question.quantiles, self.question.horizon_seconds
        lead, slack = self.question.whole_lead_seconds, self.question.slack_seconds

        def newest(now: float) -> PeakForecast | None:
            at = bisect_right(issued, now + 1e-6) - 1
            if at < 0 or now - issued[at] > 2 * STEP_SECONDS or math.isnan(rows[at][0]):
                return None
            loads = tuple(zip(quantiles, rows[at], strict=True))
            peak = float(np.interp(quantile, quantiles, rows[at]))
            return PeakForecast(peak, mean[at], round(100 * quantile), horizon, issued[at], loads, quantile, later[at], lead, slack)

        return newest

    def save(self, path: Path) -> None:
        """Keep them, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npz")
        np.savez_compressed(unfinished, issued=self.issued, mean=self.mean, later=self.later, loads=self.loads)
        unfinished.rename(path)

    @classmethod
    def read(cls, path: Path, cold_start_seconds: float) -> Forecasts:
        """What `save` kept."""
        with np.load(path) as kept:
            return cls(question(cold_start_seconds), kept["issued"], kept["mean"], kept["later"], kept["loads"])

    @classmethod
    def walked(cls, load: Load, cold_start_seconds: float) -> Forecasts:
        """Walk over the load. About 20 ms an origin and 10 s a day for fitting."""
        from deepseek_forecaster.walk import walk

        asked = question(cold_start_seconds)
        issued, mean, later, loads = [], [], [], []
        for forecast in walk(
            load.seen,
            int(STEP_SECONDS),
            start=load.start,
            horizon_seconds=asked.whole_seconds,
            quantiles=asked.quantiles,
            lead_seconds=asked.whole_lead_seconds,
            slack_seconds=asked.slack_seconds,
        ):
            read = asked.read(forecast, forecast.issued_at, int(STEP_SECONDS))
            issued.append(forecast.issued_at)
            if isinstance(read, str):
                mean.append(math.nan)
                later.append(math.nan)
                loads.append([math.nan] * len(asked.quantiles))
            else:
                mean.append(read.mean)
                later.append(read.later)
                loads.append([carried for _, carried in read.loads])
        shape = (len(loads), len(asked.quantiles))
        return cls(asked, np.array(issued), np.array(mean), np.array(later), np.array(loads).reshape(shape))
