"""How much a node can carry, and how many nodes a load needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

ROUNDING = 1e-9
"""24 ÷ (4 × 0.8) is 7.500000000000001 in binary; without this slack 3.2 × 10 req/s would need 11 nodes of 3.2 req/s instead of 10."""

MOST_NODES = 1_000_000
"""No load needs more: where demand ÷ capacity leaves the range of numbers, the answer is this, and nodes.max cuts it."""

SATURATED_SHARE = 0.85
"""A reading speaks of saturation when the replicas were busy for at least this share of the time …"""

SATURATED_QUEUE = 0.5
"""… and at least so many requests waited on average at each: an engine that answers many at once is busy with one already."""

READING_SECONDS = 60
"""A reading is taken at most this often: readings overlap, and four of one minute are not four witnesses."""

READINGS_KEPT = 60
FEWEST_SATURATED = 3


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


@dataclass(frozen=True, slots=True)
class LearnedCapacity:
    """What a replica can do, in requests per second, as its readings say; oldest first.

    A reading is finished requests ÷ busy seconds. Taken at saturation it is the capacity; below, it is at most that (an engine that answers
    many at once does more per second when there are many), so it stands in only until saturation was seen.
    """

    saturated: tuple[float, ...] = ()
    provisional: tuple[float, ...] = ()
    read_at: float = -math.inf

    @classmethod
    def known(cls, capacity: float, saturated_readings: int) -> LearnedCapacity:
        """What an earlier process learned, of which only this is left."""
        if saturated_readings >= FEWEST_SATURATED:
            return cls(saturated=(capacity,) * min(saturated_readings, READINGS_KEPT))
        return cls(provisional=(capacity,) * FEWEST_SATURATED)

    def read(self, at: float, reading: float | None, busy_share: float | None, queued_per_replica: float | None) -> LearnedCapacity:
        """With one more reading, taken at `at` (Unix seconds). None, and what is no positive number, teaches nothing."""
        if reading is None or not math.isfinite(reading) or reading <= 0 or at - self.read_at < READING_SECONDS:
            return self
        full = (busy_share or 0.0) >= SATURATED_SHARE and (queued_per_replica or 0.0) >= SATURATED_QUEUE
        saturated = (*self.saturated, reading)[-READINGS_KEPT:] if full else self.saturated
        return LearnedCapacity(saturated, (*self.provisional, reading)[-READINGS_KEPT:], at)

    def value(self) -> float | None:
        """The lower quartile of the readings at saturation (three in four did better; one odd minute moves it by a rank, never by its size);
        before there are three of them, the median of all readings; None without any."""
        if len(self.saturated) >= FEWEST_SATURATED:
            return _ranked(self.saturated, 0.25)
        return _ranked(self.provisional, 0.5) if self.provisional else None


def _ranked(values: tuple[float, ...], share: float) -> float:
    """Nearest rank: of four values the quartile is the lowest, of five the second."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
