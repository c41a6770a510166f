"""The Kubernetes API: writes through the `kubernetes` package's asyncio client, and the full lists that back the watches up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from kubernetes.aio import client, config

from deepseek_operator.api import v1alpha1 as api
from deepseek_operator.edge.rayservice import CLUSTERS, DEPLOYMENT_LABEL, FIELD_MANAGER, GROUP, SERVICES, VERSION

JSON_PATCH, APPLY_PATCH = "application/json-patch+json", "application/apply-patch+yaml"
SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
PAGE = 500

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, by its place in the API."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str | None = None, name: str = "") -> str:
        """Path of one object, of all in a namespace, or of all."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return "/".join([root, *(["namespaces", namespace] if namespace else []), self.plural, *([name] if name else [])])


OBJECTS = Resource(api.GROUP, api.VERSION, api.PLURAL)
RAY_SERVICES = Resource(GROUP, VERSION, SERVICES)
RAY_CLUSTERS = Resource(GROUP, VERSION, CLUSTERS)
PODS = Resource("", "v1", "pods")
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets")
EVENTS = Resource("events.k8s.io", "v1", "events")


class KubeError(Exception):
    """A call to the API server failed; the text says which and why. `status` is the HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class StaleError(KubeError):
    """Somebody else changed the object first (409, or a JSON patch `test` that failed): look again and plan afresh."""


class Cluster(Protocol):
    """What the operator asks of the Kubernetes API. Every call raises `KubeError`."""

    async def list_objects(self) -> list[Body]: ...

    async def list_services(self) -> list[Body]: ...

    async def list_clusters(self) -> list[Body]: ...

    async def list_pods(self) -> list[Body]: ...

    async def create_service(self, body: Body) -> Body: ...

    async def patch_service(self, namespace: str, name: str, patch: list[Body]) -> Body: ...

    async def patch_cluster(self, namespace: str, name: str, patch: list[Body]) -> Body: ...

    async def apply_budget(self, body: Body) -> None: ...

    async def write_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> Body: ...

    async def create_event(self, regarding: Body, kind: str, reason: str, message: str, now: str) -> None: ...


class Kube:
    """The real thing. `namespaces` empty means all.

    Calls go by path through the client's own request machinery (authentication, token rotation, TLS): its typed models would drop fields
    that a newer API server knows.
    """

    def __init__(self, namespaces: Sequence[str] = (), timeout_seconds: float = 10.0) -> None:
        self._namespaces = tuple(namespaces)
        self._timeout = timeout_seconds
        self._client: client.ApiClient | None = None

    async def connect(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        """Use the service account inside a cluster, the kubeconfig elsewhere. Raises `KubeError` when there is neither."""
        configuration = client.Configuration()
        try:
            if kubeconfig is None and inside_a_cluster():
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            raise KubeError(f"no way to a cluster: {error}; run inside one, or set KUBECONFIG") from None
        self._client = client.ApiClient(configuration)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def list_objects(self) -> list[Body]:
        """Every DeepSeekDeployment."""
        return await self._list(OBJECTS)

    async def get_object(self, namespace: str, name: str) -> Body:
        """One DeepSeekDeployment."""
        return await self._call("GET", OBJECTS.path(namespace, name))

    async def list_services(self) -> list[Body]:
        """Every RayService of ours."""
        return await self._list(RAY_SERVICES, DEPLOYMENT_LABEL)

    async def list_clusters(self) -> list[Body]:
        """Every RayCluster of ours."""
        return await self._list(RAY_CLUSTERS, DEPLOYMENT_LABEL)

    async def list_pods(self) -> list[Body]:
        """Every Ray pod of ours."""
        return await self._list(PODS, DEPLOYMENT_LABEL)

    async def create_service(self, body: Body) -> Body:
        """Create a RayService."""
        return await self._call("POST", RAY_SERVICES.path(body["metadata"]["namespace"]), {"fieldManager": FIELD_MANAGER}, body)

    async def patch_service(self, namespace: str, name: str, patch: list[Body]) -> Body:
        """JSON-patch a RayService."""
        return await self._call("PATCH", RAY_SERVICES.path(namespace, name), {"fieldManager": FIELD_MANAGER}, patch, JSON_PATCH)

    async def patch_cluster(self, namespace: str, name: str, patch: list[Body]) -> Body:
        """JSON-patch a RayCluster."""
        return await self._call("PATCH", RAY_CLUSTERS.path(namespace, name), {"fieldManager": FIELD_MANAGER}, patch, JSON_PATCH)

    async def apply_budget(self, body: Body) -> None:
        """Server-side apply a PodDisruptionBudget."""
        path = BUDGETS.path(body["metadata"]["namespace"], body["metadata"]["name"])
        await self._call("PATCH", path, {"fieldManager": FIELD_MANAGER, "force": "true"}, body, APPLY_PATCH)

    async def write_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> Body:
        """Write the whole status of an object; what is not in it goes."""
        path = OBJECTS.path(namespace, name) + "/status"
        patch = [{"op": "add", "path": "/status", "value": status}]
        return await self._call("PATCH", path, {"fieldManager": FIELD_MANAGER}, patch, JSON_PATCH)

    async def create_event(self, regarding: Body, kind: str, reason: str, message: str, now: str) -> None:
        """Write an Event (`kind` Normal or Warning) about an object."""
        metadata = regarding["metadata"]
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}-", "namespace": metadata["namespace"]},
            "eventTime": now,
            "reportingController": f"{api.GROUP}/operator",
            "reportingInstance": FIELD_MANAGER,
            "action": "Scale",
            "type": kind,
            "reason": reason,
            "note": message[:1024],
            "regarding": {"apiVersion": api.API_VERSION, "kind": api.KIND} | {key: metadata[key] for key in ("name", "namespace", "uid")},
        }
        await self._call("POST", EVENTS.path(metadata["namespace"]), {}, body)

    async def _list(self, resource: Resource, selector: str = "") -> list[Body]:
        found: list[Body] = []
        for namespace in self._namespaces or (None,):
            token = ""
            while True:
                query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {}) | ({"continue": token} if token else {})
                page = await self._call("GET", resource.path(namespace), query)
                found += page.get("items") or []
                token = (page.get("metadata") or {}).get("continue") or ""
                if not token:
                    break
        return found

    async def _call(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None, content_type: str = "application/json"
    ) -> Body:
        if self._client is None:
            raise KubeError("not connected: call connect() first")
        try:
            async with asyncio.timeout(self._timeout):
                request = await self._client.param_serialize(
                    method=method,
                    resource_path=path,
                    query_params=list((query or {}).items()),
                    header_params={"Accept": "application/json", "Content-Type": content_type},
                    body=body,
                    auth_settings=["BearerToken"],
                )
                response = await self._client.call_api(*request)
                data = await response.read()
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            raise KubeError(f"{method} {path}: {type(error).__name__}: {error}") from None
        if 200 <= response.status < 300:
            answer: Body = json.loads(data)
            return answer
        message = _api_message(data)
        text = f"{method} {path}: {response.status} {response.reason}: {message}"
        if response.status == 409 or (response.status == 422 and not _names_fields(data)):
            raise StaleError(text, response.status)
        raise KubeError(text, response.status)


def inside_a_cluster() -> bool:
    """Whether this process runs in a pod with a service account."""
    return SERVICE_ACCOUNT_TOKEN.exists()


def _names_fields(data: bytes) -> bool:
    """Whether a 422 is about the object: then it names the fields that are not valid. For a JSON patch whose `test` failed the API server says
    only that it `rejected our request due to an error in our request`."""
    try:
        return bool((json.loads(data).get("details") or {}).get("causes"))
    except (ValueError, AttributeError):
        return False


def _api_message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return data[:500].decode(errors="replace")
