"""The whole tick on fakes: through the life of an object, and through everything that goes wrong around it.

A node does 10 requests per second, comes up after 20 s and loads for 5 s; a replica finishes within 4 s and its proxy drains for 6 s.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any

import pytest
from fakes import FakeForecaster, deployment

from deepseek_operator.edge.kube import KubeError

QUICK = {"scaleDownStabilizationSeconds": 60, "scaleDownCooldownSeconds": 15}


async def running(fleet: Any, nodes: int, rate: float, /, **spec: Any) -> None:
    """An object that has settled on so many nodes."""
    fleet.apply(**({"scaling": {"mode": "Reactive", "capacity": {"requestsPerSecondPerNode": "10"}} | QUICK} | spec))
    fleet.load(rate)
    await fleet.live(180)
    assert (fleet.group()["replicas"], len(fleet.pods())) == (nodes, nodes)
    assert fleet.condition("Ready") == ("True", "Serving")


# ------------------------------------------------------------------------------------------------------------------ a life


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


async def test_a_converged_fleet_makes_no_writes(fleet: Any) -> None:
    """Ten ticks of the same load: no write at all; the forecast's and the ledger's figures move meanwhile."""
    await running(fleet, 3, 20, scaling={"mode": "Predictive", "capacity": {"requestsPerSecondPerNode": "10"}})
    fleet.forecaster.peaks["default.chat"] = 22
    await fleet.live(60)
    fleet.cluster.writes.clear()
    scaled = len(fleet.serve.scaled)
    for _ in range(10):
        fleet.forecaster.peaks["default.chat"] += 0.05
        await fleet.live(15)
    assert fleet.cluster.writes == []
    assert len(fleet.serve.scaled) == scaled


async def test_figures_that_moved_are_written_every_ten_minutes(fleet: Any) -> None:
    """An idle hour: at most 6 writes, all of the status."""
    await running(fleet, 3, 20)
    fleet.cluster.writes.clear()
    await fleet.live(3600)
    assert set(fleet.cluster.writes) == {("patch", "status", "chat")}
    assert 5 <= len(fleet.cluster.writes) <= 6


async def test_ray_serve_is_asked_every_30_seconds_while_nothing_is_under_way(fleet: Any) -> None:
    """A head that came back with the count of its config is told the true one."""
    await running(fleet, 4, 30)
    key = next(iter(fleet.serve.applications))
    reads = len(fleet.serve.reads)
    await fleet.live(600)
    assert 18 <= len(fleet.serve.reads) - reads <= 21
    fleet.serve.applications[key].target = 1
    await fleet.live(45)
    assert fleet.serve.applications[key].target == 4


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


# --------------------------------------------------------------------------------------------------------- bad measurements

BAD: dict[str, Any] = {
    "Prometheus is down": lambda fleet: setattr(fleet.prometheus, "problem", "Prometheus: ConnectionError: refused"),
    "no series": lambda fleet: fleet.prometheus.forget("default.chat"),
    "NaN": lambda fleet: fleet.load("NaN"),
    "infinite": lambda fleet: fleet.load("+Inf"),
    "negative": lambda fleet: fleet.load("-5"),
    "a word": lambda fleet: fleet.load("none"),
    "two series": lambda fleet: (fleet.load(0), fleet.prometheus.say("default.chat", "demand", 0)),
    "only two of six replicas reported": lambda fleet: fleet.load(0, reporting=2),
    "the number of reporting replicas is not known": lambda fleet: fleet.load(0, reporting="NaN"),
}


@pytest.mark.parametrize("happens", BAD.values(), ids=BAD.keys())
async def test_twenty_minutes_of_bad_measurements_release_nothing(fleet: Any, happens: Any) -> None:
    """6 nodes stay 6; the condition says so within two ticks; with the load back at 5 req/s the window begins anew."""
    await running(fleet, 6, 48)
    happens(fleet)
    await fleet.live(30)
    incomplete = fleet.condition("MetricsAvailable") == ("True", "DemandIncomplete")
    assert incomplete or fleet.condition("MetricsAvailable") == ("False", "DemandUnknown")
    await fleet.live(1200)
    assert (fleet.group()["replicas"], fleet.decision()[0]) == (6, 6)
    fleet.prometheus.problem = ""
    fleet.load(5)
    await fleet.live(30)
    assert fleet.condition("MetricsAvailable") == ("True", "DemandRead")
    assert fleet.group()["replicas"] == 6
    await fleet.live(180)
    assert (fleet.group()["replicas"], fleet.kuberay.cut) == (1, [])


async def test_blind_growth_after_the_grace_to_the_highest_of_the_last_hour(fleet: Any) -> None:
    """6 nodes at noon, 1 at half past, then no metrics: after 600 s 6 again."""
    await running(fleet, 6, 48)
    fleet.load(5)
    await fleet.live(300)
    assert fleet.decision()[0] == 1
    fleet.prometheus.problem = "Prometheus: ConnectionError: refused"
    await fleet.live(585)
    assert fleet.decision() == (1, "DemandUnknown")
    await fleet.live(60)
    assert fleet.decision() == (6, "DemandUnknown")


async def test_an_incomplete_reading_may_add(fleet: Any) -> None:
    """At least 48 req/s need 6 nodes, whoever else has not reported."""
    await running(fleet, 2, 15)
    fleet.load(48, reporting=1)
    await fleet.tick()
    assert fleet.decision() == (6, "ScaleUp")


async def test_a_users_own_query_is_asked_and_used(fleet: Any) -> None:
    """30 req/s at a gateway need 4 nodes; two series are refused with a hint."""
    query = "sum(rate(gateway_requests_total[1m]))"
    fleet.prometheus.own[query] = [{"metric": {}, "value": [0, "30"]}]
    fleet.apply(scaling={"mode": "Reactive", "capacity": {"requestsPerSecondPerNode": "10"}, "demand": {"query": query}})
    await fleet.tick()
    assert fleet.decision() == (4, "ScaleUp")
    fleet.prometheus.own[query] *= 2
    await fleet.tick()
    assert fleet.decision() == (4, "DemandUnknown")
    assert fleet.message("MetricsAvailable") == "the query must give one series, gave 2; wrap it in sum()"


async def test_capacity_is_learned_where_the_spec_gives_none(fleet: Any) -> None:
    """Unknown: held. A replica that does 12 req/s: 2 replicas do 24 on a node, and 40 req/s need ceil(40 ÷ 19.2) = 3."""
    fleet.apply(scaling={"mode": "Reactive", "capacity": {}}, nodes={"replicasPerNode": 2})
    fleet.load(40)
    await fleet.tick()
    assert fleet.decision() == (1, "CapacityUnknown")
    fleet.prometheus.say("default.chat", "capacity", 12)
    await fleet.tick()
    assert fleet.decision() == (3, "ScaleUp")
    assert fleet.status()["capacity"] == {"requestsPerSecondPerNode": "24", "source": "Learned", "saturatedReadings": 0}


async def test_a_learned_capacity_survives_a_restart_as_it_was(fleet: Any) -> None:
    """24 req/s per node of two replicas is 24 after the restart, not 48."""
    fleet.apply(scaling={"mode": "Reactive", "capacity": {}}, nodes={"replicasPerNode": 2})
    fleet.load(40)
    fleet.prometheus.say("default.chat", "capacity", 12)
    await fleet.live(60)
    fleet.load(40)  # Prometheus lost the capacity
    fleet.restart()
    await fleet.live(30)
    assert fleet.metric("node_capacity_requests_per_second", namespace="default", name="chat") == 24


# -------------------------------------------------------------------------------------------------------- bad forecasts

PREDICTIVE = {"mode": "Predictive", "capacity": {"requestsPerSecondPerNode": "10"}} | QUICK
BAD_FORECASTS: dict[str, tuple[Any, str]] = {
    "down": (lambda f: setattr(f, "problem", "the forecaster cannot be reached: refused"), "the forecaster cannot be reached: refused"),
    "the series is not known": (lambda f: f.peaks.clear(), "the forecaster does not know this series"),
    "on probation": (lambda f: f.other.update(on_probation=True), "on probation"),
    "121 s old with a step of 60": (lambda f: setattr(f, "age_seconds", 121), "the forecast is 121 s old; at most 120 s is used"),
    "from 121 s ahead": (lambda f: setattr(f, "age_seconds", -121), "the forecast is -121 s old; at most 120 s is used"),
    "599 s ahead only": (lambda f: f.other.update(horizon_seconds=599), "the forecast looks 599 s ahead; 600 s is needed"),
    "without the percentile": (lambda f: f.other.update(peaks={0.5: 60.0, 0.9: 60.0}), "quantile must be between 0.5 and 0.9"),
}


@pytest.mark.parametrize(("happens", "message"), BAD_FORECASTS.values(), ids=BAD_FORECASTS.keys())
async def test_a_forecaster_that_fails_leaves_the_reactive_floor_and_a_condition(fleet: Any, happens: Any, message: str) -> None:
    """A peak of 60 had brought 8 nodes; without it the present 20 req/s need 3, after the window; and adding goes on as in mode Reactive."""
    fleet.forecaster.peaks["default.chat"] = 60
    await running(fleet, 8, 20, scaling=PREDICTIVE)
    assert fleet.condition("ForecastAvailable") == ("True", "ForecastUsed")
    happens(fleet.forecaster)
    await fleet.live(15)
    assert fleet.condition("ForecastAvailable") == ("False", "ForecastUnavailable")
    assert message in fleet.message("ForecastAvailable")
    assert fleet.message("ForecastAvailable").endswith("; following the present demand")
    assert fleet.decision()[0] == 8
    await fleet.live(240)
    assert fleet.decision() == (3, "Steady")
    fleet.load(48)
    await fleet.tick()
    assert fleet.decision() == (6, "ScaleUp")


async def test_a_forecast_that_comes_back_is_used_again(fleet: Any) -> None:
    """In the very next tick."""
    fleet.forecaster.problem = "down"
    await running(fleet, 3, 20, scaling=PREDICTIVE)
    fleet.forecaster.problem = ""
    fleet.forecaster.peaks["default.chat"] = 60
    await fleet.tick()
    assert fleet.decision() == (8, "ScaleUp")
    assert fleet.status()["forecast"]["peakRequestsPerSecond"] == "60"


async def test_the_horizon_covers_the_measured_cold_start(fleet: Any) -> None:
    """Nodes that took 800 s: from then on the forecast is asked for 800 + 15 (tick) + 60 (step) s and more, though the spec says 600."""
    await running(fleet, 1, 5, scaling=PREDICTIVE)
    assert fleet.forecaster.calls[-1][0].horizon_seconds == 600
    fleet.kuberay.start_seconds = 800
    fleet.load(15)
    await fleet.live(900)
    assert 875 <= fleet.forecaster.calls[-1][0].horizon_seconds <= 910


async def test_a_cold_start_of_days_does_not_stop_the_fleet(fleet: Any) -> None:
    """A pod that waited eight days for a GPU is more than a forecast request may ask for; the others' tick goes on."""
    fleet.settings = fleet.operator.settings
    fleet.apply("slow", scaling=PREDICTIVE)
    fleet.load(5, "slow")
    await fleet.live(60)
    pod = next(b for b in fleet.cluster.bodies("pods") if b["metadata"]["name"].startswith("slow"))
    pod["metadata"]["creationTimestamp"] = "2026-09-13T00:00:00Z"
    fleet.cluster.put("pods", pod)
    fleet.restart()
    fleet.apply("chat", scaling=PREDICTIVE)
    fleet.load(48)
    await fleet.tick()
    assert fleet.decision() == (6, "ScaleUp")


