"""The HTTP server around the app: uvicorn, and what it lacks against clients that send slowly, endlessly or nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
"""A request's line and headers come in one packet from every honest client."""

HEAD_BYTES = 65_536

KEEP_ALIVE_SECONDS = 75
"""Longer than the idle time of common load balancers (60 s): who closes first should be the one who knows whether a request is coming."""


class GuardedHttp(HttpToolsProtocol):
    """Closes a connection whose request's head takes too long or is too big. Bodies have their own limits (`body.py`)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._give_up()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:  # not the first request of this connection
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._stop_timer()
        self.transport.close()


class Server(uvicorn.Server):
    """Leaves signals to the program it runs in: only a server of its own, by `run`, ends with them."""

    alone = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        self.alone = True
        super().run(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if not self.alone:
            yield
            return
        with super().capture_signals():
            yield


def make_server(app: ASGIApp, **options: Any) -> Server:
    """A server for `app`; `options` are uvicorn's."""
    settings: dict[str, Any] = {
        "http": GuardedHttp,
        "ws": "none",
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        # The address of whoever connects, not one that a header claims: the brake on guessed keys counts by it.
        "proxy_headers": False,
    }
    return Server(uvicorn.Config(app, **{**settings, **options}))


def shared_socket(host: str, port: int) -> socket.socket:
    """A listening socket that other processes of this pod may share: the kernel spreads new connections over all that listen."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    listening.listen(2048)
    listening.setblocking(False)
    return listening
