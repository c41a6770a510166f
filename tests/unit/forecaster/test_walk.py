"""Walking forward over a recorded series issues what the live service would have issued."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek_forecaster.models.expert import History
from deepseek_forecaster.series import SeriesForecaster
from deepseek_forecaster.walk import walk

STEP = 60
QUICK = ("last_value", "ten_minute_mean", "seasonal_naive")


def day_and_a_half() -> np.ndarray:
    at = np.arange(2_160)
    return np.asarray(50 + 20 * np.sin(2 * np.pi * at / 1_440) + np.random.default_rng(3).normal(0, 2, len(at)))


def test_each_origin_knows_only_what_came_before_it() -> None:
    """2,100 steps known: another future after them changes no forecast issued at 2,100 or before."""
    values, other = day_and_a_half(), day_and_a_half()
    other[2_100:] *= 5

    def issued(series: np.ndarray) -> list[float]:
        walked = walk(series, STEP, start=2_040, every=10, horizon_seconds=600, quantiles=(0.5, 0.9), experts=QUICK)
        return [one.quantile(0.9) for one in walked if one.issued_at <= 2_100 * STEP]

    assert issued(values) == issued(other)
    assert len(issued(values)) == 7


def test_a_walk_issues_what_the_live_forecaster_does() -> None:
    """The last forecast of a walk over 2,160 steps is the one a forecaster gives that has watched them all along."""
    values = day_and_a_half()
    walked = list(walk(values, STEP, start=2_100, horizon_seconds=600, quantiles=(0.5, 0.9), experts=QUICK))
    live = SeriesForecaster(STEP, 86_400, QUICK)
    for i in range(2_100, 2_161):
        live.observe(History(values[:i], 1, 1_440))
    again = live.forecast("trace", 2_160.0 * STEP, 600, (0.5, 0.9))
    assert len(walked) == 61
    assert walked[-1].mean == pytest.approx(again.mean)
    assert walked[-1].peak == pytest.approx(dict(again.peak))


def test_a_silence_longer_than_the_horizon_leaves_its_origins_out() -> None:
    """Steps 2,000 to 2,059 are unknown: up to ten of them are bridged, the other origins have no forecast."""
    values: list[float | None] = list(day_and_a_half())
    values[2_000:2_060] = [None] * 60
    issued = [one.issued_at / STEP for one in walk(values, STEP, start=1_990, horizon_seconds=600, quantiles=(0.5,), experts=QUICK)]
    assert not [at for at in issued if 2_010 < at <= 2_060]
    assert 2_061 in issued
