"""What must hold of every decision, where a table cannot reach."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from deepseek_operator.core.budget import Spent
from deepseek_operator.core.capacity import MOST_NODES, nodes_for
from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.recommend import recommend
from deepseek_operator.core.schedule import ScheduledFloor
from deepseek_operator.core.types import Demand, Memory, PeakForecast, Policy, Recommendation, Situation

NOW = 1_790_000_000.0
MANY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])

LOADS = st.one_of(st.floats(0, 2000), st.floats(0, allow_nan=False, allow_infinity=False), st.just(0.0))
CAPACITIES = st.one_of(st.floats(0.01, 1000), st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False))
COUNTS = st.integers(0, 1200)
AGES = st.one_of(st.none(), st.floats(0, 10_000))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Every policy the API server lets through, and manual counts it does not."""
    low = draw(st.integers(1, 1000))
    down = draw(st.integers(1, 98))
    return Policy(
        mode=draw(st.sampled_from(["Predictive", "Reactive", "Shadow", "Manual"])),
        min_nodes=low,
        max_nodes=draw(st.integers(low, 1000)),
        manual_nodes=draw(st.none() | COUNTS),
        scale_up_percent=draw(st.integers(max(10, down + 1), 100)),
        scale_down_percent=down,
        between_thresholds=draw(st.sampled_from(["Consolidate", "Hold"])),
        scale_up_cooldown_seconds=draw(st.integers(0, 3600)),
        scale_down_cooldown_seconds=draw(st.integers(0, 3600)),
        scale_down_stabilization_seconds=draw(st.integers(0, 3600)),
        max_scale_up_nodes=draw(st.none() | st.integers(1, 20)),
        max_scale_down_nodes=draw(st.none() | st.integers(1, 20)),
        unknown_demand_grace_seconds=draw(st.integers(10, 3600)),
    )


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """Any past."""

    def instant() -> float | None:
        age = draw(AGES)
        return None if age is None else NOW - age

    past = draw(st.lists(st.tuples(st.floats(0, 10_000), COUNTS), max_size=6))
    return Memory(
        recommendations=tuple(Recommendation(NOW - age, nodes) for age, nodes in sorted(past, reverse=True)),
        scaled_at=instant(),
        scaled_up_at=instant(),
        demand_known_at=instant(),
    )


def forecasts() -> st.SearchStrategy[PeakForecast]:
    """Any peak the wire lets through."""
    return st.builds(lambda peak: PeakForecast(peak, peak / 2, 95, 600, NOW), LOADS)


SITUATIONS = st.builds(
    Situation,
    now=st.just(NOW),
    policy=policies(),
    nodes=COUNTS,
    demand=st.none() | st.builds(Demand, LOADS, st.booleans()),
    node_capacity=st.none() | CAPACITIES,
    forecast=st.none() | forecasts(),
    memory=memories(),
    missing=st.sampled_from(["", "Prometheus is down"]),
    release_barred=st.sampled_from(["", "an upgrade is under way"]),
)


@MANY
@given(SITUATIONS)
def test_min_nodes_and_max_nodes_hold_in_every_situation(s: Situation) -> None:
    """Also without demand, capacity or forecast, with loads up to 1e308 and manual counts out of bounds; and every decision has a reason."""
    decision = decide(s)
    assert s.policy.min_nodes <= decision.nodes <= s.policy.max_nodes
    assert decision.reason
    assert decision.message
    assert not any(value is not None and math.isnan(value) for value in (decision.utilization, decision.predicted_utilization))


FLOORS = st.lists(
    st.builds(
        ScheduledFloor,
        name=st.just("floor"),
        nodes=st.integers(1, 1000),
        duration_seconds=st.integers(60, 10_000),
        starts_at=st.floats(NOW - 9000, NOW + 9000),
    ),
    max_size=3,
).map(tuple)


@MANY
@given(SITUATIONS, FLOORS, st.none() | st.floats(0.1, 1e5), st.floats(0, 1e5), st.sampled_from(["Release", "Hold"]), LOADS, LOADS)
def test_with_a_schedule_and_a_budget_bounds_hold_and_more_load_never_gives_fewer_nodes(
    s: Situation, floors: tuple[ScheduledFloor, ...], limit: float | None, used: float, spent: Any, one: float, other: float
) -> None:
    """Whatever the calendar asks for and whatever is spent: min ≤ nodes ≤ max; and of two loads the higher one gets no fewer nodes."""
    policy = replace(s.policy, schedule=floors, budget_node_hours=limit, when_spent=spent)
    s = replace(s, policy=policy, memory=replace(s.memory, spent=Spent.on_the_day_of(NOW, 3600 * used)), lead_seconds=195)
    lower, higher = (decide(replace(s, demand=Demand(rate))).nodes for rate in sorted((one, other)))
    assert policy.min_nodes <= lower <= higher <= policy.max_nodes
    assert policy.min_nodes <= decide(s).nodes <= policy.max_nodes


