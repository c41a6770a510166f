"""How often the peak stays within what was issued, on traffic of very different kinds, and what the far tail promises."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_forecaster.calibrate import Widths, ranked
from deepseek_forecaster.models.expert import History
from deepseek_forecaster.walk import walk

DAY = 144
QUICK = ("last_value", "ten_minute_mean", "ses", "holt", "seasonal_naive")
RANDOM = np.random.default_rng(12)


def counts() -> np.ndarray:
    """0 to 3 requests per step, mostly none."""
    return np.asarray(RANDOM.poisson(0.5, 7 * DAY) / 600.0)


def millions() -> np.ndarray:
    """A daily wave between 1 and 3 million per second with 5 % noise."""
    at = np.arange(7 * DAY)
    return np.asarray((2e6 + 1e6 * np.sin(2 * np.pi * at / DAY)) * np.exp(0.05 * RANDOM.standard_normal(len(at))))


def restless() -> np.ndarray:
    """Noise of 5 % by night and of 40 % by day."""
    at = np.arange(7 * DAY)
    return np.asarray(50 * np.exp(np.where(at % DAY < 72, 0.05, 0.4) * RANDOM.standard_normal(len(at))))


def wilder() -> np.ndarray:
    """5 % noise for five days, then 30 %."""
    at = np.arange(7 * DAY)
    return np.asarray(50 * np.exp(np.where(at < 5 * DAY, 0.05, 0.3) * RANDOM.standard_normal(len(at))))


def bursty() -> np.ndarray:
    """One step in twenty is five times as high as the others."""
    return np.asarray(np.where(RANDOM.random(7 * DAY) < 0.05, 50.0, 10.0) * np.exp(0.1 * RANDOM.standard_normal(7 * DAY)))


@pytest.mark.parametrize("traffic", [counts, millions, restless, wilder, bursty])
def test_over_four_days_about_90_of_100_peaks_stay_within_p90(traffic: object) -> None:
    values = traffic()  # type: ignore[operator]
    issued = list(walk(values, 600, start=3 * DAY, horizon_seconds=600, quantiles=(0.5, 0.9, 0.99), experts=QUICK))
    at = [round(one.issued_at / 600) for one in issued if one.issued_at / 600 < len(values)]
    within = [values[i] <= one.quantile(0.9) for i, one in zip(at, issued, strict=False)]
    assert len(within) == 4 * DAY
    # two standard deviations of 576 tosses are 2.5 %; a count lies on its own p90, which can only cover more
    assert 0.875 <= np.mean(within) <= (0.95 if traffic is counts else 0.925)


def test_a_peak_over_two_overlapping_steps_is_covered_too() -> None:
    values = restless()
    issued = list(walk(values, 600, start=3 * DAY, every=2, horizon_seconds=1200, quantiles=(0.9,), experts=QUICK))[:-1]
    peaks = [values[i : i + 2].max() for i in (round(one.issued_at / 600) for one in issued)]
    assert 0.86 <= np.mean([peak <= one.quantile(0.9) for peak, one in zip(peaks, issued, strict=True)]) <= 0.94


@pytest.mark.parametrize("windows", [0, 5, 40, 500])
def test_with_normal_scores_the_tail_is_a_normal_tail(windows: int) -> None:
    """p99.9 of scores in widths of 1.28 standard deviations: 3.09 ÷ 1.28 = 2.41."""
    scores = np.array([NormalDist().inv_cdf((i + 0.5) / windows) for i in range(windows)]) / NormalDist().inv_cdf(0.9)
    level = ranked(scores, np.ones(windows), 1.0).at(np.array([0.9, 0.99, 0.999]))
    assert level[0] == pytest.approx(1.0, abs=0.12)
    assert level[2] == pytest.approx(2.41, rel=0.25)


def test_the_tail_goes_on_beyond_the_worst_that_was_seen_but_does_not_explode() -> None:
    """100 scores, the worst of them 20 widths: p99.9 lies beyond p99 and p95, and within 6 widths of it."""
    scores = np.concatenate((np.random.default_rng(1).normal(0, 0.8, 99), [20.0]))
    p95, p99, p999, p9999 = ranked(scores, np.ones(100), 1.0).at(np.array([0.95, 0.99, 0.999, 0.9999]))
    assert p95 < p99 < p999 < p9999
    assert p999 - p95 < 6.0


def test_the_first_answer_is_wide_and_two_days_later_the_same_noise_is_known() -> None:
    values = 100 * np.exp(0.05 * np.random.default_rng(4).standard_normal(2 * DAY))
    first, *_, last = walk(values, 600, start=1, horizon_seconds=600, quantiles=(0.1, 0.9), experts=QUICK)
    assert first.quantile(0.9) / first.quantile(0.1) > 3.0
    assert 1.1 < last.quantile(0.9) / last.quantile(0.1) < 1.3


def test_a_few_empty_seconds_move_the_level_by_little_more_than_their_share() -> None:
    """Ten minutes in steps of 2 s, six of the last 300 at nothing (2 %): the mean of the next minute falls by at most 5 %."""
    values = 40 * np.exp(0.1 * np.random.default_rng(6).standard_normal(6_000))
    dipped = values.copy()
    dipped[-8:-2] = 0.0
    means = []
    for series in (values, dipped):
        *_, last = walk(series, 2, start=5_900, every=50, horizon_seconds=60, quantiles=(0.9,), experts=QUICK)
        means.append(last.mean)
    assert means[1] > 0.95 * means[0]
    assert History(dipped, 1, 43_200.0).window == 300


@given(
    above=st.floats(1e-4, 5.0),
    beyond=st.floats(1e-4, 20.0),
    under=st.floats(1e-4, 5.0),
    errors=st.lists(st.floats(-10.0, 10.0), min_size=2, max_size=20),
)
def test_an_error_counted_in_widths_and_back_is_itself_and_the_larger_one_counts_more(
    above: float, beyond: float, under: float, errors: list[float]
) -> None:
    widths = Widths(np.array(above), np.array(beyond), np.array(under))
    rising = np.sort(np.array(errors))
    scores = widths.scores(rising)
    assert (np.diff(scores) >= 0).all()
    assert widths.errors(scores) == pytest.approx(rising, abs=1e-9)


def test_the_error_that_the_experts_give_nine_in_ten_has_the_score_one() -> None:
    """p50, p90, p99 at 0, 0.2 and 1.0: their scores are 0, 1 and, like a normal error's p99, 1.815."""
    beyond = (1.0 - 0.2) / (NormalDist().inv_cdf(0.99) / NormalDist().inv_cdf(0.9) - 1.0)
    scores = Widths(np.array(0.2), np.array(beyond), np.array(0.1)).scores(np.array([-0.1, 0.0, 0.2, 1.0]))
    assert scores == pytest.approx([-1.0, 0.0, 1.0, 1.815], abs=0.001)


def test_in_an_outage_p99_holds_the_load_that_may_come_back() -> None:
    """Outages of four hours on average, which end within a step one time in 25: p99 stays above the usual load in most of them, p90 never.

    Most of 94 steps of outage; in the other 194 p99 is less than three times the usual load.
    """
    random = np.random.default_rng(3)
    out = np.zeros(20 * DAY, dtype=bool)
    for step in range(1, len(out)):
        out[step] = random.random() < (0.96 if out[step - 1] else 0.02)
    values = np.where(out, 0.05, 20.0) * np.exp(0.1 * random.standard_normal(len(out)))
    issued = list(walk(values, 600, start=18 * DAY, horizon_seconds=600, quantiles=(0.9, 0.99), experts=(*QUICK, "boosting")))
    within = [one for one in issued if out[round(one.issued_at / 600) - 1]]
    usual = [one for one in issued if not out[round(one.issued_at / 600) - 1]]
    assert np.median([one.quantile(0.99) for one in within]) > 20.0
    assert np.median([one.quantile(0.9) for one in within]) < 1.0
    assert np.median([one.quantile(0.99) for one in usual]) < 60.0
