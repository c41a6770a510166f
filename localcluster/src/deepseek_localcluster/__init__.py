"""A real Kubernetes control plane on one machine, without Docker: real API server, real KubeRay, real Ray."""

from deepseek_localcluster.access import Cluster, CommandError
from deepseek_localcluster.cluster import LocalCluster, StartError

__all__ = ["Cluster", "CommandError", "LocalCluster", "StartError"]
