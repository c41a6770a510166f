"""How much a node can carry, and how many nodes a load needs."""

from __future__ import annotations

import math

ROUNDING = 1e-9
"""24 ÷ (4 × 0.8) is 7.500000000000001 in binary; without this slack 3.2 × 10 req/s would need 11 nodes of 3.2 req/s instead of 10."""

MOST_NODES = 1_000_000
"""No load needs more: where demand ÷ capacity leaves the range of numbers, the answer is this, and nodes.max cuts it."""

LEARNING_WEIGHT = 0.1
"""Weight of a new reading of a node's capacity: one odd minute moves it by a tenth, ten agreeing readings by two thirds."""


def utilization(rate: float, nodes: int, node_capacity: float) -> float:
    """Share of the nodes' capacity that `rate` takes; infinite for any load on no node.

    12 req/s ÷ (2 nodes × 10 req/s) = 0.6
    """
    if nodes <= 0:
        return 0.0 if rate <= 0 else math.inf
    return rate / (nodes * node_capacity)


def nodes_for(rate: float, node_capacity: float, percent: int) -> int:
    """Fewest nodes that carry `rate` without passing `percent` utilization.

    24 req/s ÷ (4 req/s × 0.8) = 7.5 → 8 nodes
    """
    carried = node_capacity * percent / 100
    if rate >= MOST_NODES * carried:
        return MOST_NODES if rate > 0 else 0
    return max(0, math.ceil(rate / carried - ROUNDING))


def learned(known: float | None, reading: float | None) -> float | None:
    """The capacity of a node after one more reading (requests per second), None while there was none.

    A reading is finished requests ÷ busy share of the replicas, so it is sound at any load that keeps them measurably busy.
    """
    if reading is None or not math.isfinite(reading) or reading <= 0:
        return known
    return reading if known is None else known + LEARNING_WEIGHT * (reading - known)
