"""Why it is that many nodes: the object's status, told in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from deepseek_operator.api.v1alpha1 import DeepSeekDeploymentSpec, DeepSeekDeploymentStatus
from deepseek_operator.fleet import key_of, parse

BINDING = {
    "MaximumNodes": "nodes.max",
    "MinimumNodes": "nodes.min",
    "BudgetLimited": "scaling.budget",
    "ScheduledFloor": "scaling.schedule",
    "ScaleUpLimit": "scaling.maxScaleUpNodes",
    "ScaleDownLimit": "scaling.maxScaleDownNodes",
    "ScaleUpCooldown": "scaling.scaleUpCooldownSeconds",
    "ScaleDownCooldown": "scaling.scaleDownCooldownSeconds",
    "ScaleDownStabilized": "scaling.scaleDownStabilizationSeconds",
    "PeakTooSoon": "the time a node takes: the peak is over before a new one would be there",
    "WithinThresholds": "scaling.betweenThresholds: Hold",
    "ReactiveFloor": "the present demand, which the forecast may not go below",
    "DemandIncomplete": "replicas that did not report; nothing is released meanwhile",
    "DemandUnknown": "demand that cannot be read; nothing is released meanwhile",
    "CapacityUnknown": "scaling.capacity.requestsPerSecondPerNode, which is not known yet",
    "ReleaseBarred": "an upgrade that is under way",
    "Manual": "nodes.count",
}
"""What has the word behind each reason; every other reason is the load itself."""


def one_line(body: Mapping[str, Any]) -> str:
    """The last decision in one line."""
    status = _status(body)
    name = body["metadata"]["name"]
    if isinstance(status, str):
        return f"{name}: {status}"
    if status is None or status.decision is None or status.nodes is None:
        return f"{name}: nothing decided yet; is the operator running and watching namespace {body['metadata']['namespace']}?"
    decision = status.decision
    return f"{name} runs {status.nodes.desired} nodes ({status.nodes.ready} ready): {decision.reason}: {decision.message}"


def in_full(body: Mapping[str, Any]) -> Iterator[str]:
    """The last decision and all it stood on, line by line."""
    yield one_line(body)
    status = _status(body)
    if status is None or isinstance(status, str):
        return
    wanted = parse(key_of(body), dict(body))
    if isinstance(wanted, str):
        yield f"  spec         not valid: {wanted}"
    else:
        yield from _policy(wanted.spec)
    waiting = f", {status.demand.waiting} requests wait" if status.demand and status.demand.waiting else ""
    yield f"  demand       {status.demand.requests_per_second + ' req/s' + waiting if status.demand else 'not known'}"
    if status.capacity:
        how = status.capacity.source.lower()
        if status.capacity.saturated_readings is not None:
            how += f" from {status.capacity.saturated_readings} readings at saturation"
        yield f"  capacity     {status.capacity.requests_per_second_per_node} req/s per node ({how})"
    else:
        yield "  capacity     not known"
    if status.utilization:
        shown = [
            f"{what} {value} %"
            for what, value in (("now", status.utilization.current_percent), ("predicted", status.utilization.predicted_percent))
            if value is not None
        ]
        yield f"  utilization  {', '.join(shown) or 'not known'}"
    if status.forecast:
        f = status.forecast
        models = ", ".join(f"{name} {weight} %" for name, weight in sorted(f.models.items(), key=lambda item: -item[1]))
        yield (
            f"  forecast     peak {f.peak_requests_per_second} req/s ({f.percentile}th percentile), mean {f.mean_requests_per_second}, "
            f"over {f.horizon_seconds} s; models: {models or 'none named'}"
        )
    else:
        yield "  forecast     none"
    if status.cold_start:
        start = status.cold_start
        parts = (("finding a machine", start.scheduling_seconds), ("image and pod", start.starting_seconds), ("model", start.loading_seconds))
        seen = ", ".join(f"{what} {seconds} s" for what, seconds in parts if seconds is not None)
        yield f"  cold start   {start.p90_seconds} s (90th percentile of {start.samples}{'; ' + seen if seen else ''})"
    if status.decision:
        called_for = "" if status.decision.recommended is None else f"the load calls for {status.decision.recommended}; "
        yield f"  bound by     {called_for}{BINDING.get(status.decision.reason, 'nothing holds that back')}"
        yield f"  decided      {status.decision.at}, last change of the count {status.last_scale_at or 'never'}"
        if status.decision.shadow_nodes is not None:
            yield f"  shadow       Predictive would run {status.decision.shadow_nodes} nodes"
    if status.ledger:
        ledger = status.ledger
        yield (
            f"  ledger       {ledger.node_hours} node-hours since {ledger.since}; {ledger.at_maximum_node_hours} at the maximum, "
            f"{ledger.reactive_node_hours} in mode Reactive"
        )
    if status.savings:
        today = status.savings[-1]
        saved = [
            *([f"{today.saved_gpu_hours} GPU-hours"] if today.saved_gpu_hours else []),
            *([f"{today.saved_cost} in money"] if today.saved_cost else []),
        ]
        yield (
            f"  {today.date}   {today.node_hours} node-hours, {today.reactive_node_hours} in mode Reactive"
            f"{'; saved ' + ' and '.join(saved) if saved else ''}"
        )
    for condition in status.conditions:
        yield f"  {condition.type:<17} {condition.status:<8}{condition.reason}{': ' + condition.message if condition.message else ''}"


def _policy(spec: DeepSeekDeploymentSpec) -> Iterator[str]:
    scaling = spec.scaling
    yield (
        f"  mode         {scaling.mode}: add above {scaling.scale_up_percent} %, release below {scaling.scale_down_percent} %, "
        f"{scaling.between_thresholds.lower()} in between"
    )
    yield f"  bounds       {spec.nodes.min} to {spec.nodes.max} nodes"
    for floor in scaling.schedule:
        when = f"{floor.cron} ({floor.time_zone}) for {floor.duration_seconds} s" if floor.cron else f"{floor.starts_at} to {floor.ends_at}"
        yield f"  floor        {floor.name}: {floor.min_nodes} nodes, {when}"
    if scaling.budget:
        hours, money = scaling.budget.node_hours_per_day, scaling.budget.cost_per_day
        limits = [*([f"{hours} node-hours"] if hours else []), *([f"{money} in money"] if money else [])]
        yield f"  budget       {' and '.join(limits)} a day; when spent: {scaling.budget.when_spent.lower()}"


def _status(body: Mapping[str, Any]) -> DeepSeekDeploymentStatus | str | None:
    """The status; None before the first; a sentence when another version wrote it."""
    try:
        return DeepSeekDeploymentStatus.model_validate(body["status"]) if body.get("status") else None
    except ValidationError as error:
        first = error.errors()[0]
        return f"the status cannot be read, another version may have written it: {'.'.join(map(str, first['loc']))}: {first['msg']}"
