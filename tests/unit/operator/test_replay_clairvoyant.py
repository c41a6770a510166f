"""The clairvoyant minimum on traces made by hand, and what knowing less of the future costs."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_operator.replay import clairvoyant_node_hours, simulate, static, static_nodes, with_view

MINUTE = 60.0


@pytest.mark.parametrize(
    ("needs", "node_minutes"),
    [
        ([1, 1, 1], 3),
        ([0, 0, 0], 3),
        ([1, 2, 1], 3 + 1 + 3),
        ([2, 1, 2], 3 + 2 + 1),
        ([2, 1, 1, 1, 1, 2], 6 + 2 + 3),
        ([2, 1, 1, 1, 1, 1], 6 + 1),
        ([1, 1, 3, 1, 3], 5 + 2 * (3 + 1 + 1 + 1)),
        ([3, 1, 2, 1, 3], 5 + (1 + 1 + 1 + 1 + 1) + (1 + 3 + 1)),
    ],
    ids=[
        "one node throughout",
        "the minimum of one, also for nothing",
        "a second node for a minute: one on, three of cold start",
        "on at the begin, held through a gap of one",
        "a gap of four costs the cold start of three",
        "never needed again: nothing after it",
        "two layers off at the begin, each a cold start, and a gap of one held",
        "layer 2 holds two gaps of one, layer 3 lets a gap of three go (three either way)",
    ],
)
def test_by_hand(needs: list[int], node_minutes: int) -> None:
    """Capacity 10 req/s, steps of a minute, a cold start of three."""
    hours = clairvoyant_node_hours([10.0 * need for need in needs], MINUTE, 10, 180)
    assert hours * 60 == pytest.approx(node_minutes)


def test_a_cold_start_of_two_and_a_half_minutes_is_not_rounded() -> None:
    """[1, 2, 1]: 3 + 1 + 2.5."""
    assert clairvoyant_node_hours([10.0, 20.0, 10.0], MINUTE, 10, 150) * 60 == pytest.approx(6.5)


def test_only_the_part_from_the_start_on_counts() -> None:
    """[5, 5, 1, 2] from the third on: 2 + 1 + 3."""
    assert clairvoyant_node_hours([50.0, 50.0, 10.0, 20.0], MINUTE, 10, 180, start=2) * 60 == pytest.approx(6)


def brute_force(needs: list[int], cold: int) -> float:
    """The cheapest way to hold one layer, by trying them all: asked for in each minute or not, ready `cold` minutes after it was."""
    total = len(needs)
    for layer in range(2, max(needs) + 1):
        best = math.inf
        wanted = [need >= layer for need in needs]
        lead = 0 if wanted[0] else cold  # a layer that is off at the begin may have been asked for before it
        for asked in itertools.product((False, True), repeat=len(needs) + lead):
            on = [True] * cold + list(asked) if wanted[0] else [False] * cold + list(asked)
            ready = [all(on[lead + at : lead + at + cold + 1]) for at in range(len(needs))]
            if all(r or not w for r, w in zip(ready, wanted, strict=True)):
                best = min(best, sum(asked))
        total += int(best)
    return total


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.integers(0, 3))
def test_no_plan_at_all_is_cheaper(needs: list[int], cold: int) -> None:
    """Against every plan there is of up to eight minutes: the minimum is attained and not undercut."""
    hours = clairvoyant_node_hours([10.0 * need for need in needs], MINUTE, 10, 60.0 * cold)
    assert hours * 60 == pytest.approx(brute_force(needs, cold))


def test_the_peak_served_throughout() -> None:
    """[10, 45, 20] req/s on nodes of 10 from the second step on: 5 nodes; never late, whatever comes when."""
    rates = [10.0, 45.0, 20.0]
    assert static_nodes(rates, 10, start=1) == 5
    outcome = simulate(rates, MINUTE, 10, static(5), start=1, start_nodes=5)
    assert (outcome.late, outcome.longest_wait_seconds) == (0, 0)
    assert outcome.node_hours == pytest.approx(10 / 60)


def test_who_sees_240_s_ahead_asks_in_time_and_holds_through_short_gaps() -> None:
    """1 node, 3 from minute 10 to 20, 1 again: asked for at minute 7 (the tenth is in sight), given back at minute 20; nobody waits."""
    rates = [10.0] * 10 + [30.0] * 10 + [10.0] * 10
    outcome = simulate(rates, MINUTE, 10, with_view(rates, MINUTE, 10), tick_seconds=60)
    assert [row.asked for row in outcome.rows] == [1] * 7 + [3] * 13 + [1] * 10
    assert outcome.longest_wait_seconds == 0


def test_a_view_shorter_than_the_cold_start_comes_too_late_and_then_works_the_queue_off() -> None:
    """A cold start of 600 s: the first 360 s of the step wait; 30 req/s need 3, and the queue more."""
    rates = [10.0] * 20 + [30.0] * 40
    outcome = simulate(rates, MINUTE, 10, with_view(rates, MINUTE, 10), cold_start_seconds=600)
    assert outcome.late > 30 * 350
    assert max(row.asked for row in outcome.rows) > 3
    assert outcome.rows[-1].asked == 3
    assert outcome.rows[-1].late == 0
