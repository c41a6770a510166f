"""The figures of a replay, recomputed from its timeline alone, by other means than the simulator's. Imports nothing of this project.

    python tests/bench/recompute.py TIMELINE.csv --capacity 12.5 --cold-start 180

With A(t) the requests that have arrived by t and S(t) those served, first in, first out: what arrives at t is late when A(t) > S(t + 10 s).
Between two changes of demand or ready nodes both are straight lines, so everything below is exact.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LATE_SECONDS = 10.0
ROUNDING = 1e-6
"""Requests: a wait of exactly the objective is in time, and sums of binary fractions must not make it late."""


@dataclass(frozen=True)
class Timeline:
    """The columns of a timeline; all rows stand for the same time, but for the last one, which may be shorter."""

    t_seconds: Floats
    demand: Floats
    asked: Floats
    ready: Floats
    late: Floats
    end: float

    @classmethod
    def read(cls, path: Path, end: float | None = None) -> Timeline:
        """From a CSV; `end` is the end of the trace in seconds (by default the last row is as long as the others)."""
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        columns = {name: np.array([float(row[name]) for row in rows]) for name in ("t_seconds", "demand", "asked", "ready", "late")}
        t = columns["t_seconds"]
        return cls(**columns, end=end if end is not None else float(2 * t[-1] - t[-2]))


def node_hours(timeline: Timeline) -> float:
    """Each count of nodes asked for is paid for until the next row."""
    return float((timeline.asked * np.diff(timeline.t_seconds, append=timeline.end)).sum() / 3600)


def ready_at(timeline: Timeline, instants: Floats, cold_start: float, nodes_before: float) -> Floats:
    """A node carries load when it was there throughout the last cold start: the least that was asked for in [t − cold start, t].

    Of the nodes that are given back those still starting go first. Before the first row `nodes_before` were asked for.
    """
    t = np.concatenate(([-np.inf], timeline.t_seconds))
    asked = np.concatenate(([nodes_before], timeline.asked))
    first = np.searchsorted(t, instants - cold_start + 1e-9, side="right") - 1
    last = np.searchsorted(t, instants + 1e-9, side="right") - 1
    return np.array([asked[a : b + 1].min() for a, b in zip(first, last, strict=True)])


def late_requests(timeline: Timeline, capacity: float, cold_start: float, nodes_before: float, late_seconds: float = LATE_SECONDS) -> float:
    """Requests that wait longer than `late_seconds` before a node takes them, on nodes of `capacity` requests per second."""
    t = timeline.t_seconds
    forever = timeline.end + cold_start + 2 * float((timeline.demand * np.diff(t, append=timeline.end)).sum()) / capacity + 1
    edges = np.unique(np.concatenate((t, t + cold_start, [timeline.end, forever])))
    begins = edges[:-1]
    rate = np.where(begins < timeline.end, timeline.demand[np.maximum(np.searchsorted(t, begins + 1e-9) - 1, 0)], 0.0)
    able = ready_at(timeline, begins, cold_start, nodes_before) * capacity
    # Walk the edges once: the queue grows by rate − able, and where it runs empty there is one more edge.
    at, arrived, served, queue = [float(edges[0])], [0.0], [0.0], 0.0
    for begin, end, arriving, carried in zip(begins, edges[1:], rate, able, strict=True):
        if queue > 0 and carried > arriving and queue / (carried - arriving) < end - begin:
            empty = begin + queue / (carried - arriving)
            at.append(empty)
            arrived.append(arrived[-1] + arriving * (empty - begin))
            served.append(arrived[-1])
            begin, queue = empty, 0.0
        at.append(end)
        arrived.append(arrived[-1] + arriving * (end - begin))
        queue = max(0.0, queue + (arriving - carried) * (end - begin)) if queue > 0 or arriving > carried else 0.0
        served.append(arrived[-1] - queue)
    times, came, went = np.array(at), np.array(arrived), np.array(served)
    # Behind = A(t) − S(t + 10) is a straight line between all edges of both curves; late is the part of each piece where it is above 0.
    marks = np.unique(np.clip(np.concatenate((times, times - late_seconds)), times[0], timeline.end))
    total, behind = np.interp(marks, times, came), np.interp(marks, times, came) - np.interp(marks + late_seconds, times, went) - ROUNDING
    came_in, left, right = np.diff(total), behind[:-1], behind[1:]
    span = np.where(left == right, 1.0, np.abs(right - left))
    share = np.where(left > 0, np.where(right > 0, 1.0, left / span), np.where(right > 0, right / span, 0.0))
    return float((came_in * share).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("timeline", type=Path)
    parser.add_argument("--capacity", type=float, required=True, help="requests per second of a node (requestsPerSecondPerNode in the JSON)")
    parser.add_argument("--cold-start", type=float, default=180.0, help="seconds (default: 180)")
    parser.add_argument("--nodes-before", type=float, help="nodes before the first row (default: its ready nodes)")
    options = parser.parse_args()
    timeline = Timeline.read(options.timeline)
    before = options.nodes_before if options.nodes_before is not None else float(timeline.ready[0])
    requests = float((timeline.demand * np.diff(timeline.t_seconds, append=timeline.end)).sum())
    late = late_requests(timeline, options.capacity, options.cold_start, before)
    found = {
        "nodeHours": node_hours(timeline),
        "requests": requests,
        "late": late,
        "latePercent": 100 * late / requests if requests else 0.0,
        "lateAsWritten": float(timeline.late.sum()),
        "readyAgrees": bool((ready_at(timeline, timeline.t_seconds, options.cold_start, before) == timeline.ready).all()),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
