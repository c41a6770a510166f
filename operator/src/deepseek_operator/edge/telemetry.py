"""The operator's own metrics, its health, and its logs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

OBJECT = ("namespace", "name")


class Telemetry:
    """Metrics under the prefix `deepseek_operator_`. Gauges of an object go when it goes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges: list[Gauge] = []
        self._shown: dict[tuple[str, str], dict[tuple[object, ...], tuple[Gauge, float]]] = {}
        self.nodes_desired = self._gauge("nodes_desired", "Nodes asked for.")
        self.nodes_current = self._gauge("nodes_current", "Nodes that exist, starting ones included.")
        self.nodes_ready = self._gauge("nodes_ready", "Nodes whose replicas all answer.")
        self.nodes_recommended = self._gauge("nodes_recommended", "Nodes called for before windows, cooldowns and bounds.")
        self.demand = self._gauge("demand_requests_per_second", "Offered load last read; NaN while unknown.")
        self.forecast_peak = self._gauge(
            "forecast_peak_requests_per_second", "Predicted peak by percentile; NaN while there is none.", "percentile"
        )
        self.node_capacity = self._gauge("node_capacity_requests_per_second", "What one node carries; NaN while unknown.")
        self.utilization = self._gauge("utilization_ratio", "Present demand ÷ capacity of the nodes asked for; NaN while unknown.")
        self.predicted_utilization = self._gauge(
            "predicted_utilization_ratio", "Predicted peak ÷ capacity of the nodes asked for; NaN while unknown."
        )
        self.cold_start = self._gauge("cold_start_p90_seconds", "90th percentile of node starts; NaN before the first.")
        self.condition = self._gauge("condition", "1 for the status a condition has, 0 for the others.", "type", "status")
        self.waiting = self._gauge("requests_waiting", "Requests that wait in a queue; NaN while unknown.")
        self.day_node_hours = self._gauge(
            "day_node_hours", "Node-hours of this day (UTC): asked for, in mode Reactive, and in mode Shadow as Predictive.", "policy"
        )
        self.day_overloaded_seconds = self._gauge(
            "day_overloaded_seconds", "Seconds of this day (UTC) in which the demand was more than the nodes that answered carry.", "policy"
        )
        self.node_seconds = self._gauge(
            "node_seconds", "Node-seconds since counting began: asked for, at the maximum, and in mode Reactive.", "policy"
        )
        self.decisions = self._counter("decisions", "Changes of the node count, by reason.", *OBJECT, "reason")
        self.writes = self._counter("writes", "Writes to Kubernetes and Ray, by kind and result.", "kind", "result")
        self.read_failures = self._counter("read_failures", "Ticks in which a source could not be read.", "source")
        self.ticks = Histogram(
            "deepseek_operator_tick_seconds", "How long a tick took.", registry=self.registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self.objects = Gauge("deepseek_operator_objects", "Objects served.", registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        gauge = Gauge(f"deepseek_operator_{name}", text, (*OBJECT, *labels), registry=self.registry)
        self._gauges.append(gauge)
        return gauge

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"deepseek_operator_{name}", text, labels, registry=self.registry)

    def show(self, gauge: Gauge, key: tuple[str, str], value: float, *labels: str) -> None:
        """Set an object's gauge; `labels` are those beyond namespace and name. A value that it has already costs a look-up: a fleet of
        thousands has 30 gauges each."""
        shown = self._shown.setdefault(key, {})
        known = shown.get((gauge, *labels))
        if known is None or known[1] != value:
            child = gauge.labels(*key, *labels) if known is None else known[0]
            child.set(value)
            shown[gauge, *labels] = (child, value)

    def forget(self, namespace: str, name: str) -> None:
        """Remove the gauges of an object that is gone."""
        self._shown.pop((namespace, name), None)
        for gauge in self._gauges:
            gauge.remove_by_labels({"namespace": namespace, "name": name})


async def serve(
    telemetry: Telemetry, alive: Callable[[], str], ready: Callable[[], bool], metrics: tuple[str, int], health: tuple[str, int]
) -> list[web.AppRunner]:
    """Serve `/metrics`, and `/healthz` and `/readyz`. `alive` gives an empty text, or what is wrong; addresses are (host, port)."""

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(telemetry.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def healthz(_: web.Request) -> web.Response:
        wrong = alive()
        return web.Response(status=500 if wrong else 200, text=wrong or "ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if ready() else web.Response(status=503, text="no tick has finished yet")

    runners = []
    for address, routes in (
        (metrics, [web.get("/metrics", show_metrics)]),
        (health, [web.get("/healthz", healthz), web.get("/readyz", readyz)]),
    ):
        app = web.Application()
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, *address).start()
        runners.append(runner)
    return runners


class JsonLog(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; a traceback goes into `error`."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(style: str, level: str) -> None:
    """Log to standard error as `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLog() if style == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
