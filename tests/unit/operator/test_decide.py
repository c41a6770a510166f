"""How many nodes, and why: one situation a row, in words and numbers.

Unless a row says otherwise: mode Predictive, 1 to 10 nodes, add above 80 %, release below 30 %, a node does 10 requests per second, a dip
must last 300 s, and nothing was scaled for an hour.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deepseek_operator.core.decide import RULES, decide, remember
from deepseek_operator.core.stabilize import bounds
from deepseek_operator.core.types import Demand, Memory, PeakForecast, Policy, Recommendation, Situation

NOW = 1_790_000_000.0


def situation(nodes: int, demand: float | None, peak: float | None = None, **given: Any) -> Situation:
    """A situation with `demand` and `peak` in requests per second; `memory` is [(seconds ago, nodes)], the rest goes into the policy."""
    past = given.pop("memory", [])
    complete, waiting, risen = given.pop("complete", True), given.pop("waiting", 0), given.pop("risen", False)
    scaled_ago, up_ago = given.pop("scaled_ago", 3600), given.pop("up_ago", 3600)
    known_ago = given.pop("known_ago", 15)
    capacity = given.pop("capacity", 10.0)
    missing, barred = given.pop("missing", ""), given.pop("barred", "")
    return Situation(
        now=NOW,
        policy=replace(Policy(scale_down_stabilization_seconds=300), **given),
        nodes=nodes,
        demand=None if demand is None else Demand(demand, complete, waiting=waiting, risen=risen),
        node_capacity=capacity,
        forecast=None if peak is None else PeakForecast(peak, peak / 2, 95, 600, NOW),
        memory=Memory(
            recommendations=tuple(Recommendation(NOW - ago, count) for ago, count in sorted(past, reverse=True)),
            scaled_at=NOW - scaled_ago,
            scaled_up_at=NOW - up_ago,
            demand_known_at=NOW - known_ago,
        ),
        missing=missing,
        release_barred=barred,
    )


S = situation
CASES: dict[str, tuple[Situation, int, str]] = {
    # ------------------------------------------------------------------------------------------------------ 80 and 30 percent
    "a peak of 48 on 3 nodes is 160 %, and 48 ÷ (10 × 0.8) = 6": (S(3, 10, 48), 6, "ScaleUp"),
    "a peak of 24 on 3 nodes is exactly 80 %: nothing is added": (S(3, 10, 24), 3, "Steady"),
    "a peak of 24.01 on 3 nodes is just above 80 %: one node": (S(3, 10, 24.01), 4, "ScaleUp"),
    "a peak of 7 on 3 nodes is 23 %, below 30: down to the 1 it needs": (S(3, 5, 7), 1, "ScaleDown"),
    "a peak of 8 would bring 1 node to 80 %, above the 77 at which the last one goes: down to 2": (S(3, 5, 8), 2, "ScaleDown"),
    "a peak of 15.5 on 3 nodes needs 2 at 80 %, but fills them to more than 77: too close to release": (S(3, 5, 15.5), 3, "Steady"),
    "a peak of 9 on 3 nodes is exactly 30 %, not below it: consolidated to the 2 it needs": (S(3, 5, 9), 2, "Consolidate"),
    "a peak of 14 on 3 nodes is 47 %: consolidated to the 2 it needs": (S(3, 5, 14), 2, "Consolidate"),
    "a peak of 14 under Hold stays at 3": (S(3, 5, 14, between_thresholds="Hold"), 3, "WithinThresholds"),
    "29 % under Hold is released": (S(10, 5, 29, between_thresholds="Hold"), 4, "ScaleDown"),
    "30 % under Hold is held": (S(10, 5, 30, between_thresholds="Hold"), 10, "WithinThresholds"),
    "with 60 % as the upper limit a peak of 48 needs 8": (S(3, 10, 48, scale_up_percent=60), 8, "ScaleUp"),
    "no load at all needs the minimum": (S(5, 0, 0, min_nodes=2), 2, "ScaleDown"),
    "at the minimum there is nothing to release": (S(2, 0, 0, min_nodes=2), 2, "Steady"),
    # --------------------------------------------------------------------------------------------- the forecast and its floor
    "without a forecast the present 48 are followed": (S(3, 48), 6, "ScaleUp"),
    "a forecast of nothing cannot take the 3 nodes that the present 24 need": (S(3, 24, 0), 3, "ReactiveFloor"),
    "a forecast of 8 cannot keep 2 nodes when the present 44 need 5 at 88 %": (S(2, 44, 8), 5, "ReactiveFloor"),
    "44 of which 2 wait need 6, at 80 %": (S(2, 44, 8, waiting=2), 6, "ReactiveFloor"),
    "44 that surely arrive of late need 6, at 80 %": (S(2, 44, 8, risen=True), 6, "ReactiveFloor"),
    "the present 49 on 5 nodes are more than full nodes do at scaleUpPercent 95, whose tolerance ends at 100": (
        S(4, 49, 8, scale_up_percent=95),
        5,
        "ReactiveFloor",
    ),
    "a forecast of 40 raises the 1 node that the present 5 need to 5": (S(1, 5, 40), 5, "ScaleUp"),
    "an incomplete reading of 48 is at least 48: 6": (S(2, 48, 8, complete=False), 6, "ReactiveFloor"),
    "mode Reactive takes no notice of a forecast of 48": (S(2, 12, 48, mode="Reactive"), 2, "Steady"),
    "mode Shadow acts as Reactive": (S(2, 12, 48, mode="Shadow"), 2, "Steady"),
    # -------------------------------------------------------------------------------------------------------------- not knowing
    "demand unknown for 15 s: held": (S(4, None), 4, "DemandUnknown"),
    "demand unknown, and 48 still foreseen: grown to 6": (S(4, None, 48), 6, "DemandUnknown"),
    "demand unknown, and 8 still foreseen: a forecast alone releases nothing": (S(4, None, 8), 4, "DemandUnknown"),
    "demand unknown, 48 foreseen in mode Shadow: held": (S(4, None, 48, mode="Shadow"), 4, "DemandUnknown"),
    "demand unknown for exactly the grace of 600 s: held": (S(4, None, memory=[(1000, 7)], known_ago=600), 4, "DemandUnknown"),
    "demand unknown for 601 s: grown to the 7 of 1000 s ago": (S(4, None, memory=[(1000, 7)], known_ago=601), 7, "DemandUnknown"),
    "demand unknown for 601 s, and fewer were recommended before: held": (S(4, None, memory=[(1000, 2)], known_ago=601), 4, "DemandUnknown"),
    "demand unknown for 601 s, 7 recommended 71 min ago: an hour and the grace have passed": (
        S(4, None, memory=[(4260, 7)], known_ago=601),
        4,
        "DemandUnknown",
    ),
    "capacity unknown: held, whatever the load": (S(3, 1000, 1000, capacity=None), 3, "CapacityUnknown"),
    "an incomplete reading of 5 does not release": (S(3, 5, 5, complete=False), 3, "DemandIncomplete"),
    # --------------------------------------------------------------------------------------------------- window and cooldowns
    "4 minutes after a peak, still at the peak": (S(6, 10, 10, memory=[(240, 6)]), 6, "ScaleDownStabilized"),
    "exactly 5 minutes after a peak, still at the peak": (S(6, 10, 10, memory=[(300, 6)]), 6, "ScaleDownStabilized"),
    "5 minutes and a second after a peak, down": (S(6, 10, 10, memory=[(301, 6)]), 2, "ScaleDown"),
    "down only to the highest of the window: 6, then 4 two minutes ago": (
        S(6, 10, 10, memory=[(301, 6), (120, 4)]),
        4,
        "ScaleDownStabilized",
    ),
    "a recommendation above what runs keeps what runs": (S(6, 10, 10, memory=[(60, 9)]), 6, "ScaleDownStabilized"),
    "no window, no waiting": (S(6, 10, 10, memory=[(1, 6)], scale_down_stabilization_seconds=0), 2, "ScaleDown"),
    "a window never delays adding": (S(2, 10, 48, memory=[(10, 1)]), 6, "ScaleUp"),
    "nodes changed 59 s ago, the cooldown is 60 s: nothing is released": (S(6, 10, 10, scaled_ago=59), 6, "ScaleDownCooldown"),
    "nodes changed 60 s ago: released": (S(6, 10, 10, scaled_ago=60), 2, "ScaleDown"),
    "adding has no cooldown unless asked for": (S(2, 10, 48, scaled_ago=1, up_ago=1), 6, "ScaleUp"),
    "nodes added 29 s ago, the cooldown is 30 s: nothing is added": (
        S(2, 10, 48, up_ago=29, scale_up_cooldown_seconds=30),
        2,
        "ScaleUpCooldown",
    ),
    "nodes released 1 s ago are no reason to wait with adding": (S(2, 10, 48, scaled_ago=1, scale_up_cooldown_seconds=30), 6, "ScaleUp"),
    "an upgrade is under way: nothing is released": (S(6, 10, 10, barred="an upgrade is under way"), 6, "ReleaseBarred"),
    "an upgrade is under way: adding goes on": (S(2, 10, 48, barred="an upgrade is under way"), 6, "ScaleUp"),
    # -------------------------------------------------------------------------------------------------- rate limits and bounds
    "6 are needed, 2 may be added at once: 4": (S(2, 10, 48, max_scale_up_nodes=2), 4, "ScaleUpLimit"),
    "4 are needed, 2 may be added at once: 4, unhindered": (S(2, 10, 32, max_scale_up_nodes=2), 4, "ScaleUp"),
    "2 are needed of 6, 1 may go at once: 5": (S(6, 10, 10, max_scale_down_nodes=1), 5, "ScaleDownLimit"),
    "the rate limit holds against the floor too": (S(2, 48, 0, max_scale_up_nodes=1), 3, "ScaleUpLimit"),
    "60 are needed, 10 is the maximum": (S(2, 10, 480), 10, "MaximumNodes"),
    "none is needed, 2 is the minimum; the user just raised it": (S(1, 0, 0, min_nodes=2), 2, "ScaleUp"),
    "the user lowered the maximum to 4 below the 6 that run: at once, without a window": (
        S(6, 48, 48, max_nodes=4, memory=[(1, 6)], scaled_ago=1),
        4,
        "MaximumNodes",
    ),
    "the maximum holds while demand is unknown": (S(6, None, max_nodes=4), 4, "MaximumNodes"),
    "the minimum holds while demand is unknown": (S(1, None, min_nodes=3), 3, "MinimumNodes"),
    "the minimum holds while capacity is unknown": (S(1, 5, capacity=None, min_nodes=3), 3, "MinimumNodes"),
    "the maximum holds against the safe level of the last hour": (S(4, None, memory=[(1000, 30)], known_ago=601), 10, "MaximumNodes"),
    "the minimum holds against a cooldown": (S(1, 5, 5, min_nodes=3, up_ago=1, scale_up_cooldown_seconds=30), 3, "MinimumNodes"),
    "the minimum holds against a rate limit": (S(1, 5, 5, min_nodes=5, max_scale_up_nodes=1), 5, "MinimumNodes"),
    # ------------------------------------------------------------------------------------------------------------------- manual
    "manual: 4 as given, whatever the load": (S(2, 480, 480, mode="Manual", manual_nodes=4), 4, "Manual"),
    "manual: down to 1 at once, whatever the window": (S(6, 48, mode="Manual", manual_nodes=1, memory=[(1, 6)], scaled_ago=1), 1, "Manual"),
    "manual without a count: what runs": (S(6, 480, mode="Manual"), 6, "Manual"),
    "manual 40 is above the maximum": (S(6, 48, mode="Manual", manual_nodes=40), 10, "MaximumNodes"),
    "manual 0 is below the minimum": (S(6, 48, mode="Manual", manual_nodes=0), 1, "MinimumNodes"),
    "manual needs no metrics": (S(6, None, mode="Manual", manual_nodes=3), 3, "Manual"),
}


@pytest.mark.parametrize(("given", "nodes", "reason"), CASES.values(), ids=CASES.keys())
def test_decide(given: Situation, nodes: int, reason: str) -> None:
    """The row's count, for the row's reason."""
    decision = decide(given)
    assert (decision.nodes, decision.reason) == (nodes, reason), decision.message
    assert decision.message


def test_bounds_come_last() -> None:
    """No rule after them can break them."""
    assert RULES[-1] is bounds


MESSAGES = {
    "a peak": (S(3, 10, 48), "forecast peak 48 req/s needs 6 (10 req/s per node × 80 %)"),
    "demand": (S(3, 48), "demand 48 req/s needs 6 (10 req/s per node × 80 %)"),
    "a floor": (S(2, 44, 8), "demand now is 44 req/s and needs 5 (10 req/s per node × 88 %) whatever the forecast says"),
    "a floor of an incomplete reading": (
        S(2, 48, 8, complete=False),
        "demand now is at least 48 req/s and needs 6 (10 req/s per node × 80 %) whatever the forecast says",
    ),
    "a window": (
        S(6, 10, 10, memory=[(240, 6)]),
        "6 was recommended 4 min ago; the window is 5 min (forecast peak 10 req/s needs 2 (10 req/s per node × 80 %))",
    ),
    "a cooldown": (S(6, 10, 10, scaled_ago=45), "the node count changed 45 s ago; the cooldown is 60 s"),
    "a hold": (S(3, 5, 14, between_thresholds="Hold"), "forecast peak 14 req/s is 47 % of 3 nodes, between 30 and 80 %"),
    "a maximum": (S(2, 10, 480), "forecast peak 480 req/s needs 60 (10 req/s per node × 80 %); nodes.max is 10"),
    "silence": (S(4, None, missing="Prometheus did not answer within 11 s"), "holding 4: Prometheus did not answer within 11 s"),
    "long silence": (
        S(4, None, missing="Prometheus is down", memory=[(1000, 7)], known_ago=700),
        "Prometheus is down for 700 s; keeping the highest count of the last hour, 7",
    ),
    "a step": (
        S(2, 10, 48, max_scale_up_nodes=2),
        "forecast peak 48 req/s needs 6 (10 req/s per node × 80 %); maxScaleUpNodes allows 4 in this step",
    ),
}


@pytest.mark.parametrize(("given", "message"), MESSAGES.values(), ids=MESSAGES.keys())
def test_the_reason_in_words(given: Situation, message: str) -> None:
    """What a person reads in status, events, log and `explain`."""
    assert decide(given).message == message


def test_a_bound_that_cut_is_named_as_the_hpa_names_it() -> None:
    """For the condition ScalingLimited."""
    assert decide(S(2, 10, 480)).limited == "TooManyReplicas"
    assert decide(S(1, None, min_nodes=3)).limited == "TooFewReplicas"
    assert decide(S(2, 10, 48)).limited == ""


def test_utilization_counts_the_nodes_asked_for() -> None:
    """12 req/s on 2 nodes of 10 is 60 %, a peak of 30 is 150 %."""
    decision = decide(S(2, 12, 30))
    assert decision.utilization == pytest.approx(0.6)
    assert decision.predicted_utilization == pytest.approx(1.5)
    assert decide(S(2, None)).utilization is None


# ------------------------------------------------------------------------------------------------------------------- memory


def test_a_peak_is_remembered_through_the_window_and_forgotten_after_it() -> None:
    """6 nodes at 48 req/s; then 10 req/s: 6 for 300 s, then 2."""
    given, counts = S(3, 48, mode="Reactive"), []
    for second in range(0, 360, 15):
        given = replace(given, now=NOW + second, demand=Demand(48 if second == 0 else 10))
        decision = decide(given)
        given = replace(given, nodes=decision.nodes, memory=remember(given, decision))
        counts.append(decision.nodes)
    assert counts == [6] * 21 + [2] * 3  # 0 to 300 s, then from 315 s on


def test_a_dip_between_two_peaks_releases_nothing() -> None:
    """48, then 10 for four minutes, then 48 again."""
    given, counts = S(6, 48, mode="Reactive"), set()
    for second in range(0, 1200, 15):
        given = replace(given, now=NOW + second, demand=Demand(48 if second % 255 == 0 else 10))
        decision = decide(given)
        given = replace(given, nodes=decision.nodes, memory=remember(given, decision))
        counts.add(decision.nodes)
    assert counts == {6}


@pytest.mark.parametrize(
    ("demand", "kept"),
    [(None, 6), (Demand(10, complete=False), 6), (Demand(10), 2)],
    ids=["unknown demand is remembered as the 6 that run", "an incomplete reading is no evidence for less than the 6", "a complete one is"],
)
def test_only_evidence_counts_towards_a_release(demand: Demand | None, kept: int) -> None:
    """What the window will see of this moment."""
    given = replace(S(6, 0), demand=demand)
    assert remember(given, decide(given)).highest(NOW) == kept


def test_after_a_silence_of_an_hour_the_window_begins_anew() -> None:
    """Before it 2 nodes were recommended; the first reading after it releases nothing for 300 s."""
    given = S(6, None, mode="Reactive", memory=[(900, 2)])
    counts = []
    for second in range(0, 3600, 15):
        given = replace(given, now=NOW + second)
        given = replace(given, memory=remember(given, decide(given)))
    for second in range(3600, 3990, 15):
        given = replace(given, now=NOW + second, demand=Demand(1))
        decision = decide(given)
        given = replace(given, nodes=decision.nodes, memory=remember(given, decision))
        counts.append(decision.nodes)
    assert counts == [6] * 20 + [1] * 6


def test_instants_of_a_change_are_remembered() -> None:
    """Both for adding, one for releasing, none for holding."""
    old = S(2, 10).memory
    up, down, same = (remember(s, decide(s)) for s in (S(2, 48), S(6, 10, 10), S(2, 12)))
    assert (up.scaled_at, up.scaled_up_at) == (NOW, NOW)
    assert (down.scaled_at, down.scaled_up_at) == (NOW, old.scaled_up_at)
    assert (same.scaled_at, same.scaled_up_at) == (old.scaled_at, old.scaled_up_at)


def test_memory_stays_small() -> None:
    """A day of falling load at a tick a second keeps one entry for each count, no more."""
    given = S(100, 0, max_nodes=100, mode="Reactive", scale_down_stabilization_seconds=86_400)
    for second in range(0, 86_400, 60):
        given = replace(given, now=NOW + second, demand=Demand(800 * (1 - second / 86_400)))
        given = replace(given, memory=remember(given, decide(given)))
    assert len(given.memory.recommendations) <= 101


def test_a_restart_counts_what_runs_as_recommended_now() -> None:
    """6 nodes run, 2 would do: nothing goes for the window's 300 s."""
    given = replace(S(6, 10, 10), memory=Memory.begin(NOW, 6))
    assert decide(replace(given, now=NOW + 299)).reason == "ScaleDownStabilized"
    assert decide(replace(given, now=NOW + 301)).nodes == 2
