"""Node-hours and minutes of overload, beside what the alternatives would have taken on the same demand; in all and by the day."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deepseek_operator.core.budget import DAY_SECONDS, LONGEST_GAP_SECONDS
from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.types import Memory, Situation

DAYS_KEPT = 14
"""Days that the books are kept by the day: two weeks show a week beside the one before."""


@dataclass(frozen=True, slots=True)
class Course:
    """How many nodes were asked for of late, as (instant from which on, nodes), oldest first."""

    steps: tuple[tuple[float, int], ...]

    def then(self, now: float, nodes: int, cold_start_seconds: float) -> Course:
        """With the count from `now` on, without what can no longer matter: what another count replaced a cold start ago."""
        steps = self.steps if self.steps and self.steps[-1][1] == nodes else (*self.steps, (now, nodes))
        over = sum(at <= now - cold_start_seconds for at, _ in steps[1:])
        return self if steps is self.steps and not over else Course(steps[over:])

    @property
    def ready(self) -> int:
        """Nodes that answer: those that were asked for throughout the last cold start. One that is given back is gone at once."""
        return min(nodes for _, nodes in self.steps)


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """Another mode, run beside the real one on the same demand, with a node count and a memory of its own."""

    nodes: int
    memory: Memory

    def advance(self, situation: Situation) -> Counterfactual:
        """One decision further. `situation` carries the other policy; nodes and memory are this one's."""
        own = replace(situation, nodes=self.nodes, memory=self.memory, release_barred="")
        decision = decide(own)
        return Counterfactual(decision.nodes, remember(own, decision))


@dataclass(frozen=True, slots=True)
class Lane:
    """What one mode did in a stretch of time: the nodes it asked for, and whether those of them that answered were too few for the demand."""

    nodes: int
    overloaded: bool = False


@dataclass(frozen=True, slots=True)
class Day:
    """The books of one day (`day`: days since 1970, UTC): node-seconds and seconds of overload, as it was, in mode Reactive, and (in mode
    Shadow) as Predictive would have been; and what was saved beside Reactive, in GPU-seconds and in money (negative: it cost more)."""

    day: int
    node_seconds: float = 0.0
    overloaded: float = 0.0
    reactive: float = 0.0
    reactive_overloaded: float = 0.0
    predictive: float = 0.0
    predictive_overloaded: float = 0.0
    saved_gpu_seconds: float = 0.0
    saved_cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Ledger:
    """Node-seconds since `since` (Unix seconds): as asked for, had the maximum run throughout, and as mode Reactive would have asked; and the
    last days, oldest first."""

    since: float
    counted_until: float
    node_seconds: float = 0.0
    at_maximum: float = 0.0
    reactive: float = 0.0
    days: tuple[Day, ...] = ()

    def count(
        self,
        now: float,
        *,
        actual: Lane,
        maximum: int,
        reactive: Lane,
        predictive: Lane | None = None,
        date: float | None = None,
        gpus_per_node: float = 0.0,
        price: float = 0.0,
    ) -> Ledger:
        """With the time since the last count, at what held during it. `date` is this moment on the wall's clock, `price` that of a node-hour. A
        longer silence than 15 minutes (the operator was down) is not counted for anybody: nothing is known of it."""
        seconds = now - self.counted_until
        if not 0 < seconds <= LONGEST_GAP_SECONDS:
            return replace(self, counted_until=now)
        saved = (reactive.nodes - actual.nodes) * seconds
        today = int((now if date is None else date) // DAY_SECONDS)
        book = next((day for day in self.days if day.day == today), Day(today))
        book = replace(
            book,
            node_seconds=book.node_seconds + actual.nodes * seconds,
            overloaded=book.overloaded + actual.overloaded * seconds,
            reactive=book.reactive + reactive.nodes * seconds,
            reactive_overloaded=book.reactive_overloaded + reactive.overloaded * seconds,
            predictive=book.predictive + (predictive.nodes * seconds if predictive else 0.0),
            predictive_overloaded=book.predictive_overloaded + (predictive.overloaded * seconds if predictive else 0.0),
            saved_gpu_seconds=book.saved_gpu_seconds + saved * gpus_per_node,
            saved_cost=book.saved_cost + saved / 3600 * price,
        )
        return Ledger(
            since=self.since,
            counted_until=now,
            node_seconds=self.node_seconds + actual.nodes * seconds,
            at_maximum=self.at_maximum + maximum * seconds,
            reactive=self.reactive + reactive.nodes * seconds,
            days=(*(day for day in self.days if day.day != today), book)[-DAYS_KEPT:],
        )
