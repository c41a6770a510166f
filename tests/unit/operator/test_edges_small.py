"""What the watches tell, what Ray Serve answers, what the compiled service says, and the operator's own health."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import aiohttp
import pytest
import yaml
from fakes import Answer, deployment, http_server

from deepseek_operator.api.v1alpha1 import DeepSeekDeployment
from deepseek_operator.core.plan import ServeView
from deepseek_operator.edge import direct_port, telemetry
from deepseek_operator.edge.rayserve import RayServe, RayServeError, serve_view
from deepseek_operator.edge.rayservice import (
    CompileOptions,
    compile_budget,
    compile_service,
    difference,
    group_index,
    read_pod,
    read_service,
    replace_spec,
)
from deepseek_operator.fleet import Seen
from deepseek_serving.settings import LimitSettings
from deepseek_serving.side_door import LATE_SECONDS, OLDEST_SECONDS, UNUSED_SECONDS

# ----------------------------------------------------------------------------------------------------------------- watches


def pod(ready: str = "False", **metadata: Any) -> dict[str, Any]:
    labels = {"inference.deepseek.dev/deployment": "chat"}
    return {
        "metadata": {"namespace": "default", "name": "p", "labels": labels, "creationTimestamp": "2026-09-21T14:00:00Z"} | metadata,
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-09-21T14:01:30Z"}]},
    }


def test_an_event_wakes_the_tick_only_when_it_matters() -> None:
    """A pod that becomes ready does, a heartbeat does not; a deletion does once; an object's own status does not."""
    seen = Seen()
    assert seen.note("pods", "ADDED", pod())
    assert not seen.note("pods", "MODIFIED", pod(resourceVersion="2"))
    assert seen.note("pods", "MODIFIED", pod("True"))
    assert seen.note("pods", "MODIFIED", pod("True", deletionTimestamp="2026-09-21T15:00:00Z"))
    assert seen.note("pods", "DELETED", pod("True"))
    assert not seen.note("pods", "DELETED", pod("True"))
    body = deployment()
    body["metadata"]["generation"] = 1
    assert seen.note("objects", "ADDED", body)
    assert not seen.note("objects", "MODIFIED", body | {"status": {"nodes": {"desired": 4}}})
    assert seen.note("objects", "MODIFIED", {**body, "metadata": body["metadata"] | {"generation": 2}})


def test_a_full_list_makes_good_what_a_watch_lost() -> None:
    """What it lacks is gone, what is new is there."""
    seen = Seen()
    seen.note("objects", "ADDED", deployment("lost"))
    seen.replace("objects", [deployment("found")])
    assert list(seen.objects()) == [("default", "found")]


def test_a_pod_read() -> None:
    """Ready 90 s after its creation; one that failed or is being deleted goes."""
    view = read_pod(pod("True"))
    assert (view.ready, view.deleting, view.ready_at) == (True, False, view.created_at + 90)
    assert read_pod(pod()).ready_at is None
    assert read_pod(pod("True", deletionTimestamp="x")).deleting
    assert not read_pod(pod("True", deletionTimestamp="x")).ready
    assert read_pod(pod() | {"status": {"phase": "Failed"}}).deleting


# --------------------------------------------------------------------------------------------------------------- Ray Serve


def applications(**engine: Any) -> dict[str, Any]:
    base = {
        "target_num_replicas": 2,
        "replicas": [{"node_instance_id": "a", "state": "RUNNING"}, {"node_instance_id": "b", "state": "STOPPING"}],
    }
    return {
        "applications": {"default.chat": {"deployments": {"Engine": base | engine}}},
        "proxies": {"x": {"node_instance_id": "a"}, "y": {"node_instance_id": "head"}},
    }


def test_what_ray_serve_says() -> None:
    """A stopping replica still holds its node, and does not count as running; a replica without a node is on none."""
    assert serve_view(applications(), "default.chat") == ServeView(2, ("a", "b"), 1, frozenset({"a", "head"}), ("a",))
    view = serve_view(applications(replicas=[{"node_instance_id": None, "state": "STARTING"}]), "default.chat")
    assert view is not None
    assert (view.replica_pods, view.running) == (("",), 0)


