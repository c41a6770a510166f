"""Lets one replica's answers flow at a given rate and no faster, all its requests taking turns.

With it a replica has an exact capacity on any machine: at 40 tokens per second and 16 tokens per answer, 2.5 answers per second,
and four replicas carry four times that even on cores they share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from deepseek_serving.engine import Clock

_LAG_SECONDS = 0.1
"""A gap this short between two tokens is the event loop's lag and is made up for; a longer one is idleness and is lost."""

Sleep = Callable[[float], Awaitable[None]]


class Pacer:
    """Gives each token its own 1/rate seconds on one common time line, in the order in which they are asked for.

    A request asks for its next token after it has passed on the last one; so requests that run together get equal shares.
    """

    def __init__(self, tokens_per_second: float | None, *, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self._seconds_per_token = 1 / tokens_per_second if tokens_per_second else 0.0
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()
        self._reserved_seconds = 0.0

    async def take(self, tokens: int, *, batch: bool = False) -> None:
        """Return when `tokens` more tokens may leave. Batch work takes only the time that nobody else has asked for."""
        if not self._seconds_per_token or not tokens:
            return
        while batch and (wait := self._free_at - self._clock()) > 0:
            await self._sleep(wait)
        now = self._clock()
        start = self._free_at if now - self._free_at < _LAG_SECONDS else now
        needed = tokens * self._seconds_per_token
        self._free_at = start + needed
        self._reserved_seconds += needed
        if self._free_at > now:
            await self._sleep(self._free_at - now)

    def busy_seconds(self) -> float:
        """Seconds of the time line used up so far; never falls. Its growth per second is the share of the rate in use."""
        return self._reserved_seconds - max(0.0, self._free_at - self._clock())
