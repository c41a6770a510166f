"""The HTTP server around the app: uvicorn, and what it lacks against clients that send slowly, endlessly or nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""A request's line and headers come in one packet from every honest client."""

HEAD_BYTES = 65_536

KEEP_ALIVE_SECONDS = 75
"""Longer than the idle time of common load balancers (60 s): who closes first should be the one who knows whether a request is coming."""

ACCEPTED_AT_ONCE = 64
PAUSE_SECONDS = 1.0

CLOSING = (b"connection", b"close")
"""Header of an answer after which the connection ends."""


class GuardedHttp(HttpToolsProtocol):
    """Closes a connection whose request's head takes too long or is too big. Bodies have their own limits (`body.py`)."""

    idle_since = 0.0
    """Seconds of the event loop's clock since which nobody has asked anything on this connection."""

    closes_at = float("inf")
    """Seconds of that clock from which the next answer ends the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.idle_since = self.loop.time()
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
        if self.loop.time() >= self.closes_at and self.cycle is not None:
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSING]

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def is_idle(self, seconds: float) -> bool:
        """Whether nobody has asked anything for so long, and no answer is under way."""
        answering = self.cycle is not None and not self.cycle.response_complete
        return not answering and self.loop.time() - self.idle_since >= seconds

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

    def send_away(self) -> None:
        """From now on every answer closes its connection and says so: clients that keep connections ask somebody else next time."""
        self.config.encoded_headers = [*self.config.encoded_headers, CLOSING]
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSING]

    def listen(self, listening: socket.socket, oldest_seconds: float) -> None:
        """Take connections from a socket that listens, until `stop_listening`; for a server whose `serve` got no sockets.

        A connection older than `oldest_seconds` ends with its next answer, which says so. Not by an asyncio server: when that is closed it
        loses connections which it has accepted but not begun with.
        """
        self._listening = listening
        self._oldest_seconds = oldest_seconds
        self._joining: set[asyncio.Task[Any]] = set()
        self._resume()

    def stop_listening(self) -> None:
        """Take the connections that the kernel has made by now, it would break them off when the socket closes, and no more."""
        asyncio.get_running_loop().remove_reader(self._listening)
        while self._accept():
            pass
        self._listening.close()

    def _resume(self) -> None:
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> bool:
        """Take what waits, ACCEPTED_AT_ONCE at most; whether there may be more."""
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except ConnectionAbortedError:
                continue
            except BlockingIOError:
                return False
            except OSError as error:  # no file descriptor is free, say: the socket stays readable, and asking on would take all the time
                log.warning("cannot accept a connection, trying again in %g s: %s", PAUSE_SECONDS, error)
                loop.remove_reader(self._listening)
                loop.call_later(PAUSE_SECONDS, self._resume)
                return False
            connection.setblocking(False)
            task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)
        return True

    async def end_unused(self, idle_seconds: float) -> None:
        """End each connection that nobody has used for `idle_seconds`; the server ends, and this returns, when none is left.

        To end idle ones at once, as uvicorn does, breaks off those whose next request is on its way.
        """
        while self._joining or self.server_state.connections:
            for connection in list(self.server_state.connections):
                if isinstance(connection, GuardedHttp) and connection.is_idle(idle_seconds):
                    connection.shutdown()
            await asyncio.sleep(0.05)
        self.should_exit = True

    def _protocol(self) -> GuardedHttp:
        protocol = GuardedHttp(self.config, self.server_state, self.lifespan.state)
        protocol.closes_at = protocol.loop.time() + self._oldest_seconds
        return protocol

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


def somebody_listens(host: str, port: int) -> bool:
    """Whether a connection to this port is taken."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def shared_socket(host: str, port: int) -> socket.socket:
    """A listening socket that other processes of this pod may share: the kernel spreads new connections over all that listen."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    listening.listen(2048)
    listening.setblocking(False)
    return listening
