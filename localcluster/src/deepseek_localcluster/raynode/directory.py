"""Which pod a host name or a pod address means: what cluster DNS, Services and the pod network would say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from deepseek_localcluster.raynode.kubernetes import Object
from deepseek_localcluster.raynode.wiring import Wiring, container_port, has_port


class Reachable(Protocol):
    """A pod, as far as reaching it goes."""

    name: str
    namespace: str
    labels: dict[str, str]
    container: Object

    @property
    def wiring(self) -> Wiring: ...
    @property
    def ip(self) -> str: ...
    @property
    def running(self) -> bool: ...
    @property
    def ready(self) -> bool: ...
    @property
    def terminating(self) -> bool: ...


@dataclass(frozen=True)
class Destination:
    """Where a request goes."""

    pod: str
    container_port: int
    local_port: int
    wiring: Wiring
    is_head: bool


class Unreachable(Exception):  # noqa: N818 - an answer to a client, not a fault of ours
    """There is no pod behind a name; the message says which, and why."""


class Directory:
    """Resolves names; the kubelet keeps ``services`` up to date."""

    def __init__(self, pods: Iterable[Reachable]) -> None:
        """``pods``: a live view of the kubelet's pods."""
        self._pods = pods
        self.services: dict[tuple[str, str], Object] = {}
        self._turn = count()

    def resolve(self, host: str, port: int) -> Destination:
        """``host``: a pod's address or ``name[.namespace[.svc[.cluster.local]]]``. Pods behind a Service take turns."""
        for pod in self._pods:
            if pod.ip == host:
                if not pod.running:
                    raise Unreachable(f"pod {pod.name} ({host}) does not run")
                return self._at(pod, port)
        name, namespace = [*host.split("."), "default"][:2]
        service = self.services.get((namespace, name))
        if service is None:
            raise Unreachable(f"no Service or pod called {host or '(empty)'}")
        spec = service["spec"]
        target = next((each.get("targetPort", port) for each in spec.get("ports") or [] if each["port"] == port), port)
        candidates = [pod for pod in self._pods if self._serves(pod, namespace, spec) and has_port(pod.container, target)]
        if not candidates:
            raise Unreachable(f"Service {namespace}/{name} has no ready pod with port {target}")
        pod = candidates[next(self._turn) % len(candidates)]
        return self._at(pod, container_port(pod.container, target))

    @staticmethod
    def _serves(pod: Reachable, namespace: str, spec: Object) -> bool:
        selector: dict[str, str] = spec.get("selector") or {}
        chosen = bool(selector) and pod.namespace == namespace and all(pod.labels.get(key) == value for key, value in selector.items())
        return chosen and pod.running and not pod.terminating and (pod.ready or bool(spec.get("publishNotReadyAddresses")))

    @staticmethod
    def _at(pod: Reachable, port: int) -> Destination:
        return Destination(pod.name, port, pod.wiring.local_port(port), pod.wiring, pod.labels.get("ray.io/node-type") == "head")
