"""The whole tick on fakes: what a person or KubeRay changes beneath it: another spec, an upgrade, a deletion, a restart.

A node does 10 requests per second, comes up after 20 s and loads for 5 s; a replica finishes within 4 s and its proxy drains for 6 s.
"""

from __future__ import annotations

from typing import Any

import pytest
from fake_fleet import QUICK, running
from fakes import deployment


async def test_a_changed_spec_reaches_the_rayservice_once(fleet: Any) -> None:
    """Another image: one update, at the present count, and silence after it."""
    await running(fleet, 3, 20)
    fleet.apply(scaling={"mode": "Reactive", "capacity": {"requestsPerSecondPerNode": "10"}} | QUICK, serving={"image": "deepseek-serving:2"})
    fleet.cluster.writes.clear()
    await fleet.live(60)
    assert fleet.cluster.writes.count(("patch", "service", "chat")) == 1
    spec = fleet.cluster.get("services", "chat")["spec"]["rayClusterConfig"]
    assert spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["image"] == "deepseek-serving:2"
    assert fleet.mirrored() == 3
    assert fleet.status()["observedGeneration"] == 2


async def test_during_an_upgrade_nothing_is_released_and_adding_goes_on(fleet: Any) -> None:
    """Two clusters at once: KubeRay copies counts between them."""
    await running(fleet, 4, 30)
    service = fleet.cluster.get("services", "chat")
    service["status"]["pendingServiceStatus"] = {"rayClusterName": "chat-new"}
    fleet.cluster.put("services", service)
    fleet.kuberay._service = lambda _: None  # the upgrade takes its time
    fleet.load(5)
    await fleet.live(300)
    assert fleet.decision() == (4, "ReleaseBarred")
    fleet.load(48)
    await fleet.live(30)
    assert fleet.group()["replicas"] == 6


async def test_rays_own_autoscaler_is_named_and_not_fought(fleet: Any) -> None:
    """Degraded says what to do; no count is written."""
    await running(fleet, 2, 15)
    body = fleet.ray_cluster()
    body["spec"]["enableInTreeAutoscaling"] = True
    fleet.cluster.put("clusters", body)
    fleet.load(48)
    await fleet.live(60)
    assert fleet.group()["replicas"] == 2
    assert fleet.condition("Degraded") == ("True", "AnotherAutoscaler")
    assert "set enableInTreeAutoscaling to false" in fleet.message("Degraded")


async def test_deleting_forgets_the_object_and_its_metrics(fleet: Any) -> None:
    """And a new one of the same name starts anew."""
    await running(fleet, 4, 30)
    assert fleet.metric("nodes_desired", namespace="default", name="chat") == 4
    fleet.cluster.remove("objects", "chat")
    assert fleet.cluster.bodies("pods") == []
    await fleet.tick()
    assert fleet.metric("nodes_desired", namespace="default", name="chat") is None
    assert fleet.metric("objects") == 0
    fleet.load(5)
    body = deployment()
    body["metadata"]["uid"] = "another"
    fleet.cluster.put("objects", body)
    await fleet.tick()
    assert fleet.mirrored() == 1


async def test_an_object_being_deleted_is_left_alone(fleet: Any) -> None:
    """Nothing is written for it any more."""
    await running(fleet, 1, 5)
    body = fleet.cluster.get("objects", "chat")
    body["metadata"]["deletionTimestamp"] = fleet.clock.timestamp()
    fleet.cluster.put("objects", body)
    fleet.cluster.writes.clear()
    fleet.load(48)
    await fleet.tick()
    assert fleet.cluster.writes == []


async def test_a_restart_releases_nothing_early(fleet: Any) -> None:
    """10 s before the release the process dies: the window begins anew, then it goes on; the ledger keeps its books."""
    await running(fleet, 4, 30)
    fleet.load(5)
    await fleet.live(45)
    ledger = fleet.status()["ledger"]["since"]
    fleet.restart()
    await fleet.live(60)
    assert fleet.decision()[0] == 4
    await fleet.live(90)
    assert (fleet.decision()[0], fleet.group()["replicas"], fleet.kuberay.cut) == (1, 1, [])
    assert fleet.status()["ledger"]["since"] == ledger


@pytest.mark.parametrize("writes", range(6), ids=lambda n: f"after {n} writes")
async def test_killed_anywhere_in_a_scale_down_the_end_is_the_same(fleet: Any, writes: int) -> None:
    """6 → 1 with a kill after the n-th write of the scale-down, and again at each later one."""
    await running(fleet, 6, 48)
    fleet.load(5)
    survived = 0

    class KilledError(BaseException):
        """SIGKILL."""

    def kill(kind: str, _: str) -> None:
        nonlocal survived
        survived += 1
        if survived > writes:
            survived = 0
            raise KilledError

    for _ in range(60):
        fleet.cluster.before_patch = kill if writes else None
        try:
            await fleet.live(15)
        except KilledError:
            fleet.restart()
    fleet.cluster.before_patch = None
    await fleet.live(300)
    assert (fleet.group()["replicas"], fleet.mirrored(), len(fleet.pods()), fleet.kuberay.cut) == (1, 1, 1, [])
    assert fleet.serve.scaled[-1] == ("default.chat", 1)


async def test_a_wall_clock_that_jumps_moves_no_window(fleet: Any) -> None:
    """The wall jumps an hour ahead: nothing is released for it."""
    await running(fleet, 4, 30)
    fleet.load(5)
    await fleet.live(15)
    fleet.clock.jump = 3600
    await fleet.tick()
    assert fleet.decision() == (4, "ScaleDownStabilized")
