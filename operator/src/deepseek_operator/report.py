"""Says what was decided and why: status, events, metrics. Each only when it changed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from deepseek_operator.api.v1alpha1 import DeepSeekDeploymentStatus
from deepseek_operator.conditions import aspects
from deepseek_operator.core.coldstart import Starts
from deepseek_operator.core.status import Aspect, Picture, as_body, build, gist, timestamp, worth_building, worth_writing
from deepseek_operator.core.types import Decision
from deepseek_operator.edge.kube import Cluster, KubeError
from deepseek_operator.edge.rayservice import SERVE_PORT, pod_selector
from deepseek_operator.edge.telemetry import Telemetry
from deepseek_operator.fleet import Body, Key, Tracked, Verdict, Wanted

log = logging.getLogger(__name__)


class Reporter:
    """Writes what a tick found and did."""

    def __init__(self, cluster: Cluster, telemetry: Telemetry, starts_of: Callable[[Wanted], Starts]) -> None:
        self._cluster, self._telemetry, self._starts_of = cluster, telemetry, starts_of

    async def report(self, v: Verdict, now: float) -> None:
        """Status, events and metrics of one object after it was acted on."""
        t, key = v.tracked, v.wanted.key
        picture = Picture(
            now=now,
            generation=v.wanted.body["metadata"].get("generation", 0),
            aspects=aspects(v, now),
            desired=t.desired or 0,
            current=sum(not pod.deleting for pod in v.observed.pods),
            ready=len(v.serving),
            replicas_per_node=v.wanted.spec.nodes.replicas_per_node,
            replicas_ready=t.serve.running if t.serve else 0,
            decision=v.decision,
            demand=v.demand,
            forecast=v.forecast,
            models=v.raw_forecast.models if v.raw_forecast else {},
            on_probation=bool(v.raw_forecast and v.raw_forecast.on_probation),
            capacity=v.capacity,
            saturated_readings=len(t.capacity.saturated) if v.wanted.capacity is None else None,
            starts=self._starts_of(v.wanted),
            ledger=t.ledger,
            scaled_at=t.memory.scaled_at,
            shadow_nodes=t.shadow.nodes if t.shadow and v.wanted.policy.mode == "Shadow" else None,
            has_gpus=v.wanted.gpus_per_node > 0,
            has_price=v.wanted.price > 0,
            endpoint=f"http://{key[1]}-serve-svc.{key[0]}.svc:{SERVE_PORT}/v1",
            selector=pod_selector(key[1]),
        )
        self._show(v, picture)
        await self._announce(v.wanted.body, t, v.decision, picture)
        if not worth_building(picture, t.status_gist, t.status_at):
            return
        status = build(picture, t.status)
        if not worth_writing(status, t.status, t.status_at, now) or await self._write(key, t, status, now):
            t.status_gist = gist(picture)

    async def report_invalid(self, key: Key, body: Body, tracked: Tracked, problem: str, now: float, reason: str = "InvalidSpec") -> None:
        """Nothing is changed for an object that cannot be understood: what runs goes on running, and the rest of its status stays."""
        before = tracked.status or DeepSeekDeploymentStatus()
        kept = tuple(Aspect(c.type, c.status, c.reason, c.message) for c in before.conditions if c.type != "Degraded")
        generation = body["metadata"].get("generation", 0)
        picture = Picture(now=now, generation=generation, aspects=(*kept, Aspect("Degraded", "True", reason, problem)))
        conditions = build(picture, before).conditions
        await self._announce(body, tracked, None, picture)
        status = before.model_copy(update={"conditions": conditions, "observed_generation": generation})
        tracked.status_gist = None
        if worth_writing(status, tracked.status, tracked.status_at, now):
            await self._write(key, tracked, status, now)

    async def _announce(self, body: Body, t: Tracked, decision: Decision | None, picture: Picture) -> None:
        """An Event for each change of the node count, and for each condition that turns bad. Nothing else: an Event is for a person."""
        events: list[tuple[str, str, str]] = []
        if decision is not None and t.decision is not None and decision.nodes != t.decision.nodes:
            events.append(("Normal", decision.reason, f"scaled from {t.decision.nodes} to {decision.nodes} nodes: {decision.message}"))
        bad = {"Degraded": "True", "MetricsAvailable": "False"}
        wrong = {a.reason: a for a in picture.aspects if bad.get(a.type) == a.status}
        if t.decision is not None or decision is None:  # not before the first decision: nothing can be measured of what is just created
            events += [("Warning", reason, wrong[reason].message) for reason in wrong.keys() - t.warned]
            t.warned = frozenset(wrong)
        t.decision = decision or t.decision
        for kind, reason, message in events:
            if kind == "Warning":
                log.warning("%s/%s: %s: %s", body["metadata"]["namespace"], body["metadata"]["name"], reason, message)
            try:
                moment = timestamp(picture.now)[:-1] + f".{int(picture.now % 1 * 1e6):06d}Z"
                await self._cluster.create_event(body, kind, reason, message, moment)
            except KubeError as error:
                log.warning("an event could not be written: %s", error)

    async def _write(self, key: Key, t: Tracked, status: DeepSeekDeploymentStatus, now: float) -> bool:
        """Write the status; False when that failed."""
        try:
            await self._cluster.write_status(*key, as_body(status))
        except KubeError as error:
            if error.status != 404:  # 404: deleted meanwhile
                self._telemetry.writes.labels("Status", "failed").inc()
                log.warning("%s/%s: the status could not be written: %s", *key, error)
            return False
        self._telemetry.writes.labels("Status", "done").inc()
        t.status, t.status_at = status, now
        return True

    def _show(self, v: Verdict, picture: Picture) -> None:
        """The object's figures as metrics."""
        m, key, decision = self._telemetry, v.wanted.key, v.decision
        assert decision is not None

        def number(value: float | None) -> float:
            return math.nan if value is None else value

        m.show(m.nodes_desired, key, picture.desired)
        m.show(m.nodes_current, key, picture.current)
        m.show(m.nodes_ready, key, picture.ready)
        m.show(m.nodes_recommended, key, decision.recommended)
        m.show(m.demand, key, number(v.demand.rate if v.demand else None))
        m.show(m.waiting, key, number(v.demand.waiting if v.demand else None))
        m.show(m.node_capacity, key, number(v.capacity))
        m.show(m.utilization, key, number(decision.utilization))
        m.show(m.predicted_utilization, key, number(decision.predicted_utilization))
        m.show(m.cold_start, key, number(picture.starts.p90()))
        for quantile in (0.5, 0.95):
            peak = v.raw_forecast.peak.get(quantile) if v.raw_forecast else None
            m.show(m.forecast_peak, key, number(peak), f"{quantile * 100:g}")
        for aspect in picture.aspects:
            for status in ("True", "False", "Unknown"):
                m.show(m.condition, key, aspect.status == status, aspect.type, status)
        ledger = v.tracked.ledger
        if ledger:
            m.show(m.node_seconds, key, ledger.node_seconds, "actual")
            m.show(m.node_seconds, key, ledger.at_maximum, "maximum")
            m.show(m.node_seconds, key, ledger.reactive, "reactive")
        if ledger and ledger.days:
            day, shadow = ledger.days[-1], v.wanted.policy.mode == "Shadow"
            lanes = (("actual", day.node_seconds, day.overloaded), ("reactive", day.reactive, day.reactive_overloaded))
            for policy, node_seconds, overloaded in (*lanes, *([("predictive", day.predictive, day.predictive_overloaded)] if shadow else [])):
                m.show(m.day_node_hours, key, node_seconds / 3600, policy)
                m.show(m.day_overloaded_seconds, key, overloaded, policy)
