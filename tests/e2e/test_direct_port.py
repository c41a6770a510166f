"""`serving.directPort` under the real KubeRay: nodes come and go, replicas and clusters are replaced, while clients stream without a pause.

The clients choose their pods as kube-proxy does (tests/endpoints.py), from the EndpointSlices of the Service that KubeRay makes. An echo engine
that takes a model's time to load stands for the model: between a node's arrival and its first answer lie about 20 s.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from endpoints import Endpoints
from fakes import deployment
from operator_program import running_operator
from streaming_clients import Clients

from deepseek_localcluster import LocalCluster
from deepseek_operator.api.crd import CRD_NAME, FILE_NAME

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
DIRECT, PROXY = 8100, 8000
LAG_SECONDS = 1.0
"""kube-proxy writes its rules at most once a second."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """The real chain, with six Ray nodes, their readiness probed as seldom as KubeRay asks: every 5 s."""
    with LocalCluster(
        ray_nodes=6, kuberay=True, prometheus=True, scrape_interval="2s", timeout_seconds=180, probe_period_seconds=5,
        pythonpath=[Path(__file__).parent / "slow_load"],
    ) as cluster:  # fmt: skip
        cluster.apply(ROOT / "crds" / FILE_NAME)
        cluster.wait("the definition's establishment", lambda: '"Established"' in cluster.kubectl("get", "crd", CRD_NAME, "-o", "json"))
        yield cluster


@pytest.fixture(scope="module", autouse=True)
def operator(cluster: LocalCluster) -> Iterator[None]:
    """The operator's program, ticking every second."""
    with running_operator(cluster):
        yield


def chat(
    nodes: int, *, name: str = "chat", port: int | None = DIRECT, tokens_per_second: int = 40, colour: str = "blue", replicas_per_node: int = 1
) -> str:
    """The object with so many nodes. Another pace replaces the replicas in place; another colour, or port, the whole cluster."""
    env = {
        "COLOUR": colour,
        "SLOW_LOAD_SECONDS": "12",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "3",
        # All nodes are on this machine, so each pod has another port here.
        **({"DEEPSEEK_SERVING_DIRECT_PORT": f"$(LOCAL_PORT_{port})"} if port else {}),
    }
    serving: dict[str, Any] = {
        "maxTokensPerSecond": tokens_per_second,
        "gracefulShutdownSeconds": 20,
        "env": [{"name": variable, "value": value} for variable, value in env.items()],
        **({"directPort": port} if port else {}),
    }
    body = deployment(
        name,
        serving=serving,
        nodes={
            "max": 3,
            "count": nodes,
            "replicasPerNode": replicas_per_node,
            "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": "1", "memory": "1Gi"}},
        },
        head={"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
        scaling={"mode": "Manual"},
    )
    del body["metadata"]["uid"]
    return json.dumps(body)


class Watch:
    """Tells a failed test what happened when, and looks whether every ready endpoint takes connections."""

    def __init__(self, cluster: LocalCluster, name: str, endpoints: Endpoints, clients: Clients) -> None:
        self.cluster, self.name, self.endpoints, self.clients = cluster, name, endpoints, clients
        self.closed_doors: list[str] = []
        self.looks = 0

    def note(self, what: str) -> None:
        print(f"{time.monotonic() - self.clients.began:6.1f} s: {what}; {dict(self.clients.outcomes)}", flush=True)

    async def look(self) -> None:
        """Connects to each ready endpoint four times a second, until cancelled."""
        while True:
            for pod, port in self.endpoints.all():
                self.looks += 1
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                except OSError as error:
                    self.closed_doors.append(f"{time.monotonic() - self.clients.began:.1f} s: {pod}: {error!r}")
            await asyncio.sleep(0.25)

    async def apply(self, what: str, body: str) -> None:
        self.note(what)
        await asyncio.to_thread(self.cluster.apply, body)

    async def until_nodes(self, nodes: int, seconds: float = 200) -> None:
        """So many nodes asked for, there, answering, and endpoints."""
        await until(
            lambda: _nodes(self.cluster, self.name) == [nodes] * 3, f"{nodes} nodes", seconds, lambda: self.cluster.kubectl("get", "pods")
        )
        await until(lambda: len(self.endpoints.ready) >= nodes, f"{nodes} endpoints", seconds, lambda: str(self.endpoints.ready))
        self.note(f"{nodes} nodes")

    async def until_cluster(self, previous: str, seconds: float = 300) -> None:
        """The RayCluster `previous` is deleted and its head is gone; without it no worker of it serves for long."""
        await until(
            lambda: previous not in _clusters(self.cluster), f"the end of {previous}", seconds, lambda: self.cluster.kubectl("get", "pods")
        )
        await until(lambda: f"{previous}-head" not in self.cluster.kubectl("get", "pods", "-o", "name"), "the end of its head", seconds, str)
        self.note(f"{previous} is gone")


async def until(true: Any, what: str, seconds: float, seen: Any) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s: {await asyncio.to_thread(seen)}"
        await asyncio.sleep(0.5)


def _nodes(cluster: LocalCluster, name: str) -> list[int]:
    """Nodes asked for, there, and answering, as the status says."""
    nodes = (json.loads(cluster.kubectl("get", "dsd", name, "-o", "json")).get("status") or {}).get("nodes") or {}
    return [nodes.get(each, -1) for each in ("desired", "current", "ready")]


