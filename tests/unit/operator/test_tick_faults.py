"""The whole tick on fakes: faults of one object, and the others.

A node does 10 requests per second, comes up after 20 s and loads for 5 s; a replica finishes within 4 s and its proxy drains for 6 s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from fake_fleet import PREDICTIVE, running
from fakes import deployment

from deepseek_operator.edge.kube import KubeError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"nodes": {"min": 5, "max": 3}}, "nodes.min must be at most nodes.max (3), was 5"),
        ({"nodes": {"min": 0}}, "spec.nodes.min: Input should be greater than or equal to 1"),
        ({"scaling": {"scaleDownPercent": 90}}, "scaling.scaleDownPercent must be below scaling.scaleUpPercent (80), was 90"),
        ({"scaling": {"mode": "Clever"}}, "spec.scaling.mode: Input should be 'Predictive', 'Reactive', 'Shadow' or 'Manual'"),
        ({"model": None}, "spec.model: Input should be"),
        ({"model": {"source": "s3://bucket"}}, "spec.model.source: must be hf://"),
    ],
    ids=["min above max", "min of 0", "30 above 80", "an unknown mode", "no model", "an unknown source"],
)
async def test_an_object_from_an_older_definition_is_degraded_and_the_others_go_on(fleet: Any, spec: Any, message: str) -> None:
    """The API server once let it through. It says what is allowed; the healthy one gets its nodes in the same tick; it is said once."""
    fleet.cluster.put("objects", deployment("old", **spec))
    fleet.apply("chat")
    fleet.load(48)
    for _ in range(3):
        await fleet.tick()
    assert fleet.condition("Degraded", "old") == ("True", "InvalidSpec")
    assert message in fleet.message("Degraded", "old")
    assert fleet.decision("chat") == (6, "ScaleUp") or fleet.decision("chat")[0] == 6
    assert [event[:3] for event in fleet.cluster.events if event[0] == "old"] == [("old", "Warning", "InvalidSpec")]
    assert fleet.cluster.writes.count(("patch", "status", "old")) == 1


async def test_what_runs_goes_on_running_when_its_object_turns_invalid(fleet: Any) -> None:
    """No write but the status; corrected, it is scaled again."""
    await running(fleet, 3, 20)
    body = fleet.cluster.get("objects", "chat")
    body["spec"] = body["spec"] | {"nodes": {"min": 9, "max": 3}}
    fleet.cluster.put("objects", body)
    fleet.cluster.writes.clear()
    await fleet.live(60)
    assert {write[1] for write in fleet.cluster.writes} <= {"status", "event"}
    assert fleet.status()["nodes"] == {"desired": 3, "current": 3, "ready": 3}
    assert fleet.status()["selector"]
    assert fleet.group()["replicas"] == 3
    fleet.apply(scaling=PREDICTIVE)
    fleet.load(48)
    await fleet.live(15)
    assert fleet.group()["replicas"] == 6
    assert fleet.condition("Degraded") == ("False", "AsExpected")


async def test_a_status_of_another_version_is_learned_again(fleet: Any) -> None:
    """Unreadable; what runs is taken from the cluster."""
    await running(fleet, 3, 20)
    body = fleet.cluster.get("objects", "chat")
    body["status"] = {"conditions": "none", "nodes": {"desired": "many"}}
    fleet.cluster.put("objects", body)
    fleet.restart()
    await fleet.tick()
    assert fleet.decision() == (3, "Steady")


async def test_a_stale_view_writes_nothing_and_is_planned_afresh(fleet: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody changed the RayCluster between our look and our patch: refused, no fault, and the next tick does it."""
    caplog.set_level(logging.INFO)
    await running(fleet, 1, 5)
    name = fleet.ray_cluster()["metadata"]["name"]

    def somebody_else(kind: str, _: str) -> None:
        if kind == "clusters":
            fleet.cluster.before_patch = None
            body = fleet.ray_cluster()
            body["metadata"]["labels"]["touched"] = "yes"
            fleet.cluster.put("clusters", body)

    fleet.cluster.before_patch = somebody_else
    fleet.load(48)
    await fleet.tick()
    assert fleet.group()["replicas"] == 1
    assert "SetNodes came too late, planning afresh" in caplog.text
    assert fleet.condition("Degraded") == ("False", "AsExpected")
    assert fleet.metric("writes_total", kind="SetNodes", result="stale") == 1
    await fleet.tick()
    assert fleet.group()["replicas"] == 6
    assert name == fleet.ray_cluster()["metadata"]["name"]


async def test_a_write_that_fails_is_said_and_made_again(fleet: Any) -> None:
    """403: Degraded with the API server's words; then it goes through."""
    await running(fleet, 1, 5)
    fleet.cluster.failing["cluster"] = KubeError("PATCH …/rayclusters/x: 403 Forbidden: no", 403)
    fleet.load(48)
    await fleet.tick()
    assert fleet.condition("Degraded") == ("True", "WriteFailed")
    assert "403 Forbidden" in fleet.message("Degraded")
    fleet.cluster.failing.clear()
    await fleet.tick()
    assert fleet.group()["replicas"] == 6
    assert fleet.condition("Degraded") == ("False", "AsExpected")


