"""kind's own loader takes `kind-config.yaml`, and what it tells kubeadm gives two tainted GPU pools."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepseek_localcluster.programs import cache_root
from deepseek_localcluster.toolchain import find_go, go_line

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "tests" / "kind"
CONFIG = ROOT / "kind-config.yaml"


@pytest.fixture(scope="session")
def kind() -> Path:
    """kind of the pinned module, built once per user and pin (a minute when the cache is empty)."""
    pins = (MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()
    folder = cache_root() / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / f"kind-{hashlib.sha256(pins).hexdigest()[:12]}"
    with (folder / "kind.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            go = find_go(go_line(MODULE / "go.mod"), print)
            environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
            unfinished = binary.with_suffix(".unfinished")
            command = [str(go), "build", "-trimpath", "-ldflags", "-s -w", "-o", str(unfinished), "sigs.k8s.io/kind"]
            subprocess.run(command, cwd=MODULE, env=environment, check=True)
            unfinished.rename(binary)
    return binary


@dataclass(frozen=True)
class Attempt:
    """What kind said, and what it wrote into each node: the parts of kubeadm's configuration by kind."""

    words: str
    nodes: dict[str, dict[str, Any]]


def _create(kind: Path, config: str, folder: Path) -> Attempt:
    docker = folder / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{MODULE / "stand_in_docker.py"}" "$@"\n')
    docker.chmod(0o755)
    state = folder / "state"
    state.mkdir()
    environment = {
        "PATH": f"{docker.parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "KUBECONFIG": str(folder / "kubeconfig"),
        "KIND_EXPERIMENTAL_PROVIDER": "docker",
        "STAND_IN_DOCKER": str(state),
    }
    command = [str(kind), "create", "cluster", "--config", "-"]
    answer = subprocess.run(command, input=config, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 1, "the stand-in's kubeadm fails, so kind must"
    written = {path.parent.name: {part["kind"]: part for part in yaml.safe_load_all(path.read_text())} for path in state.glob("*/kubeadm.conf")}
    return Attempt(answer.stderr, written)


@pytest.mark.cluster
def test_kind_takes_the_configuration_as_far_as_kubeadm(kind: Path, tmp_path: Path) -> None:
    """One control plane and four workers; each worker joins with its pool's label and the GPU taint, the control plane with neither."""
    attempt = _create(kind, CONFIG.read_text(), tmp_path)
    assert "the stand-in has no kubeadm" in attempt.words, attempt.words
    pools: dict[str, list[str]] = {}
    for name, configuration in attempt.nodes.items():
        joining = configuration["JoinConfiguration"]["nodeRegistration"]
        labels = next((each["value"] for each in joining["kubeletExtraArgs"] if each["name"] == "node-labels"), "")
        pools.setdefault(labels, []).append(name)
        taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if "worker" in name else None
        assert joining.get("taints") == taints, name
    assert {labels: sorted(names) for labels, names in pools.items()} == {
        "": ["deepseek-control-plane"],
        "deepseek.dev/pool=gpu-a": ["deepseek-worker", "deepseek-worker2"],
        "deepseek.dev/pool=gpu-b": ["deepseek-worker3", "deepseek-worker4"],
    }


BROKEN = {
    "another version": ("kind.x-k8s.io/v1alpha4", "kind.x-k8s.io/v9", "unknown apiVersion: kind.x-k8s.io/v9"),
    "an unknown field": ("  labels: &gpu-a", "  lables: {}\n  labels: &gpu-a", "field lables not found in type v1alpha4.Node"),
    "an unknown role": ("- role: control-plane", "- role: gpu", '"gpu" is not a valid node role'),
    "a taint that is no yaml": ("      taints:\n", "      taints: [\n", "yaml"),
}


@pytest.mark.cluster
@pytest.mark.parametrize(("before", "after", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_kind_refuses_a_broken_configuration(kind: Path, tmp_path: Path, before: str, after: str, words: str) -> None:
    """The same file with one fault does not get as far as kubeadm, so the test above means something."""
    config = CONFIG.read_text()
    assert before in config
    attempt = _create(kind, config.replace(before, after, 1), tmp_path)
    assert "the stand-in has no kubeadm" not in attempt.words
    assert words in attempt.words


def test_the_pools_are_what_the_examples_ask_for() -> None:
    """The example with a node selector finds its pool and tolerates its taint."""
    nodes = yaml.safe_load(CONFIG.read_text())["nodes"]
    pools = {node["labels"]["deepseek.dev/pool"] for node in nodes if node["role"] == "worker"}
    wanted = yaml.safe_load((ROOT / "examples" / "vision-int4.yaml").read_text())["spec"]["nodes"]
    assert wanted["nodeSelector"]["deepseek.dev/pool"] in pools == {"gpu-a", "gpu-b"}
    taint = yaml.safe_load(next(node for node in nodes if node["role"] == "worker")["kubeadmConfigPatches"][0])["nodeRegistration"]["taints"][0]
    (toleration,) = wanted["tolerations"]
    assert (toleration["key"], toleration["operator"], toleration["effect"]) == (taint["key"], "Exists", taint["effect"])
