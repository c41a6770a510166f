"""Floors by the calendar: when they begin and end, and what they do to a decision. Times are UTC unless a zone is named."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_operator.api.v1alpha1 import ScheduledFloorSpec
from deepseek_operator.core.decide import decide
from deepseek_operator.core.schedule import ScheduledFloor, floor_at
from deepseek_operator.core.types import Demand, Memory, Policy, Situation

HOUR = 3600


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


OFFICE = ScheduledFloor("office", 4, 10 * HOUR, cron="0 8 * * MON-FRI", time_zone="Europe/Berlin")
LAUNCH = ScheduledFloor("launch", 9, 2 * HOUR, starts_at=at("2026-12-01T17:00:00Z"))

# Berlin is at +1 in winter and at +2 in summer. 2026-11-23 is a Monday.
INSTANTS = {
    "Monday 7:59 in Berlin: not yet": ("2026-11-23T06:59:00Z", 0, None),
    "Monday 8:00 in Berlin: 4": ("2026-11-23T07:00:00Z", 0, 4),
    "Monday 17:59:59 in Berlin: 4": ("2026-11-23T16:59:59Z", 0, 4),
    "Monday 18:00 in Berlin: over": ("2026-11-23T17:00:00Z", 0, None),
    "Saturday noon: none": ("2026-11-28T11:00:00Z", 0, None),
    "in summer 8:00 in Berlin is 6:00": ("2026-07-01T06:00:00Z", 0, 4),
    "the Monday after the clocks went forward": ("2026-03-30T06:00:00Z", 0, 4),
    "195 s before eight, and a node takes 195 s: asked for now": ("2026-11-23T06:56:45Z", 195, 4),
    "196 s before eight: not yet": ("2026-11-23T06:56:44Z", 195, None),
    "the launch, above the office hours of that Tuesday": ("2026-12-01T17:00:00Z", 0, 9),
    "an hour of the launch is left": ("2026-12-01T18:00:00Z", 0, 9),
    "the launch is over": ("2026-12-01T19:00:00Z", 0, None),
    "the launch never comes back": ("2027-12-01T17:30:00Z", 0, None),
}


@pytest.mark.parametrize(("instant", "lead", "nodes"), INSTANTS.values(), ids=INSTANTS.keys())
def test_the_floor_of_an_instant(instant: str, lead: float, nodes: int | None) -> None:
    """4 nodes on working days from 8 to 18 in Berlin, 9 for two hours on the first of December."""
    held = floor_at((OFFICE, LAUNCH), at(instant), lead)
    assert (held and held.floor.nodes) == nodes


def test_the_night_the_clocks_go_back_has_one_occurrence_at_half_past_two() -> None:
    """2026-10-25, 2:30 in Berlin exists twice; a nightly floor of half an hour holds for the first."""
    night = ScheduledFloor("night", 2, 1800, cron="30 2 * * *", time_zone="Europe/Berlin")
    held = [floor_at((night,), at("2026-10-25T00:00:00Z") + 60 * minute, 0) is not None for minute in range(180)]
    assert sum(held) == 30


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 400 * 86_400), st.integers(0, 20 * 86_400), st.integers(60, 30 * 86_400))
def test_a_daily_floor_holds_exactly_within_its_duration(offset: int, later: int, duration: int) -> None:
    """At any second of 400 days, for durations of a minute to a month: the answer by arithmetic and the answer by cron agree."""
    floor = ScheduledFloor("daily", 1, duration, cron="15 6 * * *")
    instant = at("2026-01-01T00:00:00Z") + offset
    since = (instant - 6 * HOUR - 900) % 86_400  # seconds since the last quarter past six
    assert (floor_at((floor,), instant, 0) is not None) == (since < duration)
    begins = floor.begins(instant)
    assert begins is not None
    assert begins + duration > instant


def situation(nodes: int, demand: float, now: str, **policy: object) -> Situation:
    moment = at(now)
    return Situation(
        now=moment,
        policy=replace(Policy(mode="Reactive", schedule=(OFFICE, LAUNCH)), **policy),  # type: ignore[arg-type]
        nodes=nodes,
        demand=Demand(demand),
        node_capacity=10.0,
        memory=Memory(scaled_at=moment - HOUR, scaled_up_at=moment - 1, demand_known_at=moment),
        lead_seconds=195,
    )


DECISIONS = {
    "a floor raises the 1 that 5 req/s need to 4": (situation(1, 5, "2026-11-23T09:00:00Z"), 4, "ScheduledFloor"),
    "and keeps the 4 there are": (situation(4, 5, "2026-11-23T09:00:00Z"), 4, "ScheduledFloor"),
    "what the load needs beyond it is added": (situation(4, 48, "2026-11-23T09:00:00Z"), 6, "ScaleUp"),
    "it waits for no cooldown and no rate limit": (
        situation(1, 5, "2026-11-23T09:00:00Z", scale_up_cooldown_seconds=600, max_scale_up_nodes=1),
        4,
        "ScheduledFloor",
    ),
    "nodes.max limits it": (situation(1, 5, "2026-12-01T17:00:00Z", max_nodes=6), 6, "MaximumNodes"),
    "after it what the load does not need goes": (situation(4, 5, "2026-11-23T17:00:00Z"), 1, "ScaleDown"),
    "mode Manual ignores it": (situation(1, 5, "2026-11-23T09:00:00Z", mode="Manual", manual_nodes=2), 2, "Manual"),
}


@pytest.mark.parametrize(("given", "nodes", "reason"), DECISIONS.values(), ids=DECISIONS.keys())
def test_decide_with_a_schedule(given: Situation, nodes: int, reason: str) -> None:
    """A node does 10 requests per second and takes 195 s to come; nodes were added a second ago."""
    assert (decide(given).nodes, decide(given).reason) == (nodes, reason)


def test_the_words_name_the_floor_and_when_it_ends_or_begins() -> None:
    """What `explain` shows."""
    within, before = (decide(situation(1, 5, text)).message for text in ("2026-11-23T09:00:00Z", "2026-11-23T06:57:00Z"))
    assert within.startswith("the floor 'office' of scaling.schedule is 4 until 2026-11-23 17:00 UTC (demand 5 req/s needs 1")
    assert "is 4 from 2026-11-23 07:00 UTC on, and a node takes 195 s" in before


def test_the_calendar_is_read_off_the_wall_not_off_the_clock_that_cannot_jump() -> None:
    """The tick's clock is an hour behind since the wall was set right: the wall says nine."""
    late = situation(1, 5, "2026-11-23T06:00:00Z")
    assert decide(late).nodes == 1
    assert decide(replace(late, wall=at("2026-11-23T09:00:00Z"))).nodes == 4


