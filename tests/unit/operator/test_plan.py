"""Which writes lead from what there is to what was decided: one step of the safe order a row."""

from __future__ import annotations

from typing import Any

import pytest

from deepseek_operator.core.plan import (
    ClusterView,
    CreateService,
    MirrorNodes,
    Observed,
    PodView,
    ServeView,
    ServiceView,
    SetNodes,
    SetPendingNodes,
    SetReplicas,
    UpdateService,
    plan,
)

UNSEEN = "unseen"


def seen(
    nodes: int, *, mirrored: int | None = None, pods: str = "", replicas: str = "", proxies: str = "", target: Any = None, **other: Any
) -> Observed:
    """What there is. `pods` are names in order of creation ("a b c", "*c" still starts, "-c" is being deleted); `replicas` and `proxies` name
    the pods they are on; `target` is what Ray Serve aims at, None for as many as there are replicas, UNSEEN for no answer."""
    names = pods.split()
    hosting = tuple(replicas.split())
    views = tuple(
        PodView(
            name.strip("*-"),
            created_at=100.0 + index,
            ready_at=None if "*" in name else 200.0,
            ready="*" not in name and "-" not in name,
            deleting="-" in name,
        )
        for index, name in enumerate(names)
    )
    serve = None
    if target != UNSEEN:
        serve = ServeView(len(hosting) if target is None else target, hosting, len(hosting), frozenset((proxies or replicas).split()))
    service = ServiceView("1", nodes if mirrored is None else mirrored, other.get("differs_at", ""), "c")
    return Observed(
        service, ClusterView("c", "7", nodes, tuple(other.get("named", "").split()), other.get("autoscaler_on", False)), views, serve
    )


NO_CLUSTER = Observed(ServiceView("1", 3))
CASES: dict[str, tuple[int, int, Observed, tuple[Any, ...], str]] = {
    # ------------------------------------------------------------------------------------------------------------- beginning
    "nothing there: create": (3, 1, Observed(), (CreateService(3),), "KubeRay to start the cluster"),
    "created, no cluster yet: wait": (3, 1, NO_CLUSTER, (), "KubeRay to start the cluster"),
    "created with 3, no cluster yet, 5 wanted: mirror": (5, 1, NO_CLUSTER, (MirrorNodes(5),), "KubeRay to start the cluster"),
    "the spec differs, no cluster yet: update, which carries the count": (
        5,
        1,
        Observed(ServiceView("1", 3, "spec.serveConfigV2")),
        (UpdateService(5, "spec.serveConfigV2"),),
        "KubeRay to start the cluster",
    ),
    "all as wanted: silence": (2, 1, seen(2, pods="a b", replicas="a b"), (), ""),
    "the spec differs: update": (
        2,
        1,
        seen(2, pods="a b", replicas="a b", differs_at="spec.x"),
        (UpdateService(2, "spec.x"),),
        "",
    ),
    # -------------------------------------------------------------------------------------------------------------------- up
    "2 → 4: mirror first, then the cluster, then the replicas": (
        4,
        1,
        seen(2, pods="a b", replicas="a b"),
        (MirrorNodes(4), SetNodes(4), SetReplicas(4)),
        "",
    ),
    "2 → 4 with two replicas on each node": (
        4,
        2,
        seen(2, pods="a b", replicas="a a b b"),
        (MirrorNodes(4), SetNodes(4), SetReplicas(8)),
        "",
    ),
    "mirrored before a crash: the rest": (4, 1, seen(2, mirrored=4, pods="a b", replicas="a b"), (SetNodes(4), SetReplicas(4)), ""),
    "all but the replicas written before a crash": (4, 1, seen(4, pods="a b", replicas="a b"), (SetReplicas(4),), ""),
    "Ray Serve unreachable: nodes are asked for all the same": (
        4,
        1,
        seen(2, pods="a b", target=UNSEEN),
        (MirrorNodes(4), SetNodes(4)),
        "",
    ),
    "the head came back and forgot the count: told again": (4, 1, seen(4, pods="a b c d", replicas="a"), (SetReplicas(4),), ""),
    "up while c still finishes: it stays named": (
        3,
        1,
        seen(2, pods="a b -c", replicas="a b"),
        (MirrorNodes(3), SetNodes(3, (), ("c",)), SetReplicas(3)),
        "",
    ),
    "up again before a node was released: only the replicas": (3, 1, seen(3, pods="a b c", replicas="a b"), (SetReplicas(3),), ""),
    # ------------------------------------------------------------------------------------------------------------------ down
    "3 → 2, first: one replica fewer, and no node": (
        2,
        1,
        seen(3, pods="a b c", replicas="a b c"),
        (SetReplicas(2),),
        "Ray Serve to go down to 2 replicas",
    ),
    "3 → 2, then: c's replica still finishes": (
        2,
        1,
        seen(3, pods="a b c", replicas="a b c", target=2),
        (),
        "1 replicas to finish their requests",
    ),
    "3 → 2, then: c is empty, its proxy still drains": (
        2,
        1,
        seen(3, pods="a b c", replicas="a b", proxies="a b c"),
        (),
        "1 nodes to close their connections",
    ),
    "3 → 2, then: c goes by name, and the count is mirrored after it": (
        2,
        1,
        seen(3, pods="a b c", replicas="a b"),
        (SetNodes(2, ("c",)), MirrorNodes(2)),
        "",
    ),
    "3 → 2, released before a crash: mirror": (2, 1, seen(2, mirrored=3, pods="a b -c", replicas="a b"), (MirrorNodes(2),), ""),
    "the empty one goes, not the newest": (2, 1, seen(3, pods="a b c", replicas="a c"), (SetNodes(2, ("b",)), MirrorNodes(2)), ""),
    "of two empty ones the newest goes": (2, 1, seen(3, pods="a b c", replicas="a", target=2), (SetNodes(2, ("c",)), MirrorNodes(2)), ""),
    "of two empty ones the one still starting goes, though it is the older": (
        2,
        1,
        seen(3, pods="a *b c", replicas="a", target=2),
        (SetNodes(2, ("b",)), MirrorNodes(2)),
        "",
    ),
    "4 → 1 with two nodes empty and one draining: the two go, the third is waited for": (
        1,
        1,
        seen(4, pods="a b c d", replicas="a", proxies="a b"),
        (SetNodes(2, ("d", "c")), MirrorNodes(2)),
        "1 nodes to close their connections",
    ),
    "3 → 1 while c still finishes: it stays named beside b": (
        1,
        1,
        seen(2, pods="a b -c", replicas="a"),
        (SetNodes(1, ("b",), ("c",)), MirrorNodes(1)),
        "",
    ),
    "a replica with no node yet is no reason to keep one": (
        2,
        1,
        seen(3, pods="a b c", replicas="a", target=2),
        (SetNodes(2, ("c",)), MirrorNodes(2)),
        "",
    ),
    "Ray Serve unreachable: no node is released": (1, 1, seen(3, pods="a b c", target=UNSEEN), (), "Ray Serve to say which nodes are empty"),
    "two replicas on each node, 3 → 2: four replicas": (
        2,
        2,
        seen(3, pods="a b c", replicas="a a b b c c"),
        (SetReplicas(4),),
        "Ray Serve to go down to 4 replicas",
    ),
    "two replicas on each node: a node that has one left is not empty": (
        1,
        2,
        seen(3, pods="a b c", replicas="a b", proxies="a b"),
        (SetNodes(2, ("c",)), MirrorNodes(2)),
        "1 nodes to close their connections",
    ),
    # -------------------------------------------------------------------------------------- named, and KubeRay has not acted yet
    "c is named and still there, 3 wanted again: a node is asked for, no replica that could land on c": (
        3,
        1,
        seen(2, pods="a b c", replicas="a b", named="c"),
        (MirrorNodes(3), SetNodes(3, (), ("c",))),
        "KubeRay to take the released nodes",
    ),
    "c is named and still there, and b goes too: both named": (
        1,
        1,
        seen(2, pods="a b c", replicas="a", named="c"),
        (SetNodes(1, ("b",), ("c",)), MirrorNodes(1)),
        "",
    ),
    "d is named and still there, and Ray Serve is to go up from 1 to 2: not before d is gone": (
        2,
        1,
        seen(3, pods="a b c d", replicas="a", named="d"),
        (),
        "KubeRay to take the released nodes",
    ),
    "c was named and is gone: nobody is named any more": (
        3,
        1,
        seen(2, pods="a b", replicas="a b", named="c"),
        (MirrorNodes(3), SetNodes(3), SetReplicas(3)),
        "",
    ),
    # --------------------------------------------------------------------------------------------------------------- others
    "Ray's own autoscaler is on: it is not fought": (1, 1, seen(3, pods="a b c", replicas="a", autoscaler_on=True), (), ""),
    "Ray's own autoscaler is on: nor outbid": (9, 1, seen(3, pods="a b c", replicas="a b c", autoscaler_on=True), (), ""),
}


