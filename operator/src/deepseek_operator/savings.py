"""What was saved, day by day: the books in the objects' status, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from deepseek_operator.api.v1alpha1 import DeepSeekDeploymentStatus, SavingsStatus, quantity, quantity_value

COLUMNS = ("OBJECT", "DAY", "NODE-HOURS", "REACTIVE", "PREDICTIVE", "SAVED GPU-HOURS", "SAVED COST", "OVERLOADED", "REACTIVE OVERLOADED")
_SUMMED = ("node_hours", "reactive_node_hours", "predictive_node_hours", "saved_gpu_hours", "saved_cost")


def as_table(bodies: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One line a day for each object, and their sum: node-hours as they were, in mode Reactive on the same demand, and (in mode Shadow) as
    Predictive; GPU-hours and money saved beside Reactive; minutes of overload as they were and in mode Reactive."""
    rows: list[Sequence[str]] = [COLUMNS]
    for body in bodies:
        name, days = _name(body), _days(body)
        rows += [_row(name, day) for day in days]
        if len(days) > 1:
            rows.append(_row(name, _sum(days)))
    if len(rows) == 1:
        yield "no day has been counted yet"
        return
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    for row in rows:
        yield "  ".join(
            text.ljust(width) if place < 2 else text.rjust(width) for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def as_json(bodies: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same, as the API has it, with the sum of the days as `total`."""
    found = []
    for body in bodies:
        days = _days(body)
        said = [day.model_dump(by_alias=True, exclude_none=True) for day in days]
        total = {key: value for key, value in _sum(days).model_dump(by_alias=True, exclude_none=True).items() if key != "date"}
        metadata = body["metadata"]
        found.append({"namespace": metadata["namespace"], "name": metadata["name"], "days": said, "total": total if days else None})
    return found


def _name(body: Mapping[str, Any]) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"


def _days(body: Mapping[str, Any]) -> list[SavingsStatus]:
    """Oldest first; none where there is no status, or one of another version."""
    try:
        return sorted(DeepSeekDeploymentStatus.model_validate(body.get("status") or {}).savings, key=lambda day: day.date)
    except ValidationError:
        return []


def _sum(days: Sequence[SavingsStatus]) -> SavingsStatus:
    def total(field: str) -> str | None:
        known = [getattr(day, field) for day in days if getattr(day, field) is not None]
        return quantity(sum(quantity_value(value) for value in known)) if known else None

    predictive = [day.predictive_overloaded_seconds for day in days if day.predictive_overloaded_seconds is not None]
    return SavingsStatus(
        date="total",
        node_hours=total("node_hours") or "0",
        reactive_node_hours=total("reactive_node_hours") or "0",
        predictive_node_hours=total("predictive_node_hours"),
        saved_gpu_hours=total("saved_gpu_hours"),
        saved_cost=total("saved_cost"),
        overloaded_seconds=sum(day.overloaded_seconds for day in days),
        reactive_overloaded_seconds=sum(day.reactive_overloaded_seconds for day in days),
        predictive_overloaded_seconds=sum(predictive) if predictive else None,
    )


def _row(name: str, day: SavingsStatus) -> Sequence[str]:
    def shown(value: str | None) -> str:
        return "–" if value is None else f"{quantity_value(value):.2f}"

    def minutes(seconds: int) -> str:
        return f"{seconds / 60:.1f} min"

    figures = [shown(getattr(day, field)) for field in _SUMMED]
    return (name, day.date, *figures, minutes(day.overloaded_seconds), minutes(day.reactive_overloaded_seconds))
