"""From the decision to the cluster: which writes bring what there is to what was decided, in an order that never cuts a request.

Up: mirror the count into the RayService, patch the live RayCluster, raise the replicas; all at once, Ray Serve waits for the nodes.
Down, node by node: lower the replicas → wait until none is stopping → pick pods that host none and whose proxy is gone → name them in the
same patch that lowers the count → mirror. Every tick plans afresh from what it sees, so a crash between any two steps resumes by itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The RayService as it stands. `mirrored_nodes` is the count in its spec, `differs_at` the first place where the rest of its spec is not
    what we compile (empty: nowhere)."""

    resource_version: str
    mirrored_nodes: int
    differs_at: str = ""
    active_cluster: str = ""
    pending_cluster: str = ""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The live RayCluster: the node count in its spec, and whether Ray's own autoscaler writes there too."""

    name: str
    resource_version: str
    nodes: int
    workers_to_delete: tuple[str, ...] = ()
    autoscaler_on: bool = False


@dataclass(frozen=True, slots=True)
class PodView:
    """A worker pod, one node. Times are Unix seconds; `ready_at` is None until it first became ready, `scheduled_at` until a machine was found,
    `started_at` until its container ran."""

    name: str
    created_at: float
    ready_at: float | None = None
    ready: bool = False
    deleting: bool = False
    scheduled_at: float | None = None
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class ServeView:
    """Ray Serve's own account: the replica count it aims at, the pod of every replica that exists (stopping ones included), how many of them
    answer, and the pods with a live proxy."""

    target: int
    replica_pods: tuple[str, ...] = ()
    running: int = 0
    proxy_pods: frozenset[str] = frozenset()
    running_pods: tuple[str, ...] = ()
    """The pod of every replica that answers."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What there is. None: does not exist, or cannot be seen now."""

    service: ServiceView | None = None
    cluster: ClusterView | None = None
    pods: tuple[PodView, ...] = ()
    serve: ServeView | None = None
    pending: ClusterView | None = None
    """During an upgrade: the cluster that is to take over."""

    def serving(self, replicas_per_node: int) -> frozenset[str]:
        """The pods whose replicas all answer. A pod is Ready as soon as its proxy can reach *any* replica, minutes before its own has loaded
        the model; so Ray Serve's word counts, and the pod's own only while Ray Serve cannot be asked."""
        ready = [pod.name for pod in self.pods if pod.ready]
        if self.serve is None:
            return frozenset(ready)
        running = self.serve.running_pods
        return frozenset(name for name in ready if running.count(name) >= replicas_per_node)

    @property
    def nodes(self) -> int | None:
        """Nodes asked for: the live cluster's count, or the service's while it has no cluster."""
        if self.cluster is not None:
            return self.cluster.nodes
        return self.service.mirrored_nodes if self.service is not None else None


@dataclass(frozen=True, slots=True)
class CreateService:
    """Create the RayService."""

    nodes: int


@dataclass(frozen=True, slots=True)
class UpdateService:
    """Bring the RayService's spec to what the object asks for now (KubeRay rolls it out); `because` names the place that differs."""

    nodes: int
    because: str = ""


@dataclass(frozen=True, slots=True)
class MirrorNodes:
    """Write the node count into the RayService, so that whatever rebuilds the cluster from it starts with that many."""

    nodes: int


@dataclass(frozen=True, slots=True)
class SetNodes:
    """Write the node count into the live RayCluster, naming the pods that go. `leaving` are those that were told to go before and still finish:
    KubeRay counts a terminating pod as a running one unless it stays named, and would take a serving one in its place."""

    nodes: int
    release: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetPendingNodes:
    """Raise the node count of the cluster that is to take over: it was created with the count of that moment."""

    nodes: int


@dataclass(frozen=True, slots=True)
class SetReplicas:
    """Tell Ray Serve how many replicas to run."""

    replicas: int


Action = CreateService | UpdateService | MirrorNodes | SetNodes | SetPendingNodes | SetReplicas


@dataclass(frozen=True, slots=True)
class Plan:
    """The writes to make now, in order, and in words what has to happen before the rest can be made (empty: nothing)."""

    actions: tuple[Action, ...] = ()
    waiting_for: str = ""