@pytest.mark.parametrize(("desired", "per_node", "there", "actions", "waiting"), CASES.values(), ids=CASES.keys())
def test_plan(desired: int, per_node: int, there: Observed, actions: tuple[Any, ...], waiting: str) -> None:
    """The row's writes in the row's order, and what has to happen before the rest."""
    made = plan(desired, per_node, there)
    assert (made.actions, made.waiting_for) == (actions, waiting)


def test_nodes_asked_for_are_the_live_clusters() -> None:
    """The RayService's while there is no cluster; not known while there is neither."""
    assert Observed().nodes is None
    assert NO_CLUSTER.nodes == 3
    assert seen(4, mirrored=3).nodes == 4


def test_replicas_are_not_raised_while_kuberay_has_not_opened_the_service() -> None:
    """3 → 4 nodes while the first application still starts: nodes at once, replicas once the service is open; lowering never waits."""
    starting = Observed(ServiceView("1", 3, "", "", "c"), ClusterView("c", "7", 3), (), ServeView(3, ("a", "b", "c"), 1, frozenset()))
    assert plan(4, 1, starting).actions == (MirrorNodes(4), SetNodes(4))
    assert plan(4, 1, starting).waiting_for == "KubeRay to open the service"
    assert plan(2, 1, starting).actions == (SetReplicas(2),)


def test_during_an_upgrade_the_cluster_that_takes_over_grows_too_and_is_never_shrunk() -> None:
    """It was created with 3 nodes; 5 are needed now: 5 there as well, or the switch would lose 2. With 2 needed it keeps its 3."""
    service = ServiceView("1", 3, "", "c", "d")
    serve = ServeView(3, ("a", "b", "c"), 3, frozenset({"a", "b", "c"}), ("a", "b", "c"))
    upgrading = Observed(service, ClusterView("c", "7", 3), (), serve, ClusterView("d", "9", 3))
    assert plan(5, 1, upgrading).actions == (SetPendingNodes(5), MirrorNodes(5), SetNodes(5), SetReplicas(5))
    assert SetPendingNodes(2) not in plan(2, 1, upgrading).actions
