"""The experts: what each says, and that none says anything that is not a load."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepseek_forecaster.models import OPTIONAL, TRAINABLE, new_expert
from deepseek_forecaster.models.arima import Arima
from deepseek_forecaster.models.expert import Expert, History, NotEnoughHistoryError, outlook_of, predict
from deepseek_forecaster.models.last_value import LastValue
from deepseek_forecaster.models.seasonal_naive import SeasonalNaive
from deepseek_forecaster.models.smoothing import Holt, Ses, smoothed
from deepseek_forecaster.models.ten_minute_mean import TenMinuteMean

DAY = 144.0
"""Ten-minute window of one step; a day of 144 steps keeps the tests quick."""

FAST: tuple[Callable[[], Expert], ...] = (LastValue, TenMinuteMean, Ses, Holt, SeasonalNaive)


def daily_wave(days: float, day: float = DAY, noise: float = 0.02, seed: int = 1) -> np.ndarray:
    """A load of 100 ± 60 per second with its maximum a quarter into each day, and multiplicative noise."""
    at = np.arange(round(days * day))
    random = np.random.default_rng(seed)
    return np.asarray((100 + 60 * np.sin(2 * np.pi * at / day)) * np.exp(noise * random.standard_normal(len(at))))


def test_last_value_repeats_the_last_known_value() -> None:
    history = History(np.array([1.0, 2.0, 7.0, np.nan]), 0, DAY)
    assert predict(LastValue(), history, 3).tolist() == [7.0, 7.0, 7.0]


def test_ten_minutes_are_ten_steps_of_a_minute_and_ten_of_two_seconds_in_a_day_compressed_thirty_times() -> None:
    assert History(np.zeros(1), 0, 86_400 / 60).window == 10
    assert History(np.zeros(1), 0, 86_400 / 30 / 2).window == 10


def test_ten_minute_mean_leaves_unknown_steps_out_of_the_mean() -> None:
    values = np.array([1000.0] * 5 + [10.0] * 5 + [np.nan] * 2 + [20.0] * 3)
    # the last ten steps: five of 10, two unknown, three of 20 → (50 + 60) ÷ 8
    assert predict(TenMinuteMean(), History(values, 0, 1440.0), 2).tolist() == pytest.approx([13.75, 13.75])


def test_smoothing_as_a_filter_gives_what_the_recursion_gives() -> None:
    """Level gain 0.3, trend gain 0.1, damping 0.9 over fifty steps of a random walk."""
    loads = np.random.default_rng(0).normal(size=50).cumsum()
    level, trend = smoothed(loads, 0.3, 0.1, 0.9)
    running, slope = loads[0], 0.0
    for at in range(1, 50):
        error = loads[at] - (running + 0.9 * slope)
        running, slope = running + 0.9 * slope + 0.3 * error, 0.9 * slope + 0.1 * error
        assert (level[at], trend[at]) == pytest.approx((running, slope))


def test_after_a_step_from_10_to_40_simple_smoothing_is_halfway_in_its_root_after_twenty_minutes() -> None:
    values = np.array([10.0] * 600 + [40.0] * 20)
    # halfway between √10 and √40 is 1.5 × √10: 2.25 × 10
    assert predict(Ses(), History(values, 0, 1440.0), 1)[0] == pytest.approx(22.5, rel=0.01)


def test_holt_goes_on_with_a_rise_and_lets_it_die_away() -> None:
    path = predict(Holt(), History(np.linspace(100.0, 400.0, 600), 0, 1440.0), 60)
    assert path[0] < path[20] < path[59]
    assert path[59] - path[40] < 0.7 * (path[20] - path[0])


def test_boosting_foresees_the_daily_rise_and_its_peak_lies_within_its_quantiles() -> None:
    pytest.importorskip("torch")
    values = daily_wave(8)
    history = History(values, 0, DAY)
    expert = fitted("boosting", history.until(6 * 144), 6)
    origins = np.arange(6 * 144, 8 * 144 - 7)
    came, peak = history.mean_between(origins + 1, origins + 7), history.peak_between(origins + 1, 6)
    said, naive = outlook_of(expert, history, origins, 6), outlook_of(TenMinuteMean(), history, origins, 6)
    assert np.abs(said.mean - came).mean() < 0.4 * np.abs(naive.mean - came).mean()
    assert said.peak is not None
    assert (np.diff(said.peak, axis=1) >= 0).all()
    assert 0.6 < np.mean((said.peak[:, 0] <= peak) & (peak <= said.peak[:, 2])) < 0.95, "80 of 100 between p10 and p90"
    # half of the horizon was learned, too
    short = outlook_of(expert, history, origins, 3).mean
    assert (
        np.abs(short - history.mean_between(origins + 1, origins + 4)).mean()
        < np.abs(said.mean - history.mean_between(origins + 1, origins + 4)).mean()
    )


def test_peak_mean_and_number_of_known_values_between_positions_on_numbers_done_by_hand() -> None:
    history = History(np.array([1.0, np.nan, 3.0, 8.0]), 0, DAY)
    starts = np.array([-1, 0, 1, 3, 4])
    assert history.mean_between(starts, starts + 2).tolist() == pytest.approx([1.0, 1.0, 3.0, 8.0, np.nan], nan_ok=True)
    assert history.peak_between(starts, 2).tolist() == pytest.approx([1.0, 1.0, 3.0, 8.0, np.nan], nan_ok=True)
    assert history.known_between(starts, starts + 2).tolist() == [1, 1, 1, 1, 0]
    assert history.peak_between(np.array([0, 1]), 3).tolist() == [3.0, 8.0]


def test_seasonal_naive_moves_as_yesterday_at_todays_level() -> None:
    yesterday = np.full(1440, 50.0)
    yesterday[700:] = 100.0
    today = np.full(695, 500.0)
    path = predict(SeasonalNaive(), History(np.concatenate((yesterday, today)), 0, 1440.0), 30)
    assert path[0] < 650.0, "five minutes before yesterday's rise, still near today's level"
    assert path[-1] == pytest.approx(1000.0, rel=0.05), "yesterday doubled at this time, so ten times yesterday's level doubles too"


def test_seasonal_naive_has_no_opinion_within_the_first_day() -> None:
    assert np.isnan(predict(SeasonalNaive(), History(np.ones(1000), 0, 1440.0), 10)).all()


def test_arima_sees_the_daily_rise_that_the_ten_minute_mean_misses() -> None:
    values = daily_wave(8)
    history = History(values, 0, DAY)
    expert = Arima()
    expert.fit(history.until(6 * 144), 12)
    origins = np.arange(6 * 144, 8 * 144 - 13)
    came = np.stack([values[origins + ahead] for ahead in range(1, 13)], axis=1)
    error = {type(e).__name__: np.abs(e.predict_many(history, origins, 12) - came).mean() for e in (expert, TenMinuteMean())}
    assert error["Arima"] < 0.3 * error["TenMinuteMean"], error


def test_arima_says_the_same_when_it_is_asked_for_one_origin_or_for_many() -> None:
    history = History(daily_wave(6), 37, DAY)
    expert = Arima()
    expert.fit(history, 5)
    together = expert.predict_many(history, np.arange(len(history) - 40, len(history)), 5)
    assert predict(expert, history, 5) == pytest.approx(together[-1], rel=1e-3)


@pytest.mark.parametrize("name", TRAINABLE + OPTIONAL)
def test_a_fitted_expert_says_the_same_after_it_was_saved_and_restored(name: str) -> None:
    expert = fitted(name, History(daily_wave(5), 0, DAY))
    other = new_expert(name)
    other.restore(expert.state())
    history = History(daily_wave(5, seed=2), 3, DAY)
    assert predict(other, history, 6).tolist() == predict(expert, history, 6).tolist()


@pytest.mark.parametrize("name", TRAINABLE + OPTIONAL)
def test_an_expert_knows_nothing_after_its_origin(name: str) -> None:
    history = History(daily_wave(5), 0, DAY)
    expert = fitted(name, history)
    origin = np.array([600])
    changed = history.values.copy()
    changed[601:] = history.floor  # keeps nothing of what came later but its length
    later = History(changed, 0, DAY)
    later.__dict__["floor"] = history.floor
    assert expert.predict_many(later, origin, 6) == pytest.approx(expert.predict_many(history, origin, 6), rel=1e-9)


@pytest.mark.parametrize("name", TRAINABLE + OPTIONAL)
def test_a_state_that_is_not_this_experts_is_refused(name: str) -> None:
    if name == "lstm":
        pytest.importorskip("torch")
    with pytest.raises(ValueError, match=f"{name} needs"):
        new_expert(name).restore({"nonsense": np.zeros(3)})


@pytest.mark.parametrize("name", TRAINABLE + OPTIONAL)
def test_too_short_a_history_is_refused_with_what_it_needs(name: str) -> None:
    if name == "lstm":
        pytest.importorskip("torch")
    with pytest.raises(NotEnoughHistoryError, match=f"{name} needs at least"):
        new_expert(name).fit(History(np.ones(40), 0, DAY), 10)


def test_the_ucm_follows_a_day_whose_shape_changes() -> None:
    """A wave that grows to twice its height over twelve days, ten minutes ahead: half the error of the last ten minutes' mean."""
    at = np.arange(12 * 144)
    values = (
        50.0 * np.exp((0.3 + 0.3 * at / len(at)) * np.sin(2 * np.pi * at / 144)) * np.exp(0.01 * np.random.default_rng(5).normal(size=len(at)))
    )
    history = History(values, 0, DAY)
    expert = fitted("ucm", history.until(10 * 144), 1)
    origins = np.arange(10 * 144, 12 * 144 - 1)
    said, naive = (outlook_of(one, history, origins, 1).mean for one in (expert, TenMinuteMean()))
    came = values[origins + 1]
    assert np.abs(said - came).mean() < 0.5 * np.abs(naive - came).mean()


