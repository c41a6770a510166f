"""Real KubeRay drives real Ray on local nodes, without root: up, scale, stream, fail, upgrade, delete."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deepseek_localcluster import LocalCluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

APPS = Path(__file__).parent / "localcluster_apps"
SERVICE = "http://whoami-serve-svc.default.svc.cluster.local:8000"
PATIENT = 300
"""Seconds; an idle machine needs a tenth of it, one that others keep busy may need most."""
WORKERS = "/spec/workerGroupSpecs/0/replicas"


class Service:
    """The RayService ``whoami``, as its users and an operator see it."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": cluster.proxy_url}))

    def ask(self, url: str, body: bytes | None = None, content_type: str = "application/json") -> tuple[Any, str]:
        """The decoded answer and the pod that gave it, through the forward proxy."""
        request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type})
        with self._opener.open(request, timeout=60) as answer:
            return json.load(answer), answer.headers["x-pod"]

    def answers(self) -> str | None:
        """The pod whose replica answers, if one does."""
        try:
            answer, _ = self.ask(f"{SERVICE}/")
        except (OSError, http.client.HTTPException):
            return None
        return str(answer["pod"])

    @property
    def ray_cluster(self) -> str:
        """The active RayCluster."""
        return self.cluster.kubectl("get", "rayservice", "whoami", "-o", "jsonpath={.status.activeServiceStatus.rayClusterName}")

    @property
    def dashboard(self) -> str:
        """The active head's dashboard."""
        return f"http://{self.ray_cluster}-head-svc.default.svc.cluster.local:8265"

    def replicas(self) -> dict[str, str]:
        """State by pod name."""
        details, _ = self.ask(f"{self.dashboard}/api/serve/applications/")
        replicas = details["applications"]["whoami"]["deployments"]["Engine"]["replicas"]
        return {each.get("node_instance_id") or "?": each["state"] for each in replicas}

    def running(self, number: int) -> bool:
        """Whether exactly so many replicas run, and no other is there."""
        return list(self.replicas().values()) == ["RUNNING"] * number

    def scale(self, number: int) -> None:
        """Both levers: nodes by a patch, replicas by Serve's external scaler."""
        patch = [{"op": "replace", "path": WORKERS, "value": number}]
        self.cluster.kubectl("patch", "raycluster", self.ray_cluster, "--type=json", "-p", json.dumps(patch))
        self.scale_replicas(number)

    def scale_replicas(self, number: int) -> None:
        """Serve's external scaler."""
        self.ask(f"{self.dashboard}/api/v1/applications/whoami/deployments/Engine/scale", json.dumps({"target_num_replicas": number}).encode())

    def pods(self, kind: str = "") -> dict[str, bool]:
        """Whether it is Ready, by the name of the pod."""
        selector = f"ray.io/node-type={kind}" if kind else "ray.io/cluster"
        items = json.loads(self.cluster.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
        return {
            pod["metadata"]["name"]: any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions") or [])
            for pod in items
        }


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One worker that answers. How long that took is printed; an idle machine of two cores takes 20 to 25 s."""
    with LocalCluster(ray_nodes=4, kuberay=True, pythonpath=[APPS], prometheus=True, scrape_interval="2s") as cluster:
        service = Service(cluster)
        began = time.monotonic()
        cluster.apply(APPS / "rayservice.yaml")
        cluster.wait("the first answer", service.answers, PATIENT)
        print(f"apply to first answer: {time.monotonic() - began:.1f} s")
        yield service


def test_the_pod_has_its_environment_of_values_fields_and_secrets(service: Service) -> None:
    """A literal, a Secret's key, and the pod's own name by which an operator finds the node of a replica."""
    answer, _ = service.ask(f"{SERVICE}/")
    assert answer == {"pod": next(iter(service.pods("worker"))), "colour": "blue", "secret": "sesame"}


def test_a_body_of_8_megabytes_passes_the_proxy(service: Service) -> None:
    """Pictures are large."""
    answer, _ = service.ask(f"{SERVICE}/size", b"x" * 8_000_000, "application/octet-stream")
    assert answer == {"bytes": 8_000_000}


async def test_an_event_stream_arrives_chunk_by_chunk(service: Service) -> None:
    """Ten events 0.1 s apart do not arrive in one piece."""
    arrivals: list[tuple[float, bytes]] = []
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{SERVICE}/stream?chunks=10&seconds=0.1", proxy=service.cluster.proxy_url) as answer,
    ):
        clock = asyncio.get_running_loop().time
        arrivals.extend([(clock(), chunk) async for chunk in answer.content.iter_any()])
    assert b"".join(chunk for _, chunk in arrivals) == b"".join(b"data: %d\n\n" % number for number in range(10))
    assert arrivals[-1][0] - arrivals[0][0] > 0.5


def test_an_unknown_name_and_an_empty_host_are_answered_at_once(service: Service) -> None:
    """KubeRay asks http://:8000/ before it knows a pod's address; the proxy lives on."""
    with pytest.raises(urllib.error.HTTPError, match="503"):
        service.ask("http://nobody.default.svc.cluster.local/")
    connection = http.client.HTTPConnection("127.0.0.1", int(service.cluster.proxy_url.rpartition(":")[2]), timeout=5)
    connection.putrequest("GET", "http://:8000/-/healthz", skip_host=True)
    connection.putheader("Host", ":8000")
    connection.endheaders()
    assert connection.getresponse().status >= 400
    assert service.answers()


def test_prometheus_scrapes_the_pods_metrics_port_through_the_proxy(service: Service) -> None:
    """Ray's own metrics arrive with namespace, pod and cluster."""

    def scraped() -> list[dict[str, str]]:
        query = urllib.parse.urlencode({"query": "ray_node_cpu_count or ray_resources"})
        with urllib.request.urlopen(f"{service.cluster.prometheus_url}/api/v1/query?{query}", timeout=10) as answer:
            return [series["metric"] for series in json.load(answer)["data"]["result"]]

    def both() -> bool:
        return {each.get("pod") for each in scraped()} >= set(service.pods())

    service.cluster.wait("metrics of head and worker", both, PATIENT)
    assert {(each["namespace"], each["ray_io_cluster"]) for each in scraped()} == {("default", service.ray_cluster)}


def test_three_workers_answer_in_turn_after_scaling_up(service: Service) -> None:
    """Nodes and replicas are asked for at once; 7 s on an idle machine."""
    began = time.monotonic()
    service.scale(3)
    service.cluster.wait("three replicas", lambda: service.running(3), PATIENT)
    print(f"1 to 3 replicas: {time.monotonic() - began:.1f} s")
    service.cluster.wait("three ready workers", lambda: list(service.pods("worker").values()) == [True] * 3, PATIENT)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: service.ask(f"{SERVICE}/?seconds=0.05"), range(60)))
    assert {answer["pod"] for answer, _ in answers} == set(service.pods("worker"))
    assert len({entered for _, entered in answers}) == 4  # the Service lists the head and three workers


