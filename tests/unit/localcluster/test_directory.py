"""Which pod a name means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from deepseek_localcluster.raynode.directory import Directory, Unreachable
from deepseek_localcluster.raynode.wiring import Wiring


@dataclass
class FakePod:
    """A pod as the directory sees it."""

    name: str
    ip: str
    ready: bool = True
    running: bool = True
    terminating: bool = False
    namespace: str = "default"
    labels: dict[str, str] = field(default_factory=lambda: {"app": "chat"})
    container: dict[str, Any] = field(default_factory=lambda: {"name": "c", "ports": [{"name": "serve", "containerPort": 8000}]})
    wiring: Wiring = field(default_factory=lambda: Wiring(20_000, {}))


def directory(*pods: FakePod, **spec: Any) -> Directory:
    """The Service default/chat of port 80 for the given pods."""
    found = Directory(pods)
    found.services["default", "chat"] = {"spec": {"selector": {"app": "chat"}, "ports": [{"port": 80, "targetPort": "serve"}], **spec}}
    return found


@pytest.mark.parametrize("host", ["chat", "chat.default", "chat.default.svc", "chat.default.svc.cluster.local"])
def test_a_service_has_four_names_and_maps_its_port_by_name(host: str) -> None:
    """Port 80 is the container's port `serve`, 8000, at place 9 of the block."""
    found = directory(FakePod("a", "10.77.0.1")).resolve(host, 80)
    assert (found.pod, found.container_port, found.local_port) == ("a", 8000, 20_009)


def test_a_pod_without_a_port_of_that_name_is_no_endpoint() -> None:
    """Two of three pods have the port `direct`: requests to it never reach the third."""
    direct = {"name": "c", "ports": [{"name": "direct", "containerPort": 8100}]}
    pods = [FakePod("a", "10.77.0.1", container=direct), FakePod("head", "10.77.0.2"), FakePod("b", "10.77.0.3", container=direct)]
    found = directory(*pods, ports=[{"port": 80, "targetPort": "direct"}])
    assert {found.resolve("chat", 80).pod for _ in range(6)} == {"a", "b"}


def test_ready_pods_take_turns_and_others_get_nothing() -> None:
    """Not ready, not running, terminating, another namespace, other labels."""
    pods = [
        FakePod("a", "10.77.0.1"),
        FakePod("b", "10.77.0.2"),
        FakePod("not ready", "10.77.0.3", ready=False),
        FakePod("not running", "10.77.0.4", running=False),
        FakePod("terminating", "10.77.0.5", terminating=True),
        FakePod("elsewhere", "10.77.0.6", namespace="other"),
        FakePod("other", "10.77.0.7", labels={"app": "mail"}),
    ]
    found = directory(*pods)
    assert [found.resolve("chat", 80).pod for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_head_service_publishes_addresses_that_are_not_ready() -> None:
    """KubeRay configures Serve before the head is Ready."""
    assert directory(FakePod("a", "10.77.0.1", ready=False), publishNotReadyAddresses=True).resolve("chat", 80).pod == "a"


def test_a_pods_address_means_that_pod_ready_or_not() -> None:
    """KubeRay asks the head's health by its address."""
    found = directory(FakePod("a", "10.77.0.1"), FakePod("b", "10.77.0.2", ready=False)).resolve("10.77.0.2", 8265)
    assert (found.pod, found.local_port) == ("b", 20_001)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("mail", "no Service or pod called mail"),
        ("", r"called \(empty\)"),
        ("chat", "default/chat has no ready pod"),
        ("10.77.0.1", "does not run"),
    ],
)
def test_an_unreachable_name_says_why(host: str, message: str) -> None:
    """One pod, which does not run."""
    with pytest.raises(Unreachable, match=message):
        directory(FakePod("a", "10.77.0.1", running=False)).resolve(host, 80)
