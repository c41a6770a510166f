"""Decides who gets in: so many requests are answered at once, so many wait, the rest are told when to come back.

Those who wait go in by priority; among equals the client whose answers have cost least so far goes first (start-time fair queueing,
Goyal, Vin and Cheng 1996, with tokens as the cost), and a client's own requests keep their order. A negative priority means batch work:
it may hold only a part of the turns, and it is what a full queue gives up first.

A queue that has stood for a while only makes everybody late: it empties no faster than a short one. So it may be long for a moment, and
short while it stands (the idea of Nichols and Jacobson's CoDel, 2012, in requests instead of waits: what is ahead is known on arrival).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from deepseek_serving.engine import Clock

_SMOOTHING = 0.2
"""Weight of the newest answer in the running means of service time and cost."""

_KNOWN_AFTER = 8
"""Answers after which the mean service time is trusted to refuse those who would wait too long anyway."""

_MOMENT_SECONDS = 0.1
"""How long a queue may be long before anything is known of the answers' time; later a `_MOMENT_SHARE` of that, if it is more.

An answer takes s seconds and n are answered at once; then at f times the capacity (f − 1) × n / s × s / 4 come too many in a quarter of s:
n of them at f = 5. So up to five times the capacity fills a short queue of n before the moment is over, and never a long one.
"""

_MOMENT_SHARE = 0.25

_CLIENTS_KEPT = 1024
"""Idle clients whose cost is remembered; a forgotten one starts level with those who are being served."""


class AdmissionError(Exception):
    """Not now. `retry_after_seconds` is a whole number from 1 to 120."""

    status = 429

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QueueFullError(AdmissionError):
    """As many as allowed run and wait already, or the wait would be longer than allowed: 429, at once."""


class ShedError(AdmissionError):
    """Gave up its place in a full queue to a more urgent request, or to a client that holds fewer places: 429."""


class WaitedTooLongError(AdmissionError):
    """The turn did not come within the allowed time: 429."""


class ClosingError(AdmissionError):
    """The replica is shutting down: 503."""

    status = 503


@dataclass(frozen=True)
class Claim:
    """Who asks, and how urgently. `patience_seconds`: the longest this client will wait in the queue, if it said so."""

    client: str = ""
    priority: int = 0
    patience_seconds: float | None = None

    @property
    def batch(self) -> bool:
        """Whether this is background work."""
        return self.priority < 0


class Turn:
    """A turn that was had. `waited` seconds for it; `cost` (tokens) is charged to the client when it ends."""

    def __init__(self, waited: float) -> None:
        self.waited = waited
        self.cost = 0.0


@dataclass(eq=False)
class _Waiter:
    claim: Claim
    turn: asyncio.Future[None]


class Admission:
    """A bounded queue in front of a bounded number of running requests.

    `ongoing` requests hold a turn at once, at most `batch_share` of them (one at least) batch work; `queued` more wait up to
    `timeout_seconds` each, but only `standing` of them once the queue has not been empty for a moment (None: as many).
    """

    def __init__(
        self,
        *,
        ongoing: int,
        queued: int,
        timeout_seconds: float,
        standing: int | None = None,
        batch_share: float = 0.5,
        clock: Clock = time.monotonic,
    ) -> None:
        self._ongoing = ongoing
        self._most_batch = max(1, math.floor(ongoing * batch_share))
        self._queued = queued
        self._standing = queued if standing is None else standing
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._queue: dict[int, dict[str, deque[_Waiter]]] = {}
        self._costs: dict[str, float] = {}
        self._level = 0.0
        self._active: Counter[str] = Counter()
        self._mean_service_seconds = 1.0
        self._mean_cost = 1.0
        self._answers = 0
        self._running_batch = 0
        self._waiting_since = 0.0
        self._closed = False
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def turn(self, claim: Claim = Claim()) -> AsyncIterator[Turn]:
        """Hold a turn. Raises an AdmissionError: QueueFullError, ShedError, WaitedTooLongError or ClosingError."""
        arrived = self._clock()
        await self._enter(claim)
        started = self._clock()
        turn = Turn(started - arrived)
        expected = self._mean_cost
        try:
            yield turn
        finally:
            self._mean_service_seconds += _SMOOTHING * (self._clock() - started - self._mean_service_seconds)
            self._mean_cost += _SMOOTHING * (turn.cost - self._mean_cost)
            self._answers += 1
            # The mean was charged when it began, or one client's flood would all get in before its first answer is paid for.
            self._costs[claim.client] = self._so_far(claim.client) + turn.cost - expected
            self._leave(claim)

    def close(self) -> None:
        """Refuse all that come from now on, and all that wait; those with a turn go on."""
        self._closed = True
        for clients in self._queue.values():
            for waiters in clients.values():
                for waiter in waiters:
                    if not waiter.turn.done():
                        waiter.turn.set_exception(ClosingError("This replica is shutting down; another one will answer.", 1))
        self._queue.clear()
        self.waiting = 0

    def retry_after_seconds(self) -> int:
        """When a place should be free: everyone ahead, `ongoing` at a time, at the mean service time; 1 to 120.

        64 waiting + 32 running, 32 at a time, 2 s each → 96 ÷ 32 × 2 s = 6 s.
        """
        return min(120, max(1, math.ceil(self._seconds_for(self.running + self.waiting))))

    def _seconds_for(self, ahead: int) -> float:
        return ahead / self._ongoing * self._mean_service_seconds

    # ------------------------------------------------------------------------------------------------------------ coming

    async def _enter(self, claim: Claim) -> None:
        if self._closed:
            raise ClosingError("This replica is shutting down; another one will answer.", 1)
        if self._may_run(claim.batch):
            # Whenever a turn was free it was given on: nobody waits who could have this one.
            self._begin(claim)
            return
        patience = min(self._timeout_seconds, claim.patience_seconds or math.inf)
        self._make_room(claim, patience)
        waiter = _Waiter(claim, asyncio.get_running_loop().create_future())
        self._queue.setdefault(claim.priority, {}).setdefault(claim.client, deque()).append(waiter)
        if not self.waiting:
            self._waiting_since = self._clock()
        self.waiting += 1
        try:
            async with asyncio.timeout(patience):
                await waiter.turn
        except BaseException as error:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._leave(claim)  # the turn came in the very moment in which the wait ended: pass it on
            else:
                self._remove(waiter)
            if isinstance(error, TimeoutError):
                raise WaitedTooLongError(f"No place was free within {patience:g} s.", self.retry_after_seconds()) from None
            raise

    def _may_run(self, batch: bool) -> bool:
        return self.running < self._ongoing and not (batch and self._running_batch >= self._most_batch)

    def _make_room(self, claim: Claim, patience: float) -> None:
        """Return when the claim may wait; raise QueueFullError when not."""
        ahead = sum(len(waiters) for priority, clients in self._queue.items() if priority >= claim.priority for waiters in clients.values())
        if self._answers >= _KNOWN_AFTER and self._seconds_for(ahead) > patience:
            message = f"{ahead} requests wait already, about {self._seconds_for(ahead):.0f} s; at most {patience:g} s are allowed."
            raise QueueFullError(message, self.retry_after_seconds())
        if self.waiting < self._places():
            return
        victim = self._victim(claim)
        if victim is None:
            message = f"{self.running} requests are being answered and {self.waiting} wait, as many as allowed."
            raise QueueFullError(message, self.retry_after_seconds())
        self._remove(victim)
        victim.turn.set_exception(ShedError("A full queue gave this request's place to another one.", self.retry_after_seconds()))

    def _places(self) -> int:
        """How many may wait now."""
        known = self._answers >= _KNOWN_AFTER
        moment = max(_MOMENT_SECONDS, _MOMENT_SHARE * self._mean_service_seconds if known else 0.0)
        stands = self.waiting and self._clock() - self._waiting_since >= moment
        return self._standing if stands else self._queued

    def _victim(self, claim: Claim) -> _Waiter | None:
        """The newest request of the client with most places (turns included) at the lowest priority, if it should make room for the claim."""
        if not self._queue:
            return None
        lowest = min(self._queue)
        clients = self._queue[lowest]

        def places(client: str) -> int:
            return len(clients.get(client, ())) + self._active[client]

        largest = max(clients, key=places)
        # With equal priorities only a client that will still have as many places as the newcomer's gives one up.
        if lowest < claim.priority or (lowest == claim.priority and places(largest) > places(claim.client) + 1):
            return clients[largest][-1]
        return None

    # ------------------------------------------------------------------------------------------------------------ going

    def _begin(self, claim: Claim) -> None:
        self.running += 1
        self._running_batch += claim.batch
        self._active[claim.client] += 1
        self._level = self._so_far(claim.client)
        self._costs[claim.client] = self._level + self._mean_cost

    def _leave(self, claim: Claim) -> None:
        """Give up a turn and hand out all that may be had now."""
        self.running -= 1
        self._running_batch -= claim.batch
        self._active[claim.client] -= 1
        if not self._active[claim.client]:
            del self._active[claim.client]
            if len(self._costs) > _CLIENTS_KEPT:
                self._costs = {client: self._costs[client] for client in self._active}
        while (waiter := self._next()) is not None:
            self._remove(waiter)
            if not waiter.turn.done():
                self._begin(waiter.claim)
                waiter.turn.set_result(None)

    def _next(self) -> _Waiter | None:
        """Who goes in now: the highest priority that may, of it the client that has cost least, of it the first."""
        for priority in sorted(self._queue, reverse=True):
            if self._may_run(priority < 0):
                clients = self._queue[priority]
                return clients[min(clients, key=self._so_far)][0]
        return None

    def _so_far(self, client: str) -> float:
        """What a client has cost; never below the level of those being served: idleness earns no credit."""
        return max(self._costs.get(client, 0.0), self._level)

    def _remove(self, waiter: _Waiter) -> None:
        clients = self._queue.get(waiter.claim.priority, {})
        waiters = clients.get(waiter.claim.client)
        if waiters is None or waiter not in waiters:
            return
        waiters.remove(waiter)
        self.waiting -= 1
        if not waiters:
            del clients[waiter.claim.client]
            if not clients:
                del self._queue[waiter.claim.priority]
