"""The kubelet: nodes, the pods bound to them, and the proxy that reaches them."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from deepseek_localcluster.kubeapi import Credentials
from deepseek_localcluster.ports import claim_block
from deepseek_localcluster.raynode.directory import Directory
from deepseek_localcluster.raynode.kubernetes import Api, Object
from deepseek_localcluster.raynode.node import NodeShape, keep_leases, register, timestamp
from deepseek_localcluster.raynode.pod import Machine, Pod
from deepseek_localcluster.raynode.proxy import Proxy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a kubelet is set up."""

    credentials: Credentials
    nodes: list[str]
    shape: NodeShape
    proxy_port: int
    logs: Path
    temporary: Path
    pythonpath: str
    longest_probe_period: float


class Kubelet:
    """One kubelet for any number of nodes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pods: dict[str, Pod] = {}
        self._refused: set[str] = set()
        self._numbers = count(1)
        self._background: set[asyncio.Task[None]] = set()
        self._directory = Directory(self._pods.values())

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; then every process of every pod is ended, and the objects stay."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        api = Api(self._settings.credentials)
        web = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        self._machine = Machine(
            api, web, self._settings.logs, self._settings.temporary, self._settings.pythonpath,
            self._settings.longest_probe_period, self._find_head,
        )  # fmt: skip
        proxy = Proxy(self._directory)
        await proxy.start(self._settings.proxy_port)
        await asyncio.gather(*(register(api, name, self._settings.shape) for name in self._settings.nodes))
        jobs: list[asyncio.Task[None]] = [
            asyncio.create_task(keep_leases(api, self._settings.nodes)),
            asyncio.create_task(api.follow("/api/v1/services", self._service_changed, self._service_gone)),
            asyncio.create_task(api.follow("/api/v1/pods", self._pod_changed, self._pod_gone)),
        ]
        log.info("nodes %s, proxy on port %d", ", ".join(self._settings.nodes), self._settings.proxy_port)
        stopping = asyncio.create_task(_until_set(stop))
        done, _ = await asyncio.wait([*jobs, stopping], return_when=asyncio.FIRST_COMPLETED)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*(pod.kill() for pod in self._pods.values()))
        await proxy.stop()
        await web.close()
        await api.close()
        for job in done - {stopping}:
            job.result()  # these never end by themselves: say why one did

    def _find_head(self, namespace: str, service: str) -> Pod | None:
        cluster = service.removesuffix("-head-svc")
        heads = (
            pod for pod in self._pods.values() if pod.is_head and pod.namespace == namespace and pod.labels.get("ray.io/cluster") == cluster
        )
        return next((pod for pod in heads if not pod.terminating), None)

    def _pod_changed(self, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        pod = self._pods.get(uid)
        if pod is None:
            if obj["spec"].get("nodeName") not in self._settings.nodes or (obj.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
                if obj["spec"].get("nodeName") in self._settings.nodes and obj["metadata"].get("deletionTimestamp"):
                    self._in_background(self._delete(obj))
                return
            if "ray.io/node-type" not in (obj["metadata"].get("labels") or {}):
                self._refuse(obj)
                return
            number = next(self._numbers)
            # 10.77.0.1 … 10.77.255.250: never dialled, an EndpointSlice just refuses loopback addresses
            ip = f"10.77.{(number - 1) // 250 % 256}.{(number - 1) % 250 + 1}"
            pod = self._pods[uid] = Pod(self._machine, obj, ip, claim_block())
            log.info("pod %s is ours, as %s on %s", pod.name, ip, obj["spec"]["nodeName"])
        pod.changed(obj)

    def _pod_gone(self, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        self._refused.discard(uid)
        pod = self._pods.get(uid)
        if pod:
            pod.end(0)  # deleted by force, or by ourselves when it was done
            pod.task.add_done_callback(lambda _: self._pods.pop(uid, None))

    def _refuse(self, obj: Object) -> None:
        """Pods that are not Ray's stay Pending, with a reason, and go when they are deleted."""
        if obj["metadata"].get("deletionTimestamp"):
            self._in_background(self._delete(obj))
        elif obj["metadata"]["uid"] not in self._refused:
            self._refused.add(obj["metadata"]["uid"])
            self._in_background(self._report_refusal(obj))

    async def _report_refusal(self, obj: Object) -> None:
        metadata, now = obj["metadata"], timestamp()
        waiting = {"reason": "ImageNotAvailable", "message": "this node has no images: it runs only pods that Ray's operator makes"}
        statuses = [
            {
                "name": each["name"],
                "image": each.get("image", ""),
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"waiting": waiting},
            }
            for each in obj["spec"]["containers"]
        ]
        status = {"phase": "Pending", "hostIP": "127.0.0.1", "startTime": now, "containerStatuses": statuses}
        await self._machine.api.patch(f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status", {"status": status})

    async def _delete(self, obj: Object) -> None:
        metadata = obj["metadata"]
        body: Object = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        await self._machine.api.request("DELETE", f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", body)

    def _service_changed(self, obj: Object) -> None:
        self._directory.services[obj["metadata"]["namespace"], obj["metadata"]["name"]] = obj

    def _service_gone(self, obj: Object) -> None:
        self._directory.services.pop((obj["metadata"]["namespace"], obj["metadata"]["name"]), None)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _until_set(event: asyncio.Event) -> None:
    await event.wait()


def provide_wget(folder: Path) -> None:
    """KubeRay's readiness probes call ``wget``: write one in Python into ``folder``, which comes last on the pods' PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "wget"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import sys, urllib.error, urllib.request\n"
        "timeout = next((float(b) for a, b in zip(sys.argv, sys.argv[1:]) if a in ('-T', '--timeout')), 2.0)\n"
        "try:\n"
        "    with urllib.request.urlopen(sys.argv[-1], timeout=timeout) as answer:\n"
        "        sys.stdout.buffer.write(answer.read())\n"
        "except urllib.error.HTTPError as error:\n"
        "    if '--content-on-error' in sys.argv:\n"
        "        sys.stdout.buffer.write(error.read())\n"
        "    sys.exit(8)\n"
        "except OSError as error:\n"
        "    sys.exit(str(error))\n"
    )
    program.chmod(0o755)
