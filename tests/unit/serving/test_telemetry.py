"""OpenTelemetry's names for our numbers."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from deepseek_serving import metric_names as names
from deepseek_serving.metrics import Ledger, Meter
from deepseek_serving.telemetry import GenAiSink, with_otlp


def exported(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data = reader.get_metrics_data()
    assert data is not None
    return {metric.name: list(metric.data.data_points) for metric in data.resource_metrics[0].scope_metrics[0].metrics}


def test_our_numbers_appear_under_the_names_of_the_conventions_and_ours() -> None:
    """One answer of 0.5 s, first token after 0.1 s, 30 tokens read and 12 written."""
    ledger, reader = Ledger(), InMemoryMetricReader()
    meter = Meter(GenAiSink(ledger, MeterProvider([reader]).get_meter("test"), model="chat"))
    meter.observe(names.E2E_LATENCY_SECONDS, 0.5)
    meter.observe(names.TIME_TO_FIRST_TOKEN_SECONDS, 0.1)
    meter.observe(names.INTER_TOKEN_LATENCY_SECONDS, 0.04)
    meter.observe(names.QUEUE_TIME_SECONDS, 0.0)
    meter.count(names.PROMPT_TOKENS, by=30)
    meter.count(names.GENERATION_TOKENS, by=12)
    meter.flush()
    points = exported(reader)
    common = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "deepseek", "gen_ai.request.model": "chat"}
    assert {name: [(point.sum, dict(point.attributes)) for point in each] for name, each in points.items()} == {
        "gen_ai.server.request.duration": [(0.5, common)],
        "gen_ai.server.time_to_first_token": [(0.1, common)],
        "gen_ai.server.time_per_output_token": [(0.04, common)],
        "gen_ai.client.token.usage": [(30, {**common, "gen_ai.token.type": "input"}), (12, {**common, "gen_ai.token.type": "output"})],
    }
    assert ledger.value(names.GENERATION_TOKENS) == 12
    assert ledger.observations[str(names.QUEUE_TIME_SECONDS)] == [0.0]


def test_nothing_is_pushed_unless_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    ledger = Ledger()
    assert with_otlp(ledger, model="chat") is ledger
