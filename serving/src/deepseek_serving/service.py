"""One replica's work, apart from HTTP: admits a request, has the engine answer it, paces the answer and counts everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from deepseek_serving import metric_names as names
from deepseek_serving.admission import Admission, AdmissionError, Claim, WaitedTooLongError
from deepseek_serving.degrade import Degrade
from deepseek_serving.engine import Delta, Engine, Generation
from deepseek_serving.engines import make_engine
from deepseek_serving.keys import ANYONE, Client, Gate, GuessingError, UnknownKeyError
from deepseek_serving.metrics import Meter, Sink
from deepseek_serving.pacing import Pacer
from deepseek_serving.pictures import Pictures
from deepseek_serving.settings import ServingSettings

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 0.5

_KEYS_SECONDS = 2.0
"""How often the folder of keys is looked at."""

Preparation = Callable[[AsyncExitStack], Awaitable[Generation]]
"""Turns what the client sent into what the engine takes (decodes pictures); runs only once the request has its turn.

What it enters into the stack is held until the first token: by then the engine has read the pictures.
"""


@dataclass
class Order:
    """One request. `degraded` is filled in when its answer begins: what it had to give up."""

    prepare: Preparation
    kind: str
    client: Client = ANYONE
    priority: int = 0
    patience_seconds: float | None = None
    degraded: tuple[str, ...] = ()


class Service:
    """Built before the model is there; `start` loads it, `stop` ends everything."""

    def __init__(self, settings: ServingSettings, sink: Sink, *, born_at: float | None = None) -> None:
        """`born_at`: monotonic seconds at which this process began its start; the total start-up time counts from there."""
        self.settings = settings
        self.ready = False
        self.started_at = int(time.time())
        self._born_at = time.monotonic() if born_at is None else born_at
        limits = settings.serving
        self.admission = Admission(
            ongoing=limits.ongoing,
            queued=limits.queued,
            standing=limits.standing,
            timeout_seconds=limits.request_timeout_seconds,
            batch_share=limits.batch_share_percent / 100,
        )
        self.gate = Gate(Path(settings.access.keys_folder) if settings.access.keys_folder else None)
        self.pictures = Pictures(settings)
        self.degrade = Degrade(settings.degrade, limits.standing)
        self._pacer = Pacer(limits.max_tokens_per_second)
        self._meter = Meter(sink)
        self._engine: Engine | None = None
        self._reporters: list[asyncio.Task[None]] = []
        self._startup: dict[str, float] = {}
        self._report()

    async def start(self) -> None:
        """Load the engine. Raises LoadError when the settings cannot be met."""
        self._reporters = [asyncio.create_task(self._report_forever(), name="metrics"), asyncio.create_task(self._follow_keys(), name="keys")]
        self._engine = await asyncio.to_thread(make_engine, self.settings)
        imported_at = time.monotonic()
        parts = await self._engine.start()
        importing = imported_at - self._born_at + parts.importing
        total = time.monotonic() - self._born_at
        self._startup = {
            "import": importing, "load": parts.loading, "quantize": parts.quantizing, "warmup": parts.warming_up, "total": total,
        }  # fmt: skip
        log.info(
            "ready to serve %s after %.1f s: import %.1f, load %.1f, quantize %.1f, warm-up %.1f",
            self.settings.served_name, total, importing, parts.loading, parts.quantizing, parts.warming_up,
        )  # fmt: skip
        self.ready = True

    @property
    def engine(self) -> Engine:
        """The started engine."""
        if self._engine is None:
            raise RuntimeError("the service is not started")
        return self._engine

    async def answer(self, order: Order) -> AsyncGenerator[Delta, None]:
        """Stream one request's answers.

        The first step raises AdmissionError when admission says no, RequestError when the request can never be answered.
        ClosingError the iterator, or cancelling the task that reads it, cancels the request and frees its place.
        """
        self._meter.count(names.REQUESTS_OFFERED, order.kind)
        arrived = time.monotonic()
        outcome = "cancelled"
        client = order.client
        budget = self.gate.budget_of(client)
        claim = Claim(client.name, min(order.priority, client.highest_priority), order.patience_seconds)
        cost = 0.0
        try:
            if budget is not None:
                budget.check()
            self.degrade.observe(self.admission.waiting, self.engine)
            async with self.admission.turn(claim) as turn:
                self._meter.observe(names.QUEUE_TIME_SECONDS, turn.waited)
                first_at, ends, written = 0.0, 0, 0
                async with AsyncExitStack() as until_first:
                    generation = self._begin(order, await order.prepare(until_first), claim)
                    async with aclosing(self._paced(generation)) as deltas:
                        async for delta in deltas:
                            written += delta.tokens
                            cost += delta.tokens + (delta.prompt.tokens if delta.prompt else 0)
                            turn.cost = cost
                            if not first_at:
                                await until_first.aclose()
                                first_at = time.monotonic()
                                self._meter.observe(names.TIME_TO_FIRST_TOKEN_SECONDS, first_at - arrived)
                            if delta.finish:
                                ends += 1
                                self._meter.count(names.ANSWERS_ENDED, delta.finish)
                                if ends == generation.n:
                                    outcome = "ok"
                                    self._ended(arrived, first_at, written)
                            yield delta
        except AdmissionError as refusal:
            self._meter.count(names.REQUESTS_REJECTED)
            outcome = "late" if isinstance(refusal, WaitedTooLongError) else "refused"
            raise
        except Exception:
            outcome = "error"
            raise
        finally:
            if outcome == "ok":
                self._meter.count(names.WORK_DONE)
            if outcome != "refused":
                self._meter.count(names.REQUESTS_FINISHED, outcome)
            if budget is not None:
                budget.spend(cost)

    def admit(self, authorization: str | None, address: str) -> Client:
        """Who asks. Raises UnknownKeyError or GuessingError."""
        try:
            return self.gate.admit(authorization, address)
        except UnknownKeyError:
            self._meter.count(names.REQUESTS_UNAUTHORIZED, "key")
            raise
        except GuessingError:
            self._meter.count(names.REQUESTS_UNAUTHORIZED, "guessing")
            raise

    def check_health(self) -> None:
        """Raise when this replica should be replaced."""
        if self._engine is not None:
            self._engine.check_health()

    async def stop(self) -> None:
        """Refuse newcomers, let the running answers end, then close the engine."""
        self.ready = False
        self.admission.close()
        if self._engine is not None:
            await self._engine.drain()
            await self._engine.close()
        for reporter in self._reporters:
            reporter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reporter
        self.pictures.close()
        self._report()

    def _begin(self, order: Order, generation: Generation, claim: Claim) -> Generation:
        """What the engine is asked for now, which may be less than what the client asked for."""
        order.degraded = self.degrade.told(generation.max_tokens, self.engine)
        for step in order.degraded:
            self._meter.count(names.REQUESTS_DEGRADED, step.partition("=")[0])
        return replace(generation, max_tokens=self.degrade.most_tokens(generation.max_tokens), priority=claim.priority)

    async def _paced(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """The engine's deltas, each leaving when the pace allows it."""
        batch = generation.priority < 0
        async with aclosing(self.engine.submit(generation)) as deltas:
            async for delta in deltas:
                if delta.prompt:
                    self._meter.count(names.PROMPT_TOKENS, by=delta.prompt.tokens)
                    self._meter.count(names.IMAGE_TOKENS, by=delta.prompt.image)
                self._meter.count(names.GENERATION_TOKENS, by=delta.tokens)
                await self._pacer.take(delta.tokens, batch=batch)
                yield delta

    def _ended(self, arrived: float, first_at: float, tokens: int) -> None:
        now = time.monotonic()
        self._meter.observe(names.E2E_LATENCY_SECONDS, now - arrived)
        if tokens > 1:
            self._meter.observe(names.INTER_TOKEN_LATENCY_SECONDS, (now - first_at) / (tokens - 1))

    def _report(self) -> None:
        self._meter.set(names.REQUESTS_RUNNING, self.admission.running)
        self._meter.set(names.REQUESTS_WAITING, self.admission.waiting)
        for part, seconds in self._startup.items():
            self._meter.set(names.STARTUP_SECONDS, seconds, part)  # each time: Ray drops a gauge not set for two exports
        # Computing and pacing overlap, request by request; whichever is used more is the one that saturates.
        computing = 0.0
        if self._engine is not None:
            stats = self._engine.stats()
            computing = stats.busy_seconds
            self._meter.set(names.CACHE_USAGE, stats.cache_usage)
            self._meter.set(names.ENGINE_SLOTS, stats.running, "used")
            self._meter.set(names.ENGINE_SLOTS, max(0, stats.slots - stats.running), "free")
            self.degrade.observe(self.admission.waiting, self._engine)
        self._meter.set(names.DEGRADED, float(self.degrade.active))
        self._meter.advance(names.ENGINE_BUSY_SECONDS, max(computing, self._pacer.busy_seconds()))
        self._meter.flush()

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self._report()

    async def _follow_keys(self) -> None:
        while True:
            await asyncio.sleep(_KEYS_SECONDS)
            await asyncio.to_thread(self.gate.refresh)
