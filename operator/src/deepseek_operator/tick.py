"""One tick serves the whole fleet. `Tick.run` reads as a table of contents."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from deepseek_forecaster.types import Forecast
from deepseek_forecaster.wire import ForecastRequest
from deepseek_operator.actuate import actuate
from deepseek_operator.core import coldstart
from deepseek_operator.core.capacity import learned
from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.ledger import Counterfactual, Ledger
from deepseek_operator.core.plan import Observed, plan
from deepseek_operator.core.status import Aspect, Picture, as_body, build, timestamp, worth_writing
from deepseek_operator.core.types import Decision, Demand, Memory, PeakForecast, Situation, capacity_in_spec
from deepseek_operator.edge.forecaster import Forecasts, ForecastSource, usable
from deepseek_operator.edge.kube import Cluster, KubeError
from deepseek_operator.edge.prometheus import MetricsSource, Readings
from deepseek_operator.edge.rayserve import RayServeError, ServeControl
from deepseek_operator.edge.rayservice import SERVE_PORT, CompileOptions, compile_service, pod_selector
from deepseek_operator.edge.telemetry import Telemetry
from deepseek_operator.fleet import Key, Seen, Tracked, Wanted, parse
from deepseek_serving import metric_names

log = logging.getLogger(__name__)

SERVE_REFRESH_SECONDS = 30
"""Ray Serve is asked this often while nothing is under way: it forgets outside counts when its head is lost, and says so only there."""

WRITERS = 32
"""Objects acted on at once."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the tick works. Durations in seconds; `demand_window_seconds` is the span over which rates are taken."""

    tick_seconds: float = 15.0
    step_seconds: int = 60
    demand_window_seconds: int = 60
    compile: CompileOptions = field(default_factory=CompileOptions)


@dataclass(slots=True)
class Verdict:
    """One object on its way through a tick."""

    wanted: Wanted
    tracked: Tracked
    compiled: dict[str, object]
    observed: Observed
    demand: Demand | None = None
    missing: str = ""
    forecast: PeakForecast | None = None
    raw_forecast: Forecast | None = None
    no_forecast: str = ""
    capacity: float | None = None
    decision: Decision | None = None


