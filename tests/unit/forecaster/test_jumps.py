"""After a jump: who is trusted first, and that the series teaches who should have been."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek_forecaster.jumps import after_jumps
from deepseek_forecaster.models.expert import History
from deepseek_forecaster.running import delayed
from deepseek_forecaster.series import SeriesForecaster

NAMES = ("ten_minute_mean", "boosting")
DAY = 144.0


def told(came: np.ndarray, losses: np.ndarray, said: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Ten-minute windows of which each is known one row later."""
    return after_jumps(np.full(len(came), said), came, losses, NAMES, 1.0, rows_per_day=DAY, windows_per_row=1.0, late=1)


def usual_then(*last: float) -> np.ndarray:
    """48 windows 3 % off, and then these."""
    return np.array([103.0] * 48 + list(last))


def test_half_an_hour_after_a_window_twice_as_high_as_said_counts_as_after_a_jump() -> None:
    after, _ = told(usual_then(200, 100, 100, 100, 100), np.ones((53, 2)))
    assert np.flatnonzero(after).tolist() == [49, 50, 51]


@pytest.mark.parametrize(("last", "jumps"), [(110.0, False), (121.0, False), (130.0, True)], ids=["+10 %", "+21 %", "+30 %"])
def test_an_error_is_a_jump_from_22_percent_and_four_and_a_half_times_the_usual_on(last: float, jumps: bool) -> None:
    after, _ = told(usual_then(last), np.ones((49, 2)))
    assert bool(after[-1]) is jumps


def test_where_twice_is_usual_twice_is_no_jump() -> None:
    came = np.tile([50.0, 200.0], 30)
    assert not told(came, np.ones((60, 2)))[0].any()


def test_before_any_jump_those_that_follow_at_once_are_trusted_and_after_spikes_those_that_come_back() -> None:
    _, losses = told(usual_then(200), np.ones((49, 2)))
    assert losses[-1, 0] < losses[-1, 1]
    # after three spikes the ten-minute mean was ten times as wrong
    came, wrong = np.concatenate([usual_then(200, 100, 100, 100)] * 3), np.ones((156, 2))
    wrong[:, 0] = 10.0
    _, losses = told(came, wrong)
    assert losses[-1, 1] < losses[-1, 0]


def test_after_a_step_to_twice_the_load_the_forecast_follows_within_one_window() -> None:
    """Six days of a daily wave at 3 % noise, and from one step on twice of it: ten minutes later the mean is at most 15 % off."""
    at = np.arange(6 * 144 + 40)
    values = (100 + 60 * np.sin(2 * np.pi * at / 144)) * np.exp(0.03 * np.random.default_rng(8).standard_normal(len(at)))
    values[6 * 144 :] *= 2
    forecaster = SeriesForecaster(600, 86_400)
    forecaster.expect(600)
    errors = []
    for end in range(6 * 144 - 3, 6 * 144 + 4):
        forecaster.observe(History(values[:end], 0, DAY))
        errors.append(abs(forecaster.forecast("a", (end - 1) * 600, 600, (0.9,)).mean / values[end] - 1))
    assert errors[3] > 0.3, "the step itself is foreseen by nobody"
    assert max(errors[4:]) < 0.15


def test_what_is_known_late_is_given_late() -> None:
    assert delayed(np.array([1.0, 2.0, 3.0, 4.0]), 0.0, 2).tolist() == [0.0, 0.0, 1.0, 2.0, 4.0]
    assert delayed(np.array([1.0]), 0.0, 5).tolist() == [0.0, 1.0]
    assert delayed(np.zeros(0), 7.0, 3).tolist() == [7.0]
