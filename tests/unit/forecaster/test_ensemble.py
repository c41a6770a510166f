"""The ensemble and its quantiles: who gets weight, who is left out, and how often the peak stays within what was said."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_forecaster.calibrate import Calibration, ranked
from deepseek_forecaster.ensemble import SMALLEST_WEIGHT, Blend
from deepseek_forecaster.evaluate import coverage, judge, pinball, wape
from deepseek_forecaster.models.expert import Floats, History, Ints, Untrained
from deepseek_forecaster.record import Member
from deepseek_forecaster.running import fading_sums
from deepseek_forecaster.series import SeriesForecaster

QUANTILES = (0.5, 0.9, 0.95)
DAY = 144.0


class Scripted(Untrained):
    """An expert of the test's: says what `says` gives for the history, the origins and the steps."""

    def __init__(self, name: str, says: object) -> None:
        self.name = name
        self._says = says

    def minimum_history(self, day: float, steps: int) -> int:
        return 1

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        answer = self._says(history, origins, steps) if callable(self._says) else self._says
        if isinstance(answer, Exception):
            raise answer
        return np.broadcast_to(np.asarray(answer, dtype=np.float64), (len(origins), steps)).copy()


def forecaster_with(*experts: Scripted) -> SeriesForecaster:
    forecaster = SeriesForecaster(60, DAY * 60)
    for expert in experts:
        forecaster.adopt(Member(expert))
    return forecaster


def noisy(days: float, spread: float = 0.1, seed: int = 3) -> np.ndarray:
    return np.asarray(100.0 * np.exp(spread * np.random.default_rng(seed).standard_normal(round(days * DAY))))


def ask(forecaster: SeriesForecaster, values: np.ndarray, steps: int = 10) -> object:
    forecaster.expect(steps * 60)
    forecaster.observe(History(values, 0, DAY))
    return forecaster.forecast("a", (len(values) - 1) * 60 + 1.0, steps * 60, QUANTILES)


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (RuntimeError("no idea"), "RuntimeError: no idea"),
        (np.inf, "not finite"),
        (-5.0, "negative"),
        (1e300, "not finite"),
        (lambda history, origins, steps: np.where(np.arange(steps) % 2, np.nan, 1.0), "not finite"),
    ],
    ids=["raises", "infinite", "negative", "beyond any load", "partly NaN"],
)
def test_an_expert_that_fails_is_left_out_and_reported(says: object, reason: str) -> None:
    forecaster = forecaster_with(Scripted("broken", says))
    forecast = ask(forecaster, noisy(3))
    assert "broken" not in forecast.models  # type: ignore[attr-defined]
    assert reason in forecaster.failures["broken"]
    assert 80 < forecast.mean < 125  # type: ignore[attr-defined]


def test_an_expert_that_works_again_is_taken_back() -> None:
    answers = [RuntimeError("no idea"), 100.0]
    forecaster = forecaster_with(Scripted("flaky", lambda *_: answers[0]))
    values = noisy(3)
    ask(forecaster, values[:-10])
    answers.pop(0)
    assert "flaky" in ask(forecaster, values).models  # type: ignore[attr-defined]
    assert forecaster.failures == {}


def test_the_expert_that_is_right_gets_most_of_the_weight_and_one_ten_times_too_high_the_least() -> None:
    forecaster = forecaster_with(Scripted("right", 100.0), Scripted("wrong", 1000.0))
    models = ask(forecaster, noisy(3)).models  # type: ignore[attr-defined]
    assert max(models, key=models.get) == "right"
    assert models["wrong"] <= 2 * SMALLEST_WEIGHT
    assert sum(models.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("since", "least", "most"), [(0, 0.9, 1.0), (425, 0.001, 0.6)], ids=["judged by all", "judged by the last 6, of which nothing has come"]
)
def test_an_expert_that_remembers_what_it_has_learned_from_earns_no_weight_by_it(since: int, least: float, most: float) -> None:
    values = noisy(3)

    def knows_the_past(history: History, origins: Ints, steps: int) -> Floats:
        ahead = np.minimum(origins[:, None] + np.arange(1, steps + 1), len(values) - 1)
        return np.asarray(values[ahead])

    forecaster = SeriesForecaster(60, DAY * 60)
    forecaster.adopt(Member(Scripted("memory", knows_the_past), since=since))
    assert least <= ask(forecaster, values).models["memory"] <= most  # type: ignore[attr-defined]


def a_blend(own: np.ndarray, came: np.ndarray, naive: np.ndarray) -> Blend:
    """One that said `own` of windows of one step, of which `came` came."""
    count = len(came)
    return Blend(
        origins=np.arange(count),
        names=("last_value",),
        weights=np.ones((count, 1)),
        mean=own,
        knot=own,
        native=np.full((count, 3), np.nan),
        came=came,
        peak_came=came,
        knot_came=came,
        realized=np.ones(count, dtype=bool),
        naive=naive,
        floor=1.0,
        head_weights=np.ones(1),
        head_mean=100.0,
        head_path=np.array([100.0]),
        head_native=np.full(3, np.nan),
    )


