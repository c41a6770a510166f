"""How a pod's ports, names and commands must read when all pods share 127.0.0.1.

Every pod owns a block of 100 ports. Each port a Ray container declares has a place in the block, Ray's own a fixed one; the flags of
``ray start`` are appended so that Ray binds those (the last of two equal options wins), and host names and localhost ports in arguments,
environment and probes are rewritten to them. Nothing else of what KubeRay wrote is touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from deepseek_localcluster.raynode.kubernetes import Object

GCS, DASHBOARD, CLIENT, AGENT, AGENT_GRPC, METRICS, RUNTIME_ENV, NODE_MANAGER, OBJECT_MANAGER, HTTP, GRPC, AUTOSCALER, DASHBOARD_METRICS = (
    range(13)
)
FIRST_OWN, LAST_OWN = 20, 39
FIRST_WORKER, LAST_WORKER = 40, 99

# Ray's default ports, and their places in a block.
PLACES = {
    6379: GCS, 8265: DASHBOARD, 10001: CLIENT, 52365: AGENT, 8080: METRICS, 8000: HTTP, 9000: GRPC, 44217: AUTOSCALER, 44227: DASHBOARD_METRICS,
}  # fmt: skip
# A port of another number is known by the name KubeRay gives it.
NAMED_PLACES = {
    "gcs-server": GCS, "gcs": GCS, "dashboard": DASHBOARD, "client": CLIENT, "metrics": METRICS, "serve": HTTP,
    "as-metrics": AUTOSCALER, "dash-metrics": DASHBOARD_METRICS,
}  # fmt: skip

OBJECT_STORE_BYTES = 100_000_000
"""Where the pod does not say: Ray would take 30 % of the machine's memory for each pod."""

_HEAD_SERVICE = re.compile(r"\b([a-z0-9][a-z0-9-]*-head-svc)(?:\.([a-z0-9-]+)(?:\.svc(?:\.[a-z0-9.-]+?)?)?)?:(\d{2,5})\b")
_LOCAL = re.compile(r"\b(localhost|127\.0\.0\.1):(\d{2,5})\b")

HeadPort = Callable[[str, int], int | None]
"""Gives the local port of a head Service's (``<cluster>-head-svc``) port, or ``None`` when there is no such head."""


class Wiring:
    """The ports of one pod."""

    def __init__(self, base: int, container: Object) -> None:
        """``base``: first port of the pod's block. ``container``: the Ray container of the pod's spec."""
        self.base = base
        self._places = dict(PLACES)
        own = iter(range(FIRST_OWN, LAST_OWN + 1))
        for port in container.get("ports") or []:
            number = int(port["containerPort"])
            if port.get("name") in NAMED_PLACES:
                self._places[number] = NAMED_PLACES[port["name"]]
            elif number not in self._places:
                place = next(own, None)
                if place is None:
                    raise ValueError(f"a pod may declare at most {LAST_OWN + 1 - FIRST_OWN} ports besides Ray's")
                self._places[number] = place
        self._declared = [int(port["containerPort"]) for port in container.get("ports") or []]

    def local_port(self, container_port: int) -> int:
        """Where on 127.0.0.1 the pod's ``container_port`` is; a port without a place is itself."""
        place = self._places.get(container_port)
        return container_port if place is None else self.base + place

    @property
    def declared(self) -> dict[int, int]:
        """Where each port is that the container declares, by its number there."""
        return {port: self.local_port(port) for port in self._declared}

    def environment(self) -> dict[str, str]:
        """``LOCAL_PORT_<number>`` for each declared port: what listens in the pod by itself can be told by ``$(LOCAL_PORT_8100)``."""
        return {f"LOCAL_PORT_{port}": str(local) for port, local in self.declared.items()}

    def rewrite(self, text: str, head_port: HeadPort) -> str:
        """Head Services' names and localhost ports, as they must read here."""

        def head(found: re.Match[str]) -> str:
            port = head_port(found[1], int(found[3]))
            return found[0] if port is None else f"127.0.0.1:{port}"

        def local(found: re.Match[str]) -> str:
            port = int(found[2])
            # What `head` has put in is a place of some block already, never one of Ray's own ports.
            return f"{found[1]}:{self.local_port(port)}"

        return _HEAD_SERVICE.sub(head, _LOCAL.sub(local, text))

    def ray_flags(self, command: str, *, head: bool, temporary: Path) -> str:
        """The options to append to a ``ray start`` command.

        ``temporary``: a folder of the pod's own, its path short (a Unix socket's ends at 107 characters). Raylets that share a session
        folder race for the name of their socket, and one dies.
        """
        flags = {
            "temp-dir": str(temporary), "node-ip-address": "127.0.0.1", "dashboard-agent-listen-port": self.base + AGENT,
            "dashboard-agent-grpc-port": self.base + AGENT_GRPC, "metrics-export-port": self.base + METRICS,
            "runtime-env-agent-port": self.base + RUNTIME_ENV, "node-manager-port": self.base + NODE_MANAGER,
            "object-manager-port": self.base + OBJECT_MANAGER, "min-worker-port": self.base + FIRST_WORKER,
            "max-worker-port": self.base + LAST_WORKER,
        }  # fmt: skip
        if head:
            flags |= {"port": self.base + GCS, "dashboard-port": self.base + DASHBOARD, "ray-client-server-port": self.base + CLIENT}
        if "--object-store-memory" not in command:
            flags["object-store-memory"] = OBJECT_STORE_BYTES
        return "".join(f" --{name}={value}" for name, value in flags.items())

    def ray_environment(self, temporary: Path) -> dict[str, str]:
        """Variables by which Ray's remaining ports are told; Serve's proxy on the head has its port from the Serve configuration."""
        return {
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self.base + HTTP),
            "RAY_SERVE_WORKER_PROXY_GRPC_PORT": str(self.base + GRPC),
            "AUTOSCALER_METRIC_PORT": str(self.base + AUTOSCALER),
            "DASHBOARD_METRIC_PORT": str(self.base + DASHBOARD_METRICS),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(temporary),
            "TMPDIR": str(temporary),
        }

    def serve_configuration(self, configuration: Object) -> Object:
        """Serve's configuration with the HTTP and gRPC ports of this head: two heads on one machine cannot both have 8000."""
        changed = dict(configuration)
        changed["http_options"] = {**(configuration.get("http_options") or {}), "port": self.base + HTTP}
        if configuration.get("grpc_options"):
            changed["grpc_options"] = {**configuration["grpc_options"], "port": self.base + GRPC}
        return changed


def container_port(container: Object, port: int | str) -> int:
    """The number of a port given by number or by name; ``LookupError`` naming the container's ports otherwise."""
    if isinstance(port, int):
        return port
    if port.isdigit():
        return int(port)
    named = {each.get("name"): int(each["containerPort"]) for each in container.get("ports") or []}
    if port not in named:
        raise LookupError(f"container {container['name']} has no port called {port!r}; it has {', '.join(map(str, named)) or 'none'}")
    return named[port]


def has_port(container: Object, port: int | str) -> bool:
    """Whether a Service's ``targetPort`` leads anywhere in this container: a number always does, a name only where a port is called so."""
    try:
        container_port(container, port)
    except LookupError:
        return False
    return True
