"""A policy in the world: it is asked at every tick how many nodes there shall be, and everything it costs is counted.

Any policy fits: a callable that gets the instant and what is seen at it, and returns a node count. The operator's own is `decider.Decider`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from deepseek_operator.replay.world import LATE_SECONDS, World

Rates = Sequence[float | None]
"""Requests per second in each step of a trace; None: not known."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy may know at an instant: the steps of the trace that are over, and the present queue and nodes.

    `rate` is the mean arrival rate of the last step that is over, in requests per second, None where the metrics were silent. `waiting` and
    `oldest_wait_seconds` are the queue's length in requests and the wait of its head; they are the true ones also while the metrics are
    silent, so a policy that would read them from the same metrics must disregard them then. `asked` counts starting nodes, `ready` does not.
    """

    now: float
    rate: float | None
    steps_over: int
    waiting: float
    oldest_wait_seconds: float
    asked: int
    ready: int
    trace: Rates = field(repr=False)

    @property
    def history(self) -> Rates:
        """The rates of all the steps that are over, oldest first: a copy."""
        return self.trace[: self.steps_over]


NodePolicy = Callable[[float, Observation], int]
"""How many nodes there shall be, given the instant (seconds since the trace began) and what is seen at it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tick and the time until the next: `demand` is the mean arrival rate in it (requests per second), `asked` and `ready` the nodes at its
    begin, after the decision; `late` counts those of its arrivals that wait too long, whenever that turns out."""

    t_seconds: float
    demand: float
    asked: int
    ready: int
    late: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy cost, and how many requests waited too long. Times in seconds; decision times are the policy's own, by the wall clock."""

    rows: tuple[Row, ...]
    seconds: float
    node_hours: float
    requests: float
    late: float
    longest_wait_seconds: float
    changes: int
    direction_changes: int
    decision_seconds_mean: float = field(compare=False)
    decision_seconds_max: float = field(compare=False)

    @property
    def late_share(self) -> float:
        """Late requests ÷ all requests."""
        return self.late / self.requests if self.requests else 0.0

    @property
    def flaps_per_day(self) -> float:
        """How often a day the node count turned from rising to falling, or back."""
        return self.direction_changes * 86_400 / self.seconds