@pytest.mark.parametrize(
    "body",
    [{}, {"applications": {}}, applications(target_num_replicas=None), {"applications": {"default.other": {}}}],
    ids=["nothing", "no application", "no target yet", "another application"],
)
def test_an_application_that_is_not_deployed_is_none(body: dict[str, Any]) -> None:
    """Not an error: KubeRay has not put the config yet."""
    assert serve_view(body, "default.chat") is None


BAD = {
    "503": (Answer("Serve is not running", 503), "answered 503: Serve is not running"),
    "a page": (Answer("<html>"), "JSONDecodeError"),
    "a list": (Answer("[]"), "something other than an object"),
    "silence": (Answer("{}", after_seconds=20), "did not answer within 0.5 s"),
}


@pytest.mark.parametrize(("answer", "message"), BAD.values(), ids=BAD.keys())
async def test_a_dashboard_that_fails_is_one_error_in_words(answer: Answer, message: str) -> None:
    """Through the forward proxy, as where it is needed."""
    with http_server(lambda *_: answer) as url:
        serve = RayServe(url, timeout_seconds=0.5)
        with pytest.raises(RayServeError, match=message):
            await serve.read("default", "chat-1", "default.chat")
        await serve.close()


async def test_the_count_is_posted_to_the_right_dashboard() -> None:
    """One POST to the cluster's head, of the one deployment there is."""
    asked: list[tuple[str, str, Any]] = []

    def say(method: str, path: str, body: bytes) -> Answer:
        asked.append((method, path, json.loads(body)))
        return Answer('{"message": "Scaling request received."}')

    with http_server(say) as url:
        serve = RayServe(url, cluster_domain="example.org")
        await serve.scale("team", "chat-1", "team.chat", 3)
        await serve.close()
    where = "http://chat-1-head-svc.team.svc.example.org:8265/api/v1/applications/team.chat/deployments/Engine/scale"
    assert asked == [("POST", where, {"target_num_replicas": 3})]


# -------------------------------------------------------------------------------------------------------------- RayService


def compiled(nodes: int = 3, /, **spec: Any) -> dict[str, Any]:
    body = DeepSeekDeployment.model_validate({"spec": deployment(**spec)["spec"]})
    return compile_service("default", "chat", "uid", body.spec, nodes, CompileOptions())


def test_counts_do_not_count_as_a_difference() -> None:
    """Neither nodes nor replicas; whatever else changes does, and is named."""
    live = compiled(3)["spec"]
    assert difference(compiled(9)["spec"], live) == ""
    assert difference(compiled(3, serving={"image": "other:1"})["spec"], live).endswith("containers[0].image")
    assert difference(compiled(3, serving={"maxQueuedRequests": 1})["spec"], live) == "spec.serveConfigV2"


