"""What `serving.directPort` adds to a RayService: a port of the workers, a probe that asks it too, and its place in KubeRay's Service.

KubeRay moves `<name>-serve-svc` to the new cluster when it replaces one, which a Service of the user's own would not do; so the port is put
there. KubeRay (1.6) lists the head's container ports called `serve` or `serve-…` in it, and takes their definition from `spec.serveService`:
hence a port that only the head declares, which leads to one that only the workers have. A pod without a port of that name is no endpoint.
"""

from __future__ import annotations

from typing import Any

from deepseek_serving.settings import LimitSettings

SERVICE_PORT_NAME = "serve-direct"
WORKER_PORT_NAME = "direct"

LEAVING_SECONDS = LimitSettings().direct_linger_seconds + 5
"""What a replica needs on top of its longest answer: 15 s until nobody is sent there any more, 2 + 2 s for those who are late, 1 s of slack."""

MOVING_SECONDS = 70
"""What clients need to leave a Ray cluster that has been replaced, on top of two of their longest answers: 10 s until no new connection is made
there, an answer that begins when a connection is just under 30 s old, 30 s in which it may stand unused, and the answer it ends with."""

NOTICED_SECONDS = 20
"""How long a replica that starts waits for the probe below to ask its port: every 5 s, at the latest 15 s after its container has started."""

_RAYLET_PORT = 52365
_PROBE_SECONDS = 5


def container_ports(port: int | None, *, head: bool) -> list[dict[str, Any]]:
    """Further ports of the Ray container. `port`: the object's directPort."""
    return [{"name": SERVICE_PORT_NAME if head else WORKER_PORT_NAME, "containerPort": port}] if port else []


def service_part(port: int | None) -> dict[str, Any]:
    """Further fields of the RayService's spec."""
    if not port:
        return {}
    return {"serveService": {"spec": {"ports": [{"name": SERVICE_PORT_NAME, "port": port, "targetPort": WORKER_PORT_NAME}]}}}


def leaving_seconds(port: int | None, longest: int) -> int:
    """How long a replica may take to go: Ray Serve lets the answers by its proxies end, and then the replica those of its own port. An upper
    bound: it goes as soon as both have. `longest`: seconds of the longest answer."""
    return 2 * longest + LEAVING_SECONDS if port else longest


def moving_seconds(port: int | None, longest: int) -> int:
    """How long a Ray cluster that has been replaced must live. `longest`: seconds of the longest answer."""
    return 2 * longest + MOVING_SECONDS if port else longest


def readiness(port: int | None, serve_port: int) -> dict[str, Any]:
    """The workers' readiness probe: KubeRay's own, and the direct port.

    KubeRay's asks the raylet and the node's Serve proxy, which is content as soon as any replica of the application can be reached: a node
    whose own replica still loads its model would be sent connections that nobody takes. The proxy's word is needed as well: it is the one
    that says no, before the port closes, when the node's last replica is to go. Only that counts: a proxy that knows of no replica yet must
    not keep a new cluster's nodes out of the Service, which KubeRay moves as soon as the replicas have started.
    """
    if not port:
        return {}
    wget = "wget --tries 1 -T 2 -q -O- --content-on-error http://localhost"
    commands = (
        f"{wget}:{_RAYLET_PORT}/api/local_raylet_healthz | grep success",
        f"{wget}:{serve_port}/-/healthz | grep -v drained",
        f"{wget}:{port}/healthz | grep ok",
    )
    return {
        "readinessProbe": {
            "exec": {"command": ["bash", "-c", " && ".join(commands)]},
            "initialDelaySeconds": 10,
            "timeoutSeconds": _PROBE_SECONDS,
            "periodSeconds": _PROBE_SECONDS,
            "successThreshold": 1,
            "failureThreshold": 1,
        }
    }
