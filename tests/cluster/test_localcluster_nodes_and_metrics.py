"""Fake GPU nodes by the thousand, and a Prometheus that has a past."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deepseek_localcluster import LocalCluster

pytestmark = pytest.mark.cluster


def test_1000_kwok_gpu_nodes_are_ready_within_a_minute(control_plane: LocalCluster) -> None:
    """Each with 8 GPUs, a label, a taint and a lease; a pod that asks for GPUs and tolerates the taint runs on one of them."""
    began = time.monotonic()
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    names = control_plane.add_kwok_gpu_nodes(1000, gpus=8, labels={"pool": "thousand"}, taints=[taint])
    assert time.monotonic() - began < 60
    leases = ("get", "leases", "-n", "kube-node-lease", "-o", "name")
    control_plane.wait("kwok keeps every node's lease", lambda: control_plane.kubectl(*leases).count("lease.") >= 1000, 60, 1)
    nodes = json.loads(control_plane.kubectl("get", "nodes", "-l", "pool=thousand", "-o", "json"))["items"]
    assert len(nodes) == len(set(names)) == 1000
    assert {node["status"]["allocatable"]["nvidia.com/gpu"] for node in nodes} == {"8"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "on-kwok"},
        "spec": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [{"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        },
    }
    control_plane.apply(json.dumps(pod))
    control_plane.kubectl("wait", "--for=condition=Ready", "pod/on-kwok", "--timeout=60s")
    assert control_plane.kubectl("get", "pod", "on-kwok", "-o", "jsonpath={.spec.nodeName}") in names


class Counter(BaseHTTPRequestHandler):
    """A program outside the cluster: one counter that grows by one every second of the clock."""

    def do_GET(self) -> None:
        """The counter in the text format."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(f"# TYPE past_total counter\npast_total {int(time.time())}\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def counter() -> Iterator[str]:
    """``host:port`` of a running :class:`Counter`."""
    server = HTTPServer(("127.0.0.1", 0), Counter)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def test_a_backfilled_past_and_the_live_present_meet_without_a_gap(tmp_path: Path, counter: str) -> None:
    """Three days before the start at one sample a minute, then live samples each second, in one series with a rate of 1/s throughout."""
    now = int(time.time())
    past = tmp_path / "past.om"
    labels = f'instance="{counter}",job="programs"'
    samples = [f"past_total{{{labels}}} {second} {second}" for second in range(now - 3 * 86_400, now, 60)]
    past.write_text("\n".join(["# TYPE past counter", *samples, "# EOF", ""]))
    with LocalCluster(prometheus=True, scrape_interval="1s", scrape_targets=[counter], backfill_openmetrics=past) as cluster:
        cluster.wait("live samples", lambda: _ask(cluster, "count_over_time(past_total[10s]) > 3"), 60)
        assert _ask(cluster, "count_over_time(past_total[4d])")[0] >= 3 * 1440 + 3
        assert _ask(cluster, "count(past_total)") == [1]
        (rate,) = _ask(cluster, "rate(past_total[1h])")
        assert rate == pytest.approx(1.0, rel=0.02)


def _ask(cluster: LocalCluster, query: str) -> list[float]:
    with urllib.request.urlopen(f"{cluster.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10) as answer:
        return [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]