def test_the_lstm_learns_the_daily_wave_and_two_fits_are_the_same() -> None:
    pytest.importorskip("torch")
    values = daily_wave(8)
    history = History(values, 0, DAY)
    first, second = fitted("lstm", history.until(6 * 144), 12), fitted("lstm", history.until(6 * 144), 12)
    origins = np.arange(6 * 144, 8 * 144 - 13)
    came = np.stack([values[origins + ahead] for ahead in range(1, 13)], axis=1)
    said, again, naive = (outlook_of(expert, history, origins, 12).mean for expert in (first, second, TenMinuteMean()))
    assert np.abs(said - came.mean(axis=1)).mean() < 0.5 * np.abs(naive - came.mean(axis=1)).mean()
    assert said.tolist() == again.tolist()


def test_an_unknown_expert_is_refused_with_the_allowed_names() -> None:
    with pytest.raises(ValueError, match="must be one of last_value, ten_minute_mean, ses, holt, seasonal_naive, arima, boosting, lstm, ucm"):
        new_expert("oracle")


loads = st.one_of(st.just(float("nan")), st.just(0.0), st.floats(0, 1e9))


@settings(max_examples=80, deadline=None)
@given(
    arrays(np.float64, st.integers(1, 400), elements=loads),
    st.integers(1, 30),
    st.sampled_from([20.0, 24.7, 144.0, 1440.0, 43_200.0]),
    st.integers(0, 10**9),
)
@example(np.array([np.nan]), 1, 144.0, 0)
def test_every_fast_expert_gives_loads_or_says_nothing(values: np.ndarray, steps: int, day: float, first: int) -> None:
    history = History(values, first, day)
    for expert in (make() for make in FAST):
        path = expert.predict_many(history, np.arange(len(values)), steps)
        assert path.shape == (len(values), steps)
        silent = np.isnan(path).all(axis=1)
        assert (np.isfinite(path[~silent]) & (path[~silent] >= 0)).all(), expert.name


def fitted(name: str, history: History, steps: int = 6) -> Expert:
    """The expert fitted on this history; the LSTM with fewer updates than usual."""
    if name == "lstm":
        pytest.importorskip("torch")
        from deepseek_forecaster.models.lstm import Lstm

        expert: Expert = Lstm(updates=150)
    else:
        expert = new_expert(name)
    expert.fit(history, steps)
    return expert