# ------------------------------------------------------------------------------------------------------------------ modes


async def test_shadow_acts_as_reactive_and_records_what_predictive_would_have_run(fleet: Any) -> None:
    """The present 15 req/s: 2 nodes run; the foreseen 60: 8 are recorded, none is asked for."""
    fleet.forecaster.peaks["default.chat"] = 60
    await running(fleet, 2, 15, scaling=PREDICTIVE | {"mode": "Shadow"})
    assert fleet.status()["decision"] | {"message": "", "at": ""} == {
        "nodes": 2,
        "recommended": 2,
        "reason": "Steady",
        "message": "",
        "at": "",
        "shadowNodes": 8,
    }
    assert fleet.condition("ForecastAvailable") == ("True", "ForecastUsed")


async def test_reactive_asks_for_no_forecast(fleet: Any) -> None:
    """Not even once."""
    await running(fleet, 2, 15)
    assert fleet.forecaster.calls == []
    assert fleet.condition("ForecastAvailable") == ("Unknown", "NotUsed")


async def test_manual_runs_what_kubectl_scale_wrote(fleet: Any) -> None:
    """4, then 2 at once and in the safe order, whatever the load."""
    await running(fleet, 4, 100, scaling={"mode": "Manual"}, nodes={"count": 4})
    fleet.apply(scaling={"mode": "Manual"}, nodes={"count": 2})
    await fleet.tick()
    assert fleet.decision() == (2, "Manual")
    await fleet.live(60)
    assert (len(fleet.pods()), fleet.kuberay.cut) == (2, [])


