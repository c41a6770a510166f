"""Budgets, and the percentile that follows from costs: sums done by hand beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_operator.api.v1alpha1 import ScalingSpec
from deepseek_operator.core import risk
from deepseek_operator.core.budget import LONGEST_GAP_SECONDS, Spent, affordable
from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.types import Demand, Memory, PeakForecast, Policy, Situation

HOUR, DAY = 3600, 86_400
NOON = 20_000 * DAY + 12 * HOUR


def situation(nodes: int, demand: float | None, used: float, at: float = NOON, peak: float | None = None, **policy: Any) -> Situation:
    """A budget of 120 node-hours, of which `used` are used; 1 to 10 nodes of 10 requests per second; no windows."""
    barred = policy.pop("barred", "")
    settings = {"budget_node_hours": 120, "scale_down_stabilization_seconds": 0, "scale_down_cooldown_seconds": 0} | policy
    return Situation(
        now=at,
        policy=replace(Policy(), **settings),
        nodes=nodes,
        demand=None if demand is None else Demand(demand),
        node_capacity=10.0,
        forecast=None if peak is None else PeakForecast(peak, peak, 95, 600, at),
        memory=Memory(demand_known_at=at, spent=Spent.on_the_day_of(at, used * HOUR)),
        release_barred=barred,
    )


S = situation
BUDGETS = {
    "96 of 120 used at noon: 120 − 96 − 12 × 1 = 12 are left beyond the minimum, enough for all 6": (S(1, 5, 96, peak=48), 6, "ScaleUp"),
    "105 used: 120 − 105 − 12 = 3 are left: 1 + 3": (S(1, 5, 105, peak=48), 4, "BudgetLimited"),
    "107.5 used: half a node-hour pays for no further node": (S(1, 5, 107.5, peak=48), 1, "BudgetLimited"),
    "spent: the minimum": (S(1, 5, 150, peak=48), 1, "BudgetLimited"),
    "6 run, and 3 node-hours are left beyond the minimum: down to 4": (S(6, 48, 105), 4, "BudgetLimited"),
    "the same while demand is unknown: a budget is a maximum": (S(6, None, 105), 4, "BudgetLimited"),
    "the same during an upgrade: nothing is released": (S(6, 48, 105, barred="an upgrade is under way"), 6, "Steady"),
    "Hold: spent, and 6 run that the present 48 need: they stay": (S(6, 48, 150, peak=48, when_spent="Hold"), 6, "Steady"),
    "Hold: spent, and the present 48 would need 6 of 4: none is added": (S(4, 48, 150, when_spent="Hold"), 4, "BudgetLimited"),
    "Hold: 6 run and the present 10 need 2, the peak 6: down to 2": (S(6, 10, 150, peak=48, when_spent="Hold"), 2, "BudgetLimited"),
    "Hold: demand unknown: what runs stays": (S(6, None, 150, when_spent="Hold"), 6, "DemandUnknown"),
    "a minimum of 4 is paid for whatever is spent": (S(4, 5, 150, min_nodes=4), 4, "Steady"),
    "the minimum of 4 takes 48 of what is left at noon: 120 − 60 − 48 = 12 more": (
        S(4, 5, 60, peak=480, min_nodes=4, max_nodes=40),
        16,
        "BudgetLimited",
    ),
    "half an hour before midnight a node is paid for half an hour: 120 − 118 − 0.5 = 1.5 → 3 more": (
        S(1, 5, 118, at=20_000 * DAY + 23.5 * HOUR, peak=480),
        4,
        "BudgetLimited",
    ),
    "mode Manual ignores it": (S(1, 5, 150, mode="Manual", manual_nodes=8), 8, "Manual"),
    "without a budget nothing is counted against anything": (S(1, 5, 150, peak=48, budget_node_hours=None), 6, "ScaleUp"),
}


@pytest.mark.parametrize(("given", "nodes", "reason"), BUDGETS.values(), ids=BUDGETS.keys())
def test_decide_within_a_budget(given: Situation, nodes: int, reason: str) -> None:
    """The row's count, for the row's reason; ScalingLimited says so whenever the budget had the word."""
    decision = decide(given)
    assert (decision.nodes, decision.reason) == (nodes, reason), decision.message
    assert (decision.limited == "BudgetLimited") == (reason == "BudgetLimited")


def test_the_words_say_what_is_used_and_what_is_left() -> None:
    """In node-hours."""
    message = decide(S(1, 5, 105, peak=48)).message
    assert message.endswith("105.0 of 120 node-hours of this day are used, which leaves 4 nodes for the next hour")


def test_a_day_is_counted_and_the_next_begins_at_nothing() -> None:
    """5 nodes from 23:00 on: 5 node-hours at midnight less a second; at 0:10 ten minutes of 5 nodes."""
    spent = Spent.on_the_day_of(20_000 * DAY + 23 * HOUR)
    for second in range(60, 3660, 60):
        spent = spent.count(20_000 * DAY + 23 * HOUR + second - (second == 3600), 5)
    assert spent.node_seconds == pytest.approx(5 * 3599)
    for second in range(60, 660, 60):
        spent = spent.count(20_001 * DAY + second, 5)
    assert (spent.day, spent.node_seconds) == (20_001, 5 * 600)


def test_a_silence_of_more_than_a_quarter_of_an_hour_is_not_counted() -> None:
    """The operator was down: nothing is known of it. Nor does a clock that goes back count."""
    spent = Spent.on_the_day_of(NOON, 100.0)
    assert spent.count(NOON + LONGEST_GAP_SECONDS + 1, 5).node_seconds == 100
    assert spent.count(NOON - 10, 5).node_seconds == 100
    assert spent.count(NOON + LONGEST_GAP_SECONDS, 5).node_seconds == 100 + 5 * LONGEST_GAP_SECONDS


@pytest.mark.parametrize(
    ("load", "node_hours"), [(5.0, 24), (400.0, 60)], ids=["a load for 1 node: 24 node-hours", "a load for 10: all 60 and not one more"]
)
def test_over_a_whole_day_the_budget_holds(load: float, node_hours: float) -> None:
    """60 node-hours for 1 to 10 nodes under a steady load. The 36 beyond the minimum are spent from the morning on, ever slower: the service
    runs 10 nodes at first, 2 for most of the day, and never fewer than its minimum."""
    given, counts = replace(S(1, load, 0, at=20_000 * DAY + 1, budget_node_hours=60), memory=Memory()), []
    for second in range(0, DAY - 60, 60):
        given = replace(given, now=20_000 * DAY + 1 + second)
        decision = decide(given)
        given = replace(given, nodes=decision.nodes, memory=remember(given, decision))
        counts.append(decision.nodes)
    assert given.memory.spent is not None
    assert given.memory.spent.node_seconds / HOUR == pytest.approx(node_hours, abs=1)
    assert given.memory.spent.node_seconds / HOUR <= 60
    assert counts[0] == min(10, -(-load // 8))
    assert min(counts) >= 1


@settings(max_examples=200, deadline=None)
@given(
    nodes=st.integers(1, 40),
    demand=st.floats(0, 500),
    peak=st.floats(0, 500),
    used=st.floats(0, 2000),
    limit=st.floats(1, 1000),
    second=st.integers(0, DAY - 1),
)
def test_a_budget_never_adds_what_it_cannot_pay_and_hold_takes_nothing_the_demand_needs(
    nodes: int, demand: float, peak: float, used: float, limit: float, second: int
) -> None:
    """At any hour, with anything spent: nothing above what is affordable is added; under Hold those that run and are needed stay."""
    s = S(nodes, demand, used, at=20_000 * DAY + second, peak=peak, budget_node_hours=limit, max_nodes=40)
    free = decide(replace(s, policy=replace(s.policy, budget_node_hours=None))).nodes
    limited = decide(s).nodes
    most = affordable(s)
    assert most is not None
    assert limited <= free
    assert limited == min(free, most)
    held = decide(replace(s, policy=replace(s.policy, when_spent="Hold"))).nodes
    assert limited <= held <= max(most, nodes)
    assert held >= min(nodes, free, -(-demand // 8))


# --------------------------------------------------------------------------------------------------------- costs as a percentile


def scaling(**given: Any) -> ScalingSpec:
    return ScalingSpec.model_validate(given)


@pytest.mark.parametrize(
    ("late", "capacity", "percentile"),
    [
        pytest.param("0.01", 5.0, 99, id="1 − 2.5 ÷ (3600 × 5 × 0.01) = 0.986"),
        pytest.param("0.001", 5.0, 86, id="1 − 2.5 ÷ (3600 × 5 × 0.001) = 0.861"),
        pytest.param("0.001", 10.0, 93, id="a node that does twice as much: 1 − 2.5 ÷ 36 = 0.931"),
        pytest.param("0.0005", 5.0, 72, id="half the cost: 1 − 2.5 ÷ 9 = 0.722"),
        pytest.param("0.0002", 5.0, 50, id="a late request costs less than its share of a node: the median, the least that is asked for"),
        pytest.param("1000", 5.0, 99, id="a late request costs a fortune: the 99th, the most that is asked for"),
        pytest.param("0.001", None, 95, id="the capacity of a node is not known yet: the default"),
    ],
)
def test_the_percentile_follows_from_costs(late: str, capacity: float | None, percentile: int) -> None:
    """A node costs 2.50 an hour."""
    assert risk.percentile(scaling(costPerNodeHour="2.5", costOfLateRequest=late), capacity) == percentile


def test_a_percentile_that_is_given_counts_and_95_is_the_default() -> None:
    """The price of a node alone says nothing about risk."""
    assert risk.percentile(scaling(forecast={"percentile": 80}, costPerNodeHour="2.5"), 5.0) == 80
    assert risk.percentile(scaling(costPerNodeHour="2.5"), 5.0) == 95
    assert risk.percentile(scaling(), None) == 95


@settings(max_examples=200, deadline=None)
@given(st.floats(0.01, 1e6), st.floats(0.001, 1e6), st.floats(0.01, 1e4), st.floats(1, 100))
def test_dearer_late_requests_never_give_a_lower_percentile(node: float, late: float, capacity: float, factor: float) -> None:
    """Nor do cheaper nodes give one."""

    def at(node: float, late: float) -> int:
        return risk.percentile(scaling(costPerNodeHour=f"{node:.6f}", costOfLateRequest=f"{late:.6f}"), capacity)

    assert at(node, late) <= at(node, late * factor)
    assert at(node * factor, late) <= at(node, late)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"costOfLateRequest": "1"}, "costOfLateRequest needs scaling.costPerNodeHour"),
        (
            {"costOfLateRequest": "1", "costPerNodeHour": "2", "forecast": {"percentile": 90}},
            "must have forecast.percentile or costOfLateRequest",
        ),
        ({"budget": {}}, "a budget must have nodeHoursPerDay, costPerDay or both"),
        ({"budget": {"costPerDay": "100"}}, "budget.costPerDay needs scaling.costPerNodeHour"),
        ({"costPerNodeHour": "0"}, "must be greater than 0"),
    ],
    ids=["no price of a node", "both", "an empty budget", "money without a price", "a node for nothing"],
)
def test_costs_that_do_not_fit_together_are_refused(given: dict[str, Any], words: str) -> None:
    """In words that say what is missing."""
    with pytest.raises(ValueError, match=words):
        scaling(**given)


@pytest.mark.parametrize(
    ("given", "node_hours"),
    [
        pytest.param({"budget": {"nodeHoursPerDay": "120"}}, 120, id="120 node-hours"),
        pytest.param({"budget": {"costPerDay": "300"}, "costPerNodeHour": "2.5"}, 120, id="300 a day at 2.50 are 120 node-hours"),
        pytest.param({"budget": {"nodeHoursPerDay": "100", "costPerDay": "300"}, "costPerNodeHour": "2.5"}, 100, id="the lower of the two"),
        pytest.param({}, None, id="none"),
    ],
)
def test_a_budget_in_money_is_one_in_node_hours(given: dict[str, Any], node_hours: float | None) -> None:
    """What the policy counts with."""
    from deepseek_operator.api.v1alpha1 import DeepSeekDeploymentSpec

    spec = DeepSeekDeploymentSpec.model_validate({"model": {"source": "file:///none"}, "scaling": given})
    assert Policy.of(spec).budget_node_hours == node_hours
