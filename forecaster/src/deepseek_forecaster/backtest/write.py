"""What a backtest leaves behind: one JSON document with every figure, and one CSV row per forecast."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping
from typing import Any

from .play import QUANTILES, Played
from .score import Score, Scores

FORECAST_COLUMNS = ("origin_seconds", "mean", "peak_p50", "peak_p90", "peak_p95")


def document(played: Played, scores: Scores) -> dict[str, Any]:
    """Everything that was found, as plain JSON with camelCase names. Losses are in requests per second; costs are processor time."""
    blocks = played.blocks
    return {
        "trace": blocks.name,
        "stepSeconds": blocks.step_seconds,
        "horizonSeconds": blocks.horizon_seconds,
        "steps": len(blocks.loads),
        "days": len(blocks.loads) * blocks.step_seconds / 86_400,
        "testedFromSeconds": blocks.start * blocks.step_seconds,
        "origins": len(blocks.origins),
        "lossUnit": "requests per second",
        "forecastsUnit": "requests per step, as in the trace",
        "yardsticks": {
            "tenMinuteMean": _score(scores.naive),
            "betweenNeighboursWape": scores.oracle_wape,
            "poissonWape": scores.chance_wape,
            "trafficAllowsFivePercent": scores.five_percent_possible,
        },
        "ensemble": _score(scores.ensemble) | {"answerSeconds": played.answer_seconds, "coverageByHour": list(scores.coverage_by_hour)},
        "experts": {
            name: _score(score) | {"predictSeconds": played.predict_seconds[name]} | _cost(played.fit_seconds.get(name, ()))
            for name, score in scores.alone.items()
        },
        "failures": dict(played.failures),
        "processorSeconds": played.processor_seconds,
        "wallSeconds": played.wall_seconds,
    }


def forecasts_csv(played: Played) -> str:
    """One row per origin with a forecast: seconds from the start of the trace, and loads as the trace has them, in requests per step."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(FORECAST_COLUMNS)
    step = played.blocks.step_seconds
    for origin, forecast in zip(played.blocks.origins, played.forecasts, strict=True):
        if forecast is not None:
            loads = [forecast.mean, *(forecast.quantile(quantile) for quantile in QUANTILES)]
            rows.writerow([int(origin) * step, *(f"{load * step:.6g}" for load in loads)])
    return text.getvalue()


def _score(score: Score) -> dict[str, Any]:
    return {
        "origins": score.origins,
        "answered": score.answered,
        "wapeMean": score.wape_mean,
        "wapePeak": score.wape_peak,
        "wapeMeanToTenMinuteMean": score.mean_ratio,
        "wapePeakToTenMinuteMean": score.peak_ratio,
        "pinballMean": _named(score.pinball_mean),
        "pinballPeak": _named(score.pinball_peak),
        "pinballPeakToTenMinuteMean": _named(score.peak_pinball_ratio),
        "coverageMean": _named(score.coverage_mean),
        "coveragePeak": _named(score.coverage_peak),
        "afterJumps": {name: {"wapeMean": own, "toTenMinuteMean": ratio} for name, (own, ratio) in score.after_jumps.items()},
    }


def _named(by_quantile: Mapping[float, float | None]) -> dict[str, float | None]:
    return {f"{quantile:g}": value for quantile, value in by_quantile.items()}


def _cost(seconds: Any) -> dict[str, Any]:
    if not seconds:
        return {"fits": 0}
    return {"fits": len(seconds), "fitSeconds": {"median": statistics.median(seconds), "most": max(seconds)}}


def duration(seconds: float) -> str:
    """Seconds in words: `90 s`, `10 min`, `4.2 days`."""
    if seconds < 120:
        return f"{seconds:g} s"
    if seconds < 7_200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3_600:.3g} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.3g} days"