async def test_the_ledger_beside_the_maximum_and_reactive(fleet: Any) -> None:
    """An hour at 3 of 10 nodes."""
    await running(fleet, 3, 20)
    began = fleet.metric("node_seconds", namespace="default", name="chat", policy="actual")
    await fleet.live(3600)
    hour = {
        policy: (fleet.metric("node_seconds", namespace="default", name="chat", policy=policy) or 0)
        for policy in ("actual", "maximum", "reactive")
    }
    assert hour["actual"] - (began or 0) == pytest.approx(3 * 3600)
    assert hour["maximum"] == pytest.approx(10 * (3600 + 180 - 15))
    assert hour["reactive"] == pytest.approx(hour["actual"])


# ---------------------------------------------------------------------------------------------------- faults of one object


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


# ---------------------------------------------------------------------------------------------------------------- restart


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


# ----------------------------------------------------------------------------------------------------- events and metrics


async def test_one_event_for_each_change_and_none_for_a_hold(fleet: Any) -> None:
    """1 → 6 → 1: two Normal events in so many minutes; one Warning for the loss of metrics, however long it lasts."""
    await running(fleet, 1, 5)
    fleet.cluster.events.clear()
    fleet.load(48)
    await fleet.live(120)
    fleet.load(5)
    await fleet.live(300)
    assert [(kind, reason) for _, kind, reason, _ in fleet.cluster.events] == [("Normal", "ScaleUp"), ("Normal", "ScaleDown")]
    assert fleet.cluster.events[0][3].startswith("scaled from 1 to 6 nodes: demand 48 req/s needs 6")
    fleet.prometheus.problem = "Prometheus: ConnectionError: refused"
    await fleet.live(300)
    assert [event[1:3] for event in fleet.cluster.events[2:]] == [("Warning", "DemandUnknown")]
    fleet.prometheus.problem = ""
    await fleet.live(30)
    fleet.prometheus.problem = "Prometheus: ConnectionError: refused"
    await fleet.live(30)
    assert len(fleet.cluster.events) == 4


