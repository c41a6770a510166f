"""The operator's own decision in the world of the replay, against sums done by hand: a constant rate, a step, a silence."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_operator.core.types import PeakForecast, Policy
from deepseek_operator.replay import Decider, replay

REACTIVE = Policy(mode="Reactive", max_nodes=100)


def test_a_constant_rate_that_fits_is_never_late_and_costs_what_it_takes() -> None:
    """15 req/s on 2 nodes of 10 for an hour: 2 node-hours, 54,000 requests, none late, no change."""
    outcome = replay([15.0] * 60, 60, REACTIVE, 10, start_nodes=2)
    assert outcome.node_hours == pytest.approx(2)
    assert outcome.requests == pytest.approx(54_000)
    assert (outcome.late, outcome.changes, outcome.late_share) == (0, 0, 0)


def test_no_traffic_is_no_division_by_zero() -> None:
    """An hour of nothing at the minimum of 1."""
    outcome = replay([0.0] * 60, 60, REACTIVE, 10)
    assert (outcome.node_hours, outcome.late_share) == (pytest.approx(1), 0)


def test_a_step_waits_for_the_minute_to_end_and_for_the_cold_start() -> None:
    """10 req/s on 2 nodes, then 40: the queue tells within two ticks, the rate after a minute, and 5 nodes are ready 180 s after they were
    asked for; until then 20 req/s more than two nodes carry pile up."""
    outcome = replay([10.0] * 10 + [40.0] * 30, 60, REACTIVE, 10, start_nodes=2, cold_start_seconds=180)
    asked = next(row.t_seconds for row in outcome.rows if row.asked >= 5)
    ready = next(row.t_seconds for row in outcome.rows if row.ready >= 5)
    assert 600 < asked <= 660
    assert ready == asked + 180
    # A request that arrives t seconds after the step waits t, until the first node is ready: all 40 × (180 − 10) from 10 s on are late, and
    # then those that arrive while the queue of at most 20 × 240 is worked off.
    assert 40 * 170 < outcome.late < 40 * 170 + 4 * 4800


def test_who_foresees_the_step_is_never_late() -> None:
    """The same step with its peak foreseen 600 s ahead."""

    def foresee(now: float) -> PeakForecast:
        peak = 40.0 if now + 600 >= 600 else 10.0
        return PeakForecast(peak, peak, 95, 600, now)

    outcome = replay([10.0] * 10 + [40.0] * 30, 60, Policy(max_nodes=100), 10, start_nodes=2, forecaster=foresee)
    assert outcome.late == 0
    assert outcome.node_hours == pytest.approx(5 * 40 / 60, rel=0.02)


def test_node_hours_of_a_release_by_hand() -> None:
    """5 nodes for 40 req/s, then nothing: the window of 300 s passes, then 1 node is left."""
    outcome = replay([40.0] * 10 + [0.0] * 50, 60, REACTIVE, 10, start_nodes=5)
    released = next(row.t_seconds for row in outcome.rows if row.asked == 1)
    assert 600 + 300 <= released <= 660 + 300 + 15
    assert outcome.node_hours == pytest.approx((5 * released + (3600 - released)) / 3600, rel=0.01)


def test_silence_releases_nothing_and_the_world_goes_on() -> None:
    """40 req/s, then no metrics for 50 minutes: 5 nodes stay, and the traffic is served."""
    decider = Decider(REACTIVE, 10)
    outcome = replay([40.0] * 10 + [None] * 50, 60, decider, 10, start_nodes=5)
    assert {row.asked for row in outcome.rows} == {5}
    assert decider.decisions[-1].reason == "DemandUnknown"
    assert outcome.requests == pytest.approx(40 * 3600)
    assert outcome.late == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 200), min_size=2, max_size=20), st.integers(1, 5), st.integers(0, 8))
def test_bounds_and_books_hold_on_every_trace(rates: list[float], low: int, more: int) -> None:
    """min ≤ asked ≤ max, late ≤ all, and node-hours between min and max throughout."""
    policy = Policy(mode="Reactive", min_nodes=low, max_nodes=low + more)
    outcome = replay(rates, 60, policy, 10)
    hours = len(rates) / 60
    assert all(low <= row.asked <= low + more for row in outcome.rows)
    assert 0 <= outcome.late <= outcome.requests * (1 + 1e-9)
    assert low * hours <= outcome.node_hours * (1 + 1e-9)
    assert outcome.node_hours <= (low + more) * hours * (1 + 1e-9)


def test_a_compressed_day_ticks_every_second() -> None:
    """A step of 2 s: the world's steps divide it, and nothing is lost."""
    outcome = replay([15.0] * 30, 2, REACTIVE, 10, start_nodes=2, tick_seconds=1, cold_start_seconds=5)
    assert outcome.requests == pytest.approx(900)
    assert outcome.node_hours == pytest.approx(2 * 60 / 3600)
    assert outcome.late == 0


def test_a_capacity_of_nothing_is_refused() -> None:
    """It says what is allowed."""
    with pytest.raises(ValueError, match="node_capacity must be above 0, was 0"):
        replay([1.0], 60, REACTIVE, 0)
