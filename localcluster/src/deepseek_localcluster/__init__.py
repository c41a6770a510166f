"""A real Kubernetes control plane on one machine, without Docker: real API server, real KubeRay, real Ray."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek_localcluster.access import Cluster, CommandError
    from deepseek_localcluster.cluster import LocalCluster, StartError

__all__ = ["Cluster", "CommandError", "LocalCluster", "StartError"]

_HOMES = {
    "Cluster": "deepseek_localcluster.access",
    "CommandError": "deepseek_localcluster.access",
    "LocalCluster": "deepseek_localcluster.cluster",
    "StartError": "deepseek_localcluster.cluster",
}


def __getattr__(name: str) -> object:
    # Imported when asked for: every container of a Ray node runs a module of this package and must start in milliseconds.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
