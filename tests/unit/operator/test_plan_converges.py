"""From any start, with anybody moving next and a crash after any write, the plan's writes end at the same state and never cut a request.

The world is a small model of what KubeRay v1.6.2 and Ray Serve 2.60 do (their sources and measurements): pods named in workersToDelete go
always; a pod that still terminates counts as running unless it is named; a surplus goes in list order whatever it hosts; Ray Serve stops
replicas on the nodes with the fewest, and they and the node's proxy take their time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_operator.core.plan import (
    Action,
    ClusterView,
    CreateService,
    MirrorNodes,
    Observed,
    PodView,
    ServeView,
    ServiceView,
    SetNodes,
    SetReplicas,
    UpdateService,
    plan,
)


@dataclass
class Pod:
    """A node: `up` once Ray runs on it; `leaving` counts the moves until it is gone."""

    name: str
    created_at: int
    up: bool = False
    leaving: int | None = None
    proxy: int = 0


@dataclass
class World:
    """RayService, RayCluster, pods and Ray Serve. `cut` lists pods that were deleted while they hosted a replica."""

    per_node: int = 1
    mirrored: int | None = None
    differs_at: str = ""
    nodes: int | None = None
    named: tuple[str, ...] = ()
    pods: list[Pod] = field(default_factory=list)
    target: int | None = None
    replicas: list[list[str | int]] = field(default_factory=list)  # [pod or "", moves until gone, -1 while it stays]
    cut: list[str] = field(default_factory=list)
    drain_moves: int = 2
    leave_moves: int = 2
    number: int = 0

    def see(self) -> Observed:
        service = None if self.mirrored is None else ServiceView("1", self.mirrored, self.differs_at, "c")
        cluster = None if self.nodes is None else ClusterView("c", "1", self.nodes, self.named)
        hosting = {str(pod) for pod, _ in self.replicas}
        pods = tuple(
            PodView(pod.name, pod.created_at, None, ready=pod.name in hosting and pod.up, deleting=pod.leaving is not None) for pod in self.pods
        )
        serve = None
        if self.target is not None:
            proxies = frozenset(pod.name for pod in self.pods if pod.proxy > 0 or pod.name in hosting)
            running = sum(left == -1 and pod != "" for pod, left in self.replicas)
            serve = ServeView(self.target, tuple(str(pod) for pod, _ in self.replicas), running, proxies)
        return Observed(service, cluster, pods, serve)

    def write(self, action: Action) -> None:
        match action:
            case CreateService(nodes):
                assert self.mirrored is None, "the RayService was created twice"
                self.mirrored = nodes
            case UpdateService(nodes):
                self.mirrored, self.differs_at = nodes, ""
            case MirrorNodes(nodes):
                self.mirrored = nodes
            case SetNodes(nodes, release, leaving):
                self.nodes, self.named = nodes, release + leaving
            case SetReplicas(replicas):
                self.target = replicas

    def kuberay(self) -> None:
        """One reconciliation."""
        if self.mirrored is None:
            return
        if self.nodes is None:
            self.nodes, self.target = self.mirrored, self.mirrored * self.per_node
        for pod in self.pods:
            if pod.name in self.named:
                self._delete(pod)
        running = [pod for pod in self.pods if pod.name not in self.named]
        for pod in running[: max(0, len(running) - self.nodes)]:
            self._delete(pod)
        for _ in range(self.nodes - len(running)):
            self.number += 1
            self.pods.append(Pod(f"p{self.number}", self.number))

    def _delete(self, pod: Pod) -> None:
        if pod.leaving is None:
            if any(host == pod.name for host, _ in self.replicas):
                self.cut.append(pod.name)
            pod.leaving = self.leave_moves

    def kubelet(self) -> None:
        """Pods come up; those that leave come nearer to their end."""
        for pod in self.pods:
            pod.up = True
            pod.proxy = max(0, pod.proxy - 1)
            if pod.leaving is not None:
                pod.leaving -= 1
        self.pods = [pod for pod in self.pods if pod.leaving is None or pod.leaving > 0]

    def serve(self) -> None:
        """Ray Serve's controller: one round."""
        if self.target is None:
            return
        alive = [pod for pod in self.pods if pod.up and pod.leaving is None]
        names = [pod.name for pod in alive]
        for replica in self.replicas:
            if isinstance(replica[1], int) and replica[1] > 0:
                replica[1] -= 1
        self.replicas = [r for r in self.replicas if r[1] != 0 and (r[0] == "" or r[0] in names)]
        staying = [r for r in self.replicas if r[1] == -1]
        while len(staying) > self.target:
            fewest = min(staying, key=lambda r: (r[0] != "", sum(o[0] == r[0] for o in staying), -names.index(str(r[0])) if r[0] else 0))
            staying.remove(fewest)
            if fewest[0] == "":
                self.replicas.remove(fewest)
            fewest[1] = self.drain_moves
        for _ in range(self.target - len(staying)):
            self.replicas.append(["", -1])
        for replica in self.replicas:
            free = [pod for pod in alive if sum(o[0] == pod.name for o in self.replicas) < self.per_node]
            if replica[0] == "" and free:
                replica[0] = free[0].name
        for pod in alive:
            if any(host == pod.name for host, _ in self.replicas):
                pod.proxy = self.drain_moves

    def operate(self, desired: int, writes: int = 99) -> int:
        """One tick that crashes after so many writes; returns how many it made."""
        actions = plan(desired, self.per_node, self.see()).actions[:writes]
        for action in actions:
            self.write(action)
        return len(actions)

    def round(self, desired: int, writes: int = 99) -> None:
        """Everybody once."""
        self.operate(desired, writes)
        self.kuberay()
        self.kubelet()
        self.serve()


