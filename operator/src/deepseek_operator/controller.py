"""kopf's part: its watches keep `Seen` up to date and wake the tick; the tick does the rest.

Level-triggered: no handler decides anything, so a lost, doubled or late event costs a moment and nothing else. No finalizers, no annotations:
deleting an object never waits for this program, and owner references remove what it created.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from deepseek_operator.api import v1alpha1 as api
from deepseek_operator.edge import rayservice, telemetry
from deepseek_operator.edge.forecaster import Forecaster, NoForecaster
from deepseek_operator.edge.kube import Kube, KubeError
from deepseek_operator.edge.prometheus import Prometheus
from deepseek_operator.edge.rayserve import RayServe
from deepseek_operator.fleet import Kind, Seen
from deepseek_operator.tick import Settings, Tick

log = logging.getLogger(__name__)

RESYNC_SECONDS = 60
"""Full lists, beside the watches: an event that a watch lost is made good within this time."""

CREDENTIALS_LAST = timedelta(minutes=10)
"""A service account's token is rotated on disk; it is read afresh at least this often."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything the command line says. Addresses are (host, port); no namespaces means all."""

    prometheus: str
    forecaster: str = ""
    namespaces: Sequence[str] = ()
    http_proxy: str = ""
    cluster_domain: str = "cluster.local"
    kubeconfig: str | None = None
    metrics_listen: tuple[str, int] = ("0.0.0.0", 9090)  # noqa: S104 - scraped from outside the pod
    health_listen: tuple[str, int] = ("0.0.0.0", 8080)  # noqa: S104 - asked by the kubelet
    settings: Settings = field(default_factory=Settings)


class Forever:
    """Pauses between kopf's retries of a failing API server: 1, 1, 2, 3, 5, … 30, 30 seconds without end. With a finite list kopf gives up
    after a minute and the process would have to be restarted just when the API server is back."""

    def __iter__(self) -> Iterator[float]:
        """A fresh, endless sequence."""
        return itertools.chain((1, 1, 2, 3, 5, 8, 13, 21), itertools.repeat(30))


def kopf_settings() -> kopf.OperatorSettings:
    """kopf as this operator needs it: bounded calls, endless retries, watches that notice their own silence, no writes of its own."""
    settings = kopf.OperatorSettings()
    settings.networking.request_timeout = 15
    settings.networking.connect_timeout = 5
    settings.networking.enforce_retry_after = True
    settings.networking.error_backoffs = Forever()
    settings.watching.inactivity_timeout = 70
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.reconnect_backoff = 1
    settings.watching.chunk_size = 500
    for group, plural in (("", "pods"), (rayservice.GROUP, rayservice.SERVICES), (rayservice.GROUP, rayservice.CLUSTERS)):
        settings.watching.label_selectors[group, plural] = rayservice.DEPLOYMENT_LABEL
    settings.queueing.worker_limit = None
    settings.execution.max_workers = 8
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = 30
    return settings


def register(seen: Seen, wake: asyncio.Event, kubeconfig: str | None) -> kopf.OperatorRegistry:
    """Handlers that note what the watches tell, and wake the tick when it matters to a decision."""
    registry = kopf.OperatorRegistry()
    ours = {rayservice.DEPLOYMENT_LABEL: kopf.PRESENT}

    def note(kind: Kind) -> Any:
        async def handler(type: str | None, body: kopf.Body, **_: Any) -> None:
            if seen.note(kind, type, dict(body)):
                wake.set()

        return handler

    kopf.on.event(api.GROUP, api.VERSION, api.PLURAL, registry=registry, id="objects")(note("objects"))
    kopf.on.event(rayservice.GROUP, rayservice.VERSION, rayservice.SERVICES, registry=registry, id="services", labels=ours)(note("services"))
    kopf.on.event(rayservice.GROUP, rayservice.VERSION, rayservice.CLUSTERS, registry=registry, id="clusters", labels=ours)(note("clusters"))
    kopf.on.event("", "v1", "pods", registry=registry, id="pods", labels=ours)(note("pods"))

    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        found = (None if kubeconfig else kopf.login_with_service_account(**kwargs)) or kopf.login_with_kubeconfig(**kwargs)
        return found and replace(found, expiration=datetime.now(UTC) + CREDENTIALS_LAST)

    kopf.on.login(registry=registry, id="login")(login)
    return registry


