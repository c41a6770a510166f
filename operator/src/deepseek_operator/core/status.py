"""What the object's status says, and when it has changed enough to be written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from deepseek_operator.api.v1alpha1 import (
    CapacityStatus,
    ColdStartStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    DecisionStatus,
    DeepSeekDeploymentStatus,
    DemandStatus,
    ForecastStatus,
    LedgerStatus,
    NodesStatus,
    ReplicasStatus,
    SavingsStatus,
    UtilizationStatus,
    quantity,
    quantity_value,
)
from deepseek_operator.core.budget import DAY_SECONDS
from deepseek_operator.core.coldstart import Start, Starts
from deepseek_operator.core.ledger import Day, Ledger
from deepseek_operator.core.types import Decision, Demand, PeakForecast

REFRESH_SECONDS = 600
"""A status whose figures moved but whose meaning did not is written at most this often."""

UTILIZATION_STEP = 10
"""Points of predicted utilization that count as a change worth writing at once."""


Gist = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Aspect:
    """One condition as it is now."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything a status is made of. `ready` counts nodes whose replicas answer; capacity is requests per second of one node."""

    now: float
    generation: int
    aspects: tuple[Aspect, ...]
    desired: int = 0
    current: int = 0
    ready: int = 0
    replicas_per_node: int = 1
    replicas_ready: int = 0
    decision: Decision | None = None
    demand: Demand | None = None
    forecast: PeakForecast | None = None
    models: Mapping[str, float] = field(default_factory=dict)
    on_probation: bool = False
    capacity: float | None = None
    saturated_readings: int | None = None
    """How often the capacity was read at saturation; None: it is given in the spec."""
    starts: Starts = field(default_factory=Starts)
    ledger: Ledger | None = None
    scaled_at: float | None = None
    shadow_nodes: int | None = None
    has_gpus: bool = False
    has_price: bool = False
    endpoint: str | None = None
    selector: str | None = None


