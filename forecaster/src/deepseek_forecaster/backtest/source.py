"""Where a backtest's series comes from: a CSV file, or a query to Prometheus."""

from __future__ import annotations

import math

from deepseek_forecaster.prometheus import PrometheusReader
from deepseek_forecaster.trace import Trace, TraceError

READ_TIMEOUT_SECONDS = 60.0


def from_prometheus(url: str, query: str, days: float, step_seconds: int, now: float) -> Trace:
    """The last `days` of a query that gives ONE series in units of work per second, as a trace that ends at `now`.

    What Prometheus does not know is unknown, never 0. ReadError when it cannot be read; TraceError when there is nothing in it.
    """
    newest = math.floor(now / step_seconds)
    oldest = newest - math.ceil(days * 86_400 / step_seconds) + 1
    found: dict[int, float] = {}
    for indices, loads in PrometheusReader(url, READ_TIMEOUT_SECONDS).chunks(query, step_seconds, oldest, newest):
        found.update(zip((int(index) for index in indices), (float(load) for load in loads), strict=True))
    if not any(found.values()):
        raise TraceError(f"{url}: expected samples above 0 of `{query}` in the last {days:g} days, found {len(found)} samples")
    first = min(found)
    # a trace counts, a query tells loads: load × step = count
    counts = [found[index] * step_seconds if index in found else None for index in range(first, max(found) + 1)]
    return Trace(query, step_seconds, tuple(counts))
