"""A replica's own HTTP server beside Ray Serve's proxies, on a port that all replicas of a pod share.

A replica that is to go leaves it without breaking an answer off:

1. `close` begins: every answer from now on closes its connection, and readiness probes get time to be seen (`linger_seconds`).
2. The port is closed. What the kernel has connected by then is still answered.
3. Clients that kept a connection without using it hear 503 when they ask after all; a connection that nobody uses ends.
4. The last answer ends, and `close` returns.
"""

from __future__ import annotations

import asyncio
import logging
import os

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deepseek_serving.listening import make_server, shared_socket, somebody_listens
from deepseek_serving.openai import ApiError

log = logging.getLogger(__name__)

PORT_HERE = "DEEPSEEK_SERVING_DIRECT_PORT"
"""Variable of a node that has another port than the settings' one, as RAY_SERVE_WORKER_PROXY_HTTP_PORT is for Ray Serve's proxies: nodes that
share a network (pods with hostNetwork, several Ray nodes on one machine) cannot all have the same."""

LATE_SECONDS = 2.0
"""How long a request may be on its way: so long after the port has closed newcomers are still answered, and unused connections kept open."""

KNOWN_SECONDS = 2.0
"""From a readiness probe's answer to the Service's rules on every node: a status, an EndpointSlice, and kube-proxy's second."""

OLDEST_SECONDS = 30.0
"""A connection that is kept longer ends with its next answer. A Service sends connections to nodes, not requests: who keeps one for ever never
reaches a node that joins, and never leaves a Ray cluster that has been replaced and is about to be deleted."""

UNUSED_SECONDS = 30
"""A connection that nobody uses for so long ends, for the same reason."""


class SideDoor:
    """Made inside the event loop that it serves on."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        """`port`: where to listen, unless the environment says otherwise (PORT_HERE)."""
        self._app = app
        self._port = int(os.environ.get(PORT_HERE) or port)
        self._refusing = False
        self._asked = asyncio.Event()

    def open(self) -> None:
        """Listen from now on. Raises OSError when the port is somebody else's."""
        self._in_company = somebody_listens("127.0.0.1", self._port)
        listening = shared_socket("0.0.0.0", self._port)  # noqa: S104 - inside the pod's own network
        self._server = make_server(self._answer, interface="asgi3", lifespan="off", timeout_keep_alive=UNUSED_SECONDS)
        self._serving = asyncio.create_task(self._server.serve([]), name="side door")
        self._server.listen(listening, OLDEST_SECONDS)

    async def noticed(self, within_seconds: float) -> None:
        """Wait until a probe of this node has asked here and the Service knows of it, but not for ever.

        Ray Serve stops the next old replica, and KubeRay moves the Service to a new cluster, as soon as a replica has started: if nobody was
        sent here by then, there may be nobody left to be sent to. Where another replica of this node listens at the port already there is
        nothing to wait for: the probe is that one's concern, and the kernel may well take each of its questions there.
        """
        if not within_seconds or self._in_company:
            return
        try:
            await asyncio.wait_for(self._asked.wait(), within_seconds)
        except TimeoutError:
            log.warning("no readiness probe has asked port %d within %g s; starting all the same", self._port, within_seconds)
        else:
            await asyncio.sleep(KNOWN_SECONDS)

    async def close(self, linger_seconds: float) -> None:
        """Leave as the head of this file says; returns when the last connection is closed."""
        self._server.send_away()
        await asyncio.sleep(linger_seconds)
        self._server.stop_listening()
        await asyncio.sleep(LATE_SECONDS)
        self._refusing = True
        await self._server.end_unused(LATE_SECONDS)
        await self._serving

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/healthz" and (scope.get("client") or ("",))[0] in ("127.0.0.1", "::1"):
            self._asked.set()
        if self._refusing and scope["type"] == "http":
            refusal = ApiError(503, "This replica is shutting down; another one will answer.", type="server_error", retry_after=1)
            await JSONResponse(refusal.body, refusal.status, refusal.headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
