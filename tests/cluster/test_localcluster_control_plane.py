"""The control plane is real, quick, and several fit side by side."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from deepseek_localcluster import CommandError, LocalCluster, StartError

pytestmark = pytest.mark.cluster


def test_a_control_plane_is_up_in_10_seconds() -> None:
    """From nothing to an API server, controllers and a default service account; the best of three, for others may use the machine."""
    seconds: list[float] = []
    while len(seconds) < 3 and min(seconds, default=10.0) >= 10:
        began = time.monotonic()
        with LocalCluster() as cluster:
            seconds.append(time.monotonic() - began)
            assert json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == "v1.36.3"
    assert min(seconds) < 10


def test_two_clusters_side_by_side_know_nothing_of_each_other(control_plane: LocalCluster) -> None:
    """Neither ports nor objects are shared."""
    with LocalCluster() as other:
        other.kubectl("create", "namespace", "only-there")
        assert other.server != control_plane.server
        assert "only-there" not in control_plane.kubectl("get", "namespaces", "-o", "name")


def test_rbac_refuses_a_service_account_without_rights(control_plane: LocalCluster) -> None:
    """The default service account may not list secrets; the administrator may."""
    control_plane.kubectl("get", "secrets", "-A")
    with pytest.raises(CommandError, match=r'serviceaccount:default:default" cannot list resource "secrets"'):
        control_plane.kubectl("get", "secrets", "-A", "--as=system:serviceaccount:default:default")


def test_pod_security_refuses_a_privileged_pod_in_a_restricted_namespace(control_plane: LocalCluster) -> None:
    """Default admission is on."""
    control_plane.kubectl("create", "namespace", "strict")
    control_plane.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: strict}\nspec: {containers: [{name: c, image: i}]}\n"
    with pytest.raises(CommandError, match='violates PodSecurity "restricted'):
        control_plane.apply(pod)


def test_the_audit_log_holds_the_body_of_a_write_and_only_the_fact_of_a_read(control_plane: LocalCluster) -> None:
    """Tests can count requests and read what was written."""
    control_plane.kubectl("create", "configmap", "audited", "--from-literal=colour=green")
    control_plane.kubectl("get", "configmap", "audited")
    events = [json.loads(line) for line in control_plane.control_plane.audit_log.read_text().splitlines()]
    about = [event for event in events if event.get("objectRef", {}).get("name") == "audited"]
    write = next(event for event in about if event["verb"] == "create")
    read = next(event for event in about if event["verb"] == "get")
    assert write["responseObject"]["data"] == {"colour": "green"}
    assert read["level"] == "Metadata"


def test_a_component_that_cannot_start_is_named_with_the_end_of_its_log() -> None:
    """Nobody has to look for the log."""
    cluster = LocalCluster(extra_arguments={"kube-scheduler": ["--no-such-flag"]})
    with pytest.raises(StartError, match=r"(?s)kube-scheduler ended with exit code 1 .*unknown flag: --no-such-flag"):
        cluster.start()
    assert not cluster.directory.exists()


def test_the_kubeconfig_is_accepted_by_kubectl_alone(control_plane: LocalCluster) -> None:
    """TLS is verified with the embedded certificate authority; nothing is skipped."""
    text = control_plane.kubeconfig.read_text()
    assert "insecure" not in text
    environment = control_plane.env()
    listed = subprocess.run(["kubectl", "get", "namespaces"], env=environment, capture_output=True, text=True, check=True)
    assert "kube-system" in listed.stdout


def test_a_program_beside_the_cluster_is_one_of_its_components(control_plane: LocalCluster) -> None:
    """It finds the cluster through its environment, its log is kept, and it can be killed and restarted."""
    command = ["bash", "-c", "kubectl get namespaces -o name; echo done; exec sleep 1000"]
    first = control_plane.run("beside", command)
    control_plane.wait("its output", lambda: "done" in control_plane.logs("beside"), 30)
    assert "namespace/kube-system" in control_plane.logs("beside")
    with pytest.raises(ValueError, match="beside runs already"):
        control_plane.run("beside", command)
    control_plane.kill("beside")
    control_plane.wait("its end", lambda: control_plane.components()["beside"]["returncode"] == -9, 10)
    control_plane.restart("beside")
    assert control_plane.components()["beside"]["returncode"] is None
    assert control_plane.components()["beside"]["pid"] != first


def test_an_existing_cluster_is_used_through_its_kubeconfig(control_plane: LocalCluster, tmp_path: Path) -> None:
    """The same commands, and nothing is started or ended."""
    existing = LocalCluster.existing(control_plane.kubeconfig)
    existing.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: through-existing}\n")
    assert "through-existing" in control_plane.kubectl("get", "configmaps", "-o", "name")
    with pytest.raises(FileNotFoundError, match="no kubeconfig at"):
        LocalCluster.existing(tmp_path / "none")
