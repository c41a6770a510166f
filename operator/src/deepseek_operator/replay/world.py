"""The world of a replay: nodes, some of them still starting, and one queue. Exact: nothing is stepped.

Load is fluid: within a stretch of constant arrivals and constant capacity everything is a straight line, so each stretch is solved by the
formulas of a fluid queue instead of by small steps. First in, first out, nothing is lost.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

LATE_SECONDS = 10.0
"""A request that waits longer than this is late: the objective of the benchmark's rules."""

ROUNDING_SECONDS = 1e-9
"""A wait of exactly the objective is in time, and binary fractions must not make it late."""


@dataclass(slots=True)
class _Chunk:
    """Requests that arrived evenly from `arrived` on at `rate` per second and still wait: `waiting` of them; `row` counts their lateness."""

    row: int
    arrived: float
    rate: float
    waiting: float


@dataclass(slots=True)
class World:
    """Nodes and a queue at the instant `now` (seconds).

    A node carries `node_capacity` requests per second from `cold_start_seconds` after it was asked for, and is paid for from that moment until
    it is given back. `late[row]` is how many of the requests that arrived during that row waited longer than `late_seconds`.
    """

    node_capacity: float
    cold_start_seconds: float
    ready: int
    now: float = 0.0
    late_seconds: float = LATE_SECONDS
    waiting: float = 0.0
    arrived: float = 0.0
    served: float = 0.0
    longest_wait: float = 0.0
    late: list[float] = field(default_factory=lambda: [0.0])
    starting: deque[float] = field(default_factory=deque)
    _queue: deque[_Chunk] = field(default_factory=deque)

    @property
    def asked(self) -> int:
        """Nodes asked for, those still starting included."""
        return self.ready + len(self.starting)

    @property
    def oldest_wait(self) -> float:
        """How long the request at the head of the queue has waited, in seconds; 0 when none waits."""
        return self.now - self._queue[0].arrived if self._queue else 0.0

    def ask_for(self, nodes: int) -> None:
        """Have `nodes` nodes: add some, ready after the cold start, or give some back at once, the latest of those still starting first."""
        while self.asked < nodes:
            self.starting.append(self.now + self.cold_start_seconds)
        while self.asked > nodes and self.starting:
            self.starting.pop()
        self.ready = min(self.ready, nodes)
        self._count_ready()

    def begin_row(self) -> None:
        """What arrives from now on counts into a new row."""
        self.late.append(0.0)

    def run(self, until: float, rate: float) -> None:
        """Let time pass, with arrivals at `rate` requests per second."""
        while self.now < until:
            end = min(until, self.starting[0]) if self.starting else until
            if end > self.now:
                self._stretch(end, rate)
            self._count_ready()

    def drain(self) -> None:
        """Run on without arrivals until nothing waits, so that the wait of every request is known; what can never be served waits for ever."""
        while self._queue and self.starting:
            self.run(self.starting[0], 0.0)
        if self._queue and self.ready:
            self._serve(self.ready * self.node_capacity, math.inf)
        elif self._queue:
            self.longest_wait = math.inf
            for chunk in self._queue:
                self.late[chunk.row] += chunk.waiting

    def _count_ready(self) -> None:
        while self.starting and self.starting[0] <= self.now:
            self.starting.popleft()
            self.ready += 1

    def _stretch(self, end: float, rate: float) -> None:
        """From now to `end`, with constant arrivals and constant capacity."""
        seconds, carried = end - self.now, self.ready * self.node_capacity
        self.arrived += rate * seconds
        if not self._queue and rate <= carried:
            self.served += rate * seconds
            self.now = end
            return
        # With more capacity than arrivals the queue is gone after waiting ÷ (carried − rate); from there on nobody waits.
        empty_after = self.waiting / (carried - rate) if carried > rate else math.inf
        busy = min(seconds, empty_after)
        if rate > 0:
            self._queue.append(_Chunk(len(self.late) - 1, self.now, rate, rate * busy))
            self.waiting += rate * busy
        if empty_after <= seconds:
            self._serve(carried, math.inf)
            self.waiting = 0.0
            self.served += rate * (seconds - busy)
        else:
            self._serve(carried, carried * busy)
        self.now = end

    def _serve(self, carried: float, budget: float) -> None:
        """Serve up to `budget` requests at `carried` per second from now on, the oldest first, and count those that waited too long.

        Within a chunk both the arrivals and the services are even, so the wait runs in a straight line from its first request to its last.
        """
        at, limit = self.now, self.late_seconds + ROUNDING_SECONDS
        while self._queue and budget > 0:
            chunk = self._queue[0]
            part = min(chunk.waiting, budget)
            took, spread = part / carried, part / chunk.rate
            first = at - chunk.arrived
            last = first + took - spread
            low, high = (first, last) if first <= last else (last, first)
            if high > limit:
                self.late[chunk.row] += part if low >= limit else part * (high - limit) / (high - low)
            if high > self.longest_wait:
                self.longest_wait = high
            at, budget = at + took, budget - part
            self.served += part
            self.waiting -= part
            if part >= chunk.waiting:
                self._queue.popleft()
            else:
                chunk.arrived += spread
                chunk.waiting -= part
        if not self._queue:
            self.waiting = 0.0
