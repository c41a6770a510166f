"""How long a node takes from being asked for to answering, measured on the nodes there are and were."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from deepseek_operator.core.plan import PodView

SAMPLES_KEPT = 50
"""Starts that count: the 90th percentile of 50 stands on five slow ones, and a change of image is forgotten after 50 more."""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Starts seen, as (pod name, seconds), oldest first. Only nodes that join a service that answers already count (since `answering_since`,
    Unix seconds): the first ones also wait for the Ray head and the application, which a node that is added later does not."""

    starts: tuple[tuple[str, float], ...] = ()
    passed_over: frozenset[str] = frozenset()
    answering_since: float | None = None

    @classmethod
    def known(cls, p90: float, samples: int) -> ColdStart:
        """Starts that an earlier process measured, of which only this is left."""
        return cls(tuple((f"earlier {number}", p90) for number in range(min(samples, SAMPLES_KEPT))))

    def passing_over(self, pods: Iterable[PodView]) -> ColdStart:
        """Without these pods: those that were there before this process (of them the last readiness is known, not the first, and a node of
        last week that lost its replica for a minute would count as a start of a week), or those that came with another RayCluster."""
        return replace(self, passed_over=frozenset(pod.name for pod in pods))

    def seen(self, pods: Iterable[PodView]) -> ColdStart:
        """With the pods that became ready since: a pod counts once, by its first readiness."""
        ready = [(pod.ready_at, pod) for pod in pods if pod.ready_at is not None]
        if not ready:
            return self
        since = self.answering_since if self.answering_since is not None else min(at for at, _ in ready)
        known = {name for name, _ in self.starts} | self.passed_over
        fresh = sorted((at, pod.name, at - pod.created_at) for at, pod in ready if pod.name not in known and since <= pod.created_at <= at)
        if not fresh and since == self.answering_since:
            return self
        starts = (*self.starts, *((name, seconds) for _, name, seconds in fresh))[-SAMPLES_KEPT:]
        return replace(self, starts=starts, answering_since=since)

    def p90(self) -> float | None:
        """90th percentile in seconds (nearest rank), None before the first start: of 10 starts the second-slowest."""
        ordered = sorted(seconds for _, seconds in self.starts)
        return ordered[math.ceil(0.9 * len(ordered)) - 1] if ordered else None


def horizon(asked_for: float, cold_start_p90: float | None, tick_seconds: float) -> float:
    """Seconds the forecast must look ahead: what the user asked for, but at least the measured cold start and one tick, because a node asked
    for now answers only then."""
    return asked_for if cold_start_p90 is None else max(asked_for, cold_start_p90 + tick_seconds)
