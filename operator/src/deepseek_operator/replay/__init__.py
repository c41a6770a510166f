"""The same `decide()` over recorded traffic: what a policy would have cost, and how many requests would have waited.

`simulate` is the world with any policy in it, exact and reproducible from the timeline it leaves; `replay` puts the operator's own decision
into it; `clairvoyant_node_hours` is the bound below which nobody is served without waiting. docs/replay.md says how to check all of it.
"""

from deepseek_operator.replay.clairvoyant import VIEW_SECONDS, clairvoyant_node_hours, static, static_nodes, with_view
from deepseek_operator.replay.decider import Decider, Forecaster, replay
from deepseek_operator.replay.simulate import (
    NodePolicy,
    Observation,
    Outcome,
    Rates,
    Row,
    benchmark_capacity,
    interpolated,
    nodes_needed,
    simulate,
)
from deepseek_operator.replay.timeline import write_timeline
from deepseek_operator.replay.world import LATE_SECONDS, World

__all__ = [
    "LATE_SECONDS",
    "VIEW_SECONDS",
    "Decider",
    "Forecaster",
    "NodePolicy",
    "Observation",
    "Outcome",
    "Rates",
    "Row",
    "World",
    "benchmark_capacity",
    "clairvoyant_node_hours",
    "interpolated",
    "nodes_needed",
    "replay",
    "simulate",
    "static",
    "static_nodes",
    "with_view",
    "write_timeline",
]
