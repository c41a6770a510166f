"""The operator's program against a real API server and the real KubeRay: the writes it makes are accepted, and do what they are made for.

Nodes are kwok's, so no Ray runs: a forward proxy stands where the Ray dashboards would be, and answers KubeRay and the operator alike.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import yaml
from fakes import Answer, deployment, http_server, prometheus_says

from deepseek_localcluster import LocalCluster
from deepseek_localcluster.kubeapi import ApiError
from deepseek_operator.api import v1alpha1 as api
from deepseek_operator.api.crd import CRD_NAME, FILE_NAME
from deepseek_operator.core.plan import PodView
from deepseek_operator.edge.kube import Kube, KubeError, StaleError
from deepseek_operator.edge.rayservice import read_cluster, set_nodes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
OURS = ("OpenAPI-Generator", "kopf", "Python", "python", "aiohttp")
SCALING = {
    "mode": "Reactive",
    "capacity": {"requestsPerSecondPerNode": "10"},
    "scaleDownStabilizationSeconds": 3,
    "scaleDownCooldownSeconds": 1,
}


class Dashboards:
    """Every Ray dashboard behind one forward proxy: takes KubeRay's config, says its application runs, and puts replica n on the n-th pod."""

    def __init__(self, pods_of: Callable[[str], list[str]]) -> None:
        self._pods_of, self._lock = pods_of, threading.Lock()
        self.targets: dict[str, dict[str, int]] = {}
        self.puts: list[str] = []
        self.down = False

    def __call__(self, method: str, url: str, body: bytes) -> Answer:
        where = urlparse(url)
        cluster = (where.hostname or "").partition("-head-svc")[0]
        if self.down:
            return Answer("no", 503)
        if not where.path.startswith(("/api/serve/applications", "/api/v1/applications")):
            return Answer("success")
        with self._lock:
            targets = self.targets.setdefault(cluster, {})
            if method == "PUT":
                self.puts.append(cluster)
                for application in json.loads(body)["applications"]:
                    targets[application["name"]] = application["deployments"][0]["num_replicas"]
                return Answer("{}")
            if method == "POST":
                targets[where.path.split("/")[4]] = json.loads(body)["target_num_replicas"]
                return Answer('{"message": "Scaling request received."}')
            pods = self._pods_of(cluster)
            applications = {name: _application(name, target, pods) for name, target in targets.items()}
            return Answer(json.dumps({"applications": applications, "proxies": {}}))


def _application(name: str, target: int, pods: Sequence[str]) -> dict[str, Any]:
    replicas = [{"node_instance_id": pod, "state": "RUNNING"} for pod in pods[:target]]
    engine = {"name": "Engine", "status": "HEALTHY", "message": "", "target_num_replicas": target, "replicas": replicas}
    return {"name": name, "status": "RUNNING", "message": "", "deployments": {"Engine": engine}}


