"""A small synchronous client of the Kubernetes API: one request, one decoded answer."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
SERVER_SIDE_APPLY = "application/apply-patch+yaml"


class ApiError(RuntimeError):
    """The API server answered with an error; ``status`` is the HTTP status, ``body`` the decoded ``Status`` object."""

    def __init__(self, status: int, message: str, body: dict[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class KubeApi:
    """Talks to one API server with a token; connections are kept per thread."""

    def __init__(self, server: str, token: str, ca: Path) -> None:
        self.server = server
        self._host = urlsplit(server).netloc
        self._headers = {"Authorization": f"Bearer {token}", "Accept": JSON}
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._threads = threading.local()

    def request(self, method: str, path: str, body: object = None, content_type: str = JSON) -> dict[str, Any]:
        """The decoded answer. ``body``: ``bytes`` are sent as they are, anything else as JSON. :class:`ApiError` from status 400 on."""
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        status, data = self._exchange(method, path, payload, {**self._headers, "Content-Type": content_type})
        try:
            decoded: dict[str, Any] = json.loads(data) if data else {}
        except ValueError:
            decoded = {"message": data.decode(errors="replace")}
        if status >= 400:
            raise ApiError(status, f"{method} {path}: {status} {decoded.get('message', '')}", decoded)
        return decoded

    def apply(self, path: str, manifest: bytes, manager: str = "deepseek-localcluster") -> dict[str, Any]:
        """Server-side apply of one yaml or JSON object at its own ``path``."""
        return self.request("PATCH", f"{path}?fieldManager={manager}&force=true", manifest, SERVER_SIDE_APPLY)

    def is_ready(self) -> bool:
        """Whether the server answers ``/readyz`` with ok."""
        try:
            status, _ = self._exchange("GET", "/readyz", None, self._headers)
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def _exchange(self, method: str, path: str, payload: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        for attempt in (1, 2):
            fresh = not hasattr(self._threads, "connection")
            if fresh:
                self._threads.connection = http.client.HTTPSConnection(self._host, context=self._tls, timeout=60)
            connection: http.client.HTTPSConnection = self._threads.connection
            try:
                connection.request(method, path, payload, headers)
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                del self._threads.connection
                if fresh or attempt == 2:
                    raise  # only a connection kept too long deserves a second try
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class Credentials:
    """How to reach one API server."""

    server: str
    token: str
    ca: str
    """The certificate authority, as PEM text."""


def read_kubeconfig(path: Path) -> Credentials:
    """Server, token and certificate authority of a kubeconfig's first cluster and user, as `controlplane` writes it."""
    loaded = yaml.safe_load(path.read_text())
    cluster, user = loaded["clusters"][0]["cluster"], loaded["users"][0]["user"]
    return Credentials(cluster["server"], user["token"], base64.b64decode(cluster["certificate-authority-data"]).decode())
