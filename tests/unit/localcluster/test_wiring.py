"""How ports, names and commands of a pod read on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_localcluster.raynode.wiring import NAMED_PLACES, PLACES, Wiring, container_port

HEAD = "chat-abcde-head-svc"
CONTAINER = {"name": "ray", "ports": [{"name": "metrics", "containerPort": 8080}, {"name": "serve", "containerPort": 8123}]}


def head_port(service: str, port: int) -> int | None:
    """One head, whose block begins at 30000."""
    return Wiring(30_000, CONTAINER).local_port(port) if service == HEAD else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"--address={HEAD}.default.svc.cluster.local:6379", "--address=127.0.0.1:30000"),
        (f"--address={HEAD}:6379 --num-gpus=1", "--address=127.0.0.1:30000 --num-gpus=1"),
        (f"http://{HEAD}.default.svc:8265/api", "http://127.0.0.1:30001/api"),
        ("other-head-svc.default.svc.cluster.local:6379", "other-head-svc.default.svc.cluster.local:6379"),
        ("wget -q http://localhost:52365/api/local_raylet_healthz", "wget -q http://localhost:20003/api/local_raylet_healthz"),
        ("http://127.0.0.1:8000/-/healthz", "http://127.0.0.1:20009/-/healthz"),
        ("http://127.0.0.1:9090/metrics", "http://127.0.0.1:9090/metrics"),
        ("http://prometheus:8000/", "http://prometheus:8000/"),
        ("localhost:80001", "localhost:80001"),
    ],
    ids=["full name", "short name", "dashboard", "unknown head", "agent", "serve", "port of another", "other host", "no such port"],
)
def test_names_of_heads_and_local_ports_become_ports_of_blocks(text: str, expected: str) -> None:
    """A pod's block begins at 20000, its head's at 30000."""
    assert Wiring(20_000, CONTAINER).rewrite(text, head_port) == expected


def test_a_port_of_an_unusual_number_is_known_by_its_name() -> None:
    """The Serve port may be 8123; it takes the place of 8000."""
    assert Wiring(20_000, CONTAINER).local_port(8123) == Wiring(20_000, CONTAINER).local_port(8000) == 20_009


def test_a_port_of_the_users_own_has_a_place_and_the_container_is_told_where() -> None:
    """8100 and 8101 take the places 20 and 21; LOCAL_PORT_8100 says so; what is not declared is itself."""
    ports = [*CONTAINER["ports"], {"name": "direct", "containerPort": 8100}, {"containerPort": 8101}]
    wiring = Wiring(20_000, {"name": "ray", "ports": ports})
    assert wiring.declared == {8080: 20_005, 8123: 20_009, 8100: 20_020, 8101: 20_021}
    assert wiring.environment()["LOCAL_PORT_8100"] == "20020"
    assert wiring.rewrite("wget http://localhost:8100/healthz", head_port) == "wget http://localhost:20020/healthz"
    assert wiring.local_port(8102) == 8102


@given(base=st.integers(200, 300).map(lambda block: block * 100))
def test_no_two_ports_of_a_pod_share_a_place_and_all_lie_in_its_block(base: int) -> None:
    """Whatever the block."""
    local = [Wiring(base, CONTAINER).local_port(port) for port in PLACES]
    assert len(set(local)) == len(PLACES)
    assert all(base <= port < base + 40 for port in local)  # 40 … 99 are Ray's worker processes
    assert set(NAMED_PLACES.values()) <= set(PLACES.values())


def test_a_head_and_a_worker_get_the_flags_of_their_kind(tmp_path: Path) -> None:
    """Only a head has GCS, dashboard and client ports; the object store is bounded unless the pod says otherwise."""
    wiring = Wiring(20_000, CONTAINER)
    head = wiring.ray_flags("ray start --head --block", head=True, temporary=tmp_path)
    worker = wiring.ray_flags("ray start --block --object-store-memory=5", head=False, temporary=tmp_path)
    assert "--port=20000" in head.split()
    assert "--dashboard-port=20001" in head.split()
    assert "--object-store-memory=100000000" in head.split()
    assert not {"--port=20000", "--dashboard-port=20001"} & set(worker.split())
    assert "object-store-memory" not in worker
    assert {"--min-worker-port=20040", "--max-worker-port=20099", "--metrics-export-port=20005", f"--temp-dir={tmp_path}"} <= set(
        worker.split()
    )


def test_only_serves_two_ports_change_in_its_configuration() -> None:
    """Applications, hosts and unknown keys stay; gRPC options are not invented."""
    given_by_kuberay = {"proxy_location": "EveryNode", "http_options": {"host": "0.0.0.0", "port": 8000}, "applications": [{"name": "a"}]}
    changed = Wiring(20_000, CONTAINER).serve_configuration(given_by_kuberay)
    assert changed == {**given_by_kuberay, "http_options": {"host": "0.0.0.0", "port": 20_009}}
    assert given_by_kuberay["http_options"] == {"host": "0.0.0.0", "port": 8000}
    with_grpc = Wiring(20_000, CONTAINER).serve_configuration({"grpc_options": {"port": 9000, "grpc_servicer_functions": ["f"]}})
    assert with_grpc["grpc_options"] == {"port": 20_010, "grpc_servicer_functions": ["f"]}


def test_a_port_without_that_name_is_refused_with_the_names_there_are() -> None:
    """Errors say what is allowed."""
    assert container_port(CONTAINER, "metrics") == 8080
    assert container_port(CONTAINER, "8265") == 8265
    with pytest.raises(LookupError, match=r"no port called 'http'; it has metrics, serve"):
        container_port(CONTAINER, "http")