def test_what_others_add_is_no_difference_and_what_they_remove_is() -> None:
    """The API server's defaults, KubeRay's dropped empty fields; a removed environment variable."""
    wanted = compiled()["spec"]
    live = copy.deepcopy(wanted)
    container = live["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    container["terminationMessagePath"] = "/dev/termination-log"
    del live["excludeHeadPodFromServeSvc"]
    live["rayClusterConfig"]["workerGroupSpecs"][0]["scaleStrategy"] = {"workersToDelete": ["x"]}
    assert difference(wanted, live) == ""
    container["env"].pop()
    assert difference(wanted, live).endswith("containers[0].env")


def test_the_serve_config_counts_replicas_and_never_none() -> None:
    """3 nodes of 2 replicas: 6; and it is yaml that KubeRay reads."""
    spec = compiled(3, nodes={"replicasPerNode": 2})["spec"]
    application = yaml.safe_load(spec["serveConfigV2"])["applications"][0]
    assert application["name"] == "default.chat"
    assert application["external_scaler_enabled"] is True
    assert application["deployments"][0]["num_replicas"] == 6
    assert application["deployments"][0]["max_replicas_per_node"] == 2
    assert "num_replicas" not in json.dumps(application["args"])


def test_the_worker_group_is_found_by_name_wherever_it_stands() -> None:
    """KubeRay may reorder; without it there is nothing to scale."""
    cluster = {"metadata": {"name": "c"}, "spec": {"workerGroupSpecs": [{"groupName": "other"}, {"groupName": "gpu"}]}}
    assert group_index(cluster) == 1
    with pytest.raises(LookupError, match="RayCluster c has no worker group 'gpu'"):
        group_index({"metadata": {"name": "c"}, "spec": {}})


# ------------------------------------------------------------------------------------------------------------------ health


async def test_health_is_the_age_of_the_last_tick_and_readiness_its_existence() -> None:
    """200 and ok; 500 and what is wrong; 503 before the first tick; metrics beside them."""
    wrong, ready = [""], [False]
    meters = telemetry.Telemetry()
    meters.nodes_desired.labels("default", "chat").set(3)
    runners = await telemetry.serve(meters, lambda: wrong[0], lambda: ready[0], ("127.0.0.1", 0), ("127.0.0.1", 0))
    metrics, health = ("http://{}:{}".format(*runner.addresses[0]) for runner in runners)
    try:
        async with aiohttp.ClientSession() as session:

            async def get(url: str) -> tuple[int, str]:
                async with session.get(url) as response:
                    return response.status, await response.text()

            assert await get(health + "/healthz") == (200, "ok")
            assert await get(health + "/readyz") == (503, "no tick has finished yet")
            wrong[0], ready[0] = "the last tick finished 200 s ago; 105 s are allowed", True
            assert await get(health + "/healthz") == (500, wrong[0])
            assert await get(health + "/readyz") == (200, "ok")
            assert 'deepseek_operator_nodes_desired{name="chat",namespace="default"} 3.0' in (await get(metrics + "/metrics"))[1]
            meters.forget("default", "chat")
            assert 'name="chat"' not in (await get(metrics + "/metrics"))[1]
    finally:
        for runner in runners:
            await runner.cleanup()


def body_of(version: str, nodes: int, uid: str = "u") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": "chat-abc", "uid": uid, "resourceVersion": version, "generation": nodes},
        "spec": {"workerGroupSpecs": [{"groupName": "gpu", "replicas": nodes}]},
    }


def test_a_watch_event_that_our_own_write_overtook_changes_nothing() -> None:
    """We wrote 5 nodes (version 12); the watch then brings version 11 with 3: 5 stays. A new object of the same name is another matter."""
    seen = Seen()
    seen.note("clusters", None, body_of("12", 5))
    assert not seen.note("clusters", "MODIFIED", body_of("11", 3))
    seen.replace("clusters", [body_of("9", 2)])
    assert seen.cluster_body("default", "chat-abc") == body_of("12", 5)
    assert seen.note("clusters", "ADDED", body_of("3", 1, uid="another"))
    assert seen.cluster_body("default", "chat-abc") == body_of("3", 1, uid="another")
    assert seen.note("clusters", "DELETED", body_of("13", 1, uid="another"))
    assert seen.cluster_body("default", "chat-abc") is None


def test_a_late_deletion_of_an_earlier_object_leaves_its_successor() -> None:
    """Deleted and created again under the same name: the old one's DELETED comes last and drops nothing."""
    seen = Seen()
    seen.note("clusters", None, body_of("20", 1, uid="new"))
    assert not seen.note("clusters", "DELETED", body_of("19", 1, uid="old"))
    assert seen.cluster_body("default", "chat-abc") is not None


def test_what_was_noted_after_a_list_was_asked_for_is_newer_than_the_list() -> None:
    """Created while the list was under way: not dropped. Deleted meanwhile: not revived. What was there before and is not listed goes."""
    seen = Seen()
    seen.note("clusters", None, body_of("5", 1))
    begun = seen.moment
    created = body_of("8", 1, uid="v")
    created["metadata"]["name"] = "chat-new"
    seen.note("clusters", "ADDED", created)
    seen.note("clusters", "DELETED", body_of("9", 1))
    seen.replace("clusters", [body_of("5", 1)], begun)
    assert seen.cluster_body("default", "chat-new") is not None
    assert seen.cluster_body("default", "chat-abc") is None
    seen.replace("clusters", [])
    assert seen.cluster_body("default", "chat-new") is None


