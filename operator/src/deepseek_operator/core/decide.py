"""How many nodes? The whole answer on one page.

1. `recommend`: the load that is expected until a node asked for now could be there (the present demand where there is no forecast) divided
   by what the nodes can carry is the predicted utilization. Above scaleUpPercent: as many nodes as bring it under, and beyond these every
   node that is likely enough to be needed to be worth its price. Below scaleDownPercent: release down to that count. In between:
   consolidate to it, or hold, as the policy says. Unknown demand: hold, and later grow to a safe level.
2. Every rule below looks at the decision in turn and passes it on, changed or not, with its reason:
   the present demand is a floor under the forecast; releasing takes positive evidence; a release waits for the stabilization window and the
   cooldown; one decision moves only so many nodes; the calendar's floors hold; the day's budget limits what is added; and last, on every
   path, nodes.min ≤ nodes ≤ nodes.max.

The core is told the time and what is known, and returns a verdict that carries its reason. The same words go to status, events, logs,
metrics and `deepseek-operator explain`.
"""

from __future__ import annotations

from dataclasses import replace

from deepseek_operator.core.budget import Spent, budget
from deepseek_operator.core.recommend import recommend
from deepseek_operator.core.schedule import scheduled_floor
from deepseek_operator.core.stabilize import bounds, cooldown, positive_evidence, rate_limit, reactive_floor, stabilization_window
from deepseek_operator.core.trust import judged
from deepseek_operator.core.types import (
    REACTIVE_STABILIZATION_SECONDS,
    RECOMMENDATIONS_KEPT_SECONDS,
    Decision,
    Memory,
    Recommendation,
    Situation,
)

RULES = (reactive_floor, positive_evidence, stabilization_window, cooldown, rate_limit, scheduled_floor, budget, bounds)


def decide(situation: Situation) -> Decision:
    """The node count for this moment, and why. Pure: the same situation gives the same decision."""
    decision = recommend(situation)
    for rule in RULES:
        decision = rule(decision, situation)
    return decision


def remember(situation: Situation, decision: Decision) -> Memory:
    """What the next decision has to know of this one."""
    memory, now = situation.memory, situation.now
    wanted = decision.recommended
    if situation.demand is None:
        wanted = situation.nodes
    elif not situation.demand.complete:
        wanted = max(wanted, situation.nodes)  # the load is at least what was read: no evidence for fewer nodes than there are
    window = situation.policy.scale_down_stabilization_seconds or REACTIVE_STABILIZATION_SECONDS
    keep = max(RECOMMENDATIONS_KEPT_SECONDS + situation.policy.unknown_demand_grace_seconds, window)
    return replace(
        memory,
        recommendations=_append(memory.recommendations, Recommendation(now, wanted), oldest=now - keep),
        demand_known_at=now if situation.demand is not None else memory.demand_known_at,
        scaled_at=now if decision.nodes != situation.nodes else memory.scaled_at,
        scaled_up_at=now if decision.nodes > situation.nodes else memory.scaled_up_at,
        trust=judged(memory.trust, situation),
        spent=(memory.spent or Spent.on_the_day_of(situation.date)).count(situation.date, situation.nodes),
    )


def _append(past: tuple[Recommendation, ...], latest: Recommendation, oldest: float) -> tuple[Recommendation, ...]:
    """The recommendations that can still matter: one that is followed by an equal or higher one never will be a maximum again."""
    kept = [r for r in past if r.at >= oldest and r.nodes > latest.nodes]
    return (*kept, latest)
