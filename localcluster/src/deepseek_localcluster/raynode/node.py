"""Node objects of the kubelet and the leases that keep them Ready."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import dataclass, field

from deepseek_localcluster.raynode.kubernetes import Api, Object

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
RENEW_SECONDS = 10.0


@dataclass(frozen=True)
class NodeShape:
    """What each node claims to have. CPU and memory are generous: all nodes share one machine anyway."""

    gpus: int
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[dict[str, str]] = field(default_factory=list)
    cpu: str = "64"
    memory: str = "512Gi"


def timestamp(precise: bool = False) -> str:
    """Now, as Kubernetes writes instants: in seconds, or in microseconds where a lease wants them."""
    now = datetime.datetime.now(datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if precise else "%Y-%m-%dT%H:%M:%SZ")


def node_object(name: str, shape: NodeShape) -> Object:
    """A Ready node."""
    now = timestamp()
    resources = {"cpu": shape.cpu, "memory": shape.memory, "pods": "110", "ephemeral-storage": "100Gi", "nvidia.com/gpu": str(shape.gpus)}
    unknown = ("architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "machineID", "osImage", "systemUUID")
    fine = {"MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False", "Ready": "True"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "ray-process", **shape.labels},
        },
        "spec": {"taints": shape.taints},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": {**dict.fromkeys(unknown, "process"), "operatingSystem": "linux", "kubeletVersion": "v0.0.0-raynode"},
            "conditions": [
                {"type": kind, "status": status, "reason": "RayNode", "lastHeartbeatTime": now, "lastTransitionTime": now}
                for kind, status in fine.items()
            ],
        },
    }


async def register(api: Api, name: str, shape: NodeShape) -> None:
    """Create the node, or say that it is Ready again."""
    wanted = node_object(name, shape)
    status, answer = await api.request("POST", "/api/v1/nodes", wanted)
    if status == 409:
        status, answer = await api.patch(f"/api/v1/nodes/{name}/status", {"status": wanted["status"]})
    if status >= 400:
        raise RuntimeError(f"cannot register node {name}: {status} {answer.get('message')}")


async def keep_leases(api: Api, names: list[str]) -> None:
    """Renew every node's lease for ever."""
    while True:
        for name in names:
            spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": timestamp(precise=True)}
            status, _ = await api.patch(f"{LEASES}/{name}", {"spec": spec})
            if status == 404:
                lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
                await api.request("POST", LEASES, lease)
        await asyncio.sleep(RENEW_SECONDS)
