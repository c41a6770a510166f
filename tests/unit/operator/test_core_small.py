"""Capacity, cold start, ledger: small sums, done by hand beside them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from deepseek_operator.core.capacity import LEARNING_WEIGHT, MOST_NODES, learned, nodes_for, utilization
from deepseek_operator.core.coldstart import SAMPLES_KEPT, ColdStart, horizon
from deepseek_operator.core.ledger import LONGEST_GAP_SECONDS, Counterfactual, Ledger
from deepseek_operator.core.plan import PodView
from deepseek_operator.core.types import Demand, Memory, PeakForecast, Policy, Situation


@pytest.mark.parametrize(
    ("rate", "capacity", "percent", "nodes"),
    [
        pytest.param(24, 4, 80, 8, id="24 ÷ (4 × 0.8) = 7.5 → 8"),
        pytest.param(32, 3.2, 100, 10, id="32 ÷ 3.2 is 10, not 11, though 32 / 3.2 is not exact in binary"),
        pytest.param(25.6, 3.2, 80, 10, id="25.6 ÷ (3.2 × 0.8) is 10.000000000000002 in binary and 10 in truth"),
        pytest.param(0.3, 0.1, 100, 3, id="0.3 ÷ 0.1 is 3"),
        pytest.param(25.61, 3.2, 80, 11, id="a hundredth more is one node more"),
        pytest.param(0, 4, 80, 0, id="nothing needs nothing"),
        pytest.param(1e-6, 4, 80, 1, id="a request in eleven days needs a node"),
        pytest.param(1e308, 1e-9, 80, MOST_NODES, id="1e308 ÷ 1e-9 is more than a number: a million"),
        pytest.param(1, 5e-324, 10, MOST_NODES, id="a capacity that vanishes in rounding: a million"),
        pytest.param(0, 5e-324, 10, 0, id="and for no load: none"),
    ],
)
def test_nodes_for(rate: float, capacity: float, percent: int, nodes: int) -> None:
    """Fewest nodes under the percentage."""
    assert nodes_for(rate, capacity, percent) == nodes


def test_utilization() -> None:
    """12 ÷ (2 × 10) = 0.6; any load on no node is infinite, no load on no node is none."""
    assert utilization(12, 2, 10) == pytest.approx(0.6)
    assert utilization(1, 0, 10) == math.inf
    assert utilization(0, 0, 10) == 0


@pytest.mark.parametrize("reading", [None, math.nan, math.inf, 0.0, -3.0], ids=["none", "NaN", "infinite", "zero", "negative"])
def test_a_capacity_that_is_no_number_teaches_nothing(reading: float | None) -> None:
    """What was known stays known; what was not stays not known."""
    assert learned(10, reading) == 10
    assert learned(None, reading) is None


def test_capacity_is_learned_at_once_and_then_slowly() -> None:
    """The first reading is taken; one reading of 20 beside a known 10 moves it by a tenth to 11; ten of them by two thirds."""
    assert learned(None, 10) == 10
    assert learned(10, 20) == pytest.approx(11)
    capacity: float | None = 10
    for _ in range(10):
        capacity = learned(capacity, 20)
    assert capacity == pytest.approx(20 - 10 * (1 - LEARNING_WEIGHT) ** 10)
    assert 16.5 < (capacity or 0) < 16.7


# --------------------------------------------------------------------------------------------------------------- cold start


def pod(name: str, created: float, ready: float | None) -> PodView:
    return PodView(name, created_at=created, ready_at=ready, ready=ready is not None)


def test_a_cold_start_is_from_creation_to_readiness_and_counts_once() -> None:
    """Asked for at 100, ready at 190: 90 s, also when seen again, also when it became unready and ready later."""
    starts = ColdStart(answering_since=50).seen([pod("a", 100, 190), pod("b", 100, None)])
    assert starts.starts == (("a", 90),)
    assert starts.seen([pod("a", 100, 190)]) is starts
    assert starts.seen([pod("a", 100, 5000)]) is starts
    assert starts.seen([pod("b", 100, 220)]).starts == (("a", 90), ("b", 120))


def test_the_first_nodes_of_a_service_do_not_count_they_waited_for_the_head_too() -> None:
    """The first two were asked for at 100, before anything answered; the one asked for at 300 joins a service that answers since 190."""
    starts = ColdStart().seen([pod("first", 100, 190), pod("beside", 100, 195), pod("later", 300, 320)])
    assert starts.starts == (("later", 20),)
    assert starts.seen([pod("beside", 100, 195)]) is starts


def test_a_pod_ready_before_its_creation_is_a_clock_gone_wrong_and_does_not_count() -> None:
    """Otherwise a start would take less than no time."""
    assert ColdStart(answering_since=50).seen([pod("a", 100, 99)]).p90() is None


def test_p90_of_ten_starts_is_the_second_slowest() -> None:
    """10, 20, …, 100 s → 90 s; one start is its own p90; none has none."""
    assert ColdStart().p90() is None
    assert ColdStart((("a", 42.0),)).p90() == 42
    assert ColdStart(tuple((str(n), 10.0 * n) for n in range(1, 11))).p90() == 90


def test_the_last_50_starts_count() -> None:
    """After 50 quick starts the slow ones of the old image are forgotten."""
    starts = ColdStart(answering_since=0).seen([pod(f"slow-{n}", 0, 600) for n in range(50)])
    assert starts.p90() == 600
    starts = starts.seen([pod(f"quick-{n}", 1000, 1060) for n in range(50)])
    assert (len(starts.starts), starts.p90()) == (SAMPLES_KEPT, 60)


@pytest.mark.parametrize(
    ("p90", "seconds"),
    [
        pytest.param(None, 600, id="nothing measured: the 600 s asked for"),
        pytest.param(100, 600, id="a start of 100 s: the 600 s asked for"),
        pytest.param(585, 600, id="a start of 585 s and a tick of 15: exactly the 600 s"),
        pytest.param(700, 715, id="a start of 700 s and a tick of 15: 715 s, though 600 were asked for"),
    ],
)
def test_the_forecast_looks_at_least_as_far_as_a_node_takes(p90: float | None, seconds: float) -> None:
    """A node asked for now answers only then."""
    assert horizon(600, p90, 15) == seconds


# ------------------------------------------------------------------------------------------------------------------- ledger


def test_an_hour_at_3_of_10_nodes_beside_4_in_mode_reactive() -> None:
    """3 node-hours, 10 at the maximum, 4 reactive."""
    ledger = Ledger(since=0, counted_until=0)
    for second in range(15, 3601, 15):
        ledger = ledger.count(second, nodes=3, maximum=10, reactive_nodes=4)
    assert (ledger.node_seconds / 3600, ledger.at_maximum / 3600, ledger.reactive / 3600) == (3, 10, 4)
    assert ledger.since == 0


@pytest.mark.parametrize(
    ("now", "counted"),
    [
        pytest.param(LONGEST_GAP_SECONDS, LONGEST_GAP_SECONDS, id="900 s without a tick are counted"),
        pytest.param(LONGEST_GAP_SECONDS + 1, 0, id="901 s are not: nothing is known of them"),
        pytest.param(0, 0, id="no time, nothing"),
        pytest.param(-5, 0, id="time backwards, nothing"),
    ],
)
def test_a_long_silence_is_counted_for_nobody(now: float, counted: float) -> None:
    """And the counting goes on from there."""
    ledger = Ledger(since=-100, counted_until=0).count(now, 1, 1, 1)
    assert (ledger.node_seconds, ledger.counted_until) == (counted, now)


def test_the_counterfactual_goes_its_own_way() -> None:
    """The real object holds 6 nodes for an upgrade; mode Reactive beside it, 300 s after its last need of 2, is at 1."""
    policy = Policy(mode="Reactive")
    beside = Counterfactual(2, Memory.begin(0, 2))
    for second in range(0, 331, 15):
        real = Situation(
            now=second,
            policy=policy,
            nodes=6,
            demand=Demand(5),
            node_capacity=10,
            forecast=PeakForecast(60, 30, 95, 600, second),
            memory=Memory.begin(second, 6),
            release_barred="an upgrade is under way",
        )
        beside = beside.advance(real)
    assert beside.nodes == 1
    assert replace(beside, nodes=1).advance(replace(real, demand=Demand(20))).nodes == 3