MOVES = st.lists(
    st.one_of(
        st.sampled_from(["kuberay", "kubelet", "serve"]),
        st.integers(0, 3),  # a tick of the operator that crashes after so many writes
        st.sampled_from(["operate", "round"]),
        st.integers(101, 106),  # from now on (n - 100) nodes are wanted
    ),
    min_size=10,
    max_size=60,
)


def settle(world: World, desired: int) -> None:
    """Everybody in turn, with nobody crashing."""
    for _ in range(60):
        world.round(desired)


@settings(max_examples=150, deadline=None)
@given(MOVES, st.integers(1, 2), st.integers(1, 3), st.integers(1, 20), st.integers(1, 6))
def test_any_path_ends_at_the_same_state_and_cuts_nothing(moves: list[str | int], per_node: int, drain: int, leave: int, last: int) -> None:
    """Whatever was wanted on the way, whoever moved when, and after whichever write the operator crashed."""
    world, desired = World(per_node=per_node, drain_moves=drain, leave_moves=leave), 4
    for _ in range(8):
        world.round(desired)
    for move in moves:
        if move == "operate":
            world.operate(desired)
        elif move == "round":
            for _ in range(4):
                world.round(desired)
        elif isinstance(move, int) and move > 100:
            desired = move - 100
        elif isinstance(move, int):
            world.operate(desired, writes=move)
        else:
            getattr(world, str(move))()
        assert not world.cut, "a pod was deleted that hosted a replica"
    settle(world, last)
    assert not world.cut, "a pod was deleted that hosted a replica"
    assert (world.nodes, world.mirrored, world.target) == (last, last, last * per_node)
    assert sum(pod.leaving is None for pod in world.pods) == last
    assert sorted(str(pod) for pod, _ in world.replicas) == sorted([pod.name for pod in world.pods if pod.leaving is None] * per_node)
    assert world.operate(last) == 0, "a converged object is written again"


@pytest.mark.parametrize("per_node", [1, 2])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 2), (6, 3)], ids=lambda n: str(n))
@pytest.mark.parametrize("writes", [0, 1, 2, 99], ids=["crash before any", "crash after 1", "crash after 2", "no crash"])
def test_a_crash_after_any_write_of_every_tick_for_a_while(before: int, after: int, per_node: int, writes: int) -> None:
    """Ten ticks that all crash at the same place, then a sound one: the same end."""
    world = World(per_node=per_node)
    settle(world, before)
    for _ in range(10):
        world.round(after, writes)
    settle(world, after)
    assert (world.nodes, world.mirrored, world.target, world.cut) == (after, after, after * per_node, [])
    assert world.operate(after) == 0


def test_two_releases_while_the_first_node_still_finishes() -> None:
    """3 → 2, and 2 → 1 before the first pod is gone: KubeRay would count it as running and take the pod that serves."""
    world = World(leave_moves=1000)
    settle(world, 3)
    settle(world, 2)
    settle(world, 1)
    assert world.cut == []
    assert [pod.leaving is None for pod in world.pods].count(True) == 1
    assert len(world.pods) == 3, "the two that were released still finish"


def test_a_node_asked_for_while_another_still_leaves_is_made_at_once() -> None:
    """2 → 1 → 2: KubeRay does not wait for the leaving pod's grace of minutes."""
    world = World(leave_moves=1000)
    settle(world, 2)
    settle(world, 1)
    world.operate(2)
    world.kuberay()
    assert [pod.leaving is None for pod in world.pods].count(True) == 2


def test_an_object_changed_on_the_way_is_brought_to_its_spec_once() -> None:
    """UpdateService once, then nothing."""
    world = World()
    settle(world, 3)
    world.differs_at = "spec.serveConfigV2"
    assert plan(3, 1, world.see()).actions == (UpdateService(3, "spec.serveConfigV2"),)
    world.operate(3)
    assert world.operate(3) == 0


def test_a_view_without_ray_serve_never_releases() -> None:
    """Whatever else is seen."""
    world = World()
    settle(world, 3)
    seen = replace(world.see(), serve=None)
    assert plan(1, 1, seen).actions == ()
