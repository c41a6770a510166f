"""Sends a stream of events, and lets go of it at once when its reader has left or has stopped reading."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

STALLED_SECONDS = 60.0
"""A reader that takes nothing for so long holds a slot for nobody."""

LOOK_SECONDS = 5.0
"""How often it is looked whether the reader still reads."""


class EventStream(Response):
    """Closes its generators however it ends, also when the client left before the first byte: that frees the request's place at once."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], *held: AsyncGenerator[Any, None], headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})
        self._events = events
        self._held = held
        self._sending_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            while not (sending.done() or leaving.done() or self._stalled()):
                await asyncio.wait({sending, leaving}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            for task in (sending, leaving):
                if not task.done():
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            for generator in (self._events, *self._held):
                await generator.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for events in self._events:
            self._sending_since = time.monotonic()
            await send({"type": "http.response.body", "body": events, "more_body": True})
            self._sending_since = None
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _stalled(self) -> bool:
        return self._sending_since is not None and time.monotonic() - self._sending_since > STALLED_SECONDS


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
