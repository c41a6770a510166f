"""The world of the replay against closed forms, and against what must hold for every trace and every policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from bench import recompute
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_operator.replay import (
    NodePolicy,
    Observation,
    World,
    benchmark_capacity,
    clairvoyant_node_hours,
    interpolated,
    simulate,
    static,
    write_timeline,
)

MINUTE = 60.0


def schedule(nodes: Sequence[int], tick_seconds: float, begin: float = 0.0) -> NodePolicy:
    """A policy that was written down before: nodes[k] from the k-th tick on."""

    def decide(now: float, seen: Observation) -> int:
        return nodes[min(len(nodes) - 1, round((now - begin) / tick_seconds))]

    return decide


# ------------------------------------------------------------------------------------------------------------- closed forms


def test_constant_overload_by_a_tenth_for_ten_minutes() -> None:
    """22 req/s on 2 nodes of 10: the queue grows by 2 req/s, so what arrives at t waits 2t ÷ 20 s; more than 10 s from t = 100 s on:
    500 s × 22 = 11,000 are late, and the last one waits 60 s."""
    outcome = simulate([22.0] * 10, MINUTE, 10, static(2), start_nodes=2)
    assert outcome.late == pytest.approx(11_000)
    assert outcome.longest_wait_seconds == pytest.approx(60)
    assert outcome.node_hours == pytest.approx(2 / 6)
    assert outcome.requests == pytest.approx(13_200)


def test_a_burst_that_is_worked_off() -> None:
    """30 req/s for 2 min on 20: 1,200 wait at the end, the last of the burst for 60 s; then 10 req/s, and the queue shrinks by 10 a second.
    Late: what arrives from 20 s on (t × 10 ÷ 20 > 10), 100 s × 30; and until the wait (1200 − 10 t) ÷ 20 is under 10 s: 100 s × 10."""
    outcome = simulate([30.0] * 2 + [10.0] * 10, MINUTE, 10, static(2), start_nodes=2, tick_seconds=60)
    assert outcome.late == pytest.approx(100 * 30 + 100 * 10)
    assert outcome.longest_wait_seconds == pytest.approx(60)
    assert [row.late for row in outcome.rows[:4]] == pytest.approx([40 * 30, 60 * 30, 60 * 10, 40 * 10])


def test_a_wait_of_exactly_the_objective_is_in_time() -> None:
    """200 requests wait in front of 20 req/s for ten minutes: 10 s for each, none late; at an objective of 9.99 s nearly all of them are."""
    rates = [220.0] + [20.0] * 600
    assert simulate(rates, 1.0, 20, static(1)).late == pytest.approx(0, abs=1e-6)
    assert simulate(rates, 1.0, 20, static(1), late_seconds=9.99).late == pytest.approx(600 * 20, rel=0.01)


def test_a_node_comes_after_its_cold_start_to_the_second() -> None:
    """20 req/s on one node of 10, the second asked for at once, ready after 100 s: 1,000 wait then and no fewer ever after. What arrived at t
    is served at 2t (t ≤ 50, so until 100 s) and 50 s after it came from then on: late are all but those of the first 10 s."""
    outcome = simulate([20.0] * 10, MINUTE, 10, static(2), start_nodes=1, cold_start_seconds=100)
    assert outcome.longest_wait_seconds == pytest.approx(50)
    assert outcome.late == pytest.approx(590 * 20)
    assert [(row.asked, row.ready) for row in outcome.rows[6:8]] == [(2, 1), (2, 2)]


def test_what_never_can_be_served_is_late_and_waits_for_ever() -> None:
    """A capacity that is gone: no node at all."""
    world = World(10, 180, ready=0)
    world.run(60, 5)
    world.drain()
    assert sum(world.late) == pytest.approx(300)
    assert world.longest_wait == math.inf


def test_a_node_still_starting_is_given_back_first() -> None:
    """2 ready, 2 starting, 3 asked for: one starting goes; then 1: the other and one ready."""
    world = World(10, 180, ready=2)
    world.ask_for(4)
    assert (world.ready, world.asked) == (2, 4)
    world.ask_for(3)
    assert (world.ready, world.asked) == (2, 3)
    world.ask_for(1)
    assert (world.ready, world.asked) == (1, 1)


def test_of_those_still_starting_the_latest_is_given_back() -> None:
    """One asked for at 0, one at 60: one given back at 120 leaves the first, ready at 180."""
    world = World(10, 180, ready=1)
    world.ask_for(2)
    world.run(60, 0)
    world.ask_for(3)
    world.run(120, 0)
    world.ask_for(2)
    world.run(180, 0)
    assert world.ready == 2


def test_a_node_is_paid_for_from_the_moment_it_is_asked_for() -> None:
    """10 min at 1 node, then 1 ready and 1 starting, both given back to 1 after another minute: 12 node-minutes in 11 minutes."""
    outcome = simulate([5.0] * 11, MINUTE, 10, schedule([1] * 10 + [2], 60), start_nodes=1, tick_seconds=60)
    assert outcome.node_hours == pytest.approx(12 / 60)
    assert (outcome.rows[-1].asked, outcome.rows[-1].ready) == (2, 1)


def test_turns_are_counted_not_changes() -> None:
    """1 → 3 → 4 → 2 → 1 → 2 in six minutes: five changes, two turns, 480 a day."""
    outcome = simulate([5.0] * 6, MINUTE, 10, schedule([1, 3, 4, 2, 1, 2], 60), start_nodes=1, tick_seconds=60)
    assert (outcome.changes, outcome.direction_changes) == (5, 2)
    assert outcome.flaps_per_day == pytest.approx(480)


def test_a_policy_sees_only_steps_that_are_over_and_gaps_as_gaps() -> None:
    """Ticks of 30 s over [10, unknown, 30] req/s from the second step on: what it sees, and what the world does meanwhile (20 req/s)."""
    seen: list[tuple[float, float | None, int, list[float | None]]] = []

    def note(now: float, observation: Observation) -> int:
        seen.append((now, observation.rate, observation.steps_over, list(observation.history)))
        return 3

    outcome = simulate([10.0, None, 30.0], MINUTE, 10, note, start=1, tick_seconds=30)
    assert seen == [
        (60, 10.0, 1, [10.0]),
        (90, 10.0, 1, [10.0]),
        (120, None, 2, [10.0, None]),
        (150, None, 2, [10.0, None]),
    ]
    assert [row.demand for row in outcome.rows] == pytest.approx([20, 20, 30, 30])
    assert outcome.requests == pytest.approx(50 * 60)


def test_an_outage_of_the_metrics_is_shown_to_the_policy_alone() -> None:
    """`seen` hides what the world knows."""
    rates: list[float | None] = []

    def note(now: float, observation: Observation) -> int:
        rates.append(observation.rate)
        return 2

    outcome = simulate([10.0, 20.0, 10.0], MINUTE, 10, note, seen=[10.0, None, 10.0], tick_seconds=60)
    assert rates == [None, 10.0, None]
    assert [row.demand for row in outcome.rows] == pytest.approx([10, 20, 10])


def test_a_tick_longer_than_a_step_reports_the_mean_and_the_last_row_may_be_short() -> None:
    """10, 20, 30 req/s at a tick of 2 min: rows of 15 and 30 req/s."""
    outcome = simulate([10.0, 20.0, 30.0], MINUTE, 10, static(3), tick_seconds=120)
    assert [(row.t_seconds, row.demand) for row in outcome.rows] == [(0, pytest.approx(15)), (120, pytest.approx(30))]
    assert outcome.node_hours == pytest.approx(3 * 180 / 3600)


def test_the_answer_is_cut_to_the_bounds_of_the_world() -> None:
    """A policy that asks for 100, then 0: 40, then 1."""
    outcome = simulate([10.0] * 2, MINUTE, 10, schedule([100, 0], 60), tick_seconds=60)
    assert [row.asked for row in outcome.rows] == [40, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"node_capacity": 0.0}, "node_capacity must be above 0, was 0"),
        ({"tick_seconds": 0.0}, "tick_seconds and step_seconds must be above 0, were 0 and 60"),
        ({"start": 3}, r"start must be a step of the trace \(0 to 1\), was 3"),
        ({"seen": [1.0]}, r"seen must have one value per step of the trace \(2\), had 1"),
        ({"rates": [None, None]}, "a trace must have at least one known step, had none"),
    ],
    ids=["no capacity", "no tick", "a start outside", "another length", "nothing known"],
)
def test_nonsense_is_refused_with_what_is_allowed(change: dict[str, object], message: str) -> None:
    """Each with its sentence."""
    given: dict[str, object] = {"rates": [1.0, 1.0], "step_seconds": MINUTE, "node_capacity": 10, "policy": static(1), **change}
    with pytest.raises(ValueError, match=message):
        simulate(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rates", "filled"),
    [
        ([1.0, None, None, 4.0], [1, 2, 3, 4]),
        ([None, 2.0, None], [2, 2, 2]),
        ([5.0], [5]),
    ],
    ids=["a straight line between neighbours", "the nearest at both ends", "nothing to fill"],
)
def test_unknown_steps_are_interpolated(rates: list[float | None], filled: list[float]) -> None:
    """For the world alone."""
    assert interpolated(rates) == pytest.approx(filled)


def test_the_benchmarks_capacity_is_a_tenth_of_the_99_9th_percentile() -> None:
    """1 … 1001 req/s: 0.999 × 1000 = rank 999, which is 1000 req/s; a tenth is 100. numpy's percentile agrees on the way between ranks."""
    assert benchmark_capacity([float(n) for n in range(1, 1002)]) == pytest.approx(100)
    values = [3.0, 1.0, None, 8.0, 5.0]
    assert benchmark_capacity(values) == pytest.approx(np.percentile([3, 1, 8, 5], 99.9) / 10)
    with pytest.raises(ValueError, match="no traffic to size a node by"):
        benchmark_capacity([0.0, 0.0])