def timestamp(seconds: float) -> str:
    """RFC 3339, whole seconds, UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build(picture: Picture, previous: DeepSeekDeploymentStatus | None) -> DeepSeekDeploymentStatus:
    """The status for this moment. Instants of unchanged conditions and of an unchanged decision are kept from `previous`."""
    decision = picture.decision
    return DeepSeekDeploymentStatus(
        observed_generation=picture.generation,
        conditions=_conditions(picture, previous.conditions if previous else ()),
        endpoint=picture.endpoint,
        selector=picture.selector,
        nodes=NodesStatus(desired=picture.desired, current=picture.current, ready=picture.ready),
        replicas=ReplicasStatus(desired=picture.desired * picture.replicas_per_node, ready=picture.replicas_ready),
        demand=_demand(picture),
        utilization=_utilization(decision),
        forecast=_forecast(picture),
        capacity=None
        if picture.capacity is None
        else CapacityStatus(
            requests_per_second_per_node=quantity(picture.capacity),
            source="Spec" if picture.saturated_readings is None else "Learned",
            saturated_readings=picture.saturated_readings,
        ),
        cold_start=_cold_start(picture.starts),
        decision=_decision(decision, picture, previous.decision if previous else None),
        last_scale_at=None if picture.scaled_at is None else timestamp(picture.scaled_at),
        ledger=_ledger(picture.ledger),
        savings=[_savings(day, picture) for day in picture.ledger.days] if picture.ledger else [],
    )


def as_body(status: DeepSeekDeploymentStatus) -> dict[str, Any]:
    """The status as the API stores it; what is not known is absent."""
    body = status.model_dump(by_alias=True, mode="json", exclude_none=True)
    if not body["savings"]:
        del body["savings"]
    return body


def worth_building(picture: Picture, written: Gist | None, written_at: float) -> bool:
    """Whether a status made of `picture` could be worth a write: anything a person acts on changed since `written`, or its figures are due."""
    return written is None or picture.now - written_at >= REFRESH_SECONDS or gist(picture) != written


def gist(picture: Picture) -> Gist:
    """What of a picture a person may act on. Two with the same gist give statuses of the same meaning."""
    decision = picture.decision
    return (
        picture.generation,
        tuple((aspect.type, aspect.status, aspect.reason) for aspect in picture.aspects),
        (picture.desired, picture.current, picture.ready, picture.replicas_per_node, picture.replicas_ready),
        decision and (decision.nodes, decision.reason, decision.recommended, _percent(decision.predicted_utilization, to=5)),
        picture.shadow_nodes,
        picture.endpoint,
        picture.demand is None,
        picture.capacity is None,
    )


def worth_writing(new: DeepSeekDeploymentStatus, written: DeepSeekDeploymentStatus | None, written_at: float, now: float) -> bool:
    """Whether `new` says something that `written` did not. A converged object is written at most every `REFRESH_SECONDS`, and only then
    if a figure moved."""
    if written is None or _meaning(new) != _meaning(written):
        return True
    if abs(_predicted(new) - _predicted(written)) >= UTILIZATION_STEP:
        return True
    return now - written_at >= REFRESH_SECONDS and new != written


def _meaning(status: DeepSeekDeploymentStatus) -> tuple[Any, ...]:
    return (
        status.observed_generation,
        tuple((c.type, c.status, c.reason) for c in status.conditions),
        status.nodes,
        status.replicas,
        status.decision and (status.decision.nodes, status.decision.reason, status.decision.shadow_nodes),
        status.endpoint,
        status.demand is None,
        status.capacity is None,
    )


def _predicted(status: DeepSeekDeploymentStatus) -> int:
    return (status.utilization and status.utilization.predicted_percent) or 0


def _conditions(picture: Picture, before: Iterable[Condition]) -> list[Condition]:
    earlier = {condition.type: condition for condition in before}
    now = timestamp(picture.now)
    conditions = []
    for aspect in picture.aspects:
        old = earlier.get(aspect.type)
        conditions.append(
            Condition(
                type=aspect.type,
                status=aspect.status,
                reason=aspect.reason,
                message=aspect.message[:32_768],
                last_transition_time=old.last_transition_time if old and old.status == aspect.status else now,
                observed_generation=picture.generation,
            )
        )
    return conditions


def _demand(picture: Picture) -> DemandStatus | None:
    if picture.demand is None:
        return None
    waiting = round(picture.demand.waiting) or None
    return DemandStatus(requests_per_second=quantity(picture.demand.rate), waiting=waiting, observed_at=timestamp(picture.now))


def _utilization(decision: Decision | None) -> UtilizationStatus | None:
    if decision is None:
        return None
    return UtilizationStatus(current_percent=_percent(decision.utilization), predicted_percent=_percent(decision.predicted_utilization, to=5))


def _decision(decision: Decision | None, picture: Picture, before: DecisionStatus | None) -> DecisionStatus | None:
    if decision is None:
        return None
    same = before is not None and (before.nodes, before.reason) == (decision.nodes, decision.reason)
    return DecisionStatus(
        nodes=decision.nodes,
        recommended=decision.recommended,
        reason=decision.reason,
        message=decision.message,
        at=before.at if same and before else timestamp(picture.now),
        shadow_nodes=picture.shadow_nodes,
    )


def _forecast(picture: Picture) -> ForecastStatus | None:
    forecast = picture.forecast
    if forecast is None:
        return None
    return ForecastStatus(
        issued_at=timestamp(forecast.issued_at),
        horizon_seconds=round(forecast.horizon_seconds),
        percentile=forecast.percentile,
        peak_requests_per_second=quantity(forecast.peak),
        mean_requests_per_second=quantity(forecast.mean),
        models={name: round(100 * weight) for name, weight in picture.models.items()},
        on_probation="True" if picture.on_probation else "False",
    )


def _cold_start(starts: Starts) -> ColdStartStatus | None:
    slow = starts.slow()
    if slow is None:
        return None
    scheduling, starting, loading = (None if part is None else round(part) for part in (slow.scheduling, slow.starting, slow.loading))
    return ColdStartStatus(
        p90_seconds=round(slow.seconds),
        samples=len(starts.seen),
        scheduling_seconds=scheduling,
        starting_seconds=starting,
        loading_seconds=loading,
    )


def starts_of(status: ColdStartStatus) -> Starts:
    """The starts that a status tells of."""
    parts = (status.scheduling_seconds, status.starting_seconds, status.loading_seconds)
    return Starts.earlier(Start("", status.p90_seconds, *parts), status.samples)


def _ledger(ledger: Ledger | None) -> LedgerStatus | None:
    if ledger is None:
        return None
    return LedgerStatus(
        since=timestamp(ledger.since),
        node_hours=quantity(ledger.node_seconds / 3600),
        at_maximum_node_hours=quantity(ledger.at_maximum / 3600),
        reactive_node_hours=quantity(ledger.reactive / 3600),
    )


def _savings(day: Day, picture: Picture) -> SavingsStatus:
    shadow = day.predictive > 0
    return SavingsStatus(
        date=timestamp(day.day * DAY_SECONDS)[:10],
        node_hours=quantity(day.node_seconds / 3600),
        reactive_node_hours=quantity(day.reactive / 3600),
        predictive_node_hours=quantity(day.predictive / 3600) if shadow else None,
        saved_gpu_hours=quantity(day.saved_gpu_seconds / 3600) if picture.has_gpus or day.saved_gpu_seconds else None,
        saved_cost=quantity(day.saved_cost) if picture.has_price or day.saved_cost else None,
        overloaded_seconds=round(day.overloaded),
        reactive_overloaded_seconds=round(day.reactive_overloaded),
        predictive_overloaded_seconds=round(day.predictive_overloaded) if shadow else None,
    )


def day_of(status: SavingsStatus) -> Day:
    """The books of a day that a status tells of."""
    return Day(
        day=int(datetime.fromisoformat(f"{status.date}T00:00:00Z").timestamp() // DAY_SECONDS),
        node_seconds=3600 * quantity_value(status.node_hours),
        overloaded=status.overloaded_seconds,
        reactive=3600 * quantity_value(status.reactive_node_hours),
        reactive_overloaded=status.reactive_overloaded_seconds,
        predictive=3600 * quantity_value(status.predictive_node_hours or "0"),
        predictive_overloaded=status.predictive_overloaded_seconds or 0,
        saved_gpu_seconds=3600 * quantity_value(status.saved_gpu_hours or "0"),
        saved_cost=quantity_value(status.saved_cost or "0"),
    )


def _percent(share: float | None, to: int = 1) -> int | None:
    """A fraction as a whole percentage, rounded to a multiple of `to`; more than 1000 % is 1000 %."""
    return None if share is None else min(1000, round(100 * min(share, 100.0) / to) * to)
