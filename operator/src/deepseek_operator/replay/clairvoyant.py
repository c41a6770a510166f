"""What knowing the future would cost: the yardsticks that policies are held against."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deepseek_operator.replay.simulate import NodePolicy, Observation, Rates, interpolated, nodes_needed

VIEW_SECONDS = 240.0
"""How far the short-sighted clairvoyant sees: a cold start of 180 s and one minute."""

BACKLOG_SECONDS = 60.0
"""A queue is work beside the arrivals; it is to be done within this time."""


def clairvoyant_node_hours(rates: Rates, step_seconds: float, node_capacity: float, cold_start_seconds: float, *, start: int = 0) -> float:
    """The least node-hours at which nobody ever waits, from step `start` on; exact.

    need(t) = max(1, ⌈rate ÷ capacity⌉). Layer k, the k-th node, is on wherever need ≥ k. Through a gap it is held when that is cheaper than
    paying for its cold start again, so a gap costs min(gap, cold start); a layer that is off at the begin pays one cold start when it is first
    needed, and nothing after it was last needed. With an objective above 0 a policy may let a short excess wait, and be a little cheaper.
    """
    needs = [nodes_needed(rate, node_capacity) for rate in interpolated(rates)[start:]]
    last_on: list[int] = []  # of each layer that was on already, the last step it was
    steps = 0.0
    cold_steps = cold_start_seconds / step_seconds
    for at, need in enumerate(needs):
        steps += need
        while len(last_on) < need:
            last_on.append(at)
            steps += cold_steps if at else 0.0
        for layer in range(need - 1, -1, -1):
            gap = at - last_on[layer] - 1
            if gap > 0:
                steps += min(gap, cold_steps)
            last_on[layer] = at
    return steps * step_seconds / 3600


def static_nodes(rates: Rates, node_capacity: float, *, start: int = 0) -> int:
    """Nodes that carry the highest rate from step `start` on: what one would have to run throughout, had one known it."""
    return nodes_needed(max(interpolated(rates)[start:]), node_capacity)


def static(nodes: int) -> NodePolicy:
    """The policy that always has so many nodes."""
    return lambda now, seen: nodes


def with_view(rates: Rates, step_seconds: float, node_capacity: float, view_seconds: float = VIEW_SECONDS) -> NodePolicy:
    """The policy that knows the true rates of the next `view_seconds` (of a minute in sight, all of it) and asks for what their peak needs.

    Where a queue waits, its work is added, to be done within `BACKLOG_SECONDS`.
    """
    known = interpolated(rates)

    def decide(now: float, seen: Observation) -> int:
        first = min(int(now // step_seconds), len(known) - 1)
        past = min(max(math.ceil((now + view_seconds) / step_seconds - 1e-9), first + 1), len(known))
        return _nodes(known[first:past], seen.waiting, node_capacity)

    return decide


def _nodes(ahead: Sequence[float], waiting: float, node_capacity: float) -> int:
    return nodes_needed(max(ahead) + waiting / BACKLOG_SECONDS, node_capacity)
