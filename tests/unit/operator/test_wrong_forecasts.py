"""A forecaster that is wrong, late, dead or silly costs money, never service: at most one request in a hundred is late beyond mode Reactive.

Two days by the minute between 5 and 85 req/s, with noise and with jumps to twice the load for half an hour; a node does 10 requests per second
and takes three minutes to come. The replay decides as the operator does live.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_forecaster.types import Forecast
from deepseek_forecaster.wire import WireError, read_response
from deepseek_operator.core.capacity import nodes_for
from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.foresight import usable
from deepseek_operator.core.types import Demand, Memory, PeakForecast, Policy, Situation
from deepseek_operator.replay import Outcome, replay

NODE_CAPACITY, MINUTES = 10.0, 2 * 1440
Foreseen = Callable[[float], PeakForecast | None]


@cache
def traffic(seed: int) -> tuple[float, ...]:
    """Requests per second in each minute."""
    draw = random.Random(seed)
    jumps = {draw.randrange(MINUTES) for _ in range(4)}
    rates = []
    for minute in range(MINUTES):
        level = 45 - 40 * math.cos(2 * math.pi * minute / 1440)
        jump = 2.0 if any(0 <= minute - at < 30 for at in jumps) else 1.0
        rates.append(max(0.0, level * jump * draw.gauss(1, 0.08)))
    return tuple(rates)


def run(seed: int, policy: Policy, foreseen: Foreseen | None, outage: range = range(0)) -> Outcome:
    rates = traffic(seed)
    seen = [None if minute in outage else rate for minute, rate in enumerate(rates)]
    return replay(rates, 60, policy, NODE_CAPACITY, forecaster=foreseen, tick_seconds=30, seen=seen)


def truth(seed: int, now: float) -> float:
    """The highest minute of the next ten."""
    minute = int(now / 60)
    return max(traffic(seed)[minute : minute + 10], default=0.0)


def times(factor: float) -> Callable[[int], Foreseen]:
    """A forecast that is the truth times `factor`."""
    return lambda seed: lambda now: PeakForecast(factor * truth(seed, now), truth(seed, now), 95, 600, now)


def banded(middle: float, now: float) -> PeakForecast:
    """A median with a 95th percentile three tenths above it."""
    return PeakForecast(1.3 * middle, middle, 95, 600, now, loads=((0.5, middle), (0.95, 1.3 * middle)), lead_seconds=240)


def dead_half_of_the_time(seed: int) -> Foreseen:
    """Hours with a true forecast and hours with none, by turns."""
    return lambda now: times(1.0)(seed)(now) if int(now / 3600) % 2 else None


def at_random(seed: int) -> Foreseen:
    """Anything from nothing to ten times too much, anew each time it is asked."""
    draw = random.Random(seed)
    return lambda now: PeakForecast(peak := draw.choice((0.0, 1.0, 30.0, 850.0)), peak, 95, 600, now)


WRONG: dict[str, Callable[[int], Foreseen]] = {
    "three times too high": times(3.0),
    "three times too low": times(1 / 3),
    "always nothing": times(0.0),
    "dead every other hour": dead_half_of_the_time,
    "anything at all": at_random,
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_forecaster_makes_no_more_than_one_request_in_a_hundred_later(wrong: Callable[[int], Foreseen], seed: int) -> None:
    """Beside mode Reactive with its window, on the same traffic."""
    reactive = run(seed, Policy(mode="Reactive", max_nodes=40), None)
    ours = run(seed, Policy(max_nodes=40), wrong(seed))
    assert ours.late_share <= reactive.late_share + 0.01, (ours.late_share, reactive.late_share)


@pytest.mark.parametrize("seed", range(2))
def test_forecasts_three_times_too_high_cost_two_days_at_most_a_twentieth_more_than_mode_reactive(seed: int) -> None:
    """They are found out within half an hour, and given no more nodes."""
    reactive = run(seed, Policy(mode="Reactive", max_nodes=40), None)
    ours = run(seed, Policy(max_nodes=40), lambda now: banded(3 * truth(seed, now), now))
    assert ours.node_hours <= 1.05 * reactive.node_hours
    assert ours.late_share <= reactive.late_share + 0.001


@pytest.mark.parametrize("seed", range(2))
def test_forecasts_three_times_too_low_are_at_most_a_point_later_than_mode_reactive(seed: int) -> None:
    """On traffic of single requests, of which one fills a node for its minute: 0 to 4 a minute, at random."""
    draw = random.Random(seed)
    rates = tuple(sum(draw.random() < 0.25 for _ in range(4)) / 60 for _ in range(MINUTES))
    low = (1 / 3) * 2 / 60

    def ran(policy: Policy, foreseen: Foreseen | None) -> Outcome:
        return replay(rates, 60, policy, 1 / 60, forecaster=foreseen, tick_seconds=30)

    reactive = ran(Policy(mode="Reactive", max_nodes=40), None)
    ours = ran(Policy(max_nodes=40), lambda now: banded(low, now))
    assert ours.late_share <= reactive.late_share + 0.01


@pytest.mark.parametrize("seed", range(2))
def test_two_hours_without_metrics_in_the_rise_of_the_day_are_no_worse_than_in_mode_reactive(seed: int) -> None:
    """Nothing is released meanwhile, and after ten minutes the highest count of the last hour runs, whatever is forecast."""
    outage = range(1440 + 480, 1440 + 600)
    reactive = run(seed, Policy(mode="Reactive", max_nodes=40), None, outage)
    ours = run(seed, Policy(max_nodes=40), times(1 / 3)(seed), outage)
    assert ours.late_share <= reactive.late_share + 0.01


RATES = st.lists(st.floats(0, 400), min_size=5, max_size=40)
PEAKS = st.floats(0, 1e12)


@settings(max_examples=100, deadline=None)
@given(RATES, st.lists(st.none() | PEAKS, min_size=40, max_size=40))
def test_whatever_is_forecast_the_present_demand_has_its_nodes(rates: list[float], peaks: list[float | None]) -> None:
    """At every tick of any course: at least ceil(demand ÷ (10 × 0.88)), as far as nodes.max goes; ÷ (10 × 0.8) once a request waits."""
    policy, nodes, memory = Policy(max_nodes=60), 1, Memory.begin(0, 1)
    for number, rate in enumerate(rates):
        now, peak = 15.0 * number, peaks[number]
        forecast = None if peak is None else PeakForecast(peak, peak, 95, 600, now)
        waiting = number % 3
        situation = Situation(now, policy, nodes, Demand(rate, waiting=waiting), NODE_CAPACITY, forecast, memory)
        decision = decide(situation)
        nodes, memory = decision.nodes, remember(situation, decision)
        assert nodes >= min(60, nodes_for(rate, NODE_CAPACITY, 80 if waiting else 88))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1.0", "null", '"many"'])
def test_a_forecast_that_is_no_number_does_not_come_past_the_wire(value: str) -> None:
    """So the core never sees one."""
    good = Forecast(
        series="default.chat",
        issued_at=0.0,
        step_seconds=60,
        horizon_seconds=60,
        mean=1.0,
        peak={0.5: 1.0, 0.95: 77.0},
        path={"mean": (1.0,)},
        models={},
        history_seconds=0.0,
    )
    body = '{"forecasts":[' + good.model_dump_json().replace("77.0", value) + "]}"
    with pytest.raises(WireError):
        read_response(body)


@pytest.mark.parametrize(
    ("age", "used"), [(0, True), (120, True), (121, False), (-121, False)], ids=["fresh", "two steps old", "older", "from ahead"]
)
def test_a_stale_forecast_is_not_used(age: float, used: bool) -> None:
    """Two steps are one that is being collected and one of delay."""
    forecast = Forecast(
        series="default.chat",
        issued_at=1000.0 - age,
        step_seconds=60,
        horizon_seconds=600,
        mean=1.0,
        peak={0.5: 1.0, 0.95: 2.0},
        path={"mean": (1.0,) * 10},
        models={},
        history_seconds=0.0,
    )
    assert (usable(forecast, 1000.0, 600, 60, 95) == "") == used
