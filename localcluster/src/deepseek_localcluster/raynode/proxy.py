"""The HTTP forward proxy: ``http_proxy`` for whoever wants to reach Services and pods of the Ray nodes by name.

Requests and answers stream through unchanged, with one exception: the ports in a Serve configuration PUT to a head's dashboard become that
head's own. An answer bears the header ``x-pod`` with the name of the pod that gave it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from yarl import URL

from deepseek_localcluster.raynode.directory import Destination, Directory, Unreachable

# Headers that belong to one connection, not to the message.
HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
ADDED_BY_CLIENT = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
DASHBOARD_PORT = 8265
SERVE_CONFIGURATION = "/api/serve/applications"
CONNECT_SECONDS = 5.0


class Proxy:
    """Serves on 127.0.0.1."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._runner: web.ServerRunner | None = None

    async def start(self, port: int) -> None:
        """Listen on ``port``."""
        # A client asking for http://:8000/ or speaking nonsense is answered 400; that needs no traceback.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
        # A connection is used once: one kept alive may be closed by a pod in the very moment it is used again.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        self._web = aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        # Cancelling the handler when a client goes closes the connection to the pod, so that Serve hears of it.
        self._runner = web.ServerRunner(web.Server(self._forward, handler_cancellation=True, access_log=None))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024).start()

    async def stop(self) -> None:
        """Stop listening and cut what streams."""
        if self._runner:
            await self._runner.cleanup()
            await self._web.close()

    async def _forward(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            to = self._directory.resolve(request.url.host or "", request.url.port or 80)
        except (Unreachable, LookupError, ValueError) as error:
            return web.Response(status=503, text=f"{error}\n")
        url = URL(f"http://127.0.0.1:{to.local_port}{request.url.raw_path_qs}", encoded=True)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        body: AsyncIterator[bytes] | bytes | None = request.content.iter_any() if request.body_exists else None
        if body is not None and self._is_serve_configuration(request, to):
            body = _with_own_ports(await request.content.read(), to)
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        answer: web.StreamResponse | None = None
        try:
            async with self._web.request(
                request.method, url, data=body, headers=headers, allow_redirects=False, skip_auto_headers=ADDED_BY_CLIENT
            ) as response:
                answer = web.StreamResponse(status=response.status, reason=response.reason)
                for name, value in response.headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        answer.headers.add(name, value)
                answer.headers["x-pod"] = to.pod
                await answer.prepare(request)
                async for chunk in response.content.iter_any():
                    await answer.write(chunk)
                await answer.write_eof()
                return answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if answer is None:
                return web.Response(status=502, text=f"{to.pod}:{to.container_port} (127.0.0.1:{to.local_port}): {error!r}\n")
            if request.transport:
                request.transport.abort()  # the client must see a broken body, as it would without a proxy
            return answer

    @staticmethod
    def _is_serve_configuration(request: web.BaseRequest, to: Destination) -> bool:
        return (
            request.method == "PUT" and to.is_head and to.container_port == DASHBOARD_PORT and request.url.path.startswith(SERVE_CONFIGURATION)
        )


def _with_own_ports(body: bytes, to: Destination) -> bytes:
    try:
        configuration = json.loads(body)
    except ValueError:
        return body  # Serve will say what is wrong with it
    return json.dumps(to.wiring.serve_configuration(configuration)).encode() if isinstance(configuration, dict) else body