def md1_waits_longer(x: float, load: float) -> float:
    """P(wait > x) of M/D/1 in units of the service time (Erlang 1909): 1 − (1 − ρ) Σ (ρ(k − x))ᵏ ÷ k! × e^(ρ(x − k)) over k ≤ x."""
    terms = ((load * (k - x)) ** k / math.factorial(k) * math.exp(load * (x - k)) for k in range(math.floor(x) + 1))
    return 1 - (1 - load) * sum(terms)


@pytest.mark.parametrize(("nodes", "load"), [(1, 0.8), (4, 0.9)], ids=["one node, 80 %", "four nodes as one, 90 %"])
def test_random_arrivals_wait_as_queueing_theory_says(nodes: int, load: float) -> None:
    """Poisson arrivals with even service: the share that waits longer than x lies between M/D/1's for x and for x less one service, because a
    fluid request is served bit by bit and its bits wait between none and all of its own service."""
    service, bins_per_service, longer_than = 1.0 / nodes, 4, 4.0
    step = service / bins_per_service
    counts = np.random.default_rng(3).poisson(load / bins_per_service, 200_000)
    outcome = simulate(
        (counts / step).tolist(), step, 1.0, static(nodes), start_nodes=nodes, tick_seconds=1000 * service, late_seconds=longer_than * service
    )
    assert md1_waits_longer(longer_than, load) * 0.95 < outcome.late_share < md1_waits_longer(longer_than - 1, load) * 1.05