class Stand:
    """The cluster, the fake edges, and what is asked of them in tests."""

    def __init__(self, cluster: LocalCluster, proxy: str, prometheus: str, dashboards: Dashboards, load: dict[str, float]) -> None:
        self.cluster, self.proxy, self.prometheus, self.dashboards, self.load = cluster, proxy, prometheus, dashboards, load

    @contextmanager
    def operator(self, *more: str, kubeconfig: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """`deepseek-operator run` on this cluster, ticking every second; ended when the block ends."""
        command = [
            str(Path(sys.executable).parent / "deepseek-operator"), "run", "--kubeconfig", str(kubeconfig or self.cluster.kubeconfig),
            "--prometheus", self.prometheus, "--http-proxy", self.proxy, "--tick-seconds", "1", "--demand-window-seconds", "10",
            "--metrics-listen", f"127.0.0.1:{self.cluster.free_port()}", "--health-listen", f"127.0.0.1:{self.cluster.free_port()}", *more,
        ]  # fmt: skip
        log = self.cluster.directory / f"operator-{time.monotonic_ns()}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"KUBECONFIG": ""})
            try:
                yield process
            except BaseException:
                print(log.read_text()[-6000:])
                raise
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                assert process.wait(30) in (0, -signal.SIGKILL), log.read_text()[-3000:]
        assert "Traceback" not in log.read_text(), log.read_text()[-6000:]

    def apply(self, name: str, namespace: str = "default", **spec: Any) -> None:
        body = deployment(name, namespace, **({"scaling": SCALING} | spec))
        del body["metadata"]["uid"]
        self.cluster.apply(json.dumps(body))

    def objects(self, kind: str, name: str, namespace: str = "default") -> list[dict[str, Any]]:
        """What exists of an object, by kind."""
        path = {
            "rayservices": f"/apis/ray.io/v1/namespaces/{namespace}/rayservices",
            "rayclusters": f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters",
            "pods": f"/api/v1/namespaces/{namespace}/pods",
            "budgets": f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
        }[kind]
        return list(self.cluster.api.request("GET", f"{path}?labelSelector={api.GROUP}/deployment={name}")["items"])

    def status(self, name: str, namespace: str = "default") -> dict[str, Any]:
        path = f"/apis/{api.API_VERSION}/namespaces/{namespace}/{api.PLURAL}/{name}"
        return self.cluster.api.request("GET", path).get("status") or {}

    def counts(self, name: str, namespace: str = "default") -> tuple[int, int, int]:
        """Nodes in the RayCluster, in the RayService, and live worker pods."""
        clusters, services = self.objects("rayclusters", name, namespace), self.objects("rayservices", name, namespace)
        pods = [pod for pod in self.objects("pods", name, namespace) if pod["metadata"]["labels"].get("ray.io/node-type") == "worker"]
        return (
            clusters[0]["spec"]["workerGroupSpecs"][0]["replicas"] if clusters else 0,
            services[0]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] if services else 0,
            sum("deletionTimestamp" not in pod["metadata"] for pod in pods),
        )

    def until_nodes(self, name: str, nodes: int, namespace: str = "default", seconds: float = 60) -> None:
        """Wait for so many nodes in RayCluster, RayService and pods, all of them ready."""

        def there() -> bool:
            ready = (self.status(name, namespace).get("nodes") or {}).get("ready")
            return self.counts(name, namespace) == (nodes, nodes, nodes) and ready == nodes

        self.cluster.wait(f"{name} has {nodes} nodes", there, seconds)

    def writes(self, since: float) -> list[dict[str, Any]]:
        """The operator's own writes since an instant, from the audit log."""
        found = []
        for line in self.cluster.control_plane.audit_log.read_text().splitlines():
            event = json.loads(line)
            at = time.mktime(time.strptime(event["requestReceivedTimestamp"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
            mine = event.get("userAgent", "").startswith(OURS)
            if at > since and event["stage"] == "ResponseComplete" and mine and event["verb"] in ("create", "update", "patch", "delete"):
                found.append(event)
        return found


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A control plane with KubeRay and four kwok nodes of eight GPUs; the definition; the fake edges."""
    load: dict[str, float] = {}

    def vector(_: str) -> list[dict[str, Any]]:
        return [
            {"metric": {"application": application, "reading": reading}, "value": [time.time(), str(value)]}
            for application, rate in load.items()
            for reading, value in (("demand", rate), ("reporting", 1000))
        ]

    with LocalCluster() as cluster:

        def pods_of(name: str) -> list[str]:
            items = cluster.api.request("GET", f"/api/v1/pods?labelSelector=ray.io/cluster={name},ray.io/node-type=worker")["items"]
            alive = [pod["metadata"] for pod in items if "deletionTimestamp" not in pod["metadata"]]
            return [metadata["name"] for metadata in sorted(alive, key=lambda metadata: (metadata["creationTimestamp"], metadata["name"]))]

        dashboards = Dashboards(pods_of)
        with http_server(dashboards) as proxy, http_server(prometheus_says(vector)) as prometheus:
            cluster.add_kwok_gpu_nodes(4)
            cluster.install_kuberay(http_proxy=proxy)
            cluster.apply(ROOT / "crds" / FILE_NAME)
            cluster.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
            cluster.wait("the new kind is served", lambda: _served(cluster))
            yield Stand(cluster, proxy, prometheus, dashboards, load)


def _served(cluster: LocalCluster) -> bool:
    try:
        return bool(cluster.api.request("GET", f"/apis/{api.API_VERSION}/{api.PLURAL}"))
    except ApiError:
        return False


def test_the_whole_life_of_an_object(stand: Stand) -> None:
    """Created with 1 node, 4 at 30 req/s, 1 again; one RayCluster all the time; idle for 10 ticks: no write; a kill -9 changes nothing."""
    stand.load["default.life"] = 5
    began = time.time() - 1
    with stand.operator() as process:
        stand.apply("life")
        stand.until_nodes("life", 1)
        service = stand.objects("rayservices", "life")[0]
        first = next(p["metadata"]["name"] for p in stand.objects("pods", "life") if p["metadata"]["labels"]["ray.io/node-type"] == "worker")
        assert service["metadata"]["ownerReferences"][0]["kind"] == api.KIND
        time.sleep(3)  # KubeRay writes the object back in its own form meanwhile
        verbs = [write["verb"] for write in stand.writes(began) if "/rayservices" in write["requestURI"]]
        assert verbs == ["create"], "the RayService was rewritten though nothing had changed"

        stand.load["default.life"] = 30
        stand.until_nodes("life", 4)
        assert stand.status("life")["decision"]["reason"] in ("ScaleUp", "Steady")
        process.send_signal(signal.SIGKILL)
        process.wait()
    stand.load["default.life"] = 5
    with stand.operator():
        stand.until_nodes("life", 1)
        survivors = [p["metadata"]["name"] for p in stand.objects("pods", "life") if p["metadata"]["labels"]["ray.io/node-type"] == "worker"]
        assert survivors == [first], "the node that hosted the replica went instead of an empty one"
        assert len(stand.objects("rayclusters", "life")) == 1
        assert stand.dashboards.puts.count(stand.objects("rayclusters", "life")[0]["metadata"]["name"]) == 1, "scaling reset the replicas"
        time.sleep(3)
        quiet = time.time()
        time.sleep(11)
        assert [f"{w['verb']} {w['requestURI']}" for w in stand.writes(quiet)] == []
    events = stand.cluster.api.request("GET", "/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    ours = [(event["type"], event["reason"]) for event in events if event["regarding"]["name"] == "life"]
    assert ours.count(("Normal", "ScaleUp")) == 1


async def test_a_patch_from_a_stale_view_is_refused_and_told_apart_from_other_refusals(stand: Stand) -> None:
    """The real API server's 422 for a failed `test` is StaleError; its 422 for an invalid object is not."""
    body = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "stale", "namespace": "default", "annotations": {"a": "1"}},
        "spec": {
            "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "h", "image": "i"}]}}},
            "workerGroupSpecs": [
                {
                    "groupName": "gpu",
                    "replicas": 0,
                    "minReplicas": 0,
                    "maxReplicas": 9,
                    "rayStartParams": {},
                    "template": {"spec": {"containers": [{"name": "w", "image": "i"}]}},
                }
            ],
        },
    }
    path = "/apis/ray.io/v1/namespaces/default/rayclusters"
    created = stand.cluster.api.request("POST", path, body)
    kube = Kube()
    await kube.connect(str(stand.cluster.kubeconfig))
    try:
        seen = read_cluster(created)
        stand.cluster.kubectl("annotate", "raycluster", "stale", "a=2", "--overwrite")
        with pytest.raises(StaleError) as refusal:
            await kube.patch_cluster("default", "stale", set_nodes(seen, 0, 3, ()))
        assert refusal.value.status == 422
        assert stand.cluster.api.request("GET", f"{path}/stale")["spec"]["workerGroupSpecs"][0]["replicas"] == 0
        with pytest.raises(KubeError) as invalid:
            await kube.patch_cluster("default", "stale", [{"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": "many"}])
        assert not isinstance(invalid.value, StaleError), str(invalid.value)
        for _ in range(5):
            fresh = read_cluster(stand.cluster.api.request("GET", f"{path}/stale"))
            try:
                after = await kube.patch_cluster("default", "stale", set_nodes(fresh, 0, 1, (PodView("gone", 0).name,)))
                break
            except StaleError:
                continue
        assert after["spec"]["workerGroupSpecs"][0]["replicas"] == 1
        assert after["spec"]["workerGroupSpecs"][0]["scaleStrategy"] == {"workersToDelete": ["gone"]}
    finally:
        await kube.close()
        stand.cluster.kubectl("delete", "raycluster", "stale", "--wait=false")


def test_deleting_removes_everything_also_while_the_operator_is_down(stand: Stand) -> None:
    """Owner references do it: no finalizer waits for a program that does not run."""
    stand.load["default.gone"] = 15
    with stand.operator():
        stand.apply("gone")
        stand.until_nodes("gone", 2)
        assert "finalizers" not in stand.cluster.api.request("GET", f"/apis/{api.API_VERSION}/namespaces/default/{api.PLURAL}/gone")["metadata"]
    stand.cluster.kubectl("delete", "dsd", "gone", "--timeout=10s")
    kinds = ("rayservices", "rayclusters", "pods", "budgets")
    stand.cluster.wait("everything is gone", lambda: not any(stand.objects(kind, "gone") for kind in kinds), 60)


def test_manual_follows_kubectl_scale(stand: Stand) -> None:
    """The scale subresource of the real API server."""
    stand.load["default.byhand"] = 5
    with stand.operator():
        stand.apply("byhand", scaling=SCALING | {"mode": "Manual"}, nodes={"count": 1})
        stand.until_nodes("byhand", 1)
        stand.cluster.kubectl("scale", "dsd/byhand", "--replicas=3")
        stand.until_nodes("byhand", 3)
        stand.cluster.kubectl("scale", "dsd/byhand", "--replicas=1")
        stand.until_nodes("byhand", 1)
    stand.cluster.kubectl("delete", "dsd", "byhand")


def test_the_charts_rights_are_enough_and_every_write_is_the_operators(stand: Stand) -> None:
    """Under its own service account, in one namespace: a whole life without one 403."""
    chart = ROOT / "helm" / "deepseek-operator"
    if not (chart / "templates" / "rbac.yaml").exists():
        pytest.skip("the chart is not there")
    cluster = stand.cluster
    cluster.kubectl("create", "namespace", "tenant")
    manifests = cluster.helm(
        "template",
        "rights",
        str(chart),
        "--namespace",
        "tenant",
        "--set",
        "watch.namespaces={tenant},prometheus.url=http://p,networkPolicy.ray.kuberayNamespace=kuberay",
    )
    wanted = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    rights = [each for each in yaml.safe_load_all(manifests) if each and each["kind"] in wanted]
    cluster.apply(yaml.safe_dump_all(rights))
    account = next(b for b in rights if b["kind"] == "RoleBinding")["subjects"][0]["name"]
    token = cluster.kubectl("create", "token", account, "-n", "tenant", "--duration=1h").strip()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    kubeconfig = cluster.directory / "tenant.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    began = time.time()
    stand.load["tenant.chat"] = 5
    with stand.operator("--namespace", "tenant", kubeconfig=kubeconfig):
        stand.apply("chat", "tenant")
        stand.until_nodes("chat", 1, "tenant")
        stand.load["tenant.chat"] = 20
        stand.until_nodes("chat", 3, "tenant")
        stand.load["tenant.chat"] = 5
        stand.until_nodes("chat", 1, "tenant")
    user = f"system:serviceaccount:tenant:{account}"
    events = [json.loads(line) for line in cluster.control_plane.audit_log.read_text().splitlines()]
    mine = [event for event in events if event["user"]["username"] == user]
    refused = {f"{e['verb']} {e['requestURI']}" for e in mine if e.get("responseStatus", {}).get("code") == 403}
    assert refused == set()
    assert any(event["verb"] == "create" and event["objectRef"]["resource"] == "events" for event in mine)
    others = [w["requestURI"] for w in stand.writes(began) if "/tenant/" in w["requestURI"] and w["user"]["username"] != user]
    assert others == []
