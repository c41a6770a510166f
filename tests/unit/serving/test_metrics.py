"""Counting."""

from __future__ import annotations

from deepseek_serving import metric_names as names
from deepseek_serving.metrics import Ledger, Meter


def test_every_counter_stands_at_0_from_the_start() -> None:
    """Prometheus sees only growth: a counter that first appears with 1 has lost its first request."""
    ledger = Ledger()
    Meter(ledger)
    counters = [metric for metric in names.ALL if metric.kind == "counter"]
    assert len(counters) == 11
    assert {key for key, value in ledger.values.items() if value == 0} == set(ledger.values)
    assert (str(names.REQUESTS_FINISHED), ("late",)) in ledger.values
    assert {name for name, _ in ledger.values} == {str(metric) for metric in counters}


def test_counts_are_written_by_flush_and_once() -> None:
    ledger = Ledger()
    meter = Meter(ledger)
    for _ in range(3):
        meter.count(names.REQUESTS_OFFERED, "image")
    assert ledger.value(names.REQUESTS_OFFERED, "image") == 0
    meter.flush()
    meter.flush()
    assert ledger.value(names.REQUESTS_OFFERED, "image") == 3


def test_a_total_kept_elsewhere_is_followed_and_never_falls() -> None:
    ledger = Ledger()
    meter = Meter(ledger)
    for total in (1.5, 1.5, 4.0, 2.0, 4.5):
        meter.advance(names.ENGINE_BUSY_SECONDS, total)
        meter.flush()
    assert ledger.value(names.ENGINE_BUSY_SECONDS) == 4.5
