"""The same `decide()` over a recorded trace, with cold starts and a queue: what a policy would have cost, and how many would have waited.

The world is fluid and first in, first out: arrivals are even within a step of the trace, the world moves in `WORLD_STEP_SECONDS`, nothing is
lost. A node is paid for from the moment it is asked for and carries load once its cold start is over. A request is late when it waits longer
than `LATE_SECONDS`.
"""

from __future__ import annotations

import csv
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.types import Demand, Memory, PeakForecast, Policy, Situation

LATE_SECONDS = 10.0
WORLD_STEP_SECONDS = 5.0

Forecaster = Callable[[float], PeakForecast | None]
"""The forecast that was there at an instant (seconds since the trace began), or None."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tick: `demand` in requests per second, `asked` and `ready` in nodes, `late` in requests since the last row."""

    t_seconds: float
    demand: float
    asked: int
    ready: int
    late: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy cost on a trace, and how many requests waited too long."""

    rows: tuple[Row, ...]
    node_hours: float
    requests: float
    late: float
    changes: int

    @property
    def late_share(self) -> float:
        """Late requests ÷ all requests."""
        return self.late / self.requests if self.requests else 0.0


@dataclass(slots=True)
class World:
    """Nodes, some of them still starting, and a queue of (instant of arrival, requests)."""

    node_capacity: float
    cold_start_seconds: float
    ready: int = 1
    starting: list[float] = field(default_factory=list)
    queue: deque[list[float]] = field(default_factory=deque)
    node_seconds: float = 0.0

    @property
    def asked(self) -> int:
        """Nodes asked for, starting ones included."""
        return self.ready + len(self.starting)

    def ask_for(self, nodes: int, now: float) -> None:
        """Add nodes, ready after the cold start; or give some back at once, those still starting first."""
        while self.asked < nodes:
            self.starting.append(now + self.cold_start_seconds)
        while self.asked > nodes and self.starting:
            self.starting.pop()
        self.ready = min(self.ready, nodes)

    def advance(self, now: float, seconds: float, rate: float, late_after: float) -> float:
        """`seconds` of the world from `now` on with arrivals at `rate`; returns how many requests were served late."""
        self.ready += sum(at <= now for at in self.starting)
        self.starting = [at for at in self.starting if at > now]
        self.node_seconds += self.asked * seconds
        if rate > 0:
            self.queue.append([now + seconds / 2, rate * seconds])
        budget, late = self.ready * self.node_capacity * seconds, 0.0
        while self.queue and budget > 0:
            arrived, waiting = self.queue[0]
            served = min(waiting, budget)
            budget -= served
            if now + seconds / 2 - arrived > late_after:
                late += served
            if served == waiting:
                self.queue.popleft()
            else:
                self.queue[0][1] = waiting - served
        return late


def replay(
    rates: Sequence[float | None],
    step_seconds: float,
    policy: Policy,
    node_capacity: float,
    *,
    cold_start_seconds: float = 180.0,
    tick_seconds: float = 15.0,
    forecaster: Forecaster | None = None,
    start_nodes: int | None = None,
    late_seconds: float = LATE_SECONDS,
) -> Outcome:
    """Run `policy` over `rates` (requests per second in each step; None: the metrics were silent then, and the policy knows nothing of that
    step while the world goes on at the last rate).

    At each tick the policy sees the mean arrival rate of the tick before and what waits in the queue, as it does live.
    """
    if node_capacity <= 0:
        raise ValueError(f"node_capacity must be above 0, was {node_capacity}")
    # Steps of the world divide the tick: a compressed day ticks every second or two.
    world_step = min(WORLD_STEP_SECONDS, tick_seconds, step_seconds)
    nodes = start_nodes if start_nodes is not None else policy.min_nodes
    world, memory = World(node_capacity, cold_start_seconds, ready=nodes), Memory.begin(0.0, nodes)
    rows: list[Row] = []
    total = total_late = late = arrived = 0.0
    changes, next_tick, asked = 0, 0.0, nodes
    steps = math.ceil(len(rates) * step_seconds / world_step)
    for number in range(steps):
        now = number * world_step
        index = min(int(now / step_seconds), len(rates) - 1)
        known = rates[index]
        rate = known if known is not None else next((r for r in reversed(rates[:index]) if r is not None), 0.0)
        if now >= next_tick:
            demand = None if known is None else Demand((arrived / tick_seconds if number else rate) + _backlog(world) / max(tick_seconds, 60.0))
            situation = Situation(now, policy, asked, demand, node_capacity, forecaster(now) if forecaster else None, memory)
            decision = decide(situation)
            memory, changes = remember(situation, decision), changes + (decision.nodes != asked)
            asked = decision.nodes
            world.ask_for(asked, now)
            rows.append(Row(now, rate, asked, world.ready, late, decision.reason))
            late, arrived, next_tick = 0.0, 0.0, next_tick + tick_seconds
        served_late = world.advance(now, world_step, rate, late_seconds)
        late, total_late = late + served_late, total_late + served_late
        arrived, total = arrived + rate * world_step, total + rate * world_step
    end = steps * world_step
    total_late += sum(waiting for at, waiting in world.queue if end - at > late_seconds)
    return Outcome(tuple(rows), world.node_seconds / 3600, total, total_late, changes)


def _backlog(world: World) -> float:
    """Requests that wait: work to be done beside the arrivals, spread over a minute."""
    return max(0.0, sum(waiting for _, waiting in world.queue) - world.ready * world.node_capacity)


def read_trace(path: Path) -> tuple[list[float | None], float]:
    """Requests per second per step, and the step in seconds, from a CSV `t_min,count` (an empty count is unknown).

    Raises `ValueError` naming the line and what is expected there.
    """
    minutes: list[float] = []
    counts: list[float | None] = []
    with path.open(newline="") as file:
        rows = csv.reader(file)
        if next(rows, None) != ["t_min", "count"]:
            raise ValueError(f"{path}: line 1 must be t_min,count")
        for number, row in enumerate(rows, start=2):
            try:
                minute, count = row
                minutes.append(float(minute))
                counts.append(float(count) if count.strip() else None)
                if (counts[-1] or 0) < 0 or not math.isfinite(minutes[-1] + (counts[-1] or 0)):
                    raise ValueError
            except ValueError:
                raise ValueError(f"{path}: line {number} must be MINUTE,COUNT with a count ≥ 0 or none, was {','.join(row)!r}") from None
            if len(minutes) > 1 and minutes[-1] <= minutes[-2]:
                raise ValueError(f"{path}: line {number}: t_min must rise, was {minutes[-1]:g} after {minutes[-2]:g}")
    if len(minutes) < 2:
        raise ValueError(f"{path}: at least two rows are needed, had {len(minutes)}")
    step = minutes[1] - minutes[0]
    return [None if count is None else count / (60 * step) for count in counts], 60 * step
