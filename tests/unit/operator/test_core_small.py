"""Capacity, cold start, ledger: small sums, done by hand beside them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from deepseek_operator.api.v1alpha1 import ScalingSpec
from deepseek_operator.core.budget import LONGEST_GAP_SECONDS
from deepseek_operator.core.capacity import MOST_NODES, READINGS_KEPT, LearnedCapacity, nodes_for, utilization
from deepseek_operator.core.coldstart import SAMPLES_KEPT, Start, Starts, StartWatch
from deepseek_operator.core.foresight import Question
from deepseek_operator.core.ledger import Counterfactual, Course, Lane, Ledger
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


# ----------------------------------------------------------------------------------------------------------- learned capacity

FULL, IDLE = (0.95, 3.0), (0.3, 0.0)


def read(capacity: LearnedCapacity, *readings: float | None, at: tuple[float, float] = FULL, first: float = 0) -> LearnedCapacity:
    """A reading a minute, at so much busyness and so long a queue."""
    for number, reading in enumerate(readings):
        capacity = capacity.read(first + 60 * number, reading, *at)
    return capacity


@pytest.mark.parametrize("reading", [None, math.nan, math.inf, 0.0, -3.0], ids=["none", "NaN", "infinite", "zero", "negative"])
def test_a_capacity_that_is_no_number_teaches_nothing(reading: float | None) -> None:
    """What was known stays known; what was not stays not known."""
    assert read(LearnedCapacity.known(10, 5), reading).value() == 10
    assert read(LearnedCapacity(), reading).value() is None


def test_the_first_reading_is_taken_at_once_and_counts_until_saturation_was_seen_three_times() -> None:
    """8 while not busy; then 12, 13, 14 at saturation: their lower quartile, 12."""
    capacity = read(LearnedCapacity(), 8.0, at=IDLE)
    assert capacity.value() == 8
    capacity = read(capacity, 12.0, 13.0, first=60)
    assert capacity.value() == 12, "the median of 8, 12, 13"
    assert read(capacity, 14.0, first=180).value() == 12


def test_one_odd_minute_moves_the_capacity_by_a_rank_and_never_by_its_size() -> None:
    """Forty readings around 10, then one of 100 or of 0.01: still around 10."""
    steady = read(LearnedCapacity(), *(10 + 0.01 * number for number in range(40)))
    assert steady.value() == pytest.approx(10.09)
    assert read(steady, 100.0, first=9000).value() == pytest.approx(10.1)
    assert read(steady, 0.01, first=9000).value() == pytest.approx(10.09)


@pytest.mark.parametrize(
    ("busy", "queued"),
    [(0.8, 3.0), (0.95, 0.2), (None, 3.0), (0.95, None)],
    ids=["busy for 80 %", "busy, but nobody waits: an engine for many is busy with one", "busyness not known", "queue not known"],
)
def test_what_was_read_below_saturation_does_not_count_as_the_capacity(busy: float | None, queued: float | None) -> None:
    """Three readings of 12 at saturation, then an hour of 4: still 12."""
    capacity = read(LearnedCapacity(), 12.0, 12.0, 12.0)
    for minute in range(60):
        capacity = capacity.read(1000 + 60 * minute, 4.0, busy, queued)
    assert capacity.value() == 12


def test_readings_of_the_same_minute_are_one_witness() -> None:
    """Ticks every 15 s read windows that overlap."""
    capacity = LearnedCapacity()
    for second in range(0, 600, 15):
        capacity = capacity.read(second, 12.0, *FULL)
    assert len(capacity.saturated) == 10


def test_a_change_of_traffic_is_learned_within_an_hour() -> None:
    """60 readings are kept: an hour of longer requests, and the 12 of yesterday are forgotten."""
    capacity = read(LearnedCapacity(), *[12.0] * 60)
    assert read(capacity, *[6.0] * 16, first=3600).value() == 6
    assert len(read(capacity, *[6.0] * 60, first=3600).saturated) == READINGS_KEPT


def test_what_an_earlier_process_learned_counts_as_it_was_learned() -> None:
    """From saturation, or provisionally."""
    assert LearnedCapacity.known(10, 20).value() == LearnedCapacity.known(10, 0).value() == 10
    assert read(LearnedCapacity.known(10, 20), 30.0).value() == 10
    assert len(LearnedCapacity.known(10, 0).saturated) == 0


# --------------------------------------------------------------------------------------------------------------- cold start


def pod(name: str, created: float, ready: float | None, **parts: float) -> PodView:
    return PodView(name, created_at=created, ready_at=ready, ready=ready is not None, **parts)


def seconds(starts: list[Start]) -> list[tuple[str, float]]:
    return [(start.node, start.seconds) for start in starts]


def test_a_cold_start_is_from_creation_to_readiness_and_counts_once() -> None:
    """Asked for at 100, ready at 190: 90 s, and none when seen again, or when it became unready and ready later."""
    watch, fresh = StartWatch(answering_since=50).look([pod("a", 100, 190), pod("b", 100, None)])
    assert seconds(fresh) == [("a", 90)]
    assert watch.look([pod("a", 100, 190)])[1] == []
    assert watch.look([pod("a", 100, 5000)])[1] == []
    assert seconds(watch.look([pod("a", 100, 190), pod("b", 100, 220)])[1]) == [("b", 120)]


def test_the_first_nodes_of_a_service_do_not_count_they_waited_for_the_head_too() -> None:
    """The first two were asked for at 100, before anything answered; the one asked for at 300 joins a service that answers since 190."""
    watch, fresh = StartWatch().look([pod("first", 100, 190), pod("beside", 100, 195), pod("later", 300, 320)])
    assert seconds(fresh) == [("later", 20)]
    assert watch.look([pod("beside", 100, 195)])[1] == []


def test_pods_that_were_there_before_do_not_count_and_those_that_are_gone_are_forgotten() -> None:
    """A node of last week that lost its replica for a minute is no start of a week."""
    watch = StartWatch(answering_since=50).passing_over([pod("old", 60, None)])
    watch, fresh = watch.look([pod("old", 60, 600_000), pod("new", 100, 130)])
    assert seconds(fresh) == [("new", 30)]
    assert watch.look([pod("third", 600_000, 600_020)])[0].passed_over == {"third"}


def test_a_pod_ready_before_its_creation_is_a_clock_gone_wrong_and_does_not_count() -> None:
    """Otherwise a start would take less than no time."""
    assert StartWatch(answering_since=50).look([pod("a", 100, 99)])[1] == []


def test_a_start_has_parts_that_add_up() -> None:
    """Nodes were added at 90, the pod was created at 100, found a machine at 130, ran at 150 and answered at 190: 40 + 20 + 40 = 100 s."""
    parts = {"scheduled_at": 130.0, "started_at": 150.0}
    (start,) = StartWatch(answering_since=50).look([pod("a", 100, 190, **parts)], asked_at=90)[1]
    assert (start.seconds, start.scheduling, start.starting, start.loading) == (100, 40, 20, 40)
    (replaced,) = StartWatch(answering_since=50).look([pod("a", 100, 190, **parts)], asked_at=39)[1]
    assert replaced.seconds == 90, "created 61 s after nodes were added: it replaces one that failed"
    (unseen,) = StartWatch(answering_since=50).look([pod("a", 100, 190)])[1]
    assert (unseen.scheduling, unseen.starting, unseen.loading) == (None, None, None)


def test_p90_of_ten_starts_is_the_second_slowest() -> None:
    """10, 20, …, 100 s → 90 s; one start is its own p90; none has none."""
    assert Starts().p90() is None
    assert Starts((Start("a", 42.0),)).p90() == 42
    assert Starts(tuple(Start(str(n), 10.0 * n) for n in range(1, 11))).p90() == 90


def test_the_last_50_starts_count() -> None:
    """After 50 quick starts the slow ones of the old image are forgotten."""
    starts = Starts().with_more(Start(f"slow-{n}", 600) for n in range(50))
    assert starts.p90() == 600
    starts = starts.with_more(Start(f"quick-{n}", 60) for n in range(50))
    assert (len(starts.seen), starts.p90()) == (SAMPLES_KEPT, 60)
    assert Starts.earlier(Start("", 70, 30, 20, 20), 7).slow() == Start("earlier", 70, 30, 20, 20)


@pytest.mark.parametrize(
    ("p90", "horizon", "lead"),
    [
        pytest.param(None, 600, 600, id="nothing measured: the 600 s asked for, and all of them are provided for"),
        pytest.param(100, 600, 175, id="a start of 100 s, a tick of 15, a step of 60: provided for 175 s, though 600 are looked at"),
        pytest.param(525, 600, 600, id="a start of 525 s: exactly the 600 s"),
        pytest.param(700, 775, 775, id="a start of 700 s: 775 s, though 600 were asked for"),
    ],
)
def test_nodes_are_provided_until_one_asked_for_now_could_be_there(p90: float | None, horizon: float, lead: float) -> None:
    """A node asked for now answers only then, and the forecast looks at least as far."""
    question = Question.of(ScalingSpec(), 10.0, p90, 15, 60)
    assert (question.horizon_seconds, question.whole_lead_seconds, question.slack_seconds) == (horizon, lead, 10)


# ------------------------------------------------------------------------------------------------------------------- ledger


def test_an_hour_at_3_of_10_nodes_beside_4_in_mode_reactive() -> None:
    """3 node-hours, 10 at the maximum, 4 reactive; with 2 GPUs a node at 2.50 an hour, 2 GPU-hours and 2.50 were saved."""
    ledger = Ledger(since=0, counted_until=0)
    for second in range(15, 3601, 15):
        ledger = ledger.count(second, actual=Lane(3), maximum=10, reactive=Lane(4, second <= 60), gpus_per_node=2, price=2.5)
    assert (ledger.node_seconds / 3600, ledger.at_maximum / 3600, ledger.reactive / 3600) == (3, 10, 4)
    assert ledger.since == 0
    (day,) = ledger.days
    assert (day.node_seconds / 3600, day.reactive / 3600, day.saved_gpu_seconds / 3600) == (3, 4, 2)
    assert (day.saved_cost, day.overloaded, day.reactive_overloaded, day.predictive) == (pytest.approx(2.5), 0, 60, 0)


def test_the_books_are_kept_by_the_day_and_for_14_days() -> None:
    """20 days at 1 node: the last 14, 24 node-hours each (the first tick's quarter of a minute falls into the day before)."""
    ledger = Ledger(since=0, counted_until=0)
    for minute in range(10, 20 * 1440, 10):
        ledger = ledger.count(60 * minute, actual=Lane(1), maximum=10, reactive=Lane(2), predictive=Lane(1, minute % 100 == 0))
    assert [day.day for day in ledger.days] == list(range(6, 20))
    assert all(day.node_seconds == 86_400 for day in ledger.days[:-1])
    assert ledger.days[0].predictive == 86_400
    assert ledger.days[0].predictive_overloaded == pytest.approx(8_640, abs=600)


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
    ledger = Ledger(since=-100, counted_until=0).count(now, actual=Lane(1), maximum=1, reactive=Lane(1))
    assert (ledger.node_seconds, ledger.counted_until) == (counted, now)


def test_nodes_answer_a_cold_start_after_they_were_asked_for_and_are_gone_at_once() -> None:
    """2, then 6 from 100 s on, then 3 from 400 s on; a cold start of 180 s."""
    course, ready = Course(((0, 2),)), {}
    for second in range(0, 601, 20):
        course = course.then(second, 2 if second < 100 else 6 if second < 400 else 3, 180)
        ready[second] = course.ready
    assert [ready[second] for second in (80, 260, 280, 380, 400, 600)] == [2, 2, 6, 6, 3, 3]
    assert len(course.steps) <= 2


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
