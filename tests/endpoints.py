"""A Service as kube-proxy makes it: a new connection goes to an endpoint that is ready then, and stays there, whatever becomes of that.

The EndpointSlices are real ones, written by Kubernetes' own controller from the pods' readiness. What is not real is the last step: no kernel
rewrites the packets, the client itself chooses the endpoint when it connects, `lag_seconds` late, as kube-proxy's rules are.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from deepseek_localcluster import LocalCluster
from deepseek_localcluster.kubeapi import read_kubeconfig
from deepseek_localcluster.raynode.kubernetes import Api


class NoEndpointError(ConnectionError):
    """The Service has no ready endpoint: kube-proxy refuses the connection."""


class Endpoints:
    """The ready endpoints of one Service, and how they came and went in `history` (monotonic seconds, names of the pods)."""

    def __init__(self, cluster: LocalCluster, service: str, port: int, lag_seconds: float) -> None:
        self._cluster, self._service, self._port, self._lag = cluster, service, port, lag_seconds
        self._slices: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[float, frozenset[str]]] = []
        self._changed = asyncio.Event()

    @property
    def ready(self) -> frozenset[str]:
        """Names of the pods that new connections go to now."""
        now = time.monotonic()
        return next((pods for at, pods in reversed(self.history) if at + self._lag <= now), frozenset())

    def choose(self) -> tuple[str, int]:
        """The pod of a new connection, and its port on this machine."""
        ready = sorted(self.ready)
        if not ready:
            raise NoEndpointError(f"Service {self._service} has no ready endpoint")
        pod = random.choice(ready)
        return pod, self._cluster.pod_ports(pod)[self._port]

    def all(self) -> list[tuple[str, int]]:
        """Each ready pod with its port on this machine."""
        return [(pod, self._cluster.pod_ports(pod)[self._port]) for pod in sorted(self.ready)]

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[Endpoints]:
        """Follows the Service while the block runs."""
        api = Api(read_kubeconfig(self._cluster.kubeconfig))
        following = asyncio.create_task(api.follow("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", self._seen, self._gone))
        try:
            yield self
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await api.close()

    def _seen(self, piece: dict[str, Any]) -> None:
        if (piece["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == self._service:
            self._slices[piece["metadata"]["uid"]] = piece
            self._note()

    def _gone(self, piece: dict[str, Any]) -> None:
        self._slices.pop(piece["metadata"]["uid"], None)
        self._note()

    def _note(self) -> None:
        pieces = (piece for piece in self._slices.values() if any(each.get("port") == self._port for each in piece.get("ports") or []))
        endpoints = [each for piece in pieces for each in piece.get("endpoints") or []]
        ready = frozenset(each["targetRef"]["name"] for each in endpoints if (each.get("conditions") or {}).get("ready"))
        if not self.history or self.history[-1][1] != ready:
            self.history.append((time.monotonic(), ready))
