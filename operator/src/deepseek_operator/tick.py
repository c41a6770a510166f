"""One tick serves the whole fleet. `Tick.run` reads as a table of contents."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from deepseek_forecaster.wire import ForecastRequest
from deepseek_operator.actuate import actuate
from deepseek_operator.core.budget import DAY_SECONDS, Spent
from deepseek_operator.core.capacity import LearnedCapacity, utilization
from deepseek_operator.core.coldstart import Starts
from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.demand import offered
from deepseek_operator.core.foresight import Question
from deepseek_operator.core.ledger import Counterfactual, Course, Lane, Ledger
from deepseek_operator.core.plan import plan
from deepseek_operator.core.types import Demand, Memory, Situation
from deepseek_operator.edge.forecaster import Forecasts, ForecastSource
from deepseek_operator.edge.kube import Cluster
from deepseek_operator.edge.prometheus import RECENT_SHARE, MetricsSource, Reading, Readings
from deepseek_operator.edge.promql import OwnQueries
from deepseek_operator.edge.rayserve import RayServeError, ServeControl
from deepseek_operator.edge.rayservice import CompileOptions, compile_service
from deepseek_operator.edge.telemetry import Telemetry
from deepseek_operator.fleet import Body, Key, Seen, Tracked, Verdict, Wanted, parse
from deepseek_operator.report import Reporter
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
    own_queries: OwnQueries = field(default_factory=OwnQueries)


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
        self._reporter = Reporter(cluster, telemetry, self.starts_of)
        self._wall = wall
        # Windows and cooldowns run on a clock that cannot jump; it starts at the wall's time so that it reads as an instant.
        self._offset = wall() - clock()
        self._clock = clock
        self._tracked: dict[Key, Tracked] = {}
        self._starts: dict[tuple[object, ...], Starts] = {}
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
        verdicts = self.each(verdicts, lambda v: self.weigh(v, readings), now)
        forecasts = await self.read_forecasts(verdicts)
        verdicts = self.each(verdicts, lambda v: self.take_forecast(v, forecasts), now)
        verdicts = self.each(verdicts, lambda v: self.judge(v, now), now)
        await self.act_and_report(verdicts, now)
        self.telemetry.objects.set(len(verdicts))
        self.telemetry.ticks.observe(self._clock() - started)
        self.finished_at = self._clock()

    def each(self, verdicts: list[Verdict], step: Callable[[Verdict], None], now: float) -> list[Verdict]:
        """Do a step for every object. One that breaks it is reported and left as it is for this tick; the others go on."""
        done = []
        for verdict in verdicts:
            try:
                step(verdict)
                done.append(verdict)
            except Exception as error:
                key = verdict.wanted.key
                log.exception("%s/%s: this tick leaves it as it is", *key)
                problem = f"{type(error).__name__}: {error}"
                report = self._reporter.report_invalid(key, verdict.wanted.body, verdict.tracked, problem, now, "InternalError")
                self._start(key, report)
        return done

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
            wanted = self._parse(key, body, tracked)
            if isinstance(wanted, str):
                self._start(key, self._reporter.report_invalid(key, body, tracked, wanted, now))
                continue
            try:
                verdicts.append(self._verdict(wanted, tracked, now))
            except (ValueError, LookupError, KeyError, TypeError) as error:
                self._start(key, self._reporter.report_invalid(key, body, tracked, str(error), now))
        return verdicts

    def _parse(self, key: Key, body: Body, tracked: Tracked) -> Wanted | str:
        """The object, read once for each generation of its spec."""
        generation = body["metadata"].get("generation")
        if generation is None or generation != tracked.wanted_generation:
            tracked.wanted, tracked.wanted_generation = parse(key, body, self.settings.own_queries), generation
            self._remember_earlier(tracked)
        return tracked.wanted

    def _remember_earlier(self, tracked: Tracked) -> None:
        """What the status told of an earlier process' measurements, once it is known what kind of node they were made on."""
        if isinstance(tracked.wanted, str):
            return
        kind = tracked.wanted.node_kind
        if len(tracked.starts.seen) > len(self._starts.get(kind, Starts()).seen):
            self._starts[kind] = tracked.starts  # objects of one kind each tell of the same starts: the fullest account counts
        tracked.starts = Starts()
        if tracked.earlier_capacity is not None:
            of_node, readings = tracked.earlier_capacity
            tracked.capacity = LearnedCapacity.known(of_node / tracked.wanted.spec.nodes.replicas_per_node, readings)
            tracked.earlier_capacity = None

    def starts_of(self, wanted: Wanted) -> Starts:
        """The starts of the object's kind of node, whichever object they served."""
        return self._starts.get(wanted.node_kind) or Starts()

    def _verdict(self, wanted: Wanted, tracked: Tracked, now: float) -> Verdict:
        nodes = tracked.desired or wanted.policy.min_nodes
        compiled = self._compile(wanted, tracked, nodes)
        observed = self.seen.observe(wanted.key, compiled, tracked.serve)
        if not tracked.memory.recommendations:
            # First sight since the process began: never start below what runs, and count it as recommended now.
            tracked.desired = max(tracked.desired or 0, observed.nodes or 0) or wanted.policy.min_nodes
            tracked.memory = replace(Memory.begin(now, tracked.desired, tracked.memory.scaled_at), spent=self._spent(tracked))
        cluster = observed.cluster.name if observed.cluster else tracked.cluster
        if cluster != tracked.cluster:  # also at first sight
            tracked.cluster, tracked.start_watch = cluster, tracked.start_watch.passing_over(observed.pods)
            tracked.serve, tracked.serve_read_at = None, -1e18  # it spoke of the other cluster's nodes
            observed = replace(observed, serve=None)
        return Verdict(wanted, tracked, compiled, nodes, observed)

    def _compile(self, wanted: Wanted, tracked: Tracked, nodes: int) -> dict[str, Any]:
        """The RayService of so many nodes, made once for each spec and count."""
        made_for = (wanted, nodes)
        if tracked.compiled_for is None or tracked.compiled_for[0] is not wanted or tracked.compiled_for[1] != nodes:
            compiled = compile_service(*wanted.key, tracked.uid, wanted.spec, nodes, self.settings.compile)
            tracked.compiled, tracked.compiled_for = compiled, made_for
        return tracked.compiled

    def _spent(self, tracked: Tracked) -> Spent:
        """What the books of an earlier process say of this day."""
        wall = self._wall()
        days = tracked.ledger.days if tracked.ledger else ()
        return Spent.on_the_day_of(wall, sum(day.node_seconds for day in days if day.day == wall // DAY_SECONDS))

    # ----------------------------------------------------------------------------------------------------- what is demanded

    async def read_demand(self, verdicts: list[Verdict]) -> Readings:
        """One query for the fleet, and one for each distinct query of a user's own."""
        own = {query for v in verdicts if (query := v.wanted.query)}
        if not verdicts:
            return Readings()
        readings = await self._metrics.read(self._wall(), self.settings.demand_window_seconds, own)
        if readings.problem:
            self.telemetry.read_failures.labels("prometheus").inc()
        return readings

    def weigh(self, v: Verdict, readings: Readings) -> None:
        """Demand and capacity of one object."""
        reading = readings.by_application.get(v.wanted.application)
        per_node, ready = v.wanted.spec.nodes.replicas_per_node, len(v.serving) * v.wanted.spec.nodes.replicas_per_node
        if v.wanted.query_objection:
            v.missing = v.wanted.query_objection
        elif v.wanted.query:
            answer = readings.own.get(v.wanted.query, "the query was not answered")
            if isinstance(answer, str):
                v.missing = answer
            else:  # what waits is known from the replicas, wherever the arrivals are counted
                v.demand = offered(answer, waiting=reading.waiting if reading else None)
        elif readings.problem:
            v.missing = readings.problem
        elif reading is None or reading.demand is None:
            v.missing = "Prometheus has no demand series of this object yet"
        else:
            v.demand = self._demand(reading, reading.demand, ready)
        v.capacity = v.wanted.capacity
        if reading is not None and v.capacity is None:
            self._learn(v, reading)
        if v.capacity is None and (learned := v.tracked.capacity.value()) is not None:
            v.capacity = learned * per_node

    def _demand(self, reading: Reading, rate: float, ready: int) -> Demand:
        return offered(
            rate,
            complete=reading.reporting is not None and reading.reporting >= ready,
            recent=reading.recent,
            recent_seconds=max(1, self.settings.demand_window_seconds // RECENT_SHARE),
            export_seconds=self.settings.compile.ray_metrics_interval_seconds,
            waiting=reading.waiting,
        )

    def _learn(self, v: Verdict, reading: Reading) -> None:
        replicas = reading.reporting or 0
        busy, queued = (None if figure is None or not replicas else figure / replicas for figure in (reading.busy, reading.queued))
        v.tracked.capacity = v.tracked.capacity.read(self.now(), reading.replica_capacity, busy, queued)

    # ----------------------------------------------------------------------------------------------------- what is foreseen

    async def read_forecasts(self, verdicts: list[Verdict]) -> Forecasts:
        """One batch request for the fleet."""
        requests = [
            self._forecast_request(v) for v in verdicts if v.wanted.policy.mode in ("Predictive", "Shadow") and not v.wanted.query_objection
        ]
        if not requests:
            return Forecasts()
        forecasts = await self._forecaster.ask(self._wall(), requests)
        if forecasts.problem:
            self.telemetry.read_failures.labels("forecaster").inc()
        return forecasts

    def _question(self, v: Verdict) -> Question:
        scaling = v.wanted.spec.scaling
        return Question.of(scaling, v.capacity, self.starts_of(v.wanted).p90(), self.settings.tick_seconds, self.settings.step_seconds)

    def _forecast_request(self, v: Verdict) -> ForecastRequest:
        query = v.wanted.query or metric_names.demand_query(v.wanted.application, self.settings.demand_window_seconds)
        question = self._question(v)
        return ForecastRequest(
            series=v.wanted.application,
            query=query,
            step_seconds=self.settings.step_seconds,
            horizon_seconds=question.whole_seconds,
            quantiles=question.quantiles,
            lead_seconds=question.whole_lead_seconds,
            slack_seconds=question.slack_seconds,
        )

    def take_forecast(self, v: Verdict, forecasts: Forecasts) -> None:
        """The forecast of one object, if it may be acted on."""
        if v.wanted.policy.mode not in ("Predictive", "Shadow"):
            return
        found = v.raw_forecast = forecasts.by_series.get(v.wanted.application)
        if found is None:
            v.no_forecast = forecasts.problem or forecasts.problems.get(v.wanted.application) or "the forecaster does not know this series"
            return
        answer = self._question(v).read(found, self._wall(), self.settings.step_seconds)
        if isinstance(answer, str):
            v.no_forecast = answer
        else:
            v.forecast = answer

    # ------------------------------------------------------------------------------------------------------ what is decided

    def judge(self, v: Verdict, now: float) -> None:
        """The decision, its memory, and what the other modes would have done on the same demand."""
        t = v.tracked
        assert t.desired is not None
        service = v.observed.service
        upgrading = service is not None and bool(service.active_cluster and service.pending_cluster)
        cold_start = self.starts_of(v.wanted).p90() or 0.0
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
            lead_seconds=cold_start + self.settings.tick_seconds,
            wall=self._wall(),
        )
        self._count(v, situation)
        decision = v.decision = decide(situation)
        t.memory = remember(situation, decision)
        t.courses = (t.courses[0].then(now, decision.nodes, situation.lead_seconds), *t.courses[1:])
        if decision.nodes != t.desired:
            log.info("scaled %s/%s from %d to %d: %s: %s", *v.wanted.key, t.desired, decision.nodes, decision.reason, decision.message)
            self.telemetry.decisions.labels(*v.wanted.key, decision.reason).inc()
        t.desired = decision.nodes

    def _count(self, v: Verdict, situation: Situation) -> None:
        """Advance the ledger by the nodes that held since the last tick, then the counterfactuals to this moment."""
        t, now, shadow = v.tracked, situation.now, v.wanted.policy.mode == "Shadow"
        if t.reactive is None or t.shadow is None:
            t.reactive = t.shadow = Counterfactual(situation.nodes, t.memory)
            t.courses = (Course(((-1e18, situation.nodes),)),) * 3
        if t.ledger is None:
            t.ledger = Ledger(since=now, counted_until=now)
        lead = situation.lead_seconds
        actual, reactive, predictive = t.courses

        def lane(course: Course) -> Lane:
            known = situation.demand is not None and situation.node_capacity is not None
            full = known and utilization(situation.demand.rate, course.ready, situation.node_capacity) > 1  # type: ignore[union-attr, arg-type]  # known
            return Lane(course.steps[-1][1], full)

        t.ledger = t.ledger.count(
            now,
            actual=lane(actual),
            maximum=v.wanted.policy.max_nodes,
            reactive=lane(reactive),
            predictive=lane(predictive) if shadow else None,
            date=situation.date,
            gpus_per_node=v.wanted.gpus_per_node,
            price=v.wanted.price,
        )
        t.reactive = t.reactive.advance(replace(situation, policy=replace(situation.policy, mode="Reactive"), forecast=None))
        if shadow:
            t.shadow = t.shadow.advance(replace(situation, policy=replace(situation.policy, mode="Predictive")))
        t.courses = (actual, reactive.then(now, t.reactive.nodes, lead), predictive.then(now, t.shadow.nodes, lead))

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
        self._measure_starts(v, now)
        if self._tracked.get(v.wanted.key) is v.tracked:  # else deleted meanwhile, and its metrics with it
            await self._reporter.report(v, now)

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

    def _measure_starts(self, v: Verdict, now: float) -> None:
        """A node's start ends when its replicas are first seen to answer."""
        t = v.tracked
        t.serving_since = {name: t.serving_since.get(name, now) for name in v.serving}
        told = t.start_watch.passed_over
        if v.observed.serve is not None and (t.start_watch.answering_since is None or not t.serving_since.keys() <= told):
            pods = (replace(pod, ready_at=t.serving_since.get(pod.name)) for pod in v.observed.pods)
            t.start_watch, fresh = t.start_watch.look(pods, t.memory.scaled_up_at)
            if fresh:
                self._starts[v.wanted.node_kind] = self.starts_of(v.wanted).with_more(fresh)

    async def _act(self, v: Verdict) -> None:
        t, key = v.tracked, v.wanted.key
        assert t.desired is not None
        compiled = v.compiled
        if t.desired != v.compiled_for:
            compiled = self._compile(v.wanted, t, t.desired)
        v.observed = self.seen.observe(key, compiled, t.serve)
        if v.observed.cluster is not None and v.observed.cluster.name != t.cluster:
            return  # the service moved to another cluster since this tick began: plan on what that one's Ray Serve says
        planned = plan(t.desired, v.wanted.spec.nodes.replicas_per_node, v.observed)
        t.waiting_for = planned.waiting_for
        t.write_problem = await actuate(v.wanted, planned, v.observed, compiled, self.seen, self._cluster, self._serve, self.telemetry)
        if planned.actions:
            t.serve_read_at = -1e18  # look again at the next tick
            v.observed = self.seen.observe(key, compiled, t.serve)
