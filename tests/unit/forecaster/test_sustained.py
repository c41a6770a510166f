"""What has to be carried so that no work waits longer than a slack: below the peak by what a queue can take, and never below what it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_forecaster.models.expert import History
from deepseek_forecaster.walk import walk

STEP = 60
ASKED: dict[str, Any] = {"experts": ("last_value", "ten_minute_mean", "seasonal_naive"), "slack_seconds": 10}


def carried(values: list[float], slack: float) -> float:
    return float(History(np.array(values), 0, 1_440).sustained_between(np.array([0]), len(values), slack)[0])


@pytest.mark.parametrize(
    ("values", "slack_seconds", "load"),
    [
        pytest.param([7.0, 7.0, 7.0], 0, 7.0, id="without slack it is the peak"),
        pytest.param([0.0, 7.0, 0.0], 10, 6.0, id="one minute of 7 req/s: 420 requests in 70 s are 6 req/s"),
        pytest.param([6.0, 6.5, 0.0], 10, 12.5 * 60 / 130, id="two minutes of 6 and 6.5: 750 requests in 130 s are more than the 390 in 70 s"),
        pytest.param([5.0] * 5, 10, 5.0 * 300 / 310, id="five minutes of 5: 1500 requests in 310 s"),
    ],
)
def test_what_has_to_be_carried(values: list[float], slack_seconds: int, load: float) -> None:
    assert carried(values, slack_seconds / STEP) == pytest.approx(load)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.floats(0.01, 2))
def test_a_queue_served_at_this_rate_holds_nothing_for_longer_than_the_slack(values: list[float], slack: float) -> None:
    """And at 1 % less, it does, unless hardly anything arrives."""

    def longest_queue(rate: float) -> float:
        waiting = longest = 0.0
        for arrived in values:
            waiting = max(0.0, waiting + arrived - rate)
            longest = max(longest, waiting)
        return longest

    rate = carried(values, slack)
    assert longest_queue(rate) <= rate * slack * (1 + 1e-9) + 1e-9
    if rate > 0.1:
        assert longest_queue(0.99 * rate) > 0.99 * rate * slack


def test_the_forecast_of_what_has_to_be_carried_lies_below_that_of_the_peak() -> None:
    """Noise of a tenth from minute to minute: of the peak of the next four minutes a seventh may be missing for a minute, not for four."""
    at = np.arange(4_320)
    values = (50 + 20 * np.sin(2 * np.pi * at / 1_440)) * np.random.default_rng(5).normal(1, 0.1, len(at))
    quantiles = (0.5, 0.9, 0.99)
    issued = list(walk(values, STEP, start=4_200, every=20, horizon_seconds=240, quantiles=quantiles, lead_seconds=240, **ASKED))
    assert len(issued) == 7
    for forecast in issued:
        assert forecast.sustained is not None
        assert (forecast.sustained.lead_seconds, forecast.sustained.slack_seconds) == (240, 10)
        assert set(forecast.sustained.load) == set(quantiles)
        for q in quantiles:
            assert forecast.peak[q] * 6 / 7 * 0.9 < forecast.sustained.load[q] < forecast.peak[q]


def test_what_came_stays_within_the_p90_of_what_has_to_be_carried_nine_times_in_ten() -> None:
    """Over 500 origins of a day, five minutes apart and less: between 86 and 95 %."""
    at = np.arange(8_640)
    values = (50 + 20 * np.sin(2 * np.pi * at / 1_440)) * np.random.default_rng(6).normal(1, 0.1, len(at))
    history = History(values, 0, 1_440)
    hits = []
    for forecast in walk(values, STEP, start=7_140, every=3, horizon_seconds=300, quantiles=(0.9,), lead_seconds=300, **ASKED):
        origin = round(forecast.issued_at / STEP)
        if origin + 5 <= len(values):
            assert forecast.sustained is not None
            hits.append(history.sustained_between(np.array([origin]), 5, 10 / STEP)[0] <= forecast.sustained.load[0.9])
    assert len(hits) >= 490
    assert 0.86 < np.mean(hits) < 0.95
