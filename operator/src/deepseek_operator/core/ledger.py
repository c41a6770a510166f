"""Node-hours, beside what the alternatives would have taken on the same demand."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.types import Memory, Situation

LONGEST_GAP_SECONDS = 900
"""A longer silence between two ticks (the operator was down) is not counted for anybody: nothing is known of it."""


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
class Ledger:
    """Node-seconds since `since` (Unix seconds): as asked for, had the maximum run throughout, and as mode Reactive would have asked."""

    since: float
    counted_until: float
    node_seconds: float = 0.0
    at_maximum: float = 0.0
    reactive: float = 0.0

    def count(self, now: float, nodes: int, maximum: int, reactive_nodes: int) -> Ledger:
        """With the time since the last count, at the node counts that held during it."""
        seconds = now - self.counted_until
        if not 0 < seconds <= LONGEST_GAP_SECONDS:
            return replace(self, counted_until=now)
        return Ledger(
            since=self.since,
            counted_until=now,
            node_seconds=self.node_seconds + nodes * seconds,
            at_maximum=self.at_maximum + maximum * seconds,
            reactive=self.reactive + reactive_nodes * seconds,
        )
