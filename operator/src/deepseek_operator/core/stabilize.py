"""What stands between a recommendation and the cluster. Each rule returns the same decision, or a changed one with its own reason."""

from __future__ import annotations

from dataclasses import replace

from deepseek_operator.core.capacity import nodes_for
from deepseek_operator.core.recommend import released_below
from deepseek_operator.core.types import Decision, Situation

TOLERANCE = 0.1
"""The share by which the present demand may pass scaleUpPercent while a forecast decides and nobody waits: the HPA's tolerance.

On the traces this was tuned on it takes the changes a day from 200, 224 and 103 to 137, 75 and 73, for 3, 3 and 1 % fewer node-hours and
as many late (3.5 → 3.7 % on the last; docs/decisions/0018)."""


def reactive_floor(d: Decision, s: Situation) -> Decision:
    """The forecast may raise the node count above what the present demand needs, never lower it below.

    While a forecast decides, scaleUpPercent is held against it, and the present demand has a tolerance of a tenth beyond: a minute that
    wavers moves none. Once requests wait or more surely arrive, where a reading is not complete, and while forecasts run too low, it has none.
    Nodes that are there are kept with the margin of `core.recommend`.
    """
    if s.demand is None or s.node_capacity is None or s.policy.mode == "Manual":
        return d
    followed = s.foreseen is not None and s.demand.complete and not s.memory.trust.lost_low
    percent = s.policy.scale_up_percent
    if followed and not s.demand.pressing:
        percent = min(100, round(percent * (1 + TOLERANCE)))
    needed = nodes_for(s.demand.rate, s.node_capacity, percent)
    if s.foreseen is not None and needed < s.nodes:
        percent = released_below(percent)
        needed = min(s.nodes, nodes_for(s.demand.rate, s.node_capacity, percent))
    if d.nodes >= needed:
        return d if d.recommended >= needed else replace(d, recommended=needed)
    load = f"{'' if s.demand.complete else 'at least '}{s.demand.rate:.3g} req/s{s.demand.made_of}"
    share = f"{s.node_capacity:.3g} req/s per node × {percent} %"
    raised = d.but(needed, "ReactiveFloor", f"demand now is {load} and needs {needed} ({share}) whatever the forecast says")
    return replace(raised, recommended=max(needed, d.recommended))


def positive_evidence(d: Decision, s: Situation) -> Decision:
    """Releasing takes a complete reading of demand, and nothing that speaks against it."""
    if d.nodes >= s.nodes or s.policy.mode == "Manual":
        return d
    if s.demand is not None and not s.demand.complete:
        return d.but(s.nodes, "DemandIncomplete", f"holding {s.nodes}: not every ready replica reported its demand")
    if s.release_barred:
        return d.but(s.nodes, "ReleaseBarred", f"holding {s.nodes}: {s.release_barred}")
    return d


def stabilization_window(d: Decision, s: Situation) -> Decision:
    """Release only down to the highest count recommended within the window: a dip between two peaks releases nothing."""
    window = s.window
    if d.nodes >= s.nodes or s.policy.mode == "Manual":
        return d
    highest = s.memory.highest(s.now - window)
    if highest is None or highest <= d.nodes:
        return d
    kept = min(highest, s.nodes)
    peak = max((r for r in s.memory.recommendations if r.at >= s.now - window and r.nodes == highest), key=lambda r: r.at)
    own = s.policy.scale_down_stabilization_seconds is None
    why = f", for {s.distrusted}" if own and s.foreseen and s.distrusted else ""
    return d.but(
        kept, "ScaleDownStabilized", f"{highest} was recommended {_ago(s.now - peak.at)} ago; the window is {_ago(window)}{why} ({d.message})"
    )


def cooldown(d: Decision, s: Situation) -> Decision:
    """Wait after a change before the next one."""
    p, memory = s.policy, s.memory
    if p.mode == "Manual":
        return d
    if d.nodes > s.nodes and memory.scaled_up_at is not None and s.now - memory.scaled_up_at < p.scale_up_cooldown_seconds:
        since = _ago(s.now - memory.scaled_up_at)
        return d.but(s.nodes, "ScaleUpCooldown", f"nodes were added {since} ago; the cooldown is {_ago(p.scale_up_cooldown_seconds)}")
    if d.nodes < s.nodes and memory.scaled_at is not None and s.now - memory.scaled_at < p.scale_down_cooldown_seconds:
        since = _ago(s.now - memory.scaled_at)
        return d.but(s.nodes, "ScaleDownCooldown", f"the node count changed {since} ago; the cooldown is {_ago(p.scale_down_cooldown_seconds)}")
    return d


def rate_limit(d: Decision, s: Situation) -> Decision:
    """The blast radius of one decision."""
    p = s.policy
    if p.mode == "Manual":
        return d
    if p.max_scale_up_nodes is not None and d.nodes > s.nodes + p.max_scale_up_nodes:
        nodes = s.nodes + p.max_scale_up_nodes
        return d.but(nodes, "ScaleUpLimit", f"{d.message}; maxScaleUpNodes allows {nodes} in this step")
    if p.max_scale_down_nodes is not None and d.nodes < s.nodes - p.max_scale_down_nodes:
        nodes = s.nodes - p.max_scale_down_nodes
        return d.but(nodes, "ScaleDownLimit", f"{d.message}; maxScaleDownNodes allows {nodes} in this step")
    return d


def bounds(d: Decision, s: Situation) -> Decision:
    """nodes.min and nodes.max hold last and always, whatever was recommended and whatever failed."""
    p = s.policy
    if d.nodes > p.max_nodes:
        return d.but(p.max_nodes, "MaximumNodes", f"{d.message}; nodes.max is {p.max_nodes}", limited="TooManyReplicas")
    if d.nodes < p.min_nodes:
        return d.but(p.min_nodes, "MinimumNodes", f"{d.message}; nodes.min is {p.min_nodes}", limited="TooFewReplicas")
    return d


def _ago(seconds: float) -> str:
    """240 → "4 min", 90 → "90 s"."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