def simulate(
    rates: Rates,
    step_seconds: float,
    node_capacity: float,
    policy: NodePolicy,
    *,
    cold_start_seconds: float = 180.0,
    tick_seconds: float = 15.0,
    start: int = 0,
    seen: Rates | None = None,
    start_nodes: int | None = None,
    min_nodes: int = 1,
    max_nodes: int = 40,
    late_seconds: float = LATE_SECONDS,
) -> Outcome:
    """Ask `policy` every `tick_seconds` from step `start` of `rates` on until their end, and let the world go on in between.

    `rates` are requests per second in each step. Unknown ones (None) are interpolated for the world and shown to the policy as None; `seen`
    shows it something else altogether (an outage of the metrics, say). Steps before `start` are history: the policy sees them, nobody is
    served or paid for. The world begins with `start_nodes` ready nodes, by default as many as the first step needs (as the clairvoyant does),
    and without a queue. The policy's answer is cut to min_nodes … max_nodes. After the last step the world runs on unpaid and without
    arrivals until everybody is served, so that the wait of each request is known.

    Raises ValueError, naming what is allowed, for a trace, capacity or start that makes no sense.
    """
    if node_capacity <= 0:
        raise ValueError(f"node_capacity must be above 0, was {node_capacity:g}")
    if tick_seconds <= 0 or step_seconds <= 0:
        raise ValueError(f"tick_seconds and step_seconds must be above 0, were {tick_seconds:g} and {step_seconds:g}")
    if not 0 <= start < len(rates):
        raise ValueError(f"start must be a step of the trace (0 to {len(rates) - 1}), was {start}")
    shown = rates if seen is None else seen
    if len(shown) != len(rates):
        raise ValueError(f"seen must have one value per step of the trace ({len(rates)}), had {len(shown)}")
    known = interpolated(rates)
    begin, end = float(start * step_seconds), float(len(rates) * step_seconds)
    if start_nodes is None:
        start_nodes = max(min_nodes, min(max_nodes, nodes_needed(known[start], node_capacity)))
    world = World(node_capacity, cold_start_seconds, start_nodes, now=begin, late_seconds=late_seconds)
    times: list[float] = []
    asked: list[int] = []
    ready: list[int] = []
    arrived: list[float] = []
    deciding = slowest = node_seconds = 0.0
    index, number, now = start, 0, begin
    while now < end:
        # A step is over when its end is not after now; binary fractions must not hold it back.
        over = int((now + 1e-9 * step_seconds) // step_seconds)
        observation = Observation(
            now, shown[over - 1] if over else None, over, world.waiting, world.oldest_wait, world.asked, world.ready, shown
        )
        clock = time.perf_counter()
        nodes = policy(now, observation)
        took = time.perf_counter() - clock
        deciding, slowest = deciding + took, max(slowest, took)
        world.ask_for(max(min_nodes, min(max_nodes, nodes)))
        if number:
            world.begin_row()
        times.append(now)
        asked.append(world.asked)
        ready.append(world.ready)
        before = world.arrived
        number += 1
        following = min(begin + number * tick_seconds, end)
        while index < len(known) and (index + 1) * step_seconds < following:
            world.run((index + 1) * step_seconds, known[index])
            index += 1
        world.run(following, known[index])
        if (index + 1) * step_seconds <= following:
            index += 1
        arrived.append(world.arrived - before)
        node_seconds += asked[-1] * (following - now)
        now = following
    world.drain()
    lengths = [after - before for before, after in pairwise([*times, end])]
    rows = zip(times, arrived, lengths, asked, ready, world.late, strict=True)
    moves = [after - before for before, after in pairwise([start_nodes, *asked]) if after != before]
    return Outcome(
        rows=tuple(Row(t, count / length, nodes, up, late) for t, count, length, nodes, up, late in rows),
        seconds=end - begin,
        node_hours=node_seconds / 3600,
        requests=world.arrived,
        late=sum(world.late),
        longest_wait_seconds=world.longest_wait,
        changes=len(moves),
        direction_changes=sum((before > 0) != (after > 0) for before, after in pairwise(moves)),
        decision_seconds_mean=deciding / number,
        decision_seconds_max=slowest,
    )


def nodes_needed(rate: float, node_capacity: float) -> int:
    """Fewest nodes that carry `rate` in full: 24 req/s ÷ 10 req/s = 2.4 → 3; at least 1."""
    whole = int(rate / node_capacity)
    return max(1, whole if rate <= whole * node_capacity * (1 + 1e-9) else whole + 1)


def interpolated(rates: Rates) -> list[float]:
    """The rates with unknown steps filled in on a straight line between their neighbours; at an end, the nearest known one.

    Raises ValueError when none is known.
    """
    known = [(at, rate) for at, rate in enumerate(rates) if rate is not None]
    if not known:
        raise ValueError("a trace must have at least one known step, had none")
    if len(known) == len(rates):
        return [rate for _, rate in known]
    filled = [known[0][1]] * known[0][0]
    for (at, rate), (following, next_rate) in pairwise(known):
        slope = (next_rate - rate) / (following - at)
        filled += [rate + slope * gap for gap in range(following - at)]
    return filled + [known[-1][1]] * (len(rates) - known[-1][0])


def benchmark_capacity(rates: Rates) -> float:
    """A node's capacity where none is given: such that the 99.9th percentile of the known rates needs ten nodes, in requests per second.

    The percentile lies on the line between the two nearest ranks. Raises ValueError when that is 0 (a trace without traffic).
    """
    ordered = sorted(rate for rate in rates if rate is not None)
    if not ordered:
        raise ValueError("a trace must have at least one known step, had none")
    place = 0.999 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    percentile = ordered[low] + (place - low) * (ordered[high] - ordered[low])
    if percentile <= 0:
        raise ValueError("the trace has no traffic to size a node by; give the capacity of a node")
    return percentile / 10