def test_the_budget_is_a_whole_minimum_one_below_the_nodes() -> None:
    """4 nodes → at least 3 stay; 1 node → it may go. Kubernetes cannot work out maxUnavailable for a RayCluster and would allow nothing."""
    assert [compile_budget("default", "chat", "u", nodes)["spec"]["minAvailable"] for nodes in (4, 1, 0)] == [3, 0, 0]
    assert "maxUnavailable" not in compile_budget("default", "chat", "u", 4)["spec"]


def test_keys_are_mounted_in_the_workers_and_what_may_be_given_up_reaches_the_replicas() -> None:
    """apiKeysSecret chat-keys → its volume in the workers alone, its folder in the replicas' settings; beside a claim both are mounted."""
    degrade = {"maxOutputTokens": 64, "quantization": "int4"}
    spec = compiled(
        serving={"apiKeysSecret": "chat-keys", "remoteImageHosts": ["a.test"], "degrade": degrade, "slots": 16},
        model={"source": "pvc://weights/vl", "engine": "transformers", "compile": "always"},
    )["spec"]
    worker = spec["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    assert worker["volumes"][1] == {"name": "api-keys", "secret": {"secretName": "chat-keys"}}
    mounts = {mount["name"]: (mount["mountPath"], mount["readOnly"]) for mount in worker["containers"][0]["volumeMounts"]}
    assert mounts == {"model": ("/mnt/models/weights", True), "api-keys": ("/etc/deepseek/api-keys", True)}
    assert "volumes" not in spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    args = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"]
    assert args["access"] == {"keysFolder": "/etc/deepseek/api-keys", "remoteImageHosts": ["a.test"]}
    assert args["degrade"] == {"atQueuePercent": 50, "maxOutputTokens": 64, "quantization": "int4"}
    assert (args["serving"]["slots"], args["model"]["compile"]) == (16, "always")
    assert "maxOngoingRequests" not in args["serving"]  # follows from the slots


@pytest.mark.parametrize(("engine", "slots", "held"), [("transformers", 8, 9 + 72), ("vllm", 128, 144 + 1152)])
def test_an_object_without_slots_gets_those_of_its_engine(engine: str, slots: int, held: int) -> None:
    """8, with vLLM 128; one in eight more run, for a moment eight times as many wait: so many Ray Serve lets in, and a few to refuse."""
    spec = compiled(model={"source": "hf://deepseek-ai/DeepSeek-V3", "engine": engine})["spec"]
    application = yaml.safe_load(spec["serveConfigV2"])["applications"][0]
    assert application["args"]["serving"]["slots"] == slots
    assert 0 < application["deployments"][0]["max_ongoing_requests"] - held <= 64


def containers_of(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The Ray container of the workers and of the head."""
    config = spec["rayClusterConfig"]
    return tuple(group["template"]["spec"]["containers"][0] for group in (config["workerGroupSpecs"][0], config["headGroupSpec"]))


def test_the_replicas_own_port_is_in_the_service_and_leads_to_workers_alone() -> None:
    """directPort 8100 → chat-serve-svc:8100 → the port `direct`, which only workers have; absent: nothing of it."""
    for port in (8100, None):
        spec = compiled(serving={"directPort": port} if port else {})["spec"]
        worker, head = ({each["name"]: each["containerPort"] for each in container["ports"]} for container in containers_of(spec))
        assert (worker.get("direct"), head.get("direct"), worker["serve"]) == (port, None, 8000)
        assert (worker.get("serve-direct"), head.get("serve-direct")) == (None, port)
        ports = [{"name": "serve-direct", "port": 8100, "targetPort": "direct"}]
        assert spec.get("serveService") == ({"spec": {"ports": ports}} if port else None)
        assert yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"]["serving"]["directPort"] == (port or 0)
        assert yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"]["serving"]["directNoticedSeconds"] == (20 if port else 0)


def test_a_worker_with_a_port_of_its_own_is_ready_only_when_that_port_answers() -> None:
    """Raylet, Serve's proxy and port 8100 are asked every 5 s, one no is enough; without directPort KubeRay puts in its own probe."""
    worker, head = containers_of(compiled(serving={"directPort": 8100})["spec"])
    shell, option, command = worker["readinessProbe"]["exec"]["command"]
    assert (shell, option) == ("bash", "-c")
    assert re.findall(r"localhost:(\d+)/(\S+) \| grep ([-\w ]+?)(?: &&|$)", command) == [
        ("52365", "api/local_raylet_healthz", "success"),
        ("8000", "-/healthz", "-v drained"),
        ("8100", "healthz", "ok"),
    ]
    assert command.count(" && ") == 2
    assert (worker["readinessProbe"]["periodSeconds"], worker["readinessProbe"]["failureThreshold"]) == (5, 1)
    assert "readinessProbe" not in head
    assert all("readinessProbe" not in container for container in containers_of(compiled()["spec"]))


def test_a_replica_with_a_port_of_its_own_gets_another_answers_time_and_twenty_seconds_to_go() -> None:
    """240 s for the longest answer by the proxies, 240 s for one begun then by its own port, 15 s until nobody is sent there, 5 s; Ray's drain
    30 s more, the pod's grace another 30 s. A cluster that was replaced lives 2 × 240 + 70 s: a connection is kept for 30 s, unused for 30.
    """
    for port, whole, replaced in ((8100, 500, 550), (None, 240, 240)):
        spec = compiled(serving={"directPort": port, "gracefulShutdownSeconds": 240} if port else {"gracefulShutdownSeconds": 240})["spec"]
        worker, _ = containers_of(spec)
        deployment = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["deployments"][0]
        drain = next(each["value"] for each in worker["env"] if each["name"] == "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
        grace = spec["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert (deployment["graceful_shutdown_timeout_s"], int(drain), grace) == (whole, whole + 30, whole + 60)
        assert spec["rayClusterDeletionDelaySeconds"] == replaced
    assert LimitSettings().direct_linger_seconds + 2 * LATE_SECONDS < direct_port.LEAVING_SECONDS
    assert OLDEST_SECONDS + UNUSED_SECONDS < direct_port.MOVING_SECONDS


def service_of(spec: dict[str, Any]) -> dict[str, Any]:
    parsed = DeepSeekDeployment.model_validate({"spec": {"model": {"source": "hf://a/b"}, **spec}}).spec
    body = compile_service("default", "chat", "u", parsed, 2, CompileOptions())
    return json.loads(json.dumps({**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}))


GPU = "spec.rayClusterConfig.workerGroupSpecs[0].template.spec"


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        pytest.param({"nodeSelector": {"pool": "a"}}, {}, f"{GPU}.nodeSelector", id="the node selector is taken back"),
        pytest.param(
            {"nodeSelector": {"pool": "a", "zone": "b"}}, {"nodeSelector": {"pool": "a"}}, f"{GPU}.nodeSelector", id="one of its two labels"
        ),
        pytest.param({"tolerations": [{"key": "x"}]}, {}, f"{GPU}.tolerations", id="the tolerations"),
        pytest.param(
            {"resources": {"limits": {"cpu": "4", "memory": "8Gi"}}},
            {"resources": {"limits": {"cpu": "4"}}},
            f"{GPU}.containers[0].resources.limits",
            id="the limit on memory",
        ),
        pytest.param({"nodeSelector": {"pool": "a"}}, {"nodeSelector": {"pool": "a"}}, "", id="nothing"),
    ],
)
def test_a_setting_that_is_taken_back_reaches_the_cluster(before: Any, after: Any, where: str) -> None:
    """The live RayService still has it: that is a difference, and it is repaired."""
    live, wanted = service_of({"nodes": before}), service_of({"nodes": after})
    assert read_service(live, wanted).differs_at == where


def test_a_rayservice_that_an_earlier_object_left_behind_is_taken_over() -> None:
    """Same name and labels, another owner: the difference names the owner, and the repair writes it."""
    wanted = service_of({})
    live = copy.deepcopy(wanted)
    live["metadata"]["ownerReferences"][0]["uid"] = "an earlier one"
    view = read_service(live, wanted)
    assert view.differs_at == "metadata.ownerReferences"
    assert {"op": "add", "path": "/metadata/ownerReferences", "value": wanted["metadata"]["ownerReferences"]} in replace_spec(view, wanted)
