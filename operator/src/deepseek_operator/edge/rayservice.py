"""Compiles an object into a KubeRay RayService, and reads RayServices, RayClusters and worker pods back into the core's words.

What KubeRay makes of it is in `docs/architecture.md`; the two facts that shape this file: a RayService's replica counts do not reach a running
cluster and yet overwrite it when KubeRay rebuilds it (so counts are written to both), and any change of `serveConfigV2` resets the replica
count that was set from outside (so it is rewritten only when the application itself changes).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import yaml

from deepseek_operator.api import v1alpha1 as api
from deepseek_operator.core.plan import ClusterView, PodView, ServiceView
from deepseek_operator.edge import direct_port
from deepseek_serving.settings import (
    DEPLOYMENT_NAME,
    IMPORT_PATH,
    PVC_MOUNT_ROOT,
    AccessSettings,
    DegradeSettings,
    LimitSettings,
    ModelSettings,
    ServingSettings,
)
from deepseek_serving.settings import Engine as EngineName

GROUP, VERSION = "ray.io", "v1"
SERVICES, CLUSTERS = "rayservices", "rayclusters"
WORKER_GROUP = "gpu"
FIELD_MANAGER = "deepseek-operator"
DEPLOYMENT_LABEL = f"{api.GROUP}/deployment"
SERVE_PORT = 8000

KEYS_FOLDER = "/etc/deepseek/api-keys"
"""Where the Secret of the API keys is mounted in the worker pods; Kubernetes renews the files there when the Secret changes."""

OBJECT_STORE_BYTES = 200 * 1024 * 1024
"""Ray's object store per pod. Requests travel through Ray Serve's handles, not through it; Ray would take 30 % of the memory otherwise."""

DRAIN_SLACK_SECONDS = 30
"""A replica gets gracefulShutdownSeconds; Ray's drain of the node must outlast it, and the pod's grace the drain, else SIGKILL cuts in."""

TEXTS_KEPT = 32_768
"""Serve configs whose yaml is remembered: they change seldom, and reading and writing yaml would be nine tenths of a tick's work."""

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What Pod Security *restricted* asks of a container; KubeRay copies it to its init container."""


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """Settings of the operator that go into the pods."""

    ray_metrics_interval_seconds: float = 10.0


def application_name(namespace: str, name: str) -> str:
    """Name of the Ray Serve application, hence the label `application` of all its metrics and the id of its forecast: `default.chat`."""
    return f"{namespace}.{name}"


def labels(name: str) -> dict[str, str]:
    """The labels of everything the operator creates for the object `name`."""
    return {"app.kubernetes.io/managed-by": "deepseek-operator", "app.kubernetes.io/name": name, DEPLOYMENT_LABEL: name}


def pod_selector(name: str) -> str:
    """Label selector of the worker pods, one per node."""
    return f"{DEPLOYMENT_LABEL}={name},ray.io/node-type=worker"


def owner(name: str, uid: str) -> dict[str, Any]:
    """Reference to the object: Kubernetes removes what carries it when the object goes, also while the operator is down."""
    return {"apiVersion": api.API_VERSION, "kind": api.KIND, "name": name, "uid": uid, "controller": True}


def compile_service(
    namespace: str, name: str, uid: str, spec: api.DeepSeekDeploymentSpec, nodes: int, options: CompileOptions
) -> dict[str, Any]:
    """The RayService for an object: `nodes` worker pods, and in `serveConfigV2` as many replicas as they hold."""
    longest, direct = spec.serving.graceful_shutdown_seconds, spec.serving.direct_port
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayService",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(name), "ownerReferences": [owner(name, uid)]},
        "spec": {
            "upgradeStrategy": {"type": "NewCluster"},
            # The only time an upgrade gives the old cluster to finish what it has.
            "rayClusterDeletionDelaySeconds": max(60, direct_port.moving_seconds(direct, longest)),
            "excludeHeadPodFromServeSvc": False,
            **direct_port.service_part(direct),
            "serveConfigV2": _as_yaml(json.dumps(_serve_config(namespace, name, spec, nodes))),
            "rayClusterConfig": {
                "rayVersion": spec.serving.ray_version,
                "enableInTreeAutoscaling": False,  # one writer per lever: this operator owns the counts
                "headGroupSpec": {
                    # num-cpus and num-gpus 0: nothing but Serve's own actors runs on the head
                    "rayStartParams": {
                        "dashboard-host": "0.0.0.0",  # noqa: S104 - inside the pod's own network, guarded by the chart's NetworkPolicy
                        "num-cpus": "0",
                        "num-gpus": "0",
                        "object-store-memory": str(OBJECT_STORE_BYTES),
                    },
                    "template": _pod_template(name, spec, options, head=True),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": WORKER_GROUP,
                        "replicas": nodes,
                        "minReplicas": 0,  # wide on purpose: KubeRay clamps by them, and they cannot be changed through the RayService later
                        "maxReplicas": 2147483647,
                        "rayStartParams": {"object-store-memory": str(OBJECT_STORE_BYTES)},
                        "template": _pod_template(name, spec, options, head=False),
                    }
                ],
            },
        },
    }


def compile_budget(namespace: str, name: str, uid: str, nodes: int) -> dict[str, Any]:
    """The PodDisruptionBudget of `nodes` nodes: evictions (a drained machine, a cluster upgrade) take one at a time.

    A whole `minAvailable`, because Kubernetes can work out `maxUnavailable` only for owners with a scale subresource, and a RayCluster has
    none: it would allow no eviction at all.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(name), "ownerReferences": [owner(name, uid)]},
        "spec": {
            "minAvailable": max(0, nodes - 1),
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {DEPLOYMENT_LABEL: name, "ray.io/node-type": "worker"}},
        },
    }


