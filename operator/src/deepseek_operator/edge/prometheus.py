"""Reads demand from Prometheus: one instant query for the whole fleet, one more for each distinct query of a user's own.

Users' own queries are asked beside the ticks, a few at once: a slow one delays neither the tick nor the fleet's query, and its answer counts
from the next tick on.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from prometheus_api_client import PrometheusConnect
from urllib3 import Retry

from deepseek_serving import metric_names

LABEL = "application"
PROXY_QUEUES = "ray_serve_deployment_queued_queries"
"""Ray's own gauge of the requests that wait in a proxy for a replica; the replicas do not know of them yet."""

READING = "reading"

OWN_AT_ONCE = 8
"""Users' own queries asked at once; the others wait their turn."""

OWN_ANSWER_LASTS_SECONDS = 60.0
"""How long an answer to a user's own query counts while the next one is waited for."""

RECENT_SHARE = 2
"""The recent rate is taken over half the window: two scrape intervals, where the window is four."""

CAPACITY_WINDOWS = 2
"""Capacity is read over two windows: long enough for a ratio of two rates, short enough to lie within a stretch of saturation."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What Prometheus says of one application. None: it says nothing.

    `demand` is the offered load in requests per second over the window, `recent` over half of it, `waiting` the requests that wait now;
    `reporting` how many replicas reported. `replica_capacity` is what a replica did in requests per busy second, `busy` how many replicas were
    busy on average and `queued` how many requests waited on average meanwhile."""

    demand: float | None = None
    replica_capacity: float | None = None
    reporting: int | None = None
    recent: float | None = None
    waiting: float | None = None
    busy: float | None = None
    queued: float | None = None


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
    """One query for everything: each series carries the label `reading` (a field of `Reading`, `capacity` for its capacity) beside
    `application`."""
    reporting = f"count by ({LABEL}) (count by ({LABEL}, replica) (rate({metric_names.REQUESTS_OFFERED}[{window_seconds}s])))"
    long = CAPACITY_WINDOWS * window_seconds
    at_replicas = f"sum by ({LABEL}) ({metric_names.REQUESTS_WAITING})"
    at_proxies = f'sum by ({LABEL}) ({PROXY_QUEUES}{{{LABEL}!=""}})'
    parts = {
        "demand": metric_names.fleet_demand_query(window_seconds),
        "recent": metric_names.fleet_demand_query(max(1, window_seconds // RECENT_SHARE)),
        "waiting": f"({at_replicas} + {at_proxies}) or {at_replicas} or {at_proxies}",
        "capacity": metric_names.fleet_capacity_query(long),
        "busy": f"sum by ({LABEL}) (rate({metric_names.ENGINE_BUSY_SECONDS}[{long}s]))",
        "queued": f"sum by ({LABEL}) (avg_over_time({metric_names.REQUESTS_WAITING}[{long}s]))",
        "reporting": reporting,
    }
    return " or ".join(f'label_replace({query}, "{READING}", "{name}", "", "")' for name, query in parts.items())


@dataclass(slots=True)
class _Own:
    """A user's own query: the call under way, and the last answer with its instant on the loop's clock."""

    call: asyncio.Task[None] | None = None
    answer: float | str | None = None
    answered_at: float = -math.inf


class Prometheus:
    """A Prometheus server. Its answers are used only when they are finite, non-negative and unambiguous."""

    def __init__(self, url: str, timeout_seconds: float = 5.0, own_seconds: float = 2.0) -> None:
        """A tick waits at most `timeout_seconds` for the fleet's query, and meanwhile at most `own_seconds` for users' own."""
        self._timeout, self._own_seconds = timeout_seconds, own_seconds
        # No retries of its own: the next tick is the retry, and a tick must end in time.
        self._connection = PrometheusConnect(url=url, retry=Retry(total=0), timeout=max(1, math.ceil(timeout_seconds)))
        # Threads of their own: calls that hang must not take the threads that others need.
        self._fleet_threads = ThreadPoolExecutor(2, "prometheus-fleet")
        self._own_threads = ThreadPoolExecutor(OWN_AT_ONCE, "prometheus-own")
        self._own: dict[str, _Own] = {}

    async def read(self, now: float, window_seconds: int, own_queries: Iterable[str]) -> Readings:
        """See `MetricsSource.read`."""
        clock = asyncio.get_running_loop().time
        began, distinct = clock(), sorted(set(own_queries))
        self._own = {query: self._own.get(query) or _Own() for query in distinct}
        for query, own in self._own.items():
            if own.call is None:
                own.call = asyncio.create_task(self._ask_own(query, own, now))
        fleet = await self._ask(fleet_query(window_seconds), now, self._timeout, self._fleet_threads)
        calls = [own.call for own in self._own.values() if own.call is not None]
        if calls:
            await asyncio.wait(calls, timeout=max(0.0, began + self._own_seconds - clock()))
        return Readings(
            by_application={} if isinstance(fleet, str) else by_application(fleet),
            own={query: self._last_answer(own, clock()) for query, own in self._own.items()},
            problem=fleet if isinstance(fleet, str) else "",
        )

    def close(self) -> None:
        """Ask nothing more."""
        self._fleet_threads.shutdown(wait=False, cancel_futures=True)
        self._own_threads.shutdown(wait=False, cancel_futures=True)

    async def _ask_own(self, query: str, own: _Own, now: float) -> None:
        """Ask one user's query; it may wait for its turn, and Prometheus itself gives it up after its time."""
        try:
            vector = await self._ask(query, now, self._own_seconds, self._own_threads, waits=True)
            own.answer = vector if isinstance(vector, str) else single(vector)
            own.answered_at = asyncio.get_running_loop().time()
        finally:
            own.call = None

    def _last_answer(self, own: _Own, at: float) -> float | str:
        if own.answer is not None and at - own.answered_at <= OWN_ANSWER_LASTS_SECONDS:
            return own.answer
        return f"Prometheus has not answered the query within {self._own_seconds:g} s; it goes on trying"

    async def _ask(
        self, query: str, now: float, seconds: float, threads: ThreadPoolExecutor, *, waits: bool = False
    ) -> list[dict[str, Any]] | str:
        """The vector, or a sentence that says what went wrong. `waits`: the query may stand in line for a thread for as long as it takes."""
        try:
            params = {"time": f"{now:.3f}", "timeout": f"{seconds:g}s"}
            call = asyncio.get_running_loop().run_in_executor(threads, partial(self._connection.custom_query, query, params=params))
            answer = await asyncio.wait_for(call, timeout=None if waits else seconds + 1)
        except TimeoutError:
            return f"Prometheus did not answer within {seconds + 1:g} s"
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
            recent=values.get("recent"),
            waiting=values.get("waiting"),
            busy=values.get("busy"),
            queued=values.get("queued"),
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