# --------------------------------------------------------------------------------------------------------------- properties

RATES = st.lists(st.floats(0, 100), min_size=2, max_size=15)
PLANS = st.lists(st.integers(1, 12), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(RATES, PLANS, st.sampled_from([0.0, 7.0, 45.0, 180.0]))
def test_nothing_is_lost(rates: list[float], plan: list[int], cold_start: float) -> None:
    """At every moment: what arrived = what was served + what waits; and in the end all are served."""
    world = World(10, cold_start, ready=1)
    for number, rate in enumerate(rates):
        world.ask_for(plan[number % len(plan)])
        world.run((number + 1) * 20.0, rate)
        assert world.arrived == pytest.approx(world.served + world.waiting, abs=1e-6)
        assert world.waiting == pytest.approx(sum(chunk.waiting for chunk in world._queue), abs=1e-6)
    world.drain()
    assert world.served == pytest.approx(sum(rates) * 20, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(RATES, PLANS, st.sampled_from([12, 7, 3]))
def test_the_length_of_a_step_changes_nothing(rates: list[float], plan: list[int], parts: int) -> None:
    """The same rates in steps of 60 s and in 3, 7 or 12 times as many: the same lateness, waits and node-hours."""
    policy = schedule(plan, 15)
    whole = simulate(rates, 60, 10, policy, start_nodes=2)
    finer = simulate([rate for rate in rates for _ in range(parts)], 60 / parts, 10, policy, start_nodes=2)
    assert finer.late == pytest.approx(whole.late, abs=1e-4)
    assert finer.longest_wait_seconds == pytest.approx(whole.longest_wait_seconds, abs=1e-6)
    assert finer.node_hours == pytest.approx(whole.node_hours)


@settings(max_examples=60, deadline=None)
@given(RATES, PLANS, st.lists(st.integers(0, 4), min_size=1, max_size=40), st.sampled_from([0.0, 60.0, 180.0]))
def test_more_nodes_are_never_later(rates: list[float], plan: list[int], more: list[int], cold_start: float) -> None:
    """A policy that asks for at least as many nodes at every tick has at most as many late requests, and no longer wait."""
    most = [nodes + more[k % len(more)] for k, nodes in enumerate(plan)] + [plan[-1]]
    few = simulate(rates, 60, 10, schedule([*plan, plan[-1]], 15), start_nodes=1, cold_start_seconds=cold_start)
    many = simulate(rates, 60, 10, schedule(most, 15), start_nodes=1, cold_start_seconds=cold_start)
    assert many.late <= few.late + 1e-6
    assert many.longest_wait_seconds <= few.longest_wait_seconds + 1e-6


@settings(max_examples=100, deadline=None)
@given(RATES, st.lists(st.integers(0, 3), min_size=1, max_size=15), st.sampled_from([0.0, 60.0, 90.0, 180.0, 600.0]))
def test_nobody_waits_for_less_than_the_clairvoyant_pays(rates: list[float], more: list[int], cold_start: float) -> None:
    """A policy that knows the rates, asks for each minute's nodes in time and now and then for more: where nobody waits, it has paid at least
    the minimum. Where somebody waits it may have paid less."""
    needs = [max(1, math.ceil(rate / 10 - 1e-9)) for rate in rates]
    ahead = math.ceil(cold_start / 60)
    plan = [max(needs[at : at + ahead + 1]) + more[at % len(more)] for at in range(len(needs))]
    outcome = simulate(rates, 60, 10, schedule(plan, 60), cold_start_seconds=cold_start, tick_seconds=60, late_seconds=0)
    if outcome.late < 1e-9:
        assert outcome.node_hours >= clairvoyant_node_hours(rates, 60, 10, cold_start) * (1 - 1e-9)


@settings(max_examples=150, deadline=None)
@given(RATES, PLANS, st.sampled_from([0.0, 7.0, 45.0, 180.0]), st.sampled_from([15.0, 11.0, 90.0]))
def test_anybody_can_recompute_it_from_the_timeline(rates: list[float], plan: list[int], cold_start: float, tick: float) -> None:
    """tests/bench/recompute.py knows the rows alone and goes another way: the same node-hours, ready nodes and late requests. (At ticks that do
    not end with a step a row's demand is a mean, and lateness is not compared.)"""
    outcome = simulate(rates, 60, 10, schedule(plan, tick), start_nodes=1, cold_start_seconds=cold_start, tick_seconds=tick)
    columns = zip(*((row.t_seconds, row.demand, row.asked, row.ready, row.late) for row in outcome.rows), strict=True)
    timeline = recompute.Timeline(*(np.array(column, dtype=float) for column in columns), end=outcome.seconds)
    assert recompute.node_hours(timeline) == pytest.approx(outcome.node_hours)
    assert (recompute.ready_at(timeline, timeline.t_seconds, cold_start, 1) == timeline.ready).all()
    late = recompute.late_requests(timeline, 10, cold_start, 1)
    if tick == 15:
        assert late == pytest.approx(outcome.late, abs=1e-3, rel=1e-6)


def test_a_timeline_on_disk_reads_back_as_the_same_figures(tmp_path: Path) -> None:
    """Written with all digits, whole seconds without a point."""
    outcome = simulate([22.0, 1 / 3] * 5, MINUTE, 10, static(2), start_nodes=2, start=1)
    write_timeline(tmp_path / "timeline.csv", outcome.rows)
    assert (tmp_path / "timeline.csv").read_text().splitlines()[:2] == ["t_seconds,demand,asked,ready,late", "60,0.3333333333333333,2,2,0.0"]
    timeline = recompute.Timeline.read(tmp_path / "timeline.csv")
    assert recompute.node_hours(timeline) == pytest.approx(outcome.node_hours)
    assert recompute.late_requests(timeline, 10, 180, 2) == pytest.approx(outcome.late)
