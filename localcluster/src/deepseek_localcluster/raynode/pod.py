"""The life of one pod: waits for its head, starts, is probed, restarts, ends; the API server is told every step."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from deepseek_localcluster.ports import PortBlock
from deepseek_localcluster.raynode import environment, probes
from deepseek_localcluster.raynode.container import Container
from deepseek_localcluster.raynode.kubernetes import Api, Object
from deepseek_localcluster.raynode.node import timestamp
from deepseek_localcluster.raynode.status import PodStatus
from deepseek_localcluster.raynode.wiring import GCS, Wiring

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_BACKOFF_SECONDS = 10.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """What all pods of one kubelet share."""

    api: Api
    web: aiohttp.ClientSession
    logs: Path
    """Of each pod: its log in ``<pod>.log``, the process id of its command in ``<pod>.pid``, its ports on 127.0.0.1 in ``<pod>.ports``."""
    temporary: Path
    """A folder with a short path; each pod has one in it."""
    pythonpath: str
    longest_probe_period: float
    find_head: Callable[[str, str], Pod | None]
    """``find_head(namespace, head Service's name)``."""


class Pod:
    """One Ray pod bound to one of our nodes; it lives in :attr:`task`."""

    def __init__(self, machine: Machine, obj: Object, ip: str, ports: PortBlock) -> None:
        self._machine = machine
        self.obj = obj
        metadata = obj["metadata"]
        self.name: str = metadata["name"]
        self.namespace: str = metadata["namespace"]
        self.uid: str = metadata["uid"]
        self.labels: dict[str, str] = metadata.get("labels") or {}
        self.container: Object = obj["spec"]["containers"][0]
        self.wiring = Wiring(ports.base, self.container)
        self.status = PodStatus(ip)
        self._ports = ports
        self._run: Container | None = None
        self._ended = asyncio.Event()  # somebody wants the pod to end
        self._deadline = float("inf")
        before = (obj.get("status") or {}).get("containerStatuses") or [{}]
        self._ran_before = bool(before[0].get("started") or before[0].get("restartCount"))
        self.status.restarts = int(before[0].get("restartCount") or 0)
        self.task = asyncio.create_task(self._live(), name=f"pod {self.name}")

    # ---- what others ask ----

    @property
    def ip(self) -> str:
        """The invented address."""
        return self.status.ip

    @property
    def running(self) -> bool:
        """Whether the container's command runs."""
        return self._run is not None and self._run.exit_code is None

    @property
    def ready(self) -> bool:
        """The condition Ready."""
        return self.status.ready

    @property
    def terminating(self) -> bool:
        """Whether the pod has been asked to end."""
        return self._ended.is_set()

    @property
    def is_head(self) -> bool:
        """Whether this is a Ray cluster's head."""
        return self.labels.get("ray.io/node-type") == "head"

    # ---- what the kubelet tells it ----

    def changed(self, obj: Object) -> None:
        """A newer version of the object: labels may change, and it may be on its way out."""
        self.obj = obj
        self.labels = obj["metadata"].get("labels") or {}
        if obj["metadata"].get("deletionTimestamp"):
            self.end(float(obj["metadata"].get("deletionGracePeriodSeconds") or 0))

    def end(self, grace_seconds: float) -> None:
        """Ask the pod to end; a later, shorter grace holds."""
        self._deadline = min(self._deadline, time.monotonic() + grace_seconds)
        if not self._ended.is_set():
            log.info("pod %s is to end within %g s", self.name, grace_seconds)
            self._ended.set()

    async def kill(self) -> None:
        """End the processes at once and tell nobody: the machine goes down."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        if self._run:
            await self._run.kill()

    # ---- its life ----

    async def _live(self) -> None:
        try:
            if self._ran_before and self._policy == "Never":
                # Its processes ended with the kubelet that ran them.
                self.status.waiting, self.status.exit_code = None, 137
                await self._report("Failed")
                await self._ended.wait()
            else:
                self.status.restarts += int(self._ran_before)
                await self._report("Pending")
                await self._wait_for_head()
                while not self.terminating and await self._run_once():
                    self.status.restarts += 1
            await self._delete()
        except Exception:
            log.exception("pod %s: a fault of the kubelet", self.name)
            raise
        finally:
            self._ports.release()

    async def _wait_for_head(self) -> None:
        """What KubeRay's init container ``wait-gcs-ready`` waits for: a head whose GCS accepts connections."""
        service = f"{self.labels.get('ray.io/cluster')}-head-svc"
        while not self.is_head and not self.terminating:
            head = self._machine.find_head(self.namespace, service)
            if head and head.running and await probes.accepts(head.wiring.base + GCS, 1):
                return
            await asyncio.sleep(0.1)

    async def _run_once(self) -> bool:
        """Run the container until it ends or is asked to; whether it shall run again."""
        try:
            surroundings = await self._surroundings()
        except (environment.MissingReference, LookupError) as error:
            self.status.waiting = ("CreateContainerConfigError", str(error))
            await self._report("Pending")
            await self._pause(2.0)
            self.status.restarts -= 1  # nothing ran, so nothing restarts
            return True
        self._run = run = await Container.start(
            self._command(surroundings), surroundings.env, self._folder, self._machine.logs / f"{self.name}.log"
        )
        (self._machine.logs / f"{self.name}.pid").write_text(str(run.pid))
        (self._machine.logs / f"{self.name}.ports").write_text(json.dumps(self.wiring.declared))
        log.info("pod %s runs as process %d with ports from %d", self.name, run.pid, self.wiring.base)
        self.status.waiting, self.status.exit_code, self.status.running_since = None, None, timestamp()
        await self._report("Running")
        probing = asyncio.create_task(self._probe(surroundings, run))
        ended, asked = asyncio.create_task(run.ended()), asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait((ended, asked), return_when=asyncio.FIRST_COMPLETED)
            if self.terminating:
                await self._terminate(surroundings, run)
                return False
        finally:
            for task in (probing, ended, asked):
                task.cancel()
        return await self._after_end(await run.ended())

    async def _after_end(self, code: int) -> bool:
        log.info("pod %s: its command ended with exit code %d", self.name, code)
        self.status.ready, self.status.exit_code = False, code
        if self._policy == "Never" or (self._policy == "OnFailure" and code == 0):
            await self._report("Succeeded" if code == 0 else "Failed")
            await self._ended.wait()
            return False
        self.status.last_exit_code = code
        self.status.waiting = ("CrashLoopBackOff", "the container is started again after a pause")
        await self._report("Running")
        # 1, 2, 4, 8, 10, 10 … s
        await self._pause(min(LONGEST_BACKOFF_SECONDS, 2.0 ** min(self.status.restarts, 10)))
        return not self.terminating

    async def _terminate(self, surroundings: probes.Surroundings, run: Container) -> None:
        began = time.monotonic()
        hook = (self.container.get("lifecycle") or {}).get("preStop")
        if hook and run.exit_code is None:
            await surroundings.act(hook, max(0.0, self._deadline - began))
        run.terminate()
        while run.exit_code is None and time.monotonic() < self._deadline:  # noqa: ASYNC110 - the deadline may come nearer
            await asyncio.sleep(0.05)
        in_time = run.exit_code is not None
        await run.kill()
        log.info("pod %s ended in %.1f s%s", self.name, time.monotonic() - began, "" if in_time else ": killed after its grace period")

    async def _delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        for ending in ("pid", "ports"):
            (self._machine.logs / f"{self.name}.{ending}").unlink(missing_ok=True)
        body: Object = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        status, answer = await self._machine.api.request("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{self.name}", body)
        if status not in (200, 202, 404, 409):  # 404 and 409: it is gone already, or another has its name
            log.error("pod %s cannot be deleted: %s %s", self.name, status, answer.get("message"))

    # ---- how ----

    @property
    def _policy(self) -> str:
        return str(self.obj["spec"].get("restartPolicy", "Always"))

    @property
    def _folder(self) -> Path:
        return self._machine.temporary / self.uid[:8]

    async def _surroundings(self) -> probes.Surroundings:
        self._folder.mkdir(parents=True, exist_ok=True)
        start = environment.base(self.name, self._folder, self._machine.pythonpath, self._machine.logs / "bin") | self.wiring.environment()
        values = await environment.resolve(self.obj, self.container, self.ip, start, self._fetch)
        values = {name: value if name == "PATH" else self._rewrite(value) for name, value in values.items()}
        values |= self.wiring.ray_environment(self._folder)
        return probes.Surroundings(self.container, self.wiring, values, self._folder, self._rewrite, self._machine.web)

    def _command(self, surroundings: probes.Surroundings) -> list[str]:
        argv = [*(self.container.get("command") or []), *(self.container.get("args") or [])]
        if not argv:
            raise LookupError(f"container {self.container['name']} has no command: there is no image to take one from")
        argv = [self._rewrite(environment.expand(each, surroundings.env)) for each in argv]
        if "ray start" in argv[-1]:
            argv[-1] += self.wiring.ray_flags(argv[-1], head=self.is_head, temporary=self._folder)
        return argv

    def _rewrite(self, text: str) -> str:
        def head_port(service: str, port: int) -> int | None:
            head = self._machine.find_head(self.namespace, service)
            return head.wiring.local_port(port) if head else None

        return self.wiring.rewrite(text, head_port)

    async def _fetch(self, kind: str, name: str) -> Object | None:
        status, found = await self._machine.api.request("GET", f"/api/v1/namespaces/{self.namespace}/{kind}/{name}")
        return found if status == 200 else None

    async def _probe(self, surroundings: probes.Surroundings, run: Container) -> None:
        async def on_ready(ready: bool) -> None:
            if ready != self.status.ready and run.exit_code is None:
                self.status.ready = ready
                log.info("pod %s is %s", self.name, "ready" if ready else "not ready")
                await self._report("Running")

        def on_dead() -> None:
            log.warning("pod %s: its liveness probe failed; the container is killed", self.name)
            killing.append(asyncio.create_task(run.kill()))

        killing: list[asyncio.Task[None]] = []
        await probes.watch(surroundings, self._machine.longest_probe_period, on_ready, on_dead)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            return

    async def _report(self, phase: str) -> None:
        self.status.phase = phase
        spec = self.obj["spec"]
        body = {"metadata": {"uid": self.uid}, "status": self.status.body(spec["containers"], spec.get("initContainers") or [])}
        status, answer = await self._machine.api.patch(f"/api/v1/namespaces/{self.namespace}/pods/{self.name}/status", body)
        if status not in (200, 404, 409):
            log.error("pod %s: its status was refused: %s %s", self.name, status, answer.get("message"))