async def test_nodes_that_never_come_are_reported_after_the_startup_budget(fleet: Any) -> None:
    """900 s: NodesUnavailable, with the figures; it goes when they come."""
    await running(fleet, 1, 5)
    fleet.kuberay.out_of_nodes = True
    fleet.load(48)
    await fleet.live(885)
    assert fleet.condition("Degraded") == ("False", "AsExpected")
    await fleet.live(60)
    assert fleet.condition("Degraded") == ("True", "NodesUnavailable")
    assert "1 of 6 nodes are ready after" in fleet.message("Degraded")
    fleet.kuberay.out_of_nodes = False
    await fleet.live(60)
    assert fleet.condition("Degraded") == ("False", "AsExpected")


async def test_an_unreachable_dashboard_holds_releases_and_not_additions(fleet: Any) -> None:
    """The nodes come; none goes until Ray Serve says which are empty."""
    await running(fleet, 3, 20)
    fleet.serve.unreachable.add("default.chat")
    fleet.load(5)
    await fleet.live(300)
    assert (fleet.group()["replicas"], fleet.decision()[0]) == (3, 1)
    assert fleet.condition("Degraded") == ("True", "RayServeUnreachable")
    assert fleet.message("Progressing") == "waiting for Ray Serve to say which nodes are empty"
    fleet.load(48)
    await fleet.tick()
    assert fleet.group()["replicas"] == 6
    fleet.serve.unreachable.clear()
    fleet.load(5)
    await fleet.live(300)
    assert (fleet.group()["replicas"], fleet.kuberay.cut) == (1, [])


async def test_one_hung_dashboard_does_not_hold_up_the_others(fleet: Any) -> None:
    """Its tick goes on by itself; the next ticks pass it by, and the other object gets its nodes meanwhile."""
    fleet.settings = type(fleet.settings)(tick_seconds=1)
    fleet.restart()
    for name in ("chat", "hung"):
        fleet.apply(name)
        fleet.load(5, name)
    await fleet.live(60)
    answer = asyncio.Event()
    fleet.serve.hung["default.hung"] = answer.wait
    fleet.clock.now += 60
    fleet.load(48)
    fleet.load(48, "hung")
    fleet.watch()
    began = time.monotonic()
    await fleet.operator.run()
    await fleet.operator.run()
    assert time.monotonic() - began < 4
    assert (fleet.group("chat")["replicas"], fleet.group("hung")["replicas"]) == (6, 1)
    answer.set()
    await fleet.operator.settle()
    assert fleet.group("hung")["replicas"] == 6


async def test_an_object_deleted_while_it_is_acted_on_leaves_no_metrics(fleet: Any) -> None:
    """Its tick hangs in the dashboard; meanwhile it goes; then the tick ends."""
    fleet.settings = type(fleet.settings)(tick_seconds=1)
    fleet.restart()
    fleet.apply()
    fleet.load(5)
    await fleet.live(60)
    answer = asyncio.Event()
    fleet.serve.hung["default.chat"] = answer.wait
    fleet.clock.now += 60
    fleet.watch()
    await fleet.operator.run()
    fleet.cluster.remove("objects", "chat")
    fleet.watch()
    await fleet.operator.run()
    answer.set()
    await fleet.operator.settle()
    assert fleet.metric("nodes_desired", namespace="default", name="chat") is None


async def test_one_object_that_breaks_the_report_does_not_stop_the_others(fleet: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A pod without a creation time, say: that object is reported, the other gets its nodes."""
    for name in ("chat", "odd"):
        fleet.apply(name)
        fleet.load(5, name)
    await fleet.live(60)
    pod = next(b for b in fleet.cluster.bodies("pods") if b["metadata"]["name"].startswith("odd"))
    pod["metadata"]["creationTimestamp"] = "yesterday"
    fleet.cluster.put("pods", pod)
    fleet.load(48)
    await fleet.tick()
    assert fleet.group("chat")["replicas"] == 6
    assert fleet.condition("Degraded", "odd")[0] == "True"


async def test_a_load_beyond_all_numbers_is_the_maximum_and_harms_nobody(fleet: Any) -> None:
    """1e308 req/s over 1e-9 req/s per node: nodes.max, and the other object is scaled in the same tick."""
    fleet.apply("huge", scaling={"mode": "Reactive", "capacity": {"requestsPerSecondPerNode": "1n"}})
    fleet.apply("chat")
    fleet.load(1e308, "huge")
    fleet.load(48)
    await fleet.tick()
    assert fleet.decision("huge") == (10, "MaximumNodes")
    assert fleet.condition("ScalingLimited", "huge") == ("True", "TooManyReplicas")
    assert fleet.decision("chat")[0] == 6


async def test_an_object_that_breaks_a_step_is_reported_and_the_others_go_on(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault while deciding on one of two objects: it keeps its 2 nodes and says so; the other goes from 1 to 6 in the same tick."""
    await running(fleet, 2, 10)
    fleet.apply("other")
    await fleet.live(60)
    judge = fleet.operator.judge

    def broken(verdict: Any, now: float) -> None:
        if verdict.wanted.key[1] == "chat":
            raise ZeroDivisionError("a fault nobody thought of")
        judge(verdict, now)

    monkeypatch.setattr(fleet.operator, "judge", broken)
    fleet.load(48, "other")
    await fleet.tick()
    assert fleet.condition("Degraded", "chat") == ("True", "InternalError")
    assert fleet.status("chat")["nodes"] == {"desired": 2, "current": 2, "ready": 2}
    assert fleet.status("chat")["capacity"]["requestsPerSecondPerNode"] == "10"
    assert fleet.decision("other") == (6, "ScaleUp")
