"""How many nodes the load calls for, before windows, cooldowns and bounds have their say."""

from __future__ import annotations

from deepseek_operator.core.capacity import nodes_for, utilization
from deepseek_operator.core.types import RECOMMENDATIONS_KEPT_SECONDS, Decision, Situation


def recommend(s: Situation) -> Decision:
    """The recommendation: predictive where there is a forecast, reactive where there is none, and a hold where nothing is known."""
    if s.policy.mode == "Manual":
        return manual(s)
    if s.demand is None:
        return demand_unknown(s)
    if s.node_capacity is None:
        return hold(s, "CapacityUnknown", "holding: the capacity of a node is not known yet; give scaling.capacity.requestsPerSecondPerNode")
    if s.forecast is None or s.policy.mode in ("Reactive", "Shadow"):
        return by_thresholds(s, s.demand.rate, "demand", s.demand.made_of)
    return by_thresholds(s, s.forecast.peak, "forecast peak")


def manual(s: Situation) -> Decision:
    """Mode Manual: the count the user gave, or the present one until they do."""
    if s.policy.manual_nodes is None:
        return hold(s, "Manual", "holding: mode Manual and nodes.count is not set")
    nodes = s.policy.manual_nodes
    return Decision(nodes, "Manual", f"nodes.count is {nodes}", nodes)


def hold(s: Situation, reason: str, message: str) -> Decision:
    """Keep what there is."""
    return Decision(s.nodes, reason, message, s.nodes)


def demand_unknown(s: Situation) -> Decision:
    """Demand cannot be read: hold; after the grace period grow to the highest count of the last hour. Never release."""
    known_at = s.memory.demand_known_at
    silent_for = 0.0 if known_at is None else s.now - known_at
    why = s.missing or "demand cannot be read"
    grace = s.policy.unknown_demand_grace_seconds
    if silent_for <= grace:
        return hold(s, "DemandUnknown", f"holding {s.nodes}: {why}")
    safe = max(s.nodes, s.memory.highest(s.now - RECOMMENDATIONS_KEPT_SECONDS - grace) or 0)
    return Decision(safe, "DemandUnknown", f"{why} for {silent_for:.0f} s; keeping the highest count of the last hour, {safe}", safe)


def by_thresholds(s: Situation, load: float, what: str, made_of: str = "") -> Decision:
    """Above scaleUpPercent add, below scaleDownPercent release, in between consolidate or hold."""
    assert s.node_capacity is not None
    assert s.demand is not None
    p = s.policy
    needed = max(p.min_nodes, nodes_for(load, s.node_capacity, p.scale_up_percent))
    predicted = utilization(load, s.nodes, s.node_capacity)
    figures = f"{what} {load:.3g} req/s{made_of}"
    plainly = f"{figures} needs {needed} ({s.node_capacity:.3g} req/s per node × {p.scale_up_percent} %)"

    def verdict(nodes: int, reason: str, message: str) -> Decision:
        assert s.demand is not None
        assert s.node_capacity is not None
        now = utilization(s.demand.rate, s.nodes, s.node_capacity)
        return Decision(nodes, reason, message, nodes, utilization=now, predicted_utilization=predicted)

    if needed > s.nodes:
        return verdict(needed, "ScaleUp", plainly)
    if needed == s.nodes:
        return verdict(s.nodes, "Steady", plainly)
    if predicted * 100 < p.scale_down_percent:
        return verdict(needed, "ScaleDown", plainly)
    if p.between_thresholds == "Consolidate":
        return verdict(needed, "Consolidate", plainly)
    band = f"between {p.scale_down_percent} and {p.scale_up_percent} %"
    return verdict(s.nodes, "WithinThresholds", f"{figures} is {predicted * 100:.0f} % of {s.nodes} nodes, {band}")
