"""What the nodes of a day may cost.

A budget pays for nodes beyond nodes.min, and only as many as it can pay for the next hour. So it is never spent at a stroke: under a load that
wants all of it, the nodes beyond the minimum grow fewer by the hour, each going the way every released node goes, and a new day (UTC) begins
with a full budget. `whenSpent: Hold` keeps the nodes that run for as long as the present demand needs them, and overdraws.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_operator.core.capacity import nodes_for
from deepseek_operator.core.types import Decision, Situation

DAY_SECONDS = 86_400
HOLD_HOURS = 1.0
"""The nodes beyond the minimum are as many as can be paid for this long (or until the day ends): one that is given back after minutes bought a
cold start."""

LONGEST_GAP_SECONDS = 900
"""A longer silence between two decisions (the operator was down) is not counted: nothing is known of it."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Node-seconds asked for since the day `day` (days since 1970, UTC) began, counted until `counted_until` (Unix seconds)."""

    day: int
    node_seconds: float
    counted_until: float

    @classmethod
    def on_the_day_of(cls, at: float, node_seconds: float = 0.0) -> Spent:
        """So much at the instant `at`."""
        return cls(int(at // DAY_SECONDS), node_seconds, at)

    def count(self, at: float, nodes: int) -> Spent:
        """With the time since the last count, at the count of nodes that held during it. A new day begins at nothing."""
        seconds = at - self.counted_until
        day = int(at // DAY_SECONDS)
        if not 0 < seconds <= LONGEST_GAP_SECONDS:
            return Spent(day, self.node_seconds if day == self.day else 0.0, at)
        if day != self.day:
            return Spent(day, nodes * min(seconds, at % DAY_SECONDS), at)
        return Spent(day, self.node_seconds + nodes * seconds, at)


def affordable(s: Situation) -> int | None:
    """Nodes that can be paid for the next hour, or until the day ends; None without a budget. Never fewer than nodes.min.

    96 of 120 node-hours are used, 10 hours are left, nodes.min is 1: 120 − 96 − 10 × 1 = 14 node-hours for more than the minimum → 1 + 14
    """
    limit = s.policy.budget_node_hours
    if limit is None:
        return None
    hours_left = (DAY_SECONDS - s.date % DAY_SECONDS) / 3600
    free = limit - used_hours(s) - s.policy.min_nodes * hours_left
    return s.policy.min_nodes + max(0, int(free / min(HOLD_HOURS, hours_left)))


def used_hours(s: Situation) -> float:
    """Node-hours of this day so far."""
    spent = s.memory.spent
    return 0.0 if spent is None else spent.count(s.date, s.nodes).node_seconds / 3600


def budget(d: Decision, s: Situation) -> Decision:
    """No more nodes than the day's budget pays for. Like nodes.max it holds whatever is known of the load."""
    most = affordable(s)
    if most is None or s.policy.mode == "Manual" or d.nodes <= most:
        return d
    nodes = min(d.nodes, max(most, _kept(s)))
    if nodes == d.nodes:
        return d
    said = f"{used_hours(s):.1f} of {s.policy.budget_node_hours:g} node-hours of this day are used, which leaves {most} nodes for the next hour"
    return d.but(nodes, "BudgetLimited", f"{d.message}; {said}", limited="BudgetLimited")


def _kept(s: Situation) -> int:
    """Nodes that run and stay though the budget does not pay for them any more."""
    if s.release_barred:
        return s.nodes
    if s.policy.when_spent == "Release":
        return 0
    if s.demand is None or not s.demand.complete or s.node_capacity is None:
        return s.nodes
    return min(s.nodes, nodes_for(s.demand.rate, s.node_capacity, s.policy.scale_up_percent))