async def test_a_change_is_logged_once_with_both_sides(fleet: Any, caplog: pytest.LogCaptureFixture) -> None:
    """`scaled default/chat from 1 to 6: …`"""
    caplog.set_level(logging.INFO)
    await running(fleet, 1, 5)
    caplog.clear()
    fleet.load(48)
    await fleet.live(60)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("scaled ")]
    assert said == ["scaled default/chat from 1 to 6: ScaleUp: demand 48 req/s needs 6 (10 req/s per node × 80 %)"]


async def test_the_figures_as_metrics(fleet: Any) -> None:
    """What the dashboards read; NaN where nothing is known."""
    fleet.forecaster.peaks["default.chat"] = 22
    await running(fleet, 3, 20, scaling=PREDICTIVE)

    def is_(name: str, expected: float, **labels: str) -> bool:
        labels = {"namespace": "default", "name": "chat"} | labels
        return fleet.telemetry.registry.get_sample_value(f"deepseek_operator_{name}", labels) == pytest.approx(expected)

    assert is_("nodes_desired", 3)
    assert is_("nodes_ready", 3)
    assert is_("nodes_recommended", 3)
    assert is_("demand_requests_per_second", 20)
    assert is_("forecast_peak_requests_per_second", 22, percentile="95")
    assert is_("predicted_utilization_ratio", 22 / 30)
    assert is_("utilization_ratio", 20 / 30)
    assert is_("condition", 1, type="Ready", status="True")
    assert is_("condition", 0, type="Ready", status="False")
    fleet.prometheus.problem = "down"
    await fleet.tick()
    labels = {"namespace": "default", "name": "chat"}
    assert math.isnan(fleet.telemetry.registry.get_sample_value("deepseek_operator_demand_requests_per_second", labels))
    assert fleet.metric("read_failures_total", source="prometheus") == 1


# ---------------------------------------------------------------------------------------------------------------- the fleet


@pytest.mark.timeout(240)
async def test_a_thousand_objects_are_one_query_one_request_and_a_few_seconds(fleet: Any) -> None:
    """And each gets what it needs: object n has n % 8 × 10 req/s."""
    for number in range(1000):
        name = f"chat-{number}"
        fleet.cluster.put("objects", deployment(name, scaling=PREDICTIVE))
        fleet.load(number % 8 * 10, name)
    await fleet.tick()
    fleet.prometheus.calls.clear()
    fleet.forecaster.calls.clear()
    fleet.watch()
    began = time.process_time()
    await fleet.tick(watch=False)
    took = time.process_time() - began
    assert len(fleet.prometheus.calls) == 1
    assert [len(batch) for batch in fleet.forecaster.calls] == [1000]
    assert took < 5
    for number in (0, 1, 7, 999):
        assert fleet.mirrored(f"chat-{number}") == max(1, math.ceil(number % 8 / 0.8))


async def test_an_empty_fleet_asks_nobody(fleet: Any) -> None:
    """No object, no query."""
    await fleet.tick()
    assert (fleet.prometheus.calls, fleet.forecaster.calls, fleet.cluster.writes) == ([], [], [])
    assert isinstance(fleet.forecaster, FakeForecaster)


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
