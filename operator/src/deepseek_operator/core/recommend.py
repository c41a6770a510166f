"""How many nodes the load calls for, before windows, cooldowns and bounds have their say."""

from __future__ import annotations

from dataclasses import replace

from deepseek_operator.core.capacity import nodes_for, utilization
from deepseek_operator.core.risk import nodes_that_pay
from deepseek_operator.core.types import RECOMMENDATIONS_KEPT_SECONDS, Decision, Demand, PeakForecast, Policy, Situation

RELEASE_MARGIN_PERCENT = 3
RELEASE_CARE = 1.5
"""A node is released only if it would still go at 3 points less utilization and at two thirds of the accepted risk. More of both takes more of
the changes and costs as much more (docs/decisions/0018)."""


def recommend(s: Situation) -> Decision:
    """The recommendation: predictive where there is a forecast, reactive where there is none, and a hold where nothing is known."""
    if s.policy.mode == "Manual":
        return manual(s)
    if s.demand is None:
        return demand_unknown(s)
    if s.node_capacity is None:
        return hold(s, "CapacityUnknown", "holding: the capacity of a node is not known yet; give scaling.capacity.requestsPerSecondPerNode")
    if s.foreseen is None:
        return by_demand(s, s.demand, s.node_capacity)
    return by_forecast(s, s.demand, s.foreseen, s.node_capacity)


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
    """Demand cannot be read: hold, or grow to what is still foreseen; after the grace period to the highest count of the last hour. Never
    release.

    Forecasts last for ten minutes without readings. A day and a half with two hours without metrics in every six, on the three traces this
    was tuned on: 0.5, 0 and 2 % late with them, 0.5, 0 and 14 without, for 0, 7 and 9 % more node-hours.
    """
    known_at = s.memory.demand_known_at
    silent_for = 0.0 if known_at is None else s.now - known_at
    why = s.missing or "demand cannot be read"
    grace = s.policy.unknown_demand_grace_seconds
    if silent_for > grace:
        safe = max(s.nodes, s.memory.highest(s.now - RECOMMENDATIONS_KEPT_SECONDS - grace) or 0)
        return Decision(safe, "DemandUnknown", f"{why} for {silent_for:.0f} s; keeping the highest count of the last hour, {safe}", safe)
    if s.foreseen is not None and s.node_capacity is not None:
        needed = nodes_foreseen(s.policy, s.foreseen, s.node_capacity, share=min(1.0, s.foreseen.later))
        if needed > s.nodes:
            return Decision(needed, "DemandUnknown", f"{why}; {described(s.foreseen)} needs {needed}", needed)
    return hold(s, "DemandUnknown", f"holding {s.nodes}: {why}")


def by_demand(s: Situation, demand: Demand, node_capacity: float) -> Decision:
    """Above scaleUpPercent add, below scaleDownPercent release, in between consolidate or hold."""
    p = s.policy
    needed = max(p.min_nodes, nodes_for(demand.rate, node_capacity, p.scale_up_percent))
    load = f"demand {demand.rate:.3g} req/s{demand.made_of}"
    why = f"{load} needs {needed} ({node_capacity:.3g} req/s per node × {p.scale_up_percent} %){_but(s)}"
    now = utilization(demand.rate, s.nodes, node_capacity)
    verdict = Decision(s.nodes, "Steady", why, needed, utilization=now, predicted_utilization=now)
    if needed > s.nodes:
        return verdict.but(needed, "ScaleUp", why)
    return _released(s, verdict, needed, load) if needed < s.nodes else verdict


def by_forecast(s: Situation, demand: Demand, forecast: PeakForecast, node_capacity: float) -> Decision:
    """As by demand, on the load that is expected; and beyond that, every node that pays (`core.risk`).

    A node asked for now helps only against what is still to come when it is there; a node that is released now is missing at once. So nodes
    are added for the later part of the lead and kept for all of it.
    """
    p = s.policy
    needed = nodes_foreseen(p, forecast, node_capacity)
    by_risk = needed > max(p.min_nodes, nodes_for(forecast.middle, node_capacity, p.scale_up_percent))
    load = described(forecast)
    measure = f"; each is needed with more than {100 * (1 - forecast.provided):.2g} %" if by_risk else f" × {p.scale_up_percent} %"
    why = f"{load} needs {needed} ({node_capacity:.3g} req/s per node{measure})"
    verdict = Decision(
        s.nodes,
        "Steady",
        why,
        needed,
        utilization=utilization(demand.rate, s.nodes, node_capacity),
        predicted_utilization=utilization(forecast.middle, s.nodes, node_capacity),
    )
    if needed > s.nodes:
        in_time = needed if forecast.later >= 1.0 else nodes_foreseen(p, forecast, node_capacity, share=forecast.later)
        if in_time > s.nodes:
            return replace(verdict.but(in_time, "ScaleUp", why), recommended=in_time)
        return replace(verdict.but(s.nodes, "PeakTooSoon", f"{why}, but not any more when a new node would be there"), recommended=s.nodes)
    if needed == s.nodes:
        return verdict
    careful = 1.0 - (1.0 - forecast.provided) / RELEASE_CARE
    kept = min(s.nodes, nodes_foreseen(p, forecast, node_capacity, percent=released_below(p.scale_up_percent), quantile=careful))
    if kept == s.nodes:
        return verdict.but(s.nodes, "Steady", f"{why}; too close to {s.nodes} to release a node")
    return _released(s, replace(verdict, recommended=kept), kept, load)


def nodes_foreseen(
    p: Policy, forecast: PeakForecast, node_capacity: float, *, share: float = 1.0, percent: int | None = None, quantile: float | None = None
) -> int:
    """Nodes that bring the expected load under `percent` utilization, and beyond these every one that pays at `quantile`: of `share` of the
    load that is foreseen; the policy's own percentage and quantile where none are given."""
    expected = nodes_for(share * forecast.middle, node_capacity, percent or p.scale_up_percent)
    loads = [(q, share * load) for q, load in forecast.loads]
    return max(p.min_nodes, expected, nodes_that_pay(loads, node_capacity, quantile or forecast.provided, p.max_nodes))


def described(forecast: PeakForecast) -> str:
    """The forecast in a few words."""
    return f"forecast peak {forecast.middle:.3g} req/s{f' (p{forecast.percentile} {forecast.peak:.3g})' if forecast.loads else ''}"


def _but(s: Situation) -> str:
    """Why the present demand decides although there is a forecast."""
    return f"; {s.distrusted}" if s.distrusted else ""


def _released(s: Situation, verdict: Decision, needed: int, load: str) -> Decision:
    """Below scaleDownPercent release; between the thresholds consolidate or hold."""
    p = s.policy
    predicted = 100 * (verdict.predicted_utilization or 0.0)
    if predicted < p.scale_down_percent:
        return verdict.but(needed, "ScaleDown", verdict.message)
    if p.between_thresholds == "Consolidate":
        return verdict.but(needed, "Consolidate", verdict.message)
    band = f"between {p.scale_down_percent} and {p.scale_up_percent} %"
    held = f"{load} is {predicted:.0f} % of {s.nodes} nodes, {band}"
    return replace(verdict.but(s.nodes, "WithinThresholds", held), recommended=s.nodes)


def released_below(percent: int) -> int:
    """Nodes that go may bring utilization to this percentage, and not to the one at which they are added: a load that wavers moves none."""
    return max(1, percent - RELEASE_MARGIN_PERCENT)
