"""Decides who gets in: so many requests are answered at once, so many wait in order, the rest are told when to come back."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deepseek_serving.engine import Clock

_SMOOTHING = 0.2
"""Weight of the newest answer in the running mean of service times."""


class AdmissionError(Exception):
    """Not now. `retry_after_seconds` is a whole number from 1 to 120."""

    status = 429

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QueueFullError(AdmissionError):
    """As many as allowed run and wait already: 429, at once."""


class WaitedTooLongError(AdmissionError):
    """The turn did not come within the allowed time: 503."""

    status = 503


class ClosingError(AdmissionError):
    """The replica is shutting down: 503."""

    status = 503


class Admission:
    """A bounded queue in front of a bounded number of running requests, first come, first served.

    `ongoing` requests hold a turn at once, `queued` more wait up to `timeout_seconds` each.
    """

    def __init__(self, *, ongoing: int, queued: int, timeout_seconds: float, clock: Clock = time.monotonic) -> None:
        self._ongoing = ongoing
        self._queued = queued
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._queue: deque[asyncio.Future[None]] = deque()
        self._mean_service_seconds = 1.0
        self._closed = False
        self.running = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue now."""
        return len(self._queue)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Hold a turn; yields the seconds waited for it. Raises QueueFullError, WaitedTooLongError or ClosingError."""
        arrived = self._clock()
        await self._enter()
        started = self._clock()
        try:
            yield started - arrived
        finally:
            self._mean_service_seconds += _SMOOTHING * (self._clock() - started - self._mean_service_seconds)
            self._leave()

    def close(self) -> None:
        """Refuse all that come from now on, and all that wait; those with a turn go on."""
        self._closed = True
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_exception(ClosingError("This replica is shutting down; another one will answer.", 1))

    def retry_after_seconds(self) -> int:
        """When a place should be free: everyone ahead, `ongoing` at a time, at the mean service time; 1 to 120.

        64 waiting + 32 running, 32 at a time, 2 s each → 96 ÷ 32 × 2 s = 6 s.
        """
        ahead = self.running + self.waiting
        return min(120, max(1, math.ceil(ahead / self._ongoing * self._mean_service_seconds)))

    async def _enter(self) -> None:
        if self._closed:
            raise ClosingError("This replica is shutting down; another one will answer.", 1)
        if self.running < self._ongoing:
            self.running += 1
            return
        if len(self._queue) >= self._queued:
            message = f"{self.running} requests are being answered and {self.waiting} wait, as many as allowed."
            raise QueueFullError(message, self.retry_after_seconds())
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._leave()  # the turn came in the very moment in which the wait ended: pass it on
            elif waiter in self._queue:
                self._queue.remove(waiter)
            if isinstance(error, TimeoutError):
                message = f"No place was free within {self._timeout_seconds:g} s."
                raise WaitedTooLongError(message, self.retry_after_seconds()) from None
            raise

    def _leave(self) -> None:
        """Hand the turn to the first who still waits; `running` stays the same then."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.running -= 1