def plan(desired: int, replicas_per_node: int, seen: Observed) -> Plan:
    """The writes that lead from what is seen to `desired` nodes with `replicas_per_node` replicas each."""
    if seen.service is None:
        return Plan((CreateService(desired),), "KubeRay to start the cluster")
    actions: list[Action] = []
    if seen.service.differs_at:
        actions.append(UpdateService(desired, seen.service.differs_at))
    cluster = seen.cluster
    if cluster is None:
        if seen.service.mirrored_nodes != desired and not actions:
            actions.append(MirrorNodes(desired))
        return Plan(tuple(actions), "KubeRay to start the cluster")
    if cluster.autoscaler_on:
        return Plan(tuple(actions))  # another writer owns the count; said in a condition, not fought
    if seen.pending is not None and seen.pending.nodes < desired:
        actions.append(SetPendingNodes(desired))
    step = _up if desired >= cluster.nodes else _down
    writes, waiting_for = step(desired, replicas_per_node, seen, cluster)
    return Plan(tuple(actions + writes), waiting_for)


def _up(desired: int, replicas_per_node: int, seen: Observed, cluster: ClusterView) -> tuple[list[Action], str]:
    assert seen.service is not None
    actions: list[Action] = []
    if seen.service.mirrored_nodes != desired:
        actions.append(MirrorNodes(desired))
    if cluster.nodes != desired:
        actions.append(SetNodes(desired, leaving=_leaving(seen, cluster)))
    replicas = desired * replicas_per_node
    if seen.serve is not None and seen.serve.target != replicas:
        if seen.serve.target < replicas and _doomed(seen, cluster):
            return actions, "KubeRay to take the released nodes"
        if seen.serve.target < replicas and not seen.service.active_cluster:
            # Each raise would put off the moment at which all replicas run, and KubeRay creates the Service only then.
            return actions, "KubeRay to open the service"
        actions.append(SetReplicas(replicas))
    return actions, ""


def _down(desired: int, replicas_per_node: int, seen: Observed, cluster: ClusterView) -> tuple[list[Action], str]:
    serve, replicas = seen.serve, desired * replicas_per_node
    if serve is None:
        return [], "Ray Serve to say which nodes are empty"
    if serve.target < replicas and _doomed(seen, cluster):
        return [], "KubeRay to take the released nodes"
    if serve.target != replicas:
        return [SetReplicas(replicas)], f"Ray Serve to go down to {replicas} replicas"
    if len(serve.replica_pods) > replicas:
        return [], f"{len(serve.replica_pods) - replicas} replicas to finish their requests"
    leaving = _leaving(seen, cluster)
    pods = [pod for pod in seen.pods if pod.name not in leaving]
    surplus = len(pods) - desired
    hosting = set(serve.replica_pods)
    empty = [pod for pod in pods if pod.name not in hosting and pod.name not in serve.proxy_pods]
    empty.sort(key=lambda pod: (pod.ready, -pod.created_at))  # those still starting go first, then the newest
    release = tuple(pod.name for pod in empty[: max(0, surplus)])
    nodes = desired if len(release) >= surplus else len(pods) - len(release)
    if nodes >= cluster.nodes:
        return [], f"{surplus} nodes to close their connections"
    waiting_for = "" if nodes == desired else f"{nodes - desired} nodes to close their connections"
    actions: list[Action] = [SetNodes(nodes, release, leaving)]
    assert seen.service is not None
    if seen.service.mirrored_nodes != nodes:
        actions.append(MirrorNodes(nodes))
    return actions, waiting_for


def _leaving(seen: Observed, cluster: ClusterView) -> tuple[str, ...]:
    """Pods that go or were told to go: KubeRay takes what is named, whatever the count."""
    return tuple(sorted(pod.name for pod in seen.pods if pod.deleting or pod.name in cluster.workers_to_delete))


def _doomed(seen: Observed, cluster: ClusterView) -> bool:
    """Whether a pod that is named to go still looks alive to Ray Serve, which would put a new replica there."""
    return any(pod.name in cluster.workers_to_delete and not pod.deleting for pod in seen.pods)
