"""The load a service has to carry now: what arrives, what arrives lately, and what waits.

A mean over a minute shows a jump a minute late; a mean over half of it, half as late, but it wavers. So the recent rate counts only as far as
it is sure, and what waits counts as work to be done beside the arrivals. Noise adds no node, and a jump costs a cold start and not a window.
"""

from __future__ import annotations

import math

from deepseek_operator.core.types import Demand

BACKLOG_SECONDS = 60.0
"""What waits counts as demand as if it were to be done within this time: 300 waiting requests are 5 req/s."""

SURE_DEVIATIONS = 3.0
"""Arrivals by chance spread by the root of their number; three roots are exceeded once in 740 readings."""


def offered(
    rate: float,
    *,
    complete: bool = True,
    recent: float | None = None,
    recent_seconds: float = 30.0,
    export_seconds: float = 0.0,
    waiting: float | None = None,
) -> Demand:
    """The demand that `rate` (requests per second over the whole window), `recent` (over the last `recent_seconds`) and `waiting` requests
    make together. Counters reach Prometheus every `export_seconds`. Readings that are None add nothing."""
    level = rate if recent is None else max(rate, sure_rate(recent, recent_seconds, export_seconds))
    queued = waiting or 0.0
    return Demand(level + queued / BACKLOG_SECONDS, complete, arrivals=rate, risen=level > rate, waiting=queued)


def sure_rate(rate: float, seconds: float, export_seconds: float) -> float:
    """The rate that a reading over a short window shows for sure, in requests per second.

    A window of 30 s over counters that are exported every 10 s may hold what arrived in 40: 60 req/s are 1800 requests, of which the last
    1800 − 3 × √1800 = 1673 are no chance, in 40 s: 42 req/s.
    """
    count = rate * seconds
    return max(0.0, count - SURE_DEVIATIONS * math.sqrt(count)) / (seconds + export_seconds)
