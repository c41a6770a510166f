"""Carries a plan out: one write per action, each guarded by what was seen, so that a stale view writes nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from deepseek_operator.core.plan import (
    ClusterView,
    CreateService,
    MirrorNodes,
    Observed,
    Plan,
    SetNodes,
    SetPendingNodes,
    SetReplicas,
    UpdateService,
)
from deepseek_operator.edge import rayservice
from deepseek_operator.edge.kube import Cluster, KubeError, StaleError
from deepseek_operator.edge.rayserve import RayServeError, ServeControl
from deepseek_operator.edge.telemetry import Telemetry
from deepseek_operator.fleet import Seen, Wanted

log = logging.getLogger(__name__)


async def actuate(
    wanted: Wanted,
    plan: Plan,
    observed: Observed,
    compiled: Mapping[str, Any],
    seen: Seen,
    cluster: Cluster,
    serve: ServeControl,
    telemetry: Telemetry,
) -> str:
    """Make the plan's writes in order, stopping at the first that fails. Empty when all went through; otherwise a sentence that says why.

    A write that comes too late (somebody else changed the object first) is no failure: the next tick looks again and plans afresh.
    """
    for action in plan.actions:
        kind = type(action).__name__
        try:
            await _write(action, wanted, observed, compiled, seen, cluster, serve)
        except StaleError as error:
            telemetry.writes.labels(kind, "stale").inc()
            log.info("%s/%s: %s came too late, planning afresh (%s)", *wanted.key, kind, error)
            return ""
        except (KubeError, RayServeError) as error:
            telemetry.writes.labels(kind, "failed").inc()
            return f"{kind}: {error}"
        telemetry.writes.labels(kind, "done").inc()
        log.info("%s/%s: %s", *wanted.key, in_words(action))
    return ""


def in_words(action: object) -> str:
    """One action, for the log."""
    match action:
        case CreateService(nodes):
            return f"created the RayService with {nodes} nodes"
        case UpdateService(nodes, because):
            return f"brought the RayService to the present spec with {nodes} nodes ({because} differed)"
        case MirrorNodes(nodes):
            return f"mirrored {nodes} nodes into the RayService"
        case SetNodes(nodes, release, _):
            return f"set the RayCluster to {nodes} nodes" + (f", releasing {', '.join(release)}" if release else "")
        case SetPendingNodes(nodes):
            return f"set the RayCluster that takes over to {nodes} nodes"
        case SetReplicas(replicas):
            return f"told Ray Serve to run {replicas} replicas"
        case _:
            return str(action)


async def _write(
    action: object, wanted: Wanted, observed: Observed, compiled: Mapping[str, Any], seen: Seen, cluster: Cluster, serve: ServeControl
) -> None:
    namespace, name = wanted.key
    uid = wanted.body["metadata"]["uid"]
    match action:
        case CreateService(nodes):
            try:
                seen.note("services", None, await cluster.create_service(dict(compiled)))
            except StaleError as error:  # 409: there is one that does not carry our label, or an old one that is still going
                raise KubeError(f"a RayService {name} that is not of this object is in the way: {error}", error.status) from None
            await cluster.apply_budget(rayservice.compile_budget(namespace, name, uid, nodes))
        case UpdateService(nodes):
            assert observed.service is not None
            await cluster.apply_budget(rayservice.compile_budget(namespace, name, uid, nodes))
            patch = rayservice.replace_spec(observed.service, compiled)
            seen.note("services", None, await cluster.patch_service(namespace, name, patch))
        case MirrorNodes(nodes):
            seen.note("services", None, await cluster.patch_service(namespace, name, rayservice.mirror_nodes(nodes)))
        case SetNodes(nodes, release, leaving):
            assert observed.cluster is not None
            await _patch_nodes(namespace, observed.cluster, nodes, release + leaving, seen, cluster)
            await cluster.apply_budget(rayservice.compile_budget(namespace, name, uid, nodes))
        case SetPendingNodes(nodes):
            assert observed.pending is not None
            await _patch_nodes(namespace, observed.pending, nodes, (), seen, cluster)
        case SetReplicas(replicas):
            assert observed.cluster is not None
            await serve.scale(namespace, observed.cluster.name, wanted.application, replicas)
        case _:
            raise AssertionError(f"unknown action {action}")


async def _patch_nodes(namespace: str, view: ClusterView, nodes: int, named: tuple[str, ...], seen: Seen, cluster: Cluster) -> None:
    body = seen.cluster_body(namespace, view.name)
    if body is None:
        raise StaleError(f"the RayCluster {view.name} is gone")
    patch = rayservice.set_nodes(view, rayservice.group_index(body), nodes, named)
    seen.note("clusters", None, await cluster.patch_cluster(namespace, view.name, patch))
