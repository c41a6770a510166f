"""One replica's work, apart from HTTP: admits a request, has the engine answer it, paces the answer and counts everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from deepseek_serving import metric_names as names
from deepseek_serving.admission import Admission, AdmissionError, WaitedTooLongError
from deepseek_serving.engine import Delta, Engine, Generation
from deepseek_serving.engines import make_engine
from deepseek_serving.metrics import Meter, Sink
from deepseek_serving.pacing import Pacer
from deepseek_serving.settings import ServingSettings
from deepseek_serving.stopping import StopTexts

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 0.5

Preparation = Callable[[], Awaitable[Generation]]
"""Turns what the client sent into what the engine takes (decodes pictures); runs only once the request has its turn."""


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
            ongoing=limits.max_ongoing_requests, queued=limits.max_queued_requests, timeout_seconds=limits.request_timeout_seconds
        )
        self._pacer = Pacer(limits.max_tokens_per_second)
        self._meter = Meter(sink)
        self._engine: Engine | None = None
        self._reporter: asyncio.Task[None] | None = None
        self._startup: dict[str, float] = {}
        self._report()

    async def start(self) -> None:
        """Load the engine. Raises LoadError when the settings cannot be met."""
        self._reporter = asyncio.create_task(self._report_forever(), name="metrics")
        self._engine = await asyncio.to_thread(make_engine, self.settings)
        imported_at = time.monotonic()
        parts = await self._engine.start()
        importing = imported_at - self._born_at + parts.importing
        total = time.monotonic() - self._born_at
        self._startup = {"import": importing, "load": parts.loading, "warmup": parts.warming_up, "total": total}
        log.info(
            "ready to serve %s after %.1f s: import %.1f, load %.1f, warm-up %.1f",
            self.settings.served_name, total, importing, parts.loading, parts.warming_up,
        )  # fmt: skip
        self.ready = True

    @property
    def engine(self) -> Engine:
        """The started engine."""
        if self._engine is None:
            raise RuntimeError("the service is not started")
        return self._engine

    async def answer(self, prepare: Preparation, *, kind: str, stops: tuple[str, ...] = ()) -> AsyncGenerator[Delta, None]:
        """Stream one answer. `kind` is text or image.

        The first step raises AdmissionError when admission says no, RequestError when the request can never be answered.
        ClosingError the iterator, or cancelling the task that reads it, cancels the request and frees its place.
        """
        self._meter.count(names.REQUESTS_OFFERED, kind)
        arrived = time.monotonic()
        outcome = "cancelled"
        try:
            async with self.admission.turn() as waited:
                self._meter.observe(names.QUEUE_TIME_SECONDS, waited)
                async with aclosing(self._paced(await prepare(), stops)) as deltas:
                    first = True
                    async for delta in deltas:
                        if first:
                            self._meter.observe(names.TIME_TO_FIRST_TOKEN_SECONDS, time.monotonic() - arrived)
                            first = False
                        if delta.finish:
                            outcome = "ok"
                        yield delta
                self._meter.observe(names.E2E_LATENCY_SECONDS, time.monotonic() - arrived)
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
        if self._reporter is not None:
            self._reporter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reporter
        self._report()

    async def _paced(self, generation: Generation, stops: tuple[str, ...]) -> AsyncGenerator[Delta, None]:
        """The engine's deltas, cut at the stop texts, each leaving when the pace allows it."""
        cut = StopTexts(stops)
        async with aclosing(self.engine.submit(generation)) as deltas:
            async for delta in deltas:
                if delta.prompt:
                    self._meter.count(names.PROMPT_TOKENS, by=delta.prompt.tokens)
                    self._meter.count(names.IMAGE_TOKENS, by=delta.prompt.image)
                self._meter.count(names.GENERATION_TOKENS, by=delta.tokens)
                await self._pacer.take(delta.tokens)
                text = cut.feed(delta.text)
                if cut.found:
                    yield Delta(text, delta.tokens, delta.prompt, "stop")
                    return
                yield Delta(text + cut.rest() if delta.finish else text, delta.tokens, delta.prompt, delta.finish)

    def _report(self) -> None:
        self._meter.set(names.REQUESTS_RUNNING, self.admission.running)
        self._meter.set(names.REQUESTS_WAITING, self.admission.waiting)
        for part, seconds in self._startup.items():
            self._meter.set(names.STARTUP_SECONDS, seconds, part)  # each time: Ray drops a gauge not set for two exports
        # Computing and pacing overlap, request by request; whichever is used more is the one that saturates.
        computing = self._engine.stats().busy_seconds if self._engine is not None else 0.0
        self._meter.advance(names.ENGINE_BUSY_SECONDS, max(computing, self._pacer.busy_seconds()))
        self._meter.flush()

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self._report()
