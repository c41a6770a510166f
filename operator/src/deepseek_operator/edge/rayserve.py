"""Ray Serve's REST interface on the head's dashboard: reads replicas and proxies, writes the replica count."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp

from deepseek_operator.core.plan import ServeView
from deepseek_serving.settings import DEPLOYMENT_NAME


class RayServeError(Exception):
    """Ray Serve could not be read or written; the text says why."""


class ServeControl(Protocol):
    """Ray Serve of one cluster."""

    async def read(self, namespace: str, cluster: str, application: str) -> ServeView | None:
        """What runs, or None while the application is not deployed. Raises `RayServeError`."""
        ...

    async def scale(self, namespace: str, cluster: str, application: str, replicas: int) -> None:
        """Set the replica count. Raises `RayServeError`."""
        ...


class RayServe:
    """Speaks to `http://<cluster>-head-svc.<namespace>.svc.<domain>:8265`, through `http_proxy` where one is needed to reach it."""

    def __init__(self, http_proxy: str | None = None, cluster_domain: str = "cluster.local", timeout_seconds: float = 5.0) -> None:
        self._proxy = http_proxy or None
        self._domain = cluster_domain
        self._timeout = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def read(self, namespace: str, cluster: str, application: str) -> ServeView | None:
        """See `ServeControl.read`."""
        body = await self._call("GET", namespace, cluster, "/api/serve/applications/")
        return serve_view(body, application)

    async def scale(self, namespace: str, cluster: str, application: str, replicas: int) -> None:
        """See `ServeControl.scale`. Ray Serve applies no bounds of its own here: the caller has clamped."""
        path = f"/api/v1/applications/{application}/deployments/{DEPLOYMENT_NAME}/scale"
        await self._call("POST", namespace, cluster, path, {"target_num_replicas": replicas})

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _call(self, method: str, namespace: str, cluster: str, path: str, body: Any = None) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout))
        url = f"http://{cluster}-head-svc.{namespace}.svc.{self._domain}:8265{path}"
        try:
            async with self._session.request(method, url, json=body, proxy=self._proxy) as response:
                text = await response.text()
                if response.status != 200:
                    raise RayServeError(f"{method} {path} answered {response.status}: {' '.join(text.split())[:200]}")
                return json.loads(text) if text else None
        except TimeoutError:
            raise RayServeError(f"{method} {path} did not answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RayServeError(f"{method} {path}: {type(error).__name__}: {error}") from None


def serve_view(body: Any, application: str) -> ServeView | None:
    """The part of `GET /api/serve/applications/` that scaling needs; None while the application or its deployment is not there."""
    if not isinstance(body, Mapping):
        raise RayServeError("GET /api/serve/applications/ answered something other than an object")
    deployment = ((body.get("applications") or {}).get(application) or {}).get("deployments", {}).get(DEPLOYMENT_NAME)
    if not deployment or deployment.get("target_num_replicas") is None:
        return None
    replicas = deployment.get("replicas") or []
    running = tuple(str(replica.get("node_instance_id") or "") for replica in replicas if replica.get("state") == "RUNNING")
    return ServeView(
        target=int(deployment["target_num_replicas"]),
        replica_pods=tuple(str(replica.get("node_instance_id") or "") for replica in replicas),
        running=len(running),
        running_pods=running,
        proxy_pods=frozenset(str(proxy.get("node_instance_id") or "") for proxy in (body.get("proxies") or {}).values()),
    )