def test_a_killed_process_is_a_failed_pod_that_kuberay_replaces(service: Service) -> None:
    """kill -9 of `ray start`: the pod's other processes go too, KubeRay makes another pod, and three replicas run again."""
    victim = next(iter(service.pods("worker")))
    os.kill(service.cluster.pod_pid(victim), signal.SIGKILL)
    service.cluster.wait("another worker", lambda: victim not in service.pods("worker") and len(service.pods("worker")) == 3, PATIENT)
    service.cluster.wait("three replicas", lambda: service.running(3) and victim not in service.replicas(), PATIENT)


def test_requests_in_flight_survive_a_safe_scale_down(service: Service) -> None:
    """Serve first, then the node that hosts no replica: nothing fails and exactly that pod goes."""
    with ThreadPoolExecutor(6) as pool:
        inflight = [pool.submit(service.ask, f"{SERVICE}/?seconds=3") for _ in range(6)]
        service.scale_replicas(1)
        service.cluster.wait("one replica", lambda: service.running(1), PATIENT)
        assert len([future.result() for future in inflight]) == 6
    empty = sorted(set(service.pods("worker")) - set(service.replicas()))
    assert len(empty) == 2
    service.cluster.wait("workers without a replica are not ready", lambda: not any(service.pods("worker")[name] for name in empty), PATIENT)
    patch = [
        {"op": "replace", "path": WORKERS, "value": 1},
        {"op": "add", "path": "/spec/workerGroupSpecs/0/scaleStrategy", "value": {"workersToDelete": empty}},
    ]
    service.cluster.kubectl("patch", "raycluster", service.ray_cluster, "--type=json", "-p", json.dumps(patch))
    service.cluster.wait("the empty workers are gone", lambda: not set(service.pods("worker")) & set(empty), PATIENT)
    assert service.answers() in service.pods("worker")


def test_the_kubelet_killed_and_started_again_finds_clean_nodes(service: Service) -> None:
    """No process of the earlier kubelet's pods is left; the pods it finds are failed or started anew, and the service answers again."""
    before = {name: service.cluster.pod_pid(name) for name in service.pods()}
    service.cluster.kill("raynode")
    service.cluster.restart("raynode")
    service.cluster.wait("the old processes are gone", lambda: not any(_is_running(pid) for pid in before.values()), 30)
    service.cluster.wait("it answers again", service.answers, PATIENT)


def test_an_upgrade_runs_two_heads_side_by_side(service: Service) -> None:
    """Blue becomes green without a failed request."""
    old = service.ray_cluster
    service.cluster.wait("one replica", lambda: service.running(1), PATIENT)
    manifest = (APPS / "rayservice.yaml").read_text().replace("value: blue", "value: green")
    service.cluster.apply(manifest)
    colours: list[str] = []
    deadline = time.monotonic() + PATIENT
    while time.monotonic() < deadline and (not colours or colours[-1] != "green"):
        colours.append(service.ask(f"{SERVICE}/")[0]["colour"])
        time.sleep(0.2)
    assert colours[0] == "blue"
    assert colours[-1] == "green"
    assert service.ray_cluster != old
    service.cluster.wait("the old cluster is gone", lambda: not any(name.startswith(old) for name in service.pods()), PATIENT)


def test_deleting_the_rayservice_removes_every_pod_and_process(service: Service) -> None:
    """SIGTERM reaches `ray start`, which drains and ends."""
    pids = [service.cluster.pod_pid(name) for name in service.pods()]
    service.cluster.kubectl("delete", "rayservice", "whoami", "--wait=false")
    service.cluster.wait("no pods", lambda: not service.pods(), PATIENT)
    assert not any(_is_running(pid) for pid in pids)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
