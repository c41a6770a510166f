"""The HTTP service: `POST /v1/forecasts`, `GET /healthz`, `GET /metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

from .collect import Collector
from .metrics import FleetMetrics
from .prometheus import PrometheusReader
from .registry import MAX_SERIES, Registry, TooManySeriesError, Watched
from .schedule import TRAIN_SHARE, Trainer
from .series import NoForecastError
from .types import Forecast
from .wire import FORECASTS_PATH, MAX_BODY_BYTES, ForecastBatchRequest, ForecastBatchResponse, WireError, read_request, write

log = logging.getLogger(__name__)

DEAD_AFTER_SECONDS = 60.0
"""The collecting loop turns every five seconds; silent for a minute, it is dead."""


@dataclass(frozen=True)
class Settings:
    """What the service is told when it starts. Durations are in seconds."""

    prometheus: str
    data: Path
    season_seconds: float = 86_400.0
    history_seconds: float = 14 * 86_400.0
    train_every_seconds: float | None = None
    """None: once a season."""
    forget_after_seconds: float = 14 * 86_400.0
    train_share: float = TRAIN_SHARE
    read_timeout_seconds: float = 30.0
    max_series: int = MAX_SERIES


class Service:
    """Holds the fleet's series and answers for them."""

    def __init__(self, settings: Settings, registry: Registry, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.registry = registry
        self.last: dict[str, Forecast] = {}
        reader = PrometheusReader(settings.prometheus, settings.read_timeout_seconds)
        self.collector = Collector(registry, reader, settings.history_seconds, settings.forget_after_seconds, now)
        self.trainer = Trainer(registry, settings.train_every_seconds or settings.season_seconds, now, settings.train_share)
        # answers are made in one thread of their own, so that a large batch does not hold up /healthz
        self._answering = ThreadPoolExecutor(1, thread_name_prefix="answer")
        self.metrics = CollectorRegistry()
        self._answered = Counter("deepseek_forecaster_forecasts", "Forecasts given.", registry=self.metrics)
        self._unanswered = Counter("deepseek_forecaster_forecast_errors", "Series asked about that got no forecast.", registry=self.metrics)
        self._refused = Counter("deepseek_forecaster_bad_requests", "Requests refused with 400.", registry=self.metrics)
        self._took = Histogram(
            "deepseek_forecaster_answer_seconds",
            "Time to answer a batch.",
            registry=self.metrics,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
        )
        self.metrics.register(FleetMetrics(registry, self.collector, self.trainer, self.last))

    def application(self) -> web.Application:
        """The aiohttp application; collecting and training live as long as it does."""
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_post(FORECASTS_PATH, self._forecasts)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/metrics", self._metrics)
        application.cleanup_ctx.append(self._background)
        return application

    async def _background(self, _: web.Application) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.collector.run(), name="collect"), asyncio.create_task(self.trainer.run(), name="train")]
        for task in tasks:
            task.add_done_callback(_report_end)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._answering.shutdown(wait=False, cancel_futures=True)

    async def _forecasts(self, http: web.Request) -> web.Response:
        started = time.perf_counter()
        try:
            batch = read_request(await http.read())
        except WireError as error:
            self._refused.inc()
            return web.json_response({"error": str(error)}, status=400)
        response, body = await asyncio.get_running_loop().run_in_executor(self._answering, self._answer, batch)
        self.collector.wake()
        self._answered.inc(len(response.forecasts))
        self._unanswered.inc(len(response.errors))
        self._took.observe(time.perf_counter() - started)
        return web.Response(body=body, content_type="application/json")

    def _answer(self, batch: ForecastBatchRequest) -> tuple[ForecastBatchResponse, bytes]:
        forecasts: list[Forecast] = []
        errors: dict[str, str] = {}
        now = self._now()
        for request in batch.requests:
            watched = self.registry.get(request)
            if watched is None:
                try:
                    watched = self.registry.register(request, now)
                except TooManySeriesError as error:
                    errors[request.series] = str(error)
                    continue
            else:
                self.registry.asked(watched, request, now)
            try:
                forecast = watched.forecaster.forecast(
                    request.series, batch.now, request.horizon_seconds, request.quantiles, request.lead_seconds, request.slack_seconds
                )
            except NoForecastError as error:
                errors[request.series] = self._why_not(watched, str(error))
            except Exception as error:  # one series' misfortune must not cost the fleet its answer
                log.exception("series %s could not be forecast", request.series)
                errors[request.series] = f"the forecast failed: {type(error).__name__}: {error}"[:2_000]
            else:
                forecasts.append(forecast)
                self.last[request.series] = forecast
        response = ForecastBatchResponse(forecasts=tuple(forecasts), errors=errors)
        return response, write(response)

    def _why_not(self, watched: Watched, reason: str) -> str:
        if watched.trouble is not None:
            return f"{reason}: {watched.trouble}"[:2_000]
        if watched.read_at is None:
            return f"{reason}: its history is being read"
        if watched.forecaster.history is None:
            return f"{reason}: the query returned nothing"
        return reason

    async def _healthz(self, _: web.Request) -> web.Response:
        age = self.collector.age_seconds
        healthy = age < DEAD_AFTER_SECONDS
        body = {"status": "ok" if healthy else "collecting has stopped", "series": len(self.registry), "collectedSecondsAgo": round(age, 1)}
        return web.json_response(body, status=200 if healthy else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = await asyncio.to_thread(generate_latest, self.metrics)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("background work %s has stopped", task.get_name(), exc_info=task.exception())


@contextlib.asynccontextmanager
async def serving(settings: Settings, host: str, port: int, now: Callable[[], float] = time.time) -> AsyncIterator[tuple[Service, int]]:
    """Serve until the block ends; gives the service and the port (a free one when `port` is 0). DirectoryInUseError, OSError."""
    with Registry(settings.data, settings.season_seconds, settings.max_series) as registry:
        service = Service(settings, registry, now)
        runner = web.AppRunner(service.application(), access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            yield service, runner.addresses[0][1]
        finally:
            await runner.cleanup()