class Controller:
    """Owns the loop: a tick every `tick_seconds`, sooner when something changed, and full lists now and then."""

    def __init__(self, tick: Tick, kube: Kube, seen: Seen, wake: asyncio.Event) -> None:
        self._tick, self._kube, self._seen, self._wake = tick, kube, seen, wake
        self._started = time.monotonic()
        self._resynced, self._listed = -1e18, False
        self.listed = asyncio.Event()
        """Set once everything could be listed: until then a watch of a kind that is not installed yet would wait for ever."""

    def stalled(self) -> str:
        """Empty while ticks finish; otherwise what is wrong. The liveness probe asks this: a server that answers is no sign of life."""
        if not self._listed:
            return ""  # a restart would not help: it waits for the API server, or for KubeRay's definitions; it is not ready meanwhile
        last = self._tick.finished_at if self._tick.finished_at is not None else self._started
        age, allowed = time.monotonic() - last, 3 * self._tick.settings.tick_seconds + 60
        return "" if age <= allowed else f"the last tick finished {age:.0f} s ago; {allowed:.0f} s are allowed"

    def ready(self) -> bool:
        """Whether a tick has finished."""
        return self._tick.finished_at is not None

    async def run(self) -> None:
        """Tick for ever. Nothing that happens in a tick ends the loop."""
        # An event brings the next tick forward, but no closer than this: a thousand pods that become ready are one tick, not a thousand.
        soonest = max(0.25, self._tick.settings.tick_seconds / 5)
        while True:
            started = time.monotonic()
            try:
                await self._resync()
                if self._listed:
                    await self._tick.run()
            except Exception:
                log.exception("a tick failed")
            await asyncio.sleep(max(0.0, started + soonest - time.monotonic()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, started + self._tick.settings.tick_seconds - time.monotonic()))
            self._wake.clear()

    async def _resync(self) -> None:
        if time.monotonic() - self._resynced < RESYNC_SECONDS:
            return
        begun = self._seen.moment
        try:
            objects, services = await self._kube.list_objects(), await self._kube.list_services()
            clusters, pods = await self._kube.list_clusters(), await self._kube.list_pods()
        except KubeError as error:  # the watches go on; before the first list nothing may be concluded from what is missing
            missing = "; are the CRDs of KubeRay and of this operator installed?" if error.status == 404 else ""
            log.warning("the cluster could not be listed: %s%s", error, missing)
            return
        for kind, bodies in (("objects", objects), ("services", services), ("clusters", clusters), ("pods", pods)):
            self._seen.replace(kind, bodies, begun)  # type: ignore[arg-type]  # mypy widens the literal in the tuple
        self._resynced, self._listed = time.monotonic(), True
        self.listed.set()


async def run(options: Options) -> None:
    """Run the operator until SIGTERM or SIGINT. Raises `KubeError` when there is no way to a cluster."""
    seen, wake, meters = Seen(), asyncio.Event(), telemetry.Telemetry()
    if options.kubeconfig:
        os.environ["KUBECONFIG"] = options.kubeconfig  # where kopf looks
    kube = Kube(options.namespaces)
    await kube.connect(options.kubeconfig)
    serve = RayServe(options.http_proxy, options.cluster_domain)
    forecaster = Forecaster(options.forecaster) if options.forecaster else NoForecaster()
    prometheus = Prometheus(options.prometheus)
    tick = Tick(seen, prometheus, forecaster, kube, serve, meters, options.settings)
    controller = Controller(tick, kube, seen, wake)
    runners = await telemetry.serve(meters, controller.stalled, controller.ready, options.metrics_listen, options.health_listen)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def watch() -> None:
        await controller.listed.wait()
        await kopf.operator(
            registry=register(seen, wake, options.kubeconfig),
            settings=kopf_settings(),
            standalone=True,
            clusterwide=not options.namespaces,
            namespaces=tuple(options.namespaces),
            stop_flag=stop,
        )

    watches = asyncio.create_task(watch(), name="watches")
    ticking = asyncio.create_task(controller.run(), name="ticks")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({watches, ticking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (watches, ticking):
            if task.done():
                await task  # a fault in it ends the process, and Kubernetes starts it afresh; kopf ends without one on a signal of its own
        log.info("stopping")
    finally:
        stop.set()
        if not controller.listed.is_set():
            watches.cancel()
        ticking.cancel()
        stopping.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(tick.settle(), 10)
        await asyncio.gather(watches, ticking, stopping, return_exceptions=True)
        for closing in (serve.close(), kube.close(), *(runner.cleanup() for runner in runners)):
            await closing
        prometheus.close()
        if isinstance(forecaster, Forecaster):
            await forecaster.close()
