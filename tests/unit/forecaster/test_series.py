"""One series' forecast, whatever its history looks like and whenever it is asked for."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepseek_forecaster.models.arima import Arima
from deepseek_forecaster.models.expert import History, NotEnoughHistoryError
from deepseek_forecaster.record import Member
from deepseek_forecaster.series import NoForecastError, SeriesForecaster
from deepseek_forecaster.wire import ForecastBatchResponse, read_response, write

FIRST = 29_000_000
QUANTILES = (0.01, 0.5, 0.9, 0.95, 0.999)
loads = st.one_of(st.just(float("nan")), st.just(0.0), st.floats(0, 3), st.floats(0, 1e12), st.integers(0, 3).map(float))


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, st.integers(1, 500), elements=loads),
    st.integers(1, 40),
    st.sampled_from([20.0, 33.3, 144.0, 1440.0]),
    st.integers(0, 9),
    st.sampled_from([False, False, False, True]),
)
@example(np.zeros(300), 10, 20.0, 0, True)
@example(np.full(300, 1e12), 10, 20.0, 0, True)
def test_any_history_gives_finite_ordered_quantiles_that_are_not_negative(
    values: np.ndarray, steps: int, day: float, late: int, with_arima: bool
) -> None:
    forecaster = SeriesForecaster(60, day * 60)
    history = History(values, FIRST, day)
    if with_arima:
        expert = Arima()
        try:
            expert.fit(history, steps)
            forecaster.adopt(Member(expert, since=FIRST + len(values) // 2))
        except NotEnoughHistoryError:
            pass
    forecaster.observe(history)
    now = (FIRST + len(values) - 1 + late) * 60 + 7.0
    known = np.flatnonzero(np.isfinite(values))
    if not len(known) or len(values) - 1 + late - known[-1] > max(10, steps):
        with pytest.raises(NoForecastError):
            forecaster.forecast("a", now, steps * 60, QUANTILES)
        return
    # the type itself refuses what is not finite, negative or not in order; reading it back proves that the other side accepts it
    forecast = forecaster.forecast("a", now, steps * 60, QUANTILES)
    assert read_response(write(ForecastBatchResponse(forecasts=(forecast,)))).forecasts == (forecast,)
    assert len(forecast.path_of()) == steps
    assert forecast.models
    for lower, higher in ((0.01, 0.5), (0.5, 0.95), (0.95, 0.999)):
        assert all(a <= b for a, b in zip(forecast.path_of(lower), forecast.path_of(higher), strict=True))
    assert max(forecast.path_of(0.95)) <= forecast.quantile(0.95) * (1 + 1e-12)


def test_before_the_first_sample_there_is_no_forecast_and_the_reason_says_so() -> None:
    with pytest.raises(NoForecastError, match="no samples yet"):
        SeriesForecaster(60, 86_400).forecast("a", 1e9, 600, (0.5,))


def test_a_newest_sample_older_than_the_horizon_is_no_base_for_a_forecast() -> None:
    forecaster = SeriesForecaster(60, 86_400)
    forecaster.observe(History(np.ones(50), 0, 1440.0))
    forecaster.forecast("a", (49 + 10) * 60, 600, (0.5,))
    with pytest.raises(NoForecastError, match=r"must be at most 600 s old .*, was 660 s"):
        forecaster.forecast("a", (49 + 11) * 60, 600, (0.5,))


def test_the_later_the_newest_sample_the_wider_the_forecast() -> None:
    forecaster = SeriesForecaster(60, 86_400)
    values = 100 * np.exp(0.1 * np.random.default_rng(5).standard_normal(600))
    forecaster.observe(History(values, 0, 1440.0))
    widths = [forecaster.forecast("a", (599 + late) * 60, 600, QUANTILES) for late in (3, 6, 10)]
    ratios = [forecast.quantile(0.95) / forecast.quantile(0.5) for forecast in widths]
    assert ratios[0] < ratios[1] < ratios[2]


def test_a_longer_horizon_than_ever_asked_for_is_answered_at_once_and_learned_at_the_next_step() -> None:
    forecaster = SeriesForecaster(60, 86_400)
    values = np.full(300, 5.0)
    forecaster.observe(History(values, 0, 1440.0))
    assert forecaster.wants(60)
    assert len(forecaster.forecast("a", 299 * 60, 3600, (0.5,)).path_of()) == 60
    forecaster.observe(History(np.append(values, 5.0), 0, 1440.0))
    assert forecaster.steps >= 60
    assert not forecaster.wants(60)


def test_a_rebuilt_record_gives_the_same_forecast_as_one_that_grew_step_by_step() -> None:
    values = 100 * np.exp(0.1 * np.random.default_rng(5).standard_normal(700))
    grown, rebuilt = SeriesForecaster(60, 144 * 60), SeriesForecaster(60, 144 * 60)
    for end in range(400, 701, 7):
        grown.observe(History(values[:end], 0, 144.0))
    grown.observe(History(values, 0, 144.0))
    rebuilt.observe(History(values, 0, 144.0))
    answers = [json.loads(one.forecast("a", 700 * 60, 600, QUANTILES).model_dump_json()) for one in (grown, rebuilt)]
    assert answers[0]["peak"] == pytest.approx(answers[1]["peak"], rel=0.01)
    assert answers[0]["mean"] == pytest.approx(answers[1]["mean"], rel=0.01)


def test_yesterdays_rise_is_seen_coming() -> None:
    day = np.concatenate((np.full(90, 20.0), np.full(54, 80.0)))
    noise = np.exp(0.03 * np.random.default_rng(7).standard_normal(5 * 144))
    values = np.tile(day, 5) * noise
    end = 4 * 144 + 86
    forecaster = SeriesForecaster(60, 144 * 60)
    forecaster.expect(600)
    forecaster.observe(History(values[:end], 0, 144.0))
    forecast = forecaster.forecast("a", (end - 1) * 60 + 1, 600, QUANTILES)
    assert forecast.quantile(0.95) > 60.0, "four steps before the daily step from 20 to 80"


def test_coming_back_from_an_outage_does_not_promise_hundreds_of_times_the_load() -> None:
    """A day at 5 req/s, then every hour ten minutes at 0.01 and back again: the 99.9th percentile of the peak is at most 3 × 5.5 req/s."""
    rng = np.random.default_rng(3)
    values = 5 + rng.uniform(-0.5, 0.5, 2_000)
    for hour in range(25, 33):
        values[hour * 60 : hour * 60 + 10] = 0.01
    forecaster = SeriesForecaster(60, 86_400)
    forecaster.observe(History(values, FIRST, 1440.0))
    forecast = forecaster.forecast("a", (FIRST + len(values) - 1) * 60 + 7.0, 600, QUANTILES)
    assert 4 < forecast.quantile(0.5) < 7
    assert forecast.quantile(0.999) <= 16.5