def _replicas(cluster: LocalCluster, name: str) -> dict[str, str]:
    """State of each replica by its name, as Ray Serve's dashboard tells."""
    (head,) = (each for each in _clusters(cluster) if each.startswith(f"{name}-"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": cluster.proxy_url}))
    with opener.open(f"http://{head}-head-svc.default.svc.cluster.local:8265/api/serve/applications/", timeout=30) as answer:
        deployments = json.load(answer)["applications"][f"default.{name}"]["deployments"]
    # While Ray Serve reads new settings it names no deployment for a moment.
    return {each["replica_id"]: each["state"] for each in (deployments.get("Engine") or {}).get("replicas") or []}


def _clusters(cluster: LocalCluster) -> list[str]:
    return [name.rpartition("/")[2] for name in cluster.kubectl("get", "rayclusters", "-o", "name").split()]


@asynccontextmanager
async def streaming(cluster: LocalCluster, port: int, body: str, *, keep: bool = True) -> AsyncIterator[Watch]:
    """8 clients stream through `port` of the Service from the moment on when `body` runs; at the end no request may have failed."""
    await asyncio.to_thread(cluster.apply, body)
    name = json.loads(body)["metadata"]["name"]
    async with Endpoints(cluster, f"{name}-serve-svc", port, LAG_SECONDS).followed() as endpoints:
        clients = Clients(endpoints.choose, model=name, keep=keep)
        watch = Watch(cluster, name, endpoints, clients)
        await watch.until_nodes(json.loads(body)["spec"]["nodes"]["count"], 300)
        clients.began = time.monotonic()
        playing, looking = asyncio.create_task(clients.play()), asyncio.create_task(watch.look())
        try:
            await asyncio.sleep(8)
            yield watch
            await asyncio.sleep(8)
        finally:
            clients.stop()
            looking.cancel()
            await asyncio.gather(playing, looking, return_exceptions=True)
            watch.note("end")
            for at, pods in endpoints.history:
                print(f"{at - clients.began:6.1f} s: endpoints {sorted(pods)}")
            print(*clients.faults[:20], *watch.closed_doors[:20], sep="\n")
        assert clients.outcomes == {"whole": clients.sent}
        assert not watch.closed_doors
        assert watch.looks > 100
        assert clients.sent > 100


async def test_switching_it_on_loses_no_request_through_the_proxies(cluster: LocalCluster) -> None:
    """2 nodes without it, a new connection for each request to port 8000; switched on, KubeRay replaces the cluster and deletes the old one."""
    async with streaming(cluster, PROXY, chat(2, port=None), keep=False) as watch:
        (before,) = _clusters(cluster)
        await watch.apply("switched on", chat(2))
        await watch.until_cluster(before)
        await watch.until_nodes(2)
        answered = Endpoints(cluster, "chat-serve-svc", DIRECT, 0)
        async with answered.followed():
            await until(lambda: len(answered.ready) == 2, "2 endpoints of the direct port", 60, lambda: str(answered.ready))


async def test_nodes_come_and_go_and_replicas_are_replaced_and_no_stream_is_cut(cluster: LocalCluster) -> None:
    """2 nodes become 3, then 2 again, then the replicas are replaced one by one: each request is answered whole, none is even refused."""
    async with streaming(cluster, DIRECT, chat(2)) as watch:
        await watch.apply("to 3 nodes", chat(3))
        await watch.until_nodes(3)
        await asyncio.sleep(5)
        three = watch.endpoints.ready
        await watch.apply("to 2 nodes", chat(2))
        await watch.until_nodes(2)
        assert len(watch.endpoints.ready) == 2
        assert set(watch.clients.answered_by) == three
        seen = len(watch.endpoints.history)
        await watch.apply("to another pace", chat(2, tokens_per_second=50))
        names = watch.endpoints.ready
        left = lambda: {pod for _, pods in watch.endpoints.history[seen:] for pod in names - pods}  # noqa: E731 - asked again and again
        await until(lambda: left() == names, "replacement of both replicas", 200, lambda: str(watch.endpoints.history[seen:]))
        await watch.until_nodes(2)


async def test_a_cluster_is_replaced_and_no_stream_through_the_direct_port_is_cut(cluster: LocalCluster) -> None:
    """Another environment makes another cluster. Clients that keep their connections are on it before the old one is deleted."""
    async with streaming(cluster, DIRECT, chat(2)) as watch:
        (before,) = _clusters(cluster)
        await watch.apply("to another colour", chat(2, colour="green"))
        await watch.until_cluster(before)
        await watch.until_nodes(2)


async def test_two_replicas_share_a_nodes_port_and_are_replaced_without_a_gap(cluster: LocalCluster) -> None:
    """One node, two replicas on one port: new settings replace one after the other, and the node, the only one, never leaves the Service."""
    cluster.kubectl("delete", "dsd", "chat", "--ignore-not-found", "--wait=false")
    async with streaming(cluster, DIRECT, chat(1, name="pair", replicas_per_node=2)) as watch:
        before = await asyncio.to_thread(_replicas, cluster, "pair")
        assert list(before.values()) == ["RUNNING", "RUNNING"]
        await watch.apply("to another pace", chat(1, name="pair", replicas_per_node=2, tokens_per_second=50))

        def replaced() -> bool:
            now = _replicas(cluster, "pair")
            return list(now.values()) == ["RUNNING", "RUNNING"] and not now.keys() & before.keys()

        await until(replaced, "replacement of both replicas", 200, lambda: str(_replicas(cluster, "pair")))
        watch.note("both are new")
    assert [len(pods) for _, pods in watch.endpoints.history[-1:]] == [1]
    assert all(pods for _, pods in watch.endpoints.history[1:]), "the node left the Service"
