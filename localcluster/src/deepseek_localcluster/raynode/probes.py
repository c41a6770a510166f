"""Readiness and liveness probes, run as the pod's spec says, only more often when asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from deepseek_localcluster.raynode.container import run_inside
from deepseek_localcluster.raynode.kubernetes import Object
from deepseek_localcluster.raynode.wiring import Wiring, container_port


class Surroundings:
    """What a probe or hook needs to reach the inside of a container."""

    def __init__(
        self, container: Object, wiring: Wiring, env: dict[str, str], folder: Path, rewrite: Callable[[str], str], web: aiohttp.ClientSession
    ) -> None:
        self.container, self.wiring, self.env, self.folder, self.rewrite, self.web = container, wiring, env, folder, rewrite, web

    async def act(self, action: Object, timeout_seconds: float) -> bool:
        """Do what a probe or a lifecycle hook says (exec, httpGet, tcpSocket, sleep); whether it succeeded in time."""
        if "exec" in action:
            return await run_inside([self.rewrite(each) for each in action["exec"]["command"]], self.env, self.folder, timeout_seconds)
        if "sleep" in action:
            await asyncio.sleep(min(float(action["sleep"]["seconds"]), timeout_seconds))
            return True
        if "httpGet" in action:
            return await self._http(action["httpGet"], timeout_seconds)
        return await self._tcp(action["tcpSocket"]["port"], timeout_seconds)

    async def _http(self, get: Object, timeout_seconds: float) -> bool:
        url = f"http://127.0.0.1:{self._port(get['port'])}{get.get('path') or '/'}"
        headers = {each["name"]: each["value"] for each in get.get("httpHeaders") or []}
        try:
            async with self.web.get(url, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_seconds)) as response:
                return 200 <= response.status < 400
        except (OSError, aiohttp.ClientError, TimeoutError):
            return False

    async def _tcp(self, port: int | str, timeout_seconds: float) -> bool:
        return await accepts(self._port(port), timeout_seconds)

    def _port(self, port: int | str) -> int:
        return self.wiring.local_port(container_port(self.container, port))


async def accepts(port: int, timeout_seconds: float) -> bool:
    """Whether something on 127.0.0.1 accepts a connection to ``port``."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), timeout_seconds)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def watch(
    surroundings: Surroundings, longest_period: float, on_ready: Callable[[bool], Awaitable[None]], on_dead: Callable[[], None]
) -> None:
    """Run the container's probes until cancelled.

    ``longest_period`` caps the periods, and the delay before the first readiness probe: asking early costs nothing there.
    ``on_ready`` is told readiness after every verdict; ``on_dead`` that liveness failed as often as the spec allows.
    """
    container = surroundings.container
    readiness, liveness = container.get("readinessProbe"), container.get("livenessProbe")
    if readiness is None:
        await on_ready(True)
    loops = []
    if readiness is not None:
        loops.append(_readiness(surroundings, readiness, longest_period, on_ready))
    if liveness is not None:
        loops.append(_liveness(surroundings, liveness, longest_period, on_dead))
    await asyncio.gather(*loops)


async def _readiness(surroundings: Surroundings, probe: Object, longest_period: float, on_ready: Callable[[bool], Awaitable[None]]) -> None:
    await asyncio.sleep(min(probe.get("initialDelaySeconds", 0), longest_period))
    passed = failed = 0
    while True:
        if await surroundings.act(probe, probe.get("timeoutSeconds", 1)):
            passed, failed = passed + 1, 0
            if passed >= probe.get("successThreshold", 1):
                await on_ready(True)
        else:
            passed, failed = 0, failed + 1
            if failed >= probe.get("failureThreshold", 3):
                await on_ready(False)
        await asyncio.sleep(min(probe.get("periodSeconds", 10), longest_period))


async def _liveness(surroundings: Surroundings, probe: Object, longest_period: float, on_dead: Callable[[], None]) -> None:
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    failed = 0
    while failed < probe.get("failureThreshold", 3):
        failed = 0 if await surroundings.act(probe, probe.get("timeoutSeconds", 1)) else failed + 1
        await asyncio.sleep(min(probe.get("periodSeconds", 10), longest_period))
    on_dead()