class Tick:
    """The fleet's loop body, with everything outside given to it."""

    def __init__(
        self,
        seen: Seen,
        metrics: MetricsSource,
        forecaster: ForecastSource,
        cluster: Cluster,
        serve: ServeControl,
        telemetry: Telemetry,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.seen, self.telemetry, self.settings = seen, telemetry, settings
        self._metrics, self._forecaster, self._cluster, self._serve = metrics, forecaster, cluster, serve
        self._wall = wall
        # Windows and cooldowns run on a clock that cannot jump; it starts at the wall's time so that it reads as an instant.
        self._offset = wall() - clock()
        self._clock = clock
        self._tracked: dict[Key, Tracked] = {}
        self._busy: dict[Key, asyncio.Task[None]] = {}
        self._gate = asyncio.Semaphore(WRITERS)
        self.finished_at: float | None = None

    def now(self) -> float:
        """This moment in Unix seconds, on a clock that never jumps."""
        return self._clock() + self._offset

    async def run(self) -> None:
        """Read, decide, act and report, once for the whole fleet."""
        started, now = self._clock(), self.now()
        verdicts = self.gather_objects(now)
        readings = await self.read_demand(verdicts)
        for verdict in verdicts:
            self.weigh(verdict, readings)
        forecasts = await self.read_forecasts(verdicts)
        for verdict in verdicts:
            self.take_forecast(verdict, forecasts, now)
            self.judge(verdict, now)
        await self.act_and_report(verdicts, now)
        self.telemetry.objects.set(len(verdicts))
        self.telemetry.ticks.observe(self._clock() - started)
        self.finished_at = self._clock()

    async def settle(self) -> None:
        """Wait for the writes that are under way."""
        if self._busy:
            await asyncio.wait(self._busy.values())

    # ------------------------------------------------------------------------------------------------------- what there is

    def gather_objects(self, now: float) -> list[Verdict]:
        """Every valid object with what there is of it. One that cannot be read is reported, and the others go on."""
        bodies = self.seen.objects()
        for key in [key for key in self._tracked if key not in bodies]:
            del self._tracked[key]
            self.telemetry.forget(*key)
        verdicts = []
        for key, body in bodies.items():
            if key in self._busy:
                continue  # writes of an earlier tick are still under way
            tracked = self._tracked.get(key)
            if tracked is None or tracked.uid != body["metadata"]["uid"]:
                tracked = self._tracked[key] = Tracked.resume(body, now, self._wall())
            wanted = parse(key, body)
            if isinstance(wanted, str):
                self._start(key, self._report_invalid(key, tracked, wanted, now))
                continue
            try:
                verdicts.append(self._verdict(wanted, tracked, now))
            except (ValueError, LookupError, KeyError, TypeError) as error:
                self._start(key, self._report_invalid(key, tracked, str(error), now))
        return verdicts

    def _verdict(self, wanted: Wanted, tracked: Tracked, now: float) -> Verdict:
        nodes = tracked.desired or wanted.policy.min_nodes
        compiled = compile_service(*wanted.key, tracked.uid, wanted.spec, nodes, self.settings.compile)
        observed = self.seen.observe(wanted.key, compiled, tracked.serve)
        if not tracked.memory.recommendations:
            # First sight since the process began: never start below what runs, and count it as recommended now.
            tracked.desired = max(tracked.desired or 0, observed.nodes or 0) or wanted.policy.min_nodes
            tracked.memory = Memory.begin(now, tracked.desired, tracked.memory.scaled_at)
        tracked.cold_start = tracked.cold_start.seen(observed.pods)
        return Verdict(wanted, tracked, compiled, observed)

    # ----------------------------------------------------------------------------------------------------- what is demanded

    async def read_demand(self, verdicts: list[Verdict]) -> Readings:
        """One query for the fleet, and one for each distinct query of a user's own."""
        own = {query for v in verdicts if (query := v.wanted.spec.scaling.demand.query)}
        if not verdicts:
            return Readings()
        readings = await self._metrics.read(self._wall(), self.settings.demand_window_seconds, own)
        if readings.problem:
            self.telemetry.read_failures.labels("prometheus").inc()
        return readings

    def weigh(self, v: Verdict, readings: Readings) -> None:
        """Demand and capacity of one object."""
        reading = readings.by_application.get(v.wanted.application)
        query = v.wanted.spec.scaling.demand.query
        if query:
            answer = readings.own.get(query, "the query was not answered")
            if isinstance(answer, str):
                v.missing = answer
            else:
                v.demand = Demand(answer)
        elif readings.problem:
            v.missing = readings.problem
        elif reading is None or reading.demand is None:
            v.missing = "Prometheus has no demand series of this object yet"
        else:
            ready = sum(pod.ready for pod in v.observed.pods) * v.wanted.spec.nodes.replicas_per_node
            v.demand = Demand(reading.demand, complete=reading.reporting is not None and reading.reporting >= ready)
        v.capacity = capacity_in_spec(v.wanted.spec)
        if reading is not None:
            v.tracked.learned_capacity = learned(v.tracked.learned_capacity, reading.replica_capacity)
        if v.capacity is None and v.tracked.learned_capacity is not None:
            v.capacity = v.tracked.learned_capacity * v.wanted.spec.nodes.replicas_per_node

    # ----------------------------------------------------------------------------------------------------- what is foreseen

    async def read_forecasts(self, verdicts: list[Verdict]) -> Forecasts:
        """One batch request for the fleet."""
        requests = [self._forecast_request(v) for v in verdicts if v.wanted.policy.mode in ("Predictive", "Shadow")]
        if not requests:
            return Forecasts()
        forecasts = await self._forecaster.ask(self._wall(), requests)
        if forecasts.problem:
            self.telemetry.read_failures.labels("forecaster").inc()
        return forecasts

    def _horizon(self, v: Verdict) -> float:
        asked_for = v.wanted.spec.scaling.forecast.horizon_seconds
        return coldstart.horizon(asked_for, v.tracked.cold_start.p90(), self.settings.tick_seconds)

    def _forecast_request(self, v: Verdict) -> ForecastRequest:
        query = v.wanted.spec.scaling.demand.query or metric_names.demand_query(v.wanted.application, self.settings.demand_window_seconds)
        return ForecastRequest(
            series=v.wanted.application,
            query=query,
            step_seconds=self.settings.step_seconds,
            horizon_seconds=math.ceil(self._horizon(v)),
            quantiles=tuple(sorted({0.5, 0.95, v.wanted.spec.scaling.forecast.percentile / 100})),
        )

    def take_forecast(self, v: Verdict, forecasts: Forecasts, now: float) -> None:
        """The forecast of one object, if it may be acted on."""
        if v.wanted.policy.mode not in ("Predictive", "Shadow"):
            return
        found = v.raw_forecast = forecasts.by_series.get(v.wanted.application)
        if found is None:
            v.no_forecast = forecasts.problem or forecasts.problems.get(v.wanted.application) or "the forecaster does not know this series"
            return
        percentile = v.wanted.spec.scaling.forecast.percentile
        v.no_forecast = usable(found, self._wall(), self._horizon(v), self.settings.step_seconds, percentile)
        if not v.no_forecast:
            peak = found.quantile(percentile / 100)
            v.forecast = PeakForecast(peak, found.mean, percentile, found.horizon_seconds, found.issued_at)

    # ------------------------------------------------------------------------------------------------------ what is decided

    def judge(self, v: Verdict, now: float) -> None:
        """The decision, its memory, and what the other modes would have done on the same demand."""
        t = v.tracked
        assert t.desired is not None
        service = v.observed.service
        upgrading = service is not None and bool(service.active_cluster and service.pending_cluster)
        situation = Situation(
            now=now,
            policy=v.wanted.policy,
            nodes=t.desired,
            demand=v.demand,
            node_capacity=v.capacity,
            forecast=v.forecast,
            memory=t.memory,
            missing=v.missing,
            release_barred="an upgrade is under way" if upgrading else "",
        )
        self._count(v, situation)
        decision = v.decision = decide(situation)
        t.memory = remember(situation, decision)
        if decision.nodes != t.desired:
            log.info("scaled %s/%s from %d to %d: %s: %s", *v.wanted.key, t.desired, decision.nodes, decision.reason, decision.message)
            self.telemetry.decisions.labels(*v.wanted.key, decision.reason).inc()
        t.desired = decision.nodes

    def _count(self, v: Verdict, situation: Situation) -> None:
        """Advance the ledger by the nodes that held since the last tick, then the counterfactuals to this moment."""
        t, now = v.tracked, situation.now
        if t.reactive is None:
            t.reactive = t.shadow = Counterfactual(situation.nodes, Memory.begin(now, situation.nodes))
        assert t.shadow is not None
        if t.ledger is None:
            t.ledger = Ledger(since=now, counted_until=now)
        t.ledger = t.ledger.count(now, situation.nodes, v.wanted.policy.max_nodes, t.reactive.nodes)
        t.reactive = t.reactive.advance(replace(situation, policy=replace(situation.policy, mode="Reactive"), forecast=None))
        if v.wanted.policy.mode == "Shadow":
            t.shadow = t.shadow.advance(replace(situation, policy=replace(situation.policy, mode="Predictive")))

    # ------------------------------------------------------------------------------------------------------- what is done

    async def act_and_report(self, verdicts: list[Verdict], now: float) -> None:
        """Act on all objects side by side. One that takes longer than a tick goes on by itself and does not hold up the fleet."""
        for v in verdicts:
            self._start(v.wanted.key, self._act_and_report(v, now))
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=max(1.0, self.settings.tick_seconds))

    def _start(self, key: Key, work: object) -> None:
        async def guarded() -> None:
            async with self._gate:
                try:
                    await work  # type: ignore[misc]  # a coroutine, whichever of the two
                except Exception:  # a fault with one object must not stop the others
                    log.exception("%s/%s: this tick failed", *key)
                finally:
                    self._busy.pop(key, None)

        self._busy[key] = asyncio.create_task(guarded())

    async def _act_and_report(self, v: Verdict, now: float) -> None:
        await self._read_serve(v, now)
        await self._act(v)
        await self._report(v, now)

    async def _read_serve(self, v: Verdict, now: float) -> None:
        """Ask Ray Serve while something is under way, and now and then while nothing is."""
        t, cluster = v.tracked, v.observed.cluster
        if cluster is None:
            t.serve = None
            return
        settled = (
            t.serve is not None
            and t.desired == cluster.nodes
            and t.serve.target == t.serve.running == (t.desired or 0) * v.wanted.spec.nodes.replicas_per_node
        )
        if settled and now - t.serve_read_at < SERVE_REFRESH_SECONDS:
            return
        try:
            t.serve = await self._serve.read(v.wanted.key[0], cluster.name, v.wanted.application)
            t.serve_read_at, t.serve_problem = now, ""
        except RayServeError as error:
            t.serve, t.serve_problem = None, str(error)

    async def _act(self, v: Verdict) -> None:
        t, key = v.tracked, v.wanted.key
        assert t.desired is not None
        compiled = compile_service(*key, t.uid, v.wanted.spec, t.desired, self.settings.compile)
        v.observed = self.seen.observe(key, compiled, t.serve)
        planned = plan(t.desired, v.wanted.spec.nodes.replicas_per_node, v.observed)
        t.waiting_for = planned.waiting_for
        t.write_problem = await actuate(v.wanted, planned, v.observed, compiled, self.seen, self._cluster, self._serve, self.telemetry)
        if planned.actions:
            t.serve_read_at = -1e18  # look again at the next tick
            v.observed = self.seen.observe(key, compiled, t.serve)

    # ---------------------------------------------------------------------------------------------------- what is reported

    async def _report(self, v: Verdict, now: float) -> None:
        t, key = v.tracked, v.wanted.key
        aspects = self._aspects(v, now)
        picture = Picture(
            now=now,
            generation=v.wanted.body["metadata"].get("generation", 0),
            aspects=aspects,
            desired=t.desired or 0,
            current=sum(not pod.deleting for pod in v.observed.pods),
            ready=sum(pod.ready for pod in v.observed.pods),
            replicas_per_node=v.wanted.spec.nodes.replicas_per_node,
            replicas_ready=t.serve.running if t.serve else 0,
            decision=v.decision,
            demand=v.demand,
            forecast=v.forecast,
            models=v.raw_forecast.models if v.raw_forecast else {},
            on_probation=bool(v.raw_forecast and v.raw_forecast.on_probation),
            capacity=v.capacity,
            capacity_learned=capacity_in_spec(v.wanted.spec) is None,
            cold_start=t.cold_start,
            ledger=t.ledger,
            scaled_at=t.memory.scaled_at,
            shadow_nodes=t.shadow.nodes if t.shadow and v.wanted.policy.mode == "Shadow" else None,
            endpoint=f"http://{key[1]}-serve-svc.{key[0]}.svc:{SERVE_PORT}/v1",
            selector=pod_selector(key[1]),
        )
        self._show(v, picture)
        await self._announce(v.wanted.body, t, v.decision, picture)
        await self._write_status(key, t, picture)

    def _aspects(self, v: Verdict, now: float) -> tuple[Aspect, ...]:
        t, decision = v.tracked, v.decision
        assert decision is not None
        desired, ready = t.desired or 0, sum(pod.ready for pod in v.observed.pods)
        t.short_since = None if ready >= desired else (t.short_since if t.short_since is not None else now)
        mode = v.wanted.policy.mode
        if v.demand is None:
            metrics = Aspect("MetricsAvailable", "False", "DemandUnknown", v.missing)
        elif not v.demand.complete:
            metrics = Aspect(
                "MetricsAvailable", "True", "DemandIncomplete", "some ready replicas did not report; nothing is released meanwhile"
            )
        else:
            metrics = Aspect("MetricsAvailable", "True", "DemandRead")
        if mode in ("Reactive", "Manual"):
            forecast = Aspect("ForecastAvailable", "Unknown", "NotUsed", f"mode {mode} uses no forecast")
        elif v.forecast is None:
            forecast = Aspect("ForecastAvailable", "False", "ForecastUnavailable", f"{v.no_forecast}; following the present demand")
        else:
            forecast = Aspect("ForecastAvailable", "True", "ForecastUsed")
        limited = Aspect(
            "ScalingLimited",
            "True" if decision.limited else "False",
            decision.limited or "DesiredWithinRange",
            decision.message if decision.limited else "",
        )
        waiting_for = t.waiting_for or (f"{desired - ready} of {desired} nodes to become ready" if ready < desired else "")
        progressing = (
            Aspect("Progressing", "True", "Waiting", f"waiting for {waiting_for}") if waiting_for else Aspect("Progressing", "False", "Settled")
        )
        serving = (
            Aspect("Ready", "True", "Serving", f"{ready} of {desired} nodes answer")
            if ready
            else Aspect("Ready", "False", "NoNodeReady", "no node answers yet")
        )
        return serving, metrics, forecast, limited, progressing, self._degraded(v, now)

    def _degraded(self, v: Verdict, now: float) -> Aspect:
        t, budget = v.tracked, v.wanted.spec.scaling.startup_budget_seconds
        if v.observed.cluster is not None and v.observed.cluster.autoscaler_on:
            message = f"Ray's own autoscaler is on in RayCluster {v.observed.cluster.name}; set enableInTreeAutoscaling to false"
            return Aspect("Degraded", "True", "AnotherAutoscaler", message)
        if t.write_problem:
            return Aspect("Degraded", "True", "WriteFailed", t.write_problem)
        if t.short_since is not None and now - t.short_since > budget:
            ready = sum(pod.ready for pod in v.observed.pods)
            message = f"{ready} of {t.desired} nodes are ready after {now - t.short_since:.0f} s; startupBudgetSeconds is {budget}"
            return Aspect("Degraded", "True", "NodesUnavailable", message)
        if t.serve_problem and t.serve is None and any(pod.ready for pod in v.observed.pods):
            return Aspect("Degraded", "True", "RayServeUnreachable", t.serve_problem)
        return Aspect("Degraded", "False", "AsExpected")

    async def _report_invalid(self, key: Key, tracked: Tracked, problem: str, now: float) -> None:
        """Nothing is changed for an object that cannot be understood: what runs goes on running."""
        body = self.seen.objects().get(key)
        if body is None:
            return
        aspects = (Aspect("Degraded", "True", "InvalidSpec", problem),)
        before = tracked.status
        kept = tuple(Aspect(c.type, c.status, c.reason, c.message) for c in (before.conditions if before else []) if c.type != "Degraded")
        picture = Picture(
            now=now,
            generation=body["metadata"].get("generation", 0),
            aspects=(*kept, *aspects),
            desired=tracked.desired or 0,
            decision=tracked.decision,
            ledger=tracked.ledger,
            scaled_at=tracked.memory.scaled_at,
        )
        await self._announce(body, tracked, None, picture)
        await self._write_status(key, tracked, picture)

    async def _announce(self, body: dict[str, object], t: Tracked, decision: Decision | None, picture: Picture) -> None:
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
                log.warning("%s/%s: %s: %s", body["metadata"]["namespace"], body["metadata"]["name"], reason, message)  # type: ignore[index]
            try:
                moment = timestamp(picture.now)[:-1] + f".{int(picture.now % 1 * 1e6):06d}Z"
                await self._cluster.create_event(body, kind, reason, message, moment)
            except KubeError as error:
                log.warning("an event could not be written: %s", error)

    async def _write_status(self, key: Key, t: Tracked, picture: Picture) -> None:
        status = build(picture, t.status)
        if not worth_writing(status, t.status, t.status_at, picture.now):
            return
        try:
            await self._cluster.write_status(*key, as_body(status))
            self.telemetry.writes.labels("Status", "done").inc()
            t.status, t.status_at = status, picture.now
        except KubeError as error:
            if error.status != 404:  # 404: deleted meanwhile
                self.telemetry.writes.labels("Status", "failed").inc()
                log.warning("%s/%s: the status could not be written: %s", *key, error)

    def _show(self, v: Verdict, picture: Picture) -> None:
        """The object's figures as metrics."""
        m, key, decision = self.telemetry, v.wanted.key, v.decision
        assert decision is not None

        def number(value: float | None) -> float:
            return math.nan if value is None else value

        m.nodes_desired.labels(*key).set(picture.desired)
        m.nodes_current.labels(*key).set(picture.current)
        m.nodes_ready.labels(*key).set(picture.ready)
        m.nodes_recommended.labels(*key).set(decision.recommended)
        m.demand.labels(*key).set(number(v.demand.rate if v.demand else None))
        m.node_capacity.labels(*key).set(number(v.capacity))
        m.utilization.labels(*key).set(number(decision.utilization))
        m.predicted_utilization.labels(*key).set(number(decision.predicted_utilization))
        m.cold_start.labels(*key).set(number(v.tracked.cold_start.p90()))
        for quantile in (0.5, 0.95):
            peak = v.raw_forecast.peak.get(quantile) if v.raw_forecast else None
            m.forecast_peak.labels(*key, f"{quantile * 100:g}").set(number(peak))
        for aspect in picture.aspects:
            for status in ("True", "False", "Unknown"):
                m.condition.labels(*key, aspect.type, status).set(aspect.status == status)
        if v.tracked.ledger:
            m.node_seconds.labels(*key, "actual").set(v.tracked.ledger.node_seconds)
            m.node_seconds.labels(*key, "maximum").set(v.tracked.ledger.at_maximum)
            m.node_seconds.labels(*key, "reactive").set(v.tracked.ledger.reactive)
