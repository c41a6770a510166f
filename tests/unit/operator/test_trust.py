"""The operator holds each forecast against the demand that came. One forecast a minute, a lead of 4 minutes, 10 req/s per node."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.trust import OPEN, Trust, judged
from deepseek_operator.core.types import Demand, Memory, PeakForecast, Policy, Situation

TICK, STEP, LEAD = 15, 60, 240.0
Quantiles = Callable[[float], tuple[tuple[float, float], ...]]


def around(middle: float) -> tuple[tuple[float, float], ...]:
    """A median, a 95th and a 99.9th percentile, 30 and 80 % above it."""
    return ((0.5, middle), (0.95, 1.3 * middle), (0.999, 1.8 * middle))


def forecast(middle: float, issued_at: float, lead: float = LEAD, slack: float = 10.0) -> PeakForecast:
    return PeakForecast(1.3 * middle, middle, 95, 600, issued_at, loads=around(middle), lead_seconds=lead, slack_seconds=slack)


def record(
    minutes: int,
    demand: Callable[[int], float | None],
    foreseen: Callable[[int], float | None],
    trust: Trust | None = None,
    *,
    begin: int = 0,
    capacity: float = 10.0,
    lead: float = LEAD,
    complete: bool = True,
) -> Trust:
    """The record after so many minutes; demand and the median that is foreseen are given by minute."""
    trust = trust or Trust()
    for second in range(60 * begin, 60 * (begin + minutes), TICK):
        minute = second // 60
        load, middle = demand(minute), foreseen(minute)
        trust = judged(
            trust,
            Situation(
                float(second),
                Policy(),
                1,
                None if load is None else Demand(load, complete),
                capacity,
                None if middle is None else forecast(middle, 60.0 * minute, lead),
                Memory(trust=trust),
            ),
        )
    return trust


@pytest.mark.parametrize(("factor", "within"), [(1 / 3, 25), (1 / 2, 25), (3.0, 30), (2.5, 30)])
def test_a_forecaster_wrong_by_a_factor_is_found_out_in_half_an_hour(factor: float, within: int) -> None:
    """Too low shows when the load passes it, too high only when the lead is over."""
    trust = record(within, lambda _: 60.0, lambda _: 60.0 * factor)
    assert (trust.lost_low, trust.lost_high) == (factor < 1, factor > 1)
    assert bool(trust.too_low) == (factor < 1)
    assert bool(trust.too_high) == (factor > 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_forecaster_that_is_right_is_never_distrusted_by_noise_of_a_fifth_or_a_jump_to_twice_the_load(seed: int) -> None:
    """Two days; every six hours, three hours after the first forecast, the load jumps for ten minutes to twice what anybody foresees."""
    draw = random.Random(seed)
    level = [60 * draw.gauss(1, 0.2) * (2 if 180 <= minute % 360 < 190 else 1) for minute in range(2880)]
    trust = Trust()
    for begin in range(0, 2880, 10):
        trust = record(10, lambda minute: max(0.0, level[minute]), lambda _: 70.0, trust, begin=begin)
        assert not trust.lost_low
        assert not trust.lost_high


@pytest.mark.parametrize("slack", [0, 10, 60, 600])
@pytest.mark.parametrize("lead", [60, 180, 600, 3600])
def test_work_that_may_wait_long_makes_no_true_forecast_too_low(lead: int, slack: int) -> None:
    """A steady 60 req/s asks for 60 × lead ÷ (lead + slack) where work may wait so long, and that is what is foreseen, with 5 % on top."""
    carried = 60 * lead / (lead + slack)
    trust = Trust()
    for minute in range(240):
        loads = ((0.5, carried), (0.95, 1.05 * carried), (0.999, 1.1 * carried))
        told = PeakForecast(63.0, 60.0, 95, 600, 60.0 * minute, loads=loads, lead_seconds=lead, slack_seconds=slack)
        trust = judged(trust, Situation(60.0 * minute, Policy(), 8, Demand(60.0), 10.0, told, Memory(trust=trust)))
        assert not trust.lost_low


def test_a_node_that_was_too_close_to_release_counts_as_needed_in_the_window() -> None:
    """While forecasts run too low: 3 nodes carry 24 req/s; the next tick 10 arrive and 12 are foreseen. Three were needed 15 s ago."""
    memory = Memory(trust=Trust(lost_low=True, low=40, judged=60))
    first = Situation(1000.0, Policy(), 3, Demand(24.0), 10.0, forecast(15.0, 1000.0), memory)
    memory = remember(first, decide(first))
    assert decide(Situation(1015.0, Policy(), 3, Demand(10.0), 10.0, forecast(12.0, 1015.0), memory)).nodes == 3


def test_trust_comes_back_when_the_forecasts_are_right_again_and_not_before() -> None:
    """An hour three times too high; then half an hour right is not enough, three hours are."""
    lost = record(60, lambda _: 60.0, lambda _: 180.0)
    assert lost.lost_high
    assert record(30, lambda _: 60.0, lambda _: 60.0, lost, begin=60).lost_high
    assert not record(180, lambda _: 60.0, lambda _: 60.0, lost, begin=60).lost_high


def test_of_a_load_that_one_node_carries_nothing_is_too_high() -> None:
    """2 req/s foreseen and 0.5 come: one node either way; 20 foreseen and 5 come: three and one."""
    assert not record(60, lambda _: 0.5, lambda _: 2.0).lost_high
    assert record(60, lambda _: 5.0, lambda _: 20.0).lost_high
    assert not record(60, lambda _: 5.0, lambda _: 20.0, capacity=100.0).lost_high


def test_what_was_not_seen_is_held_against_nobody() -> None:
    """Demand that is not known, or not of all replicas, closes what is open without a verdict."""
    for trust in (
        record(60, lambda minute: 60.0 if minute % 3 else None, lambda _: 180.0),
        record(60, lambda _: 60.0, lambda _: 180.0, complete=False),
    ):
        assert not trust.lost_high
        assert not trust.lost_low
    assert record(60, lambda _: 60.0, lambda _: None) == Trust()


def test_a_forecast_that_is_read_again_counts_once() -> None:
    """Four ticks a minute read the same one: after 3 minutes with a lead of 4 three are open."""
    trust = record(3, lambda _: 60.0, lambda _: 60.0)
    assert len(trust.open) == 3
    assert trust.judged == Trust().judged


@settings(max_examples=50, deadline=None)
@given(
    st.floats(15, 86_400),
    st.lists(st.none() | st.floats(0, 1e9), min_size=1, max_size=30),
    st.lists(st.none() | st.floats(0, 1e9), min_size=30),
)
def test_a_record_stays_small_and_its_shares_are_shares(lead: float, demand: list[float | None], middles: list[float | None]) -> None:
    """Whatever comes and whatever was foreseen, with any lead up to a day: at most 11 promises are open, and no share leaves 0 to 1."""
    trust = record(len(demand), lambda m: demand[m], lambda m: middles[m], lead=lead)
    assert len(trust.open) <= OPEN + 1
    assert 0 <= trust.low <= trust.judged <= 61
    assert 0 <= trust.high <= trust.judged


@pytest.mark.parametrize(
    ("distrust", "window"),
    [(Trust(), 0.0), (Trust(lost_low=True, low=40, judged=60), 300.0), (Trust(lost_high=True, high=40, judged=60), 300.0)],
)
def test_a_release_waits_as_without_a_forecast_while_forecasts_are_not_trusted(distrust: Trust, window: float) -> None:
    """And a window that the object gives holds in any case."""
    memory = Memory(trust=distrust)
    situation = Situation(1000.0, Policy(), 5, Demand(30.0), 10.0, forecast(20.0, 1000.0), memory)
    assert situation.window == window
    assert Situation(1000.0, Policy(scale_down_stabilization_seconds=77), 5, Demand(30.0), 10.0, forecast(20.0, 1000.0), memory).window == 77


def test_too_high_a_forecast_adds_nothing_and_too_low_a_forecast_still_adds() -> None:
    """25 req/s there, 100 foreseen: 4 nodes by demand, 13 and more by the forecast."""
    situation = Situation(1000.0, Policy(max_nodes=40), 4, Demand(25.0), 10.0, forecast(100.0, 1000.0), Memory(trust=Trust(lost_high=True)))
    assert decide(situation).nodes == 4
    low = Situation(1000.0, Policy(max_nodes=40), 4, Demand(25.0), 10.0, forecast(100.0, 1000.0), Memory(trust=Trust(lost_low=True)))
    assert decide(low).nodes >= 13
    assert remember(low, decide(low)).trust.open[0].middle == 100.0
