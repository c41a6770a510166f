"""How long a node takes from being asked for to answering, measured on the nodes there are and were."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from deepseek_operator.core.plan import PodView

SAMPLES_KEPT = 50
"""Starts that count: the 90th percentile of 50 stands on five slow ones, and a change of image is forgotten after 50 more."""

ASKED_WITHIN_SECONDS = 60
"""A pod that is created within this time after nodes were added is one of those; a later one replaces a node that failed."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start: `seconds` from being asked for to answering. Its parts, where they were seen: until a machine was found (`scheduling`), until
    the container ran (`starting`: image, volumes), until the replicas answered (`loading`: Ray, the model)."""

    node: str
    seconds: float
    scheduling: float | None = None
    starting: float | None = None
    loading: float | None = None


@dataclass(frozen=True, slots=True)
class Starts:
    """The starts of one kind of node (model, quantization, node pool), oldest first, whichever object they served."""

    seen: tuple[Start, ...] = ()

    @classmethod
    def earlier(cls, p90: Start, samples: int) -> Starts:
        """Starts that an earlier process measured, of which only this is left."""
        return cls((replace(p90, node="earlier"),) * min(samples, SAMPLES_KEPT))

    def with_more(self, fresh: Iterable[Start]) -> Starts:
        """With these, and without the oldest beyond those that count."""
        more = tuple(fresh)
        return Starts((*self.seen, *more)[-SAMPLES_KEPT:]) if more else self

    def slow(self) -> Start | None:
        """The start at the 90th percentile (nearest rank), None before the first: of 10 starts the second-slowest."""
        ordered = sorted(self.seen, key=lambda start: start.seconds)
        return ordered[math.ceil(0.9 * len(ordered)) - 1] if ordered else None

    def p90(self) -> float | None:
        """Its seconds."""
        slow = self.slow()
        return None if slow is None else slow.seconds


@dataclass(frozen=True, slots=True)
class StartWatch:
    """Which pods of one object's nodes can tell of a start. Only nodes that join a service that answers already count (since `answering_since`,
    Unix seconds): the first ones also wait for the Ray head and the application, which a node that is added later does not."""

    passed_over: frozenset[str] = frozenset()
    answering_since: float | None = None

    def passing_over(self, pods: Iterable[PodView]) -> StartWatch:
        """Without these pods: those that were there before this process (of them the last readiness is known, not the first, and a node of
        last week that lost its replica for a minute would count as a start of a week), or those that came with another RayCluster."""
        return replace(self, passed_over=frozenset(pod.name for pod in pods))

    def look(self, pods: Iterable[PodView], asked_at: float | None = None) -> tuple[StartWatch, list[Start]]:
        """The starts that ended since the last look, oldest first: a pod counts once, by its first readiness. `asked_at` is when nodes were
        last added (Unix seconds)."""
        pods = tuple(pods)
        ready = {pod.name: (pod.ready_at, pod) for pod in pods if pod.ready_at is not None}
        if not ready or (self.answering_since is not None and ready.keys() <= self.passed_over):
            return self, []
        since = self.answering_since if self.answering_since is not None else min(at for at, _ in ready.values())
        fresh = [(at, pod) for name, (at, pod) in ready.items() if name not in self.passed_over and since <= pod.created_at <= at]
        fresh.sort(key=lambda each: (each[0], each[1].name))
        # What has told its start, or cannot tell one any more, is not asked again; pods that are gone are forgotten.
        over = (self.passed_over | ready.keys()) & {pod.name for pod in pods}
        return StartWatch(frozenset(over), since), [_start(pod, at, asked_at) for at, pod in fresh]


def _start(pod: PodView, answered_at: float, asked_at: float | None) -> Start:
    asked = asked_at if asked_at is not None and 0 <= pod.created_at - asked_at <= ASKED_WITHIN_SECONDS else pod.created_at
    scheduled, started = pod.scheduled_at, pod.started_at
    return Start(
        node=pod.name,
        seconds=answered_at - asked,
        scheduling=None if scheduled is None else max(0.0, scheduled - asked),
        starting=None if scheduled is None or started is None else max(0.0, started - scheduled),
        loading=None if started is None else max(0.0, answered_at - started),
    )
