"""Writes the replica's metrics: counts in plain numbers on the request's way, hands them to Ray (or anyone else) twice a second."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import Any, Protocol

from deepseek_serving.metric_names import ALL, Metric

Labels = tuple[str, ...]
"""Values of a metric's own labels, in the order of its declaration."""


class Sink(Protocol):
    """Where numbers go: Ray's metrics in a replica, a dictionary elsewhere."""

    def add(self, metric: Metric, labels: Labels, value: float) -> None:
        """Add to a counter. A value of 0 makes the series appear."""
        ...

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        """Set a gauge."""
        ...

    def observe(self, metric: Metric, labels: Labels, value: float) -> None:
        """Count one value into a histogram."""
        ...


class Meter:
    """Counts cheaply, writes on `flush`.

    Every counter of every label combination is written with 0 at construction: Prometheus' `rate` sees only growth between two scrapes, so a
    counter that first appears with 1 would lose its first request.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._counts: defaultdict[tuple[Metric, Labels], float] = defaultdict(float)
        self._totals: dict[Metric, float] = {}
        for metric in ALL:
            if metric.kind == "counter":
                for labels in product(*(values for _, values in metric.labels)):
                    sink.add(metric, labels, 0.0)

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Add to a counter at the next flush."""
        self._counts[metric, labels] += by

    def advance(self, metric: Metric, total: float) -> None:
        """Bring a counter to a total that someone else keeps; a total that fell is ignored."""
        known = self._totals.get(metric, 0.0)
        if total > known:
            self._counts[metric, ()] += total - known
            self._totals[metric] = total

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge now."""
        self._sink.set(metric, labels, value)

    def observe(self, metric: Metric, value: float) -> None:
        """Count one value into a histogram now."""
        self._sink.observe(metric, (), value)

    def flush(self) -> None:
        """Write what was counted since the last flush."""
        counts, self._counts = self._counts, defaultdict(float)
        for (metric, labels), value in counts.items():
            if value:
                self._sink.add(metric, labels, value)


class Ledger:
    """A sink that keeps the numbers in memory: for a server without Ray, and for tests."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, Labels], float] = {}
        self.observations: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, metric: Metric, labels: Labels, value: float) -> None:
        key = (metric.exported, labels)
        self.values[key] = self.values.get(key, 0.0) + value

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        self.values[metric.exported, labels] = value

    def observe(self, metric: Metric, labels: Labels, value: float) -> None:
        self.observations[metric.exported] = [*self.observations[metric.exported][-999:], value]

    def value(self, metric: Metric, *labels: str) -> float:
        """The current number of one series."""
        return self.values[metric.exported, labels]


class RaySink:
    """Writes through `ray.serve.metrics`, which adds application, deployment and replica. Only inside a replica."""

    def __init__(self) -> None:
        from ray.serve import metrics

        self._counters: dict[Metric, metrics.Counter] = {}
        self._gauges: dict[Metric, metrics.Gauge] = {}
        self._histograms: dict[Metric, metrics.Histogram] = {}
        for metric in ALL:
            keys: Any = tuple(name for name, _ in metric.labels)  # Ray's annotation allows just one
            if metric.kind == "counter":
                self._counters[metric] = metrics.Counter(metric.name, metric.help, keys)
            elif metric.kind == "gauge":
                self._gauges[metric] = metrics.Gauge(metric.name, metric.help, keys)
            else:
                self._histograms[metric] = metrics.Histogram(metric.name, metric.help, list(metric.boundaries), keys)

    def add(self, metric: Metric, labels: Labels, value: float) -> None:
        # `inc` refuses 0, which is what makes a series appear; `_record` is the line below that check.
        self._counters[metric]._record(value, tags=_tags(metric, labels))

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        self._gauges[metric].set(value, tags=_tags(metric, labels))

    def observe(self, metric: Metric, labels: Labels, value: float) -> None:
        self._histograms[metric].observe(value, tags=_tags(metric, labels))


def _tags(metric: Metric, labels: Labels) -> dict[str, str]:
    return {name: value for (name, _), value in zip(metric.labels, labels, strict=True)}
