"""What a rival is told of the world: its own kind of metric, made of the one observation every policy gets."""

from __future__ import annotations

from deepseek_operator.replay import Observation

BACKLOG_SECONDS = 60.0
"""A queue counts as demand as if it were to be worked off within this time, here as in this project's own policy."""

SERVICE_SECONDS = 10.0
"""How long a request is being served. It turns a queue into requests in flight: a node at full load has capacity × 10 s of them."""


def load(seen: Observation, capacity: float) -> float | None:
    """Demand in node capacities, for those who scale on a request rate; None while the metrics are silent."""
    if seen.rate is None:
        return None
    return (seen.rate + seen.waiting / BACKLOG_SECONDS) / capacity


def in_flight(seen: Observation, capacity: float) -> float | None:
    """Requests being served or waiting, in node capacities (1 = as many as a node at full load has in service), by Little's law; for those who
    scale on concurrency. None while the metrics are silent."""
    if seen.rate is None:
        return None
    serving = float(seen.ready) if seen.waiting > 0 else min(seen.rate / capacity, float(seen.ready))
    return serving + seen.waiting / (capacity * SERVICE_SECONDS)
