"""Reads demand from Prometheus: one instant query for the whole fleet, one more for each distinct query of a user's own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_api_client import PrometheusConnect
from urllib3 import Retry

from deepseek_serving import metric_names

LABEL = "application"
READING = "reading"


@dataclass(frozen=True, slots=True)
class Reading:
    """What Prometheus says of one application: offered load and learned capacity of a replica in requests per second, and how many replicas
    reported. None: it says nothing."""

    demand: float | None = None
    replica_capacity: float | None = None
    reporting: int | None = None


@dataclass(frozen=True, slots=True)
class Readings:
    """What Prometheus says of the fleet. `problem` is empty when it answered; `own` holds the answer to each user's own query, a number or a
    sentence that says why there is none."""

    by_application: Mapping[str, Reading] = field(default_factory=dict)
    own: Mapping[str, float | str] = field(default_factory=dict)
    problem: str = ""


class MetricsSource(Protocol):
    """Where demand comes from."""

    async def read(self, now: float, window_seconds: int, own_queries: Iterable[str]) -> Readings:
        """The fleet's readings at `now` (Unix seconds), rates over `window_seconds`. Never raises: a failure is `Readings.problem`."""
        ...


def fleet_query(window_seconds: int) -> str:
    """One query for everything: each series carries the label `reading` (demand, capacity or reporting) beside `application`."""
    reporting = f"count by ({LABEL}) (count by ({LABEL}, replica) (rate({metric_names.REQUESTS_OFFERED}[{window_seconds}s])))"
    parts = {
        "demand": metric_names.fleet_demand_query(window_seconds),
        # Learned over a longer stretch: a ratio of two short rates is mostly noise.
        "capacity": metric_names.fleet_capacity_query(5 * window_seconds),
        "reporting": reporting,
    }
    return " or ".join(f'label_replace({query}, "{READING}", "{name}", "", "")' for name, query in parts.items())


class Prometheus:
    """A Prometheus server. Its answers are used only when they are finite, non-negative and unambiguous."""

    def __init__(self, url: str, timeout_seconds: float = 5.0) -> None:
        self._timeout = timeout_seconds
        # No retries of its own: the next tick is the retry, and a tick must end in time.
        self._connection = PrometheusConnect(url=url, retry=Retry(total=0), timeout=max(1, math.ceil(timeout_seconds)))

    async def read(self, now: float, window_seconds: int, own_queries: Iterable[str]) -> Readings:
        """See `MetricsSource.read`."""
        distinct = sorted(set(own_queries))
        fleet, *own = await asyncio.gather(
            self._ask(fleet_query(window_seconds), now),
            *(self._ask(query, now) for query in distinct),
        )
        return Readings(
            by_application={} if isinstance(fleet, str) else by_application(fleet),
            own={query: answer if isinstance(answer, str) else single(answer) for query, answer in zip(distinct, own, strict=True)},
            problem=fleet if isinstance(fleet, str) else "",
        )

    async def _ask(self, query: str, now: float) -> list[dict[str, Any]] | str:
        """The vector, or a sentence that says what went wrong."""
        try:
            params = {"time": f"{now:.3f}", "timeout": f"{self._timeout:g}s"}
            call = asyncio.to_thread(self._connection.custom_query, query, params=params)
            answer = await asyncio.wait_for(call, timeout=2 * self._timeout + 1)
        except TimeoutError:
            return f"Prometheus did not answer within {2 * self._timeout + 1:g} s"
        except Exception as error:  # whatever the client, the connection or the body throws: demand is unknown then, and it is said
            return f"Prometheus: {_first_line(error)}"
        if not isinstance(answer, list):
            return "Prometheus answered something other than a vector"
        return answer


def by_application(vector: list[dict[str, Any]]) -> dict[str, Reading]:
    """The fleet query's answer, sorted by application. A value that is no finite number ≥ 0, or that stands twice, counts as not read."""
    found: dict[str, dict[str, float | None]] = {}
    for series in vector:
        labels = series.get("metric") or {}
        application, reading = labels.get(LABEL), labels.get(READING)
        if not application or not reading:
            continue
        values = found.setdefault(application, {})
        values[reading] = None if reading in values else _number(series)
    return {
        application: Reading(
            demand=values.get("demand"),
            replica_capacity=values.get("capacity"),
            reporting=None if (n := values.get("reporting")) is None else int(n),
        )
        for application, values in found.items()
    }


def single(vector: list[dict[str, Any]]) -> float | str:
    """The one number a user's own query must give, or a sentence that says why it does not."""
    if not vector:
        return "the query gives no series"
    if len(vector) > 1:
        return f"the query must give one series, gave {len(vector)}; wrap it in sum()"
    value = _number(vector[0])
    return value if value is not None else f"the query must give a finite number ≥ 0, gave {vector[0].get('value')}"


def _number(series: Mapping[str, Any]) -> float | None:
    try:
        value = float(series["value"][1])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