def test_a_floor_from_the_custom_resource() -> None:
    """By cron, and by date."""
    repeated = {"name": "office", "minNodes": 4, "cron": "0 8 * * MON-FRI", "durationSeconds": 36_000, "timeZone": "Europe/Berlin"}
    once = {"name": "launch", "minNodes": 9, "startsAt": "2026-12-01T18:00:00+01:00", "endsAt": "2026-12-01T19:00:00Z"}
    assert ScheduledFloor.of(ScheduledFloorSpec.model_validate(repeated)) == OFFICE
    assert ScheduledFloor.of(ScheduledFloorSpec.model_validate(once)) == LAUNCH


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cron": "0 8 * * FUNDAY"}, "cron must have five fields such as '0 8 \\* \\* MON-FRI', was '0 8 \\* \\* FUNDAY'"),
        ({"cron": "0 0 8 * * MON"}, "String should match pattern"),
        ({"cron": "0 0 31 2 *"}, "Bad day-of-month"),
        ({"timeZone": "Europe/Atlantis"}, "timeZone must be a name of the IANA database such as Europe/Berlin, was 'Europe/Atlantis'"),
        ({"timeZone": "../../etc/passwd"}, "timeZone must be a name of the IANA database"),
        ({"durationSeconds": None}, "must have either cron and durationSeconds, or startsAt and endsAt"),
        ({"startsAt": "2026-12-01T17:00:00Z"}, "must have either cron and durationSeconds, or startsAt and endsAt"),
        (
            {"cron": None, "durationSeconds": None, "startsAt": "2026-12-01T17:00:00Z", "endsAt": "2026-12-01T17:00:00Z"},
            "startsAt must be before",
        ),
        ({"startsAt": "tomorrow"}, "must be an RFC 3339 time such as 2026-12-01T17:00:00Z, was 'tomorrow'"),
    ],
    ids=["a day that is none", "seconds", "February 31", "no such zone", "a path", "no duration", "both calendars", "no time at all", "a word"],
)
def test_a_calendar_that_cannot_be_read_says_what_is_allowed(change: dict[str, str | None], words: str) -> None:
    """The API server cannot know what a cron expression or a time zone is."""
    good: dict[str, object] = {"name": "office", "minNodes": 4, "cron": "0 8 * * MON-FRI", "durationSeconds": 36_000}
    with pytest.raises(ValueError, match=words):
        ScheduledFloor.of(ScheduledFloorSpec.model_validate({**good, **change}))
