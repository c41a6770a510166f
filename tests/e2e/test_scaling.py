"""1 → 3 → 1 nodes under steady load on the real chain: API server, KubeRay, Ray Serve, Prometheus, the operator's program. No request fails.

The engine echoes, so it runs without a model; requests, metrics, scaling, drains and pods are as real as on GPUs.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from fakes import deployment
from operator_program import running_operator

from deepseek_localcluster import LocalCluster
from deepseek_operator.api.crd import CRD_NAME, FILE_NAME

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
URL = "http://chat-serve-svc.default.svc.cluster.local:8000/v1/chat/completions"


@dataclass
class Traffic:
    """Open-loop load of `rate` requests per second through the forward proxy; every fourth is a stream of some seconds."""

    proxy: str
    rate: float = 1.0
    outcomes: Counter[str] = field(default_factory=Counter)
    waiting: set[asyncio.Task[None]] = field(default_factory=set)
    sent: int = 0

    async def play(self) -> None:
        """Send until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session:
            try:
                while True:
                    task = asyncio.create_task(self.ask(session, long=self.sent % 4 == 0))
                    self.sent += 1
                    self.waiting.add(task)
                    task.add_done_callback(self.waiting.discard)
                    await asyncio.sleep(1 / self.rate)
            finally:
                await asyncio.gather(*self.waiting)

    async def ask(self, session: aiohttp.ClientSession, *, long: bool) -> None:
        """One request; whole is one that ended as the protocol says."""
        words = "a stream that takes its time " * 5 if long else "hello"
        body = {"model": "chat", "messages": [{"role": "user", "content": words}], "max_tokens": 30 if long else 4, "stream": long}
        try:
            async with session.post(URL, json=body, proxy=self.proxy) as response:
                text = await response.text()
                whole = text.rstrip().endswith("data: [DONE]") if long else "choices" in text
                self.outcomes["ok" if response.status == 200 and whole else f"{response.status}: {text[:200]}"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            self.outcomes[f"{type(error).__name__}: {error}"] += 1


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """The real chain, with three Ray nodes."""
    with LocalCluster(ray_nodes=3, kuberay=True, prometheus=True, scrape_interval="2s", timeout_seconds=180) as cluster:
        cluster.apply(ROOT / "crds" / FILE_NAME)
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=60s")
        yield cluster


@pytest.fixture
def operator(cluster: LocalCluster) -> Iterator[Path]:
    """The operator's program, ticking every second; gives its log."""
    with running_operator(cluster) as log:
        yield log


def _nodes(cluster: LocalCluster) -> dict[str, int]:
    """Nodes asked for, there, and answering, as the status says."""
    return dict((json.loads(cluster.kubectl("get", "dsd", "chat", "-o", "json")).get("status") or {}).get("nodes") or {})


async def _until(cluster: LocalCluster, nodes: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (seen := await asyncio.to_thread(_nodes, cluster)) != {"desired": nodes, "current": nodes, "ready": nodes}:
        assert time.monotonic() < deadline, f"not {nodes} nodes within {seconds:g} s but {seen}\n{cluster.kubectl('get', 'pods')}"
        await asyncio.sleep(1)


async def test_three_nodes_come_and_two_go_and_no_request_fails(cluster: LocalCluster, operator: Path) -> None:
    """1 req/s: 1 node. 4 req/s ÷ (2 × 0.8) = 2.5: 3 nodes. 1 req/s again: 1 node, Ray Serve first, then the empty pods by name."""
    body = deployment(
        serving={
            "maxTokensPerSecond": 60,
            "gracefulShutdownSeconds": 20,
            "env": [{"name": "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S", "value": "3"}],
        },
        nodes={"max": 3, "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": "1", "memory": "1Gi"}}},
        head={"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
        scaling={
            "mode": "Reactive",
            "capacity": {"requestsPerSecondPerNode": "2"},
            "scaleDownStabilizationSeconds": 10,
            "scaleDownCooldownSeconds": 5,
        },
    )
    del body["metadata"]["uid"]
    cluster.apply(json.dumps(body))
    await _until(cluster, 1, 300)
    first = [name for name in cluster.kubectl("get", "pods", "-o", "name").split() if "worker" in name]
    traffic = Traffic(cluster.proxy_url)
    playing = asyncio.create_task(traffic.play())
    try:
        await asyncio.sleep(10)
        traffic.rate = 4.0
        await _until(cluster, 3, 300)
        await asyncio.sleep(10)
        traffic.rate = 1.0
        await _until(cluster, 1, 300)
        await asyncio.sleep(5)
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    assert traffic.outcomes == {"ok": traffic.sent}
    assert traffic.sent > 60
    log = await asyncio.to_thread(operator.read_text)
    down = log[log.rindex("told Ray Serve to run 3 replicas") :]
    steps = re.findall(r"told Ray Serve to run (\d) replicas|set the RayCluster to (\d) nodes, releasing (\S.*)|mirrored (\d) nodes", down)
    replicas, mirrored, released = 3, 3, set()
    for serve, nodes, names, mirror in steps:
        if nodes:
            assert replicas <= int(nodes) < mirrored, "a node was released before Ray Serve had left it, or before the last one was mirrored"
            released |= set(names.split(", "))
        replicas, mirrored = int(serve or replicas), int(mirror or mirrored)
    assert (replicas, mirrored, len(released)) == (1, 1, 2)
    left = cluster.kubectl("get", "pods", "-l", "ray.io/node-type=worker", "-o", "name").split()
    assert len(left) == 1
    assert left[0].removeprefix("pod/") not in released
    assert len(first) == 1
    assert len(cluster.kubectl("get", "rayclusters", "-o", "name").split()) == 1
