"""Fixtures of real clusters, one per session and kind, started only when a test asks for them.

``control_plane``: API server, controller manager and scheduler; no nodes (``control_plane.add_kwok_gpu_nodes`` adds some).
``kuberay_cluster``: the same with KubeRay and four Ray nodes of one GPU each.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deepseek_localcluster.build import ensure
from deepseek_localcluster.cluster import LocalCluster
from deepseek_localcluster.programs import CONTROL_PLANE

_PROGRAMS = {"control_plane": CONTROL_PLANE, "kuberay_cluster": (*CONTROL_PLANE, "kuberay-operator")}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the collected tests need before the first of them runs: a cold build takes longer than a test may."""
    if session.config.option.collectonly:
        return
    used = {fixture for item in session.items if isinstance(item, pytest.Function) for fixture in item.fixturenames}
    ensure(dict.fromkeys(name for fixture, names in _PROGRAMS.items() if fixture in used for name in names))


@pytest.fixture(scope="session")
def control_plane() -> Iterator[LocalCluster]:
    """A control plane without nodes, shared by the session: use a namespace of your own in it."""
    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kuberay_cluster() -> Iterator[LocalCluster]:
    """KubeRay and four Ray nodes of one GPU each, shared by the session."""
    with LocalCluster(ray_nodes=4, kuberay=True) as cluster:
        yield cluster