def serving_settings(name: str, spec: api.DeepSeekDeploymentSpec) -> ServingSettings:
    """What the replicas are told. Raises `ValueError` (pydantic) where the object asks for what the replicas would refuse."""
    limits = spec.serving
    return ServingSettings(
        model=ModelSettings.model_validate(
            {
                "source": spec.model.source,
                "quantization": spec.model.quantization,
                "mode": spec.model.mode,
                "engine": spec.model.engine,
                "compile": spec.model.compile,
            }
        ),
        serving=LimitSettings(
            **({"slots": limits.slots} if limits.slots else {}),
            max_ongoing_requests=limits.max_ongoing_requests,
            max_queued_requests=limits.max_queued_requests,
            max_output_tokens=limits.max_output_tokens,
            max_tokens_per_second=limits.max_tokens_per_second,
            request_timeout_seconds=limits.request_timeout_seconds,
            direct_port=limits.direct_port or 0,
            direct_noticed_seconds=direct_port.NOTICED_SECONDS if limits.direct_port else 0,
        ),
        degrade=DegradeSettings.model_validate(limits.degrade.model_dump()),
        access=AccessSettings(keys_folder=KEYS_FOLDER if limits.api_keys_secret else "", remote_image_hosts=tuple(limits.remote_image_hosts)),
        model_name=name,
    )


def _serve_config(namespace: str, name: str, spec: api.DeepSeekDeploymentSpec, nodes: int) -> dict[str, Any]:
    settings, per_node = serving_settings(name, spec), spec.nodes.replicas_per_node
    deployment = {
        **settings.deployment_options(),
        "num_replicas": max(1, nodes * per_node),
        "max_replicas_per_node": per_node,
        "graceful_shutdown_timeout_s": _grace_seconds(spec),
        "graceful_shutdown_wait_loop_s": 1,
        "ray_actor_options": _replica_resources(spec),
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},  # noqa: S104 - inside the pod's own network
        "applications": [
            {
                "name": application_name(namespace, name),
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "external_scaler_enabled": True,
                "args": settings.to_args(),
                "deployments": [deployment],
            }
        ],
    }


def _grace_seconds(spec: api.DeepSeekDeploymentSpec) -> int:
    """What a replica gets to end its answers and go."""
    return direct_port.leaving_seconds(spec.serving.direct_port, spec.serving.graceful_shutdown_seconds)


def _replica_resources(spec: api.DeepSeekDeploymentSpec) -> dict[str, float]:
    """A replica's share of its node, as Ray counts it. Never no CPU at all: the head offers 0, which keeps replicas off it."""
    limits = spec.nodes.resources.limits or spec.nodes.resources.requests
    per_node = spec.nodes.replicas_per_node
    gpus = sum(api.quantity_value(str(count)) for resource, count in limits.items() if resource.endswith("gpu"))
    cpus = math.ceil(api.quantity_value(str(limits["cpu"]))) if "cpu" in limits else 0  # KubeRay starts Ray with the limit rounded up
    resources: dict[str, float] = {"num_cpus": cpus / per_node if cpus else 0.1}
    if gpus:
        resources["num_gpus"] = gpus / per_node
    return resources


