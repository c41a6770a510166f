"""Floors by the calendar: so many nodes at least, on working days from eight to six, or on the evening of a launch.

A floor is met when it begins: its nodes are asked for a lead time (cold start and a tick) earlier. It only raises: what the load needs beyond
it is added as always, and where it ends what the load does not need is released as always.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from deepseek_operator.api.v1alpha1 import ScheduledFloorSpec

if TYPE_CHECKING:
    from deepseek_operator.core.types import Decision, Situation

OCCURRENCES_KEPT = 65_536
"""Occurrences remembered: each is looked for once a minute, however many objects share the expression and however often they are decided on."""


@dataclass(frozen=True, slots=True)
class ScheduledFloor:
    """At least `nodes` nodes for `duration_seconds`, beginning at each occurrence of `cron` in `time_zone`, or once at `starts_at` (Unix
    seconds) where there is no cron."""

    name: str
    nodes: int
    duration_seconds: float
    cron: str = ""
    time_zone: str = "UTC"
    starts_at: float = 0.0

    @classmethod
    def of(cls, spec: ScheduledFloorSpec) -> ScheduledFloor:
        """The floor a custom resource asks for. Raises `ValueError` saying what is allowed where the calendar cannot be read."""
        if spec.cron is None:
            assert spec.starts_at is not None
            assert spec.ends_at is not None
            begins, ends = (datetime.fromisoformat(text).timestamp() for text in (spec.starts_at, spec.ends_at))
            return cls(spec.name, spec.min_nodes, ends - begins, starts_at=begins)
        assert spec.duration_seconds is not None
        check_calendar(spec.cron, spec.time_zone)
        return cls(spec.name, spec.min_nodes, spec.duration_seconds, spec.cron, spec.time_zone)

    def begins(self, at: float) -> float | None:
        """When the occurrence begins that holds at the instant `at`, or else the next one; None when there is none any more."""
        if not self.cron:
            return self.starts_at if at < self.starts_at + self.duration_seconds else None
        # Occurrences lie on whole minutes, so the first after (at − duration) is the first after that minute's beginning.
        return _first_after(self.cron, self.time_zone, math.floor((at - self.duration_seconds) / 60))


@dataclass(frozen=True, slots=True)
class HeldFloor:
    """A floor that is in force or close ahead, and when it begins and ends (Unix seconds)."""

    floor: ScheduledFloor
    begins_at: float
    ends_at: float


def scheduled_floor(d: Decision, s: Situation) -> Decision:
    """At least as many nodes as the calendar asks for, ready by the time it does."""
    if not s.policy.schedule or s.policy.mode == "Manual":
        return d
    held = floor_at(s.policy.schedule, s.date, s.lead_seconds)
    if held is None or d.nodes >= held.floor.nodes:
        return d
    when = (
        f"until {_clock(held.ends_at)}"
        if held.begins_at <= s.date
        else f"from {_clock(held.begins_at)} on, and a node takes {s.lead_seconds:.0f} s"
    )
    return d.but(
        held.floor.nodes, "ScheduledFloor", f"the floor {held.floor.name!r} of scaling.schedule is {held.floor.nodes} {when} ({d.message})"
    )


def floor_at(schedule: tuple[ScheduledFloor, ...], at: float, lead_seconds: float) -> HeldFloor | None:
    """The highest floor in force at the instant `at`, or beginning within the lead time after it; None when there is none."""
    highest: HeldFloor | None = None
    for floor in schedule:
        if highest is not None and highest.floor.nodes >= floor.nodes:
            continue
        begins = floor.begins(at)
        if begins is not None and begins <= at + lead_seconds:
            highest = HeldFloor(floor, begins, begins + floor.duration_seconds)
    return highest


def check_calendar(cron: str, time_zone: str) -> None:
    """Raises `ValueError` saying what is allowed, unless the expression and the time zone can be read."""
    try:
        zone = ZoneInfo(time_zone)
    except (LookupError, OSError, ValueError):
        raise ValueError(f"timeZone must be a name of the IANA database such as Europe/Berlin, was {time_zone!r}") from None
    try:
        if len(cron.split()) != 5:  # a sixth would be seconds
            raise CronSimError(f"it has {len(cron.split())}")
        CronSim(cron, datetime(2024, 1, 1, tzinfo=zone))
    except CronSimError as error:
        raise ValueError(f"cron must have five fields such as '0 8 * * MON-FRI', was {cron!r}: {error}") from None


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


@lru_cache(maxsize=OCCURRENCES_KEPT)
def _first_after(cron: str, time_zone: str, minute: int) -> float | None:
    """The first occurrence after the instant `60 × minute` (Unix seconds)."""
    local = datetime.fromtimestamp(60 * minute, UTC).astimezone(ZoneInfo(time_zone))
    # In the hour that a clock goes back through twice, the next occurrence by the clock may be one that was before.
    later = (occurrence.timestamp() for occurrence in CronSim(cron, local))
    return next((at for at in later if at > 60 * minute), None)
