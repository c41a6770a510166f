"""Which stretch is played, how fast and how large."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek_demo.stage import NEEDED_SPAN, Pacing, StageError, choose, smooth
from deepseek_demo.traffic import Floats, Trace, generate


def waves(days: int, period_minutes: float, low: float = 100.0, high: float = 1000.0) -> Floats:
    minutes = np.arange(days * 1440)
    curve: Floats = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * minutes / period_minutes))
    return curve


def test_a_service_whose_day_is_one_wave_is_played_fast_enough_to_show_the_whole_wave() -> None:
    stage = choose(Trace("day", 1.0, waves(10, 1440)), Pacing())
    assert stage.speed >= 180
    assert stage.span >= NEEDED_SPAN
    assert stage.play_seconds == 255


def test_a_service_with_a_wave_every_two_hours_is_played_at_the_slowest_speed() -> None:
    stage = choose(Trace("short", 1.0, waves(10, 120)), Pacing())
    assert stage.speed == 30
    assert stage.step_seconds == 2
    assert stage.minutes_per_step == 1


def test_the_peak_needs_3_point_3_of_4_nodes_at_80_percent() -> None:
    stage = choose(generate(days=10, seed=2), Pacing(nodes=4, requests_per_second_per_node=2.0, scale_up_percent=80))
    # 3.3 nodes × 2 req/s × 0.8 = 5.28 req/s
    assert smooth(stage.play, stage.step_seconds).max() == pytest.approx(5.28)


def test_the_stretch_lies_in_the_last_30_percent_and_all_before_it_is_history() -> None:
    trace = generate(days=10, seed=2)
    stage = choose(trace, Pacing())
    assert stage.start_minute >= 0.7 * trace.minutes - stage.minutes_per_step
    assert len(stage.history) == round(stage.start_minute / stage.minutes_per_step)
    rates = trace.requests_per_minute(stage.minutes_per_step)
    cut = len(stage.history)
    scale = stage.play[0] / rates[cut]
    np.testing.assert_allclose(stage.history[-5:], rates[cut - 5 : cut] * scale)


def test_history_is_14_days_at_most() -> None:
    stage = choose(generate(days=25, seed=2), Pacing())
    assert len(stage.history) * stage.minutes_per_step == pytest.approx(14 * 1440, abs=stage.minutes_per_step)


def test_the_end_of_an_outage_is_not_played_when_an_ordinary_wave_is_there() -> None:
    counts = waves(10, 720)
    start, end = 8 * 1440 - 30, 8 * 1440 + 30
    counts[start:end] = 1.0
    stage = choose(Trace("outage", 1.0, counts), Pacing())
    assert stage.gentle
    assert stage.start_minute + len(stage.play) * stage.minutes_per_step <= start or stage.start_minute >= end


def test_gaps_are_unknown_in_history_and_bridged_in_the_play() -> None:
    trace = generate(days=10, seed=2)
    trace.counts[1000:1200] = np.nan
    trace.counts[7 * 1440 :][::50] = np.nan
    stage = choose(trace, Pacing())
    assert np.isnan(stage.history).any()
    assert not np.isnan(stage.play).any()


def test_a_trace_of_an_hour_is_refused_with_the_length_that_would_do() -> None:
    with pytest.raises(StageError, match=r"covers 60 minutes; 255 s at speed 30 play 127.5 minutes.*at least 425 minutes"):
        choose(Trace("hour", 1.0, np.ones(60)), Pacing())


def test_level_traffic_has_no_rise_and_fall_to_play() -> None:
    with pytest.raises(StageError, match="no rise and fall"):
        choose(Trace("level", 1.0, np.ones(5000)), Pacing())


def test_a_given_speed_is_kept_even_where_it_shows_little() -> None:
    stage = choose(Trace("day", 1.0, waves(10, 1440)), Pacing(), speed=60)
    assert stage.speed == 60
    assert stage.step_seconds == 1
    assert stage.season_seconds == 1440