def test_no_single_step_is_expected_to_exceed_the_peak_of_them_all() -> None:
    # the step at the knot always came fifty times higher than said, the peak always as said
    came = np.full(40, 100.0)
    blended = replace(a_blend(came, came, came), knot=came / 50)
    quantiles = Calibration().extend(blended, rows_per_day=144.0, windows_per_row=0.5)
    assert (quantiles.steps(QUANTILES) <= quantiles.peak(QUANTILES)[:, None]).all()


def test_where_nothing_beats_the_last_value_the_ensemble_is_not_on_probation() -> None:
    # the load stays at 50 or 150 for forty steps and the horizon is one step
    stairs = np.where((np.arange(3 * 144) // 40) % 2, 150.0, 50.0)
    forecast = ask(forecaster_with(), stairs, 1)
    assert not forecast.on_probation  # type: ignore[attr-defined]
    assert forecast.recent_wape == pytest.approx(forecast.naive_wape, abs=0.005)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("own_error", "origins", "on_probation"),
    [
        (0.2, 144, True),
        (0.10, 144, False),
        (0.05, 144, False),
        (0.2, 12, True),
        (0.2, 11, False),
    ],
    ids=["twice as wrong", "as wrong", "half as wrong", "twice, over 12 windows", "twice, over 11 windows: no proof"],
)
def test_probation_is_for_a_day_worse_than_the_last_value_which_was_10_percent_wrong(
    own_error: float, origins: int, on_probation: bool
) -> None:
    came = np.full(origins, 100.0)
    blended = a_blend(came * (1 + own_error), came, came * 1.1)
    how = judge(blended, np.ones(origins), rows_per_day=144.0, windows_per_row=1.0)
    assert how.on_probation is on_probation
    assert how.wape == pytest.approx(own_error)
    assert how.naive_wape == pytest.approx(0.1)


def test_with_one_sample_the_peak_is_that_sample_with_honest_headroom() -> None:
    forecast = ask(forecaster_with(), np.array([10.0]))
    assert forecast.mean == pytest.approx(10.0)  # type: ignore[attr-defined]
    # exp(1.645 × 0.6) = 2.7
    assert forecast.quantile(0.95) == pytest.approx(27.0, rel=0.05)  # type: ignore[attr-defined]
    assert forecast.recent_wape is None  # type: ignore[attr-defined]


def test_the_width_shrinks_as_errors_come_in() -> None:
    values = noisy(2, spread=0.05)
    widths = [ask(forecaster_with(), values[:count]).quantile(0.95) for count in (1, 30, 288)]  # type: ignore[attr-defined]
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 130.0


def test_over_two_days_of_noise_95_of_100_peaks_stay_within_p95() -> None:
    values = noisy(8, spread=0.3, seed=11)
    forecaster = forecaster_with()
    hits = []
    for end in range(4 * 144, 8 * 144 - 10, 5):
        forecast = ask(forecaster, values[: end + 1])
        hits.append(values[end + 1 : end + 11].max() <= forecast.quantile(0.95))  # type: ignore[attr-defined]
    assert 0.90 <= np.mean(hits) <= 0.99


@given(st.lists(st.floats(-50, 50), max_size=60), st.lists(st.floats(0.0001, 0.9999), min_size=2, max_size=6))
def test_scores_rise_with_the_level_also_beyond_what_was_ever_seen(scores: list[float], levels: list[float]) -> None:
    answers = ranked(np.array(scores, dtype=np.float64), np.ones(len(scores)), 0.3).at(np.sort(np.array(levels)))
    assert np.isfinite(answers).all()
    assert (np.diff(answers) >= 0).all()


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.floats(0.7, 0.999))
def test_fading_sums_are_what_a_loop_gives(numbers: list[float], decay: float) -> None:
    running, expected = 0.0, []
    for number in numbers:
        running = running * decay + number
        expected.append(running)
    assert fading_sums(np.array(numbers), decay) == pytest.approx(np.array(expected), rel=1e-6, abs=1e-9)


def test_wape_pinball_and_coverage_on_numbers_done_by_hand() -> None:
    said, came = np.array([10.0, 20.0, 30.0, np.nan]), np.array([12.0, 18.0, 30.0, 5.0])
    assert wape(said, came) == pytest.approx(4 / 60)
    # short by 2 → 0.9 × 2; over by 2 → 0.1 × 2; exact → 0: 2.0 ÷ 3
    assert pinball(said, came, 0.9) == pytest.approx(2 / 3)
    assert coverage(said, came) == pytest.approx(2 / 3)
    assert wape(np.array([1.0]), np.array([0.0])) is None