def _pod_template(name: str, spec: api.DeepSeekDeploymentSpec, options: CompileOptions, *, head: bool) -> dict[str, Any]:
    part = spec.head if head else spec.nodes
    drain = _grace_seconds(spec) + DRAIN_SLACK_SECONDS
    env = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": str(max(100, round(options.ray_metrics_interval_seconds * 1000))),
        # On SIGTERM `ray start --block` drains its node: replicas elsewhere take over, this one's finish.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0" if head else str(drain),
    }
    if spec.nodes.replicas_per_node > 1:
        env["RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY"] = "1"  # spread replicas would leave no node empty to release
    given = {variable.name for variable in spec.serving.env}
    container: dict[str, Any] = {
        "name": "ray-head" if head else "ray-worker",
        "image": spec.serving.image,
        "imagePullPolicy": spec.serving.image_pull_policy,
        "env": [{"name": key, "value": value} for key, value in env.items() if key not in given]
        + [variable.model_dump(by_alias=True, exclude_none=True) for variable in spec.serving.env],
        "resources": {key: value for key, value in part.resources.model_dump(by_alias=True).items() if value},
        "securityContext": RESTRICTED,
        "ports": [
            *([{"name": "gcs", "containerPort": 6379}, {"name": "dashboard", "containerPort": 8265}] if head else []),
            {"name": "serve", "containerPort": SERVE_PORT},
            {"name": "metrics", "containerPort": 8080},
            *direct_port.container_ports(spec.serving.direct_port, head=head),
        ],
        **({} if head else direct_port.readiness(spec.serving.direct_port, SERVE_PORT)),
    }
    pod: dict[str, Any] = {
        "containers": [container],
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": DRAIN_SLACK_SECONDS if head else drain + DRAIN_SLACK_SECONDS,
    }
    if not head:
        pod["restartPolicy"] = "Never"  # a node that failed is replaced by KubeRay, with a name of its own
    if part.node_selector:
        pod["nodeSelector"] = dict(part.node_selector)
    if part.tolerations:
        pod["tolerations"] = [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in part.tolerations]
    claim = ModelSettings(source=spec.model.source, engine=EngineName(spec.model.engine)).pvc_claim
    volumes: list[tuple[dict[str, Any], str]] = []
    if claim:
        volumes.append(({"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}, f"{PVC_MOUNT_ROOT}/{claim}"))
    if spec.serving.api_keys_secret:
        # Not optional: a pod without its keys must not start, rather than let everybody in.
        volumes.append(({"name": "api-keys", "secret": {"secretName": spec.serving.api_keys_secret}}, KEYS_FOLDER))
    if volumes and not head:
        pod["volumes"] = [volume for volume, _ in volumes]
        container["volumeMounts"] = [{"name": volume["name"], "mountPath": path, "readOnly": True} for volume, path in volumes]
    return {"metadata": {"labels": labels(name)}, "spec": pod}


# ------------------------------------------------------------------------------------------------------------ reading back


def read_service(body: Mapping[str, Any], compiled: Mapping[str, Any]) -> ServiceView:
    """The RayService as it stands, beside what we would compile now."""
    status = body.get("status") or {}
    groups = ((body.get("spec") or {}).get("rayClusterConfig") or {}).get("workerGroupSpecs") or [{}]
    return ServiceView(
        resource_version=body["metadata"]["resourceVersion"],
        mirrored_nodes=int(groups[0].get("replicas") or 0),
        differs_at=_not_ours(body, compiled) or difference(compiled["spec"], body.get("spec") or {}),
        active_cluster=(status.get("activeServiceStatus") or {}).get("rayClusterName") or "",
        pending_cluster=(status.get("pendingServiceStatus") or {}).get("rayClusterName") or "",
    )


def read_cluster(body: Mapping[str, Any]) -> ClusterView:
    """The live RayCluster's node count and who else may write it."""
    spec = body.get("spec") or {}
    group = spec["workerGroupSpecs"][group_index(body)]
    return ClusterView(
        name=body["metadata"]["name"],
        resource_version=body["metadata"]["resourceVersion"],
        nodes=int(group.get("replicas") or 0),
        workers_to_delete=tuple((group.get("scaleStrategy") or {}).get("workersToDelete") or ()),
        autoscaler_on=bool(spec.get("enableInTreeAutoscaling")),
    )


def group_index(cluster: Mapping[str, Any]) -> int:
    """Place of our worker group in a RayCluster; `LookupError` when it is not there."""
    for index, group in enumerate((cluster.get("spec") or {}).get("workerGroupSpecs") or []):
        if group.get("groupName") == WORKER_GROUP:
            return index
    raise LookupError(f"RayCluster {cluster['metadata']['name']} has no worker group {WORKER_GROUP!r}")


def read_pod(body: Mapping[str, Any]) -> PodView:
    """A worker pod; `ready_at` is the last transition to Ready."""
    metadata, status = body["metadata"], body.get("status") or {}
    conditions = {condition.get("type"): condition for condition in status.get("conditions") or []}
    ready, scheduled = conditions.get("Ready") or {}, conditions.get("PodScheduled") or {}
    is_ready = ready.get("status") == "True"
    running = [(container.get("state") or {}).get("running") or {} for container in status.get("containerStatuses") or []]
    began = [container["startedAt"] for container in running if container.get("startedAt")]
    return PodView(
        name=metadata["name"],
        created_at=instant(metadata["creationTimestamp"]),
        ready_at=instant(ready["lastTransitionTime"]) if is_ready and ready.get("lastTransitionTime") else None,
        ready=is_ready and not metadata.get("deletionTimestamp"),
        deleting=bool(metadata.get("deletionTimestamp")) or status.get("phase") in ("Failed", "Succeeded"),
        scheduled_at=instant(scheduled["lastTransitionTime"])
        if scheduled.get("status") == "True" and scheduled.get("lastTransitionTime")
        else None,
        started_at=max(map(instant, began)) if began else None,
    )


def instant(timestamp: str) -> float:
    """Unix seconds of an RFC 3339 timestamp."""
    return datetime.fromisoformat(timestamp).timestamp()


def _not_ours(body: Mapping[str, Any], compiled: Mapping[str, Any]) -> str:
    """Where the RayService does not belong to this object (one of the same name was deleted without it, say), or empty."""
    owners = {reference.get("uid") for reference in body["metadata"].get("ownerReferences") or []}
    wanted = compiled["metadata"]["ownerReferences"][0]["uid"]
    return "" if wanted in owners else "metadata.ownerReferences"


_WHOLE = {"nodeSelector", "limits", "requests", "tolerations", "volumes"}
"""Parts that are ours alone: what we do not ask for must not be there either, or a setting could never be taken back."""

_COUNTS = {"replicas", "scaleStrategy"}
"""What the actuation owns; everything else of the spec is compared."""


def difference(wanted: Any, live: Any, path: str = "spec") -> str:
    """Path of the first place where `live` lacks something of `wanted` other than the counts; empty when it has it all. Fields that others
    added (defaults of the API server, say) do not count, entries of a list do."""
    if path.endswith(".serveConfigV2"):
        return "" if wanted == live or _without_count(wanted) == _without_count(live) else path
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return path
        for name in _WHOLE & live.keys():
            if live[name] and (not wanted.get(name) or len(live[name]) != len(wanted[name])):
                return f"{path}.{name}"
        places = (
            difference(value, live[name], f"{path}.{name}") if name in live else f"{path}.{name}"
            for name, value in wanted.items()
            if name not in _COUNTS and (value or name in live)  # KubeRay writes the object back without its empty and false fields
        )
        return next(filter(None, places), "")
    if isinstance(wanted, list):
        if not isinstance(live, list) or len(wanted) != len(live):
            return path
        places = (difference(value, live[index], f"{path}[{index}]") for index, value in enumerate(wanted))
        return next(filter(None, places), "")
    return "" if wanted == live or str(wanted) == str(live) else path  # a quantity may be 1 here and "1" there


@lru_cache(maxsize=TEXTS_KEPT)
def _as_yaml(config: str) -> str:
    return yaml.safe_dump(json.loads(config), sort_keys=False)


@lru_cache(maxsize=TEXTS_KEPT)
def _without_count(config: Any) -> Any:
    parsed = yaml.safe_load(config) if isinstance(config, str) else None
    for application in (parsed or {}).get("applications") or []:
        for deployment in application.get("deployments") or []:
            if deployment.get("name") == DEPLOYMENT_NAME:
                deployment.pop("num_replicas", None)
    return parsed


# ------------------------------------------------------------------------------------------------------------ JSON patches


def replace_spec(service: ServiceView, compiled: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bring a RayService to what we compile now; refused by the API server if it changed meanwhile."""
    return [
        _unchanged(service.resource_version),
        {"op": "replace", "path": "/spec", "value": compiled["spec"]},
        {"op": "add", "path": "/metadata/ownerReferences", "value": compiled["metadata"]["ownerReferences"]},
    ]


def mirror_nodes(nodes: int) -> list[dict[str, Any]]:
    """Write the count into the RayService (it has one worker group)."""
    group = "/spec/rayClusterConfig/workerGroupSpecs/0"
    return [
        {"op": "test", "path": f"{group}/groupName", "value": WORKER_GROUP},
        {"op": "replace", "path": f"{group}/replicas", "value": nodes},
    ]


def set_nodes(cluster: ClusterView, index: int, nodes: int, release: tuple[str, ...]) -> list[dict[str, Any]]:
    """Write the count into the live RayCluster and name the pods that go; refused by the API server if it changed meanwhile."""
    group = f"/spec/workerGroupSpecs/{index}"
    return [
        _unchanged(cluster.resource_version),
        {"op": "test", "path": f"{group}/groupName", "value": WORKER_GROUP},
        {"op": "replace", "path": f"{group}/replicas", "value": nodes},
        {"op": "add", "path": f"{group}/scaleStrategy", "value": {"workersToDelete": list(release)}},
    ]


def _unchanged(resource_version: str) -> dict[str, Any]:
    return {"op": "test", "path": "/metadata/resourceVersion", "value": resource_version}
