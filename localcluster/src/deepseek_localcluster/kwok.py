"""Fake GPU nodes by the thousand: kwok keeps them Ready and says their pods run."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

NODE_IP = "10.79.0.1"
ANNOTATION = "kwok.x-k8s.io/node"


def command(binary: Path, kubeconfig: Path, configuration: Path) -> list[str]:
    """kwok's command line; it touches only nodes that bear its annotation, so Ray nodes can live beside them."""
    return [
        str(binary), f"--kubeconfig={kubeconfig}", f"--config={configuration}", f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
        "--node-lease-duration-seconds=40", "--cidr=10.78.0.0/16", f"--node-ip={NODE_IP}",
    ]  # fmt: skip


def write_configuration(stages: list[Path], path: Path) -> None:
    """All of kwok's stages in one file."""
    path.write_text("\n---\n".join(stage.read_text() for stage in stages))


def gpu_node(name: str, gpus: int, labels: dict[str, str], taints: list[dict[str, str]]) -> dict[str, Any]:
    """A Node object with ``gpus`` of ``nvidia.com/gpu`` and room for its pods.

    It is born Ready, in the state kwok's stage ``node-initialize`` would bring it to with one more write per node; kwok keeps its lease.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False", "NetworkUnavailable": "False"}
    unknown = ("bootID", "kernelVersion", "machineID", "osImage", "systemUUID", "containerRuntimeVersion", "kubeProxyVersion")
    resources = {"cpu": "64", "memory": "512Gi", "pods": "110", "ephemeral-storage": "1Ti", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {ANNOTATION: "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "type": "kwok", **labels},
        },
        "spec": {"taints": taints},
        "status": {
            "phase": "Running",
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": NODE_IP}, {"type": "Hostname", "address": name}],
            "nodeInfo": {**dict.fromkeys(unknown, "kwok"), "architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "kwok"},
            "conditions": [
                {"type": kind, "status": status, "reason": "Kwok", "lastHeartbeatTime": now, "lastTransitionTime": now}
                for kind, status in conditions.items()
            ],
        },
    }
