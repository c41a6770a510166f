"""The same numbers in OpenTelemetry's words for generative AI, pushed over OTLP where a collector is named.

Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` (or its `_METRICS_` form) is set and the extra `otlp` is installed; Ray's Prometheus port has the
metrics in any case. Names and attributes are those of the semantic conventions for generative AI, which are still in development:

| ours | OpenTelemetry |
|---|---|
| `deepseek_e2e_request_latency_seconds` | `gen_ai.server.request.duration` |
| `deepseek_time_to_first_token_seconds` | `gen_ai.server.time_to_first_token` |
| `deepseek_inter_token_latency_seconds` | `gen_ai.server.time_per_output_token` |
| `deepseek_prompt_tokens`, `deepseek_generation_tokens` | `gen_ai.client.token.usage`, by `gen_ai.token.type` input or output |

Each carries `gen_ai.operation.name`, `gen_ai.provider.name` and `gen_ai.request.model`: three values that no client chooses. There are no
traces and no events: those would hold prompts.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from deepseek_serving import metric_names as names
from deepseek_serving.metric_names import Metric
from deepseek_serving.metrics import Labels, Sink

log = logging.getLogger(__name__)

HISTOGRAMS = {
    names.E2E_LATENCY_SECONDS: ("gen_ai.server.request.duration", "s", "Generative AI server request duration."),
    names.TIME_TO_FIRST_TOKEN_SECONDS: ("gen_ai.server.time_to_first_token", "s", "Time to generate the first token."),
    names.INTER_TOKEN_LATENCY_SECONDS: ("gen_ai.server.time_per_output_token", "s", "Time per output token after the first."),
}
TOKENS = {names.PROMPT_TOKENS: "input", names.GENERATION_TOKENS: "output"}
_USAGE = ("gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.")
_TOKEN_BOUNDARIES = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class GenAiSink:
    """Hands every number on to `inner`, and those that OpenTelemetry has a name for to a meter as well."""

    def __init__(self, inner: Sink, meter: Any, *, model: str) -> None:
        """`meter`: an `opentelemetry.metrics.Meter`. `model`: the name by which clients know the model."""
        self._inner = inner
        self._attributes = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "deepseek", "gen_ai.request.model": model}
        self._histograms = {
            metric: meter.create_histogram(name, unit=unit, description=text, explicit_bucket_boundaries_advisory=metric.boundaries)
            for metric, (name, unit, text) in HISTOGRAMS.items()
        }
        name, unit, text = _USAGE
        self._usage = meter.create_histogram(name, unit=unit, description=text, explicit_bucket_boundaries_advisory=_TOKEN_BOUNDARIES)

    def add(self, metric: Metric, labels: Labels, value: float) -> None:
        self._inner.add(metric, labels, value)
        if metric in TOKENS and value:
            # Counters are written twice a second, so one value here is what half a second took: sums and rates are right, buckets are coarse.
            self._usage.record(value, {**self._attributes, "gen_ai.token.type": TOKENS[metric]})

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        self._inner.set(metric, labels, value)

    def observe(self, metric: Metric, labels: Labels, value: float) -> None:
        self._inner.observe(metric, labels, value)
        if metric in self._histograms:
            self._histograms[metric].record(value, self._attributes)


def with_otlp(inner: Sink, *, model: str) -> Sink:
    """`inner`, and OTLP beside it where the environment names a collector and the exporter is installed."""
    if not any(os.environ.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT") for part in ("", "METRICS_")):
        return inner
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ImportError:
        log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra `otlp` of deepseek-serving is not installed: nothing is pushed")
        return inner
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    provider = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
    return GenAiSink(inner, provider.get_meter("deepseek-serving"), model=model)
