"""How many nodes pay: each further one is worth its price only while it is likely enough to be needed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_operator.core.decide import decide
from deepseek_operator.core.risk import nodes_that_pay
from deepseek_operator.core.types import Decision, Demand, Memory, PeakForecast, Policy, Situation

NOW = 1_800_000_000.0
CALM = ((0.5, 24.0), (0.9, 27.0), (0.99, 30.0))
"""In the middle 24 req/s; with 1 % more than 30."""


@pytest.mark.parametrize(
    ("loads", "quantile", "nodes"),
    [
        pytest.param(CALM, 0.95, 3, id="the share of the third of 10 req/s, 20 to 30, is needed with 51 %, the fourth's with 0"),
        pytest.param(CALM, 0.45, 2, id="who accepts 55 % for a node to be needed goes without the third"),
        pytest.param(((0.5, 24.0), (0.9, 30.2), (0.99, 30.4)), 0.95, 3, id="0.4 into the share of the fourth: needed with 0.3 %"),
        pytest.param(((0.5, 24.0), (0.9, 36.0), (0.99, 48.0)), 0.95, 4, id="the fourth is needed with 15 %, the fifth with 3 %"),
        pytest.param(((0.5, 24.0), (0.9, 36.0), (0.99, 48.0)), 0.99, 5, id="who accepts only 1 % takes the fifth too"),
        pytest.param(((0.5, 24.0), (0.9, 36.0), (0.99, 4_800.0)), 0.9999, 40, id="never more than may be: 40"),
        pytest.param(((0.5, 0.0), (0.99, 0.0)), 0.99, 0, id="no load, no node"),
        pytest.param((), 0.99, 0, id="nothing known, nothing said"),
    ],
)
def test_nodes_that_pay(loads: tuple[tuple[float, float], ...], quantile: float, nodes: int) -> None:
    assert nodes_that_pay(loads, 10.0, quantile, 40) == nodes


def rising() -> st.SearchStrategy[tuple[tuple[float, float], ...]]:
    """Loads at eight quantiles from the median on."""
    grid = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
    steps = st.lists(st.floats(0, 50), min_size=8, max_size=8)
    return steps.map(lambda some: tuple(zip(grid, itertools.accumulate(some), strict=True)))


@given(rising(), st.floats(0.5, 0.999), st.floats(0.5, 0.999))
def test_less_risk_never_takes_fewer_nodes(loads: tuple[tuple[float, float], ...], one: float, other: float) -> None:
    daring, careful = sorted((one, other))
    assert nodes_that_pay(loads, 7.0, daring, 100) <= nodes_that_pay(loads, 7.0, careful, 100)


@given(rising(), st.floats(0.5, 0.99), st.floats(1, 3))
def test_more_load_never_takes_fewer_nodes(loads: tuple[tuple[float, float], ...], quantile: float, times: float) -> None:
    more = tuple((q, times * load) for q, load in loads)
    assert nodes_that_pay(loads, 7.0, quantile, 100) <= nodes_that_pay(more, 7.0, quantile, 100)


@given(rising(), st.floats(0.5, 0.99))
def test_the_nodes_that_pay_lie_between_the_median_and_the_highest_load(loads: tuple[tuple[float, float], ...], quantile: float) -> None:
    nodes = nodes_that_pay(loads, 7.0, quantile, 1_000)
    assert int(loads[0][1] / 7.0) <= nodes <= loads[-1][1] / 7.0 + 1


def decided(nodes: int, demand: float, forecast: PeakForecast, **policy: object) -> Decision:
    given_policy = Policy(max_nodes=40, **policy)  # type: ignore[arg-type]
    memory = Memory(scaled_at=NOW - 3_600, demand_known_at=NOW)
    return decide(Situation(NOW, given_policy, nodes, Demand(demand), 10.0, forecast, memory))


def foreseen(*loads: tuple[float, float], percentile: int = 95, later: float = 1.0) -> PeakForecast:
    return PeakForecast(loads[-1][1], loads[0][1], percentile, 600, NOW, loads=loads, later=later)


def test_the_expected_load_rules_while_the_forecast_is_sure() -> None:
    """24 req/s in the middle and at most 25: 24 ÷ (10 × 0.8) = 3 nodes."""
    decision = decided(2, 10, foreseen((0.5, 24.0), (0.99, 25.0)))
    assert (decision.nodes, decision.reason) == (3, "ScaleUp")
    assert decision.message == "forecast peak 24 req/s (p95 25) needs 3 (10 req/s per node × 80 %)"


def test_an_unsure_forecast_takes_more_than_the_expected_load_needs() -> None:
    """24 in the middle but 36 with 10 % and 60 with 1 %: 80 % asks for 3, the risk for 5."""
    decision = decided(2, 10, foreseen((0.5, 24.0), (0.9, 36.0), (0.99, 60.0)))
    assert (decision.nodes, decision.reason) == (5, "ScaleUp")
    assert decision.message == "forecast peak 24 req/s (p95 60) needs 5 (10 req/s per node; each is needed with more than 5 %)"


def test_a_node_that_would_come_too_late_is_not_asked_for() -> None:
    """The load of 31 falls to 0.7 of it (21.7) before a new node is there: the 3 nodes stay, and no fourth comes."""
    falling = foreseen((0.5, 31.0), (0.99, 33.0), later=0.7)
    decision = decided(3, 20, falling)
    assert (decision.nodes, decision.reason) == (3, "PeakTooSoon")


def test_a_forecast_that_wavers_around_a_nodes_share_moves_none() -> None:
    """23 to 24.9 req/s in turn need 3 nodes and 4; once the fourth is there it stays: 23 is more than 77 % of 3 nodes."""
    nodes, changes = 3, 0
    for turn in range(40):
        load = 24.9 if turn % 2 else 23.2
        now = decided(nodes, 20, foreseen((0.5, load), (0.99, load + 1)))
        changes += now.nodes != nodes
        nodes = now.nodes
    assert (nodes, changes) == (4, 1)


def test_a_forecast_a_third_of_the_truth_leaves_what_the_present_demand_needs() -> None:
    """It says 16 where 48 arrive: 48 ÷ (10 × 0.88) → 6 nodes all the same."""
    decision = decided(2, 48, foreseen((0.5, 16.0), (0.99, 18.0)))
    assert (decision.nodes, decision.reason) == (6, "ReactiveFloor")
