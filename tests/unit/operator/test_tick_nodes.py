"""The whole tick on fakes: nodes come, and go in the safe order.

A node does 10 requests per second, comes up after 20 s and loads for 5 s; a replica finishes within 4 s and its proxy drains for 6 s.
"""

from __future__ import annotations

from typing import Any

from fake_fleet import running


async def test_from_creation_to_the_first_answer(fleet: Any) -> None:
    """The RayService with the minimum, its budget, then a Ready node; each said in the status."""
    fleet.apply(nodes={"min": 2})
    await fleet.tick()
    assert fleet.cluster.writes[:2] == [("create", "service", "chat"), ("apply", "budget", "chat")]
    assert fleet.mirrored() == 2
    assert fleet.condition("Ready") == ("False", "NoNodeReady")
    assert fleet.condition("Progressing") == ("True", "Waiting")
    assert fleet.message("Progressing") == "waiting for KubeRay to start the cluster"
    assert fleet.decision() == (2, "DemandUnknown")
    await fleet.live(60)
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("Progressing") == ("False", "Settled")
    assert fleet.status()["nodes"] == {"desired": 2, "current": 2, "ready": 2}
    assert fleet.status()["endpoint"] == "http://chat-serve-svc.default.svc:8000/v1"


async def test_the_cold_start_is_measured_on_nodes_that_join_a_service_that_answers(fleet: Any) -> None:
    """20 s to come up and 5 to load, and up to 10 until it is seen; the first node, which waited for the head too, does not count."""
    await running(fleet, 1, 5)
    assert "coldStart" not in fleet.status()
    fleet.load(30)
    await fleet.live(60)
    assert fleet.status()["coldStart"]["samples"] == 3
    assert 25 <= fleet.status()["coldStart"]["p90Seconds"] <= 35
    fleet.restart()
    await fleet.live(60)
    assert fleet.status()["coldStart"]["samples"] == 3, "a restart forgot what was measured, or counted it again"


async def test_load_brings_nodes_in_one_tick(fleet: Any) -> None:
    """48 req/s on 1 node: in the same tick the mirror, then the RayCluster, then the replicas; a minute later 6 answer."""
    await running(fleet, 1, 5)
    fleet.cluster.writes.clear()
    fleet.load(48)
    await fleet.tick()
    assert [write for write in fleet.cluster.writes if write[1] in ("service", "cluster")] == [
        ("patch", "service", "chat"),
        ("patch", "cluster", fleet.ray_cluster()["metadata"]["name"]),
    ]
    assert (fleet.mirrored(), fleet.group()["replicas"], fleet.serve.scaled[-1]) == (6, 6, ("default.chat", 6))
    assert fleet.decision() == (6, "ScaleUp")
    await fleet.live(60)
    assert fleet.status()["nodes"] == {"desired": 6, "current": 6, "ready": 6}


async def test_nodes_go_in_the_safe_order_and_none_that_serves(fleet: Any) -> None:
    """6 → 2: replicas first, then pods that host none, by name; the RayService last; never a hosting pod."""
    await running(fleet, 6, 48)
    fleet.load(15)
    order: list[str] = []
    before = fleet.cluster.before_patch
    assert before is None
    fleet.cluster.before_patch = lambda kind, _: order.append(kind)
    scaled = len(fleet.serve.scaled)
    await fleet.live(240)
    assert fleet.serve.scaled[scaled:] == [("default.chat", 2)]
    assert order[0] == "clusters"
    assert order[-1] == "services"
    assert fleet.kuberay.cut == []
    assert (fleet.group()["replicas"], fleet.mirrored(), len(fleet.pods())) == (2, 2, 2)
    assert fleet.status()["nodes"] == {"desired": 2, "current": 2, "ready": 2}
    assert fleet.condition("Progressing") == ("False", "Settled")


async def test_while_replicas_finish_no_node_goes(fleet: Any) -> None:
    """A replica that takes 100 s to finish keeps its node for 100 s, and the status says what is waited for."""
    await running(fleet, 3, 20)
    fleet.serve.finish_seconds = 100
    fleet.load(5)
    await fleet.live(120)
    assert fleet.group()["replicas"] == 3
    assert fleet.message("Progressing") == "waiting for 2 replicas to finish their requests"
    await fleet.live(120)
    assert (fleet.group()["replicas"], fleet.kuberay.cut) == (1, [])


async def test_two_releases_in_a_row_while_pods_take_minutes_to_go(fleet: Any) -> None:
    """3 → 2 → 1 with a grace of 10 minutes: KubeRay takes no serving pod for one that still goes."""
    fleet.kuberay.grace_seconds = 600
    await running(fleet, 3, 20)
    fleet.load(15)
    await fleet.live(150)
    fleet.load(5)
    await fleet.live(150)
    assert fleet.kuberay.cut == []
    assert len(fleet.pods()) == 1
    assert len(fleet.cluster.bodies("pods")) == 3
    fleet.load(20)
    await fleet.live(60)
    assert fleet.status()["nodes"] == {"desired": 3, "current": 3, "ready": 3}


async def test_two_replicas_on_each_node(fleet: Any) -> None:
    """40 req/s need 5 nodes and 10 replicas; 5 req/s need 1 and 2."""
    await running(fleet, 5, 40, nodes={"replicasPerNode": 2})
    assert fleet.status()["replicas"] == {"desired": 10, "ready": 10}
    fleet.load(5)
    await fleet.live(240)
    assert (len(fleet.pods()), fleet.serve.scaled[-1], fleet.kuberay.cut) == (1, ("default.chat", 2), [])


async def test_a_node_is_ready_when_its_own_replica_answers_not_when_its_pod_does(fleet: Any) -> None:
    """Pods are Ready after 30 s, the model is loaded 300 s later: until then 0 nodes answer, and the cold start is 300 s and more."""
    await running(fleet, 1, 5)
    fleet.serve.load_seconds = 300
    fleet.load(15)
    await fleet.live(120)
    assert fleet.status()["nodes"] == {"desired": 2, "current": 2, "ready": 1}
    await fleet.live(300)
    assert fleet.status()["nodes"]["ready"] == 2
    assert fleet.status()["coldStart"]["p90Seconds"] >= 300
