"""The fleet's own record as Prometheus metrics, taken at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as MetricsCollector

from .collect import Collector
from .registry import Registry
from .schedule import Trainer
from .types import Forecast


class FleetMetrics(MetricsCollector):
    """Per series: the last forecast's record and weights; for all: collecting and training."""

    def __init__(self, registry: Registry, collector: Collector, trainer: Trainer, last: Mapping[str, Forecast]) -> None:
        self._registry = registry
        self._collector = collector
        self._trainer = trainer
        self._last = last

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: the families are made at each scrape."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield GaugeMetricFamily("deepseek_forecaster_series", "Series under watch.", value=len(self._registry))
        yield CounterMetricFamily("deepseek_forecaster_read_errors", "Reads that failed.", value=self._collector.read_errors)
        yield CounterMetricFamily(
            "deepseek_forecaster_queries", "Reads of Prometheus, each of one series or of many.", value=self._collector.queries
        )
        yield CounterMetricFamily("deepseek_forecaster_samples_read", "Samples read from Prometheus.", value=self._collector.samples_read)
        for name, help_text, numbers in (
            ("fits", "Experts fitted.", self._trainer.fits),
            ("fit_failures", "Experts that could not be fitted.", self._trainer.failures),
            ("fit_seconds", "Time spent fitting.", self._trainer.seconds),
        ):
            family = CounterMetricFamily(f"deepseek_forecaster_{name}", help_text, labels=["model"])
            for model, number in numbers.items():
                family.add_metric([model], number)
            yield family
        yield GaugeMetricFamily("deepseek_forecaster_fits_waiting", "Fits that are due.", value=self._trainer.waiting)
        yield GaugeMetricFamily(
            "deepseek_forecaster_fit_seconds_saved", "Seconds of fitting the budget allows now.", value=self._trainer.saved_seconds
        )
        yield from self._of_series()

    def _of_series(self) -> Iterable[Metric]:
        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"deepseek_forecaster_{name}", text, labels=["series", *labels])

        history = gauge("history_seconds", "Known history of the series.")
        left_out = gauge("model_left_out", "1 for each expert that failed and has no weight.", "model")
        wape = gauge("recent_wape", "Error of the horizon's mean over the last day ÷ its load.")
        naive = gauge("naive_wape", "The same of the last value.")
        covered = gauge("coverage90", "Share of the last day's peaks at or below the p90 given.")
        probation = gauge("on_probation", "1 while the forecast does worse than the last value.")
        trained = gauge("trained_timestamp_seconds", "When an expert was last fitted.")
        weights = gauge("model_weight", "Weight of each expert in the forecast.", "model")
        for watched in self._registry:
            series = watched.series
            history.add_metric([series], watched.known_steps * watched.request.step_seconds)
            for model in watched.forecaster.failures:
                left_out.add_metric([series, model], 1)
            forecast = self._last.get(series)
            if forecast is None:
                continue
            probation.add_metric([series], float(forecast.on_probation))
            for family, value in (
                (wape, forecast.recent_wape),
                (naive, forecast.naive_wape),
                (covered, forecast.coverage90),
                (trained, forecast.trained_at),
            ):
                if value is not None:
                    family.add_metric([series], value)
            for model, weight in forecast.models.items():
                weights.add_metric([series, model], weight)
        yield from (history, left_out, wape, naive, covered, probation, trained, weights)