@MANY
@given(SITUATIONS, forecasts(), forecasts())
def test_more_forecast_never_gives_fewer_nodes(s: Situation, one: PeakForecast, other: PeakForecast) -> None:
    """All else equal."""
    lower, higher = sorted((one, other), key=lambda forecast: forecast.peak)
    assert decide(replace(s, forecast=lower)).nodes <= decide(replace(s, forecast=higher)).nodes


@MANY
@given(SITUATIONS, LOADS, LOADS)
def test_more_demand_never_gives_fewer_nodes(s: Situation, one: float, other: float) -> None:
    """All else equal."""
    lower, higher = sorted((one, other))
    assert decide(replace(s, demand=Demand(lower))).nodes <= decide(replace(s, demand=Demand(higher))).nodes


@MANY
@given(SITUATIONS, st.none() | LOADS)
def test_unknown_or_incomplete_demand_never_releases(s: Situation, rate: float | None) -> None:
    """Only a maximum below what runs takes nodes then."""
    assume(s.policy.mode != "Manual")
    blind = replace(s, demand=None if rate is None else Demand(rate, complete=False))
    assert decide(blind).nodes >= min(s.nodes, s.policy.max_nodes)


@MANY
@given(SITUATIONS, st.none() | LOADS)
def test_unknown_or_incomplete_demand_is_no_evidence_later(s: Situation, rate: float | None) -> None:
    """The moment is remembered as having needed what ran."""
    assume(s.policy.mode != "Manual")
    blind = replace(s, demand=None if rate is None else Demand(rate, complete=False))
    highest = remember(blind, decide(blind)).highest(NOW)
    assert highest is not None
    assert highest >= s.nodes


@MANY
@given(SITUATIONS)
def test_a_forecast_never_goes_below_what_the_present_demand_needs(s: Situation) -> None:
    """Where nothing may slow adding down: at least ceil(demand ÷ (capacity × scaleUpPercent)), within bounds; a tenth beyond that percentage
    while a forecast decides and nobody waits."""
    assume(s.demand is not None and s.node_capacity is not None and s.policy.mode != "Manual")
    assert s.demand is not None
    assert s.node_capacity is not None
    free = replace(s, policy=replace(s.policy, scale_up_cooldown_seconds=0, max_scale_up_nodes=None))
    percent = s.policy.scale_up_percent
    if s.foreseen is not None and s.demand.complete and not s.demand.pressing:
        percent = min(100, round(1.1 * percent))
    needed = nodes_for(s.demand.rate, s.node_capacity, percent)
    assert decide(free).nodes >= min(needed, s.policy.max_nodes)


@MANY
@given(SITUATIONS)
def test_releasing_never_goes_below_what_was_recommended_in_the_window(s: Situation) -> None:
    """Or below what runs, if that is less; whatever the mode but Manual, as far as the maximum allows."""
    assume(s.policy.mode != "Manual")
    window = [r.nodes for r in s.memory.recommendations if r.at >= NOW - s.policy.scale_down_stabilization_seconds]
    assume(window)
    assert decide(s).nodes >= min(s.nodes, max(window), s.policy.max_nodes)


@MANY
@given(SITUATIONS)
def test_deciding_again_at_once_changes_nothing(s: Situation) -> None:
    """The same load on the nodes just decided on: nothing is added or released within the second, rate limits aside."""
    s = replace(s, policy=replace(s.policy, max_scale_up_nodes=None, max_scale_down_nodes=None, scale_down_cooldown_seconds=60))
    first = decide(s)
    assume(first.nodes != s.nodes)
    again = replace(s, nodes=first.nodes, memory=remember(s, first))
    assert decide(again).nodes == first.nodes


@MANY
@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.integers(10, 100))
def test_nodes_for_is_the_fewest_that_fit(rate: float, capacity: float, percent: int) -> None:
    """That many carry the load, one fewer do not (a billionth of rounding aside)."""
    nodes = nodes_for(rate, capacity, percent)
    assume(nodes < MOST_NODES)
    fits = capacity * percent / 100
    assert nodes * fits >= rate * (1 - 1e-8) - fits * 1e-8
    assert (nodes - 1) * fits < rate or nodes == 0


@MANY
@given(SITUATIONS)
def test_a_recommendation_is_never_negative(s: Situation) -> None:
    """Nor less than the minimum when it is computed from a load."""
    recommendation = recommend(s)
    assert recommendation.nodes >= 0
    if recommendation.predicted_utilization is not None and recommendation.nodes != s.nodes:
        assert recommendation.nodes >= s.policy.min_nodes
