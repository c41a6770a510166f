"""The time before the play, as Prometheus would have recorded it: counters with the names the replicas export.

Most of it becomes blocks (`write_history`); from the start of Prometheus to the first real request a small exporter goes on with the very
same series (`Exporter`), however long Ray takes. All of it is one label set (`replica="before"`) that ends when the live replicas take over,
each with counters of their own: `rate()` never sees a counter jump at the seam, one series ends and others start.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from deepseek_demo.traffic import Floats
from deepseek_serving.metric_names import REQUESTS_FINISHED, REQUESTS_OFFERED, Metric
from deepseek_serving.settings import DEPLOYMENT_NAME

REPLICA = "before"


def whole_requests(rates: Floats, step_seconds: float) -> Floats:
    """Requests in each step for a rate in requests per second: whole numbers whose sum never strays from the rate's by one or more.

    What a step cannot use is carried to the next: 0.4 req/s in steps of 1 s is 0, 0, 1, 0, 1, … Unknown steps (NaN) have none.
    """
    return np.diff(np.floor(np.cumsum(np.nan_to_num(rates)) * step_seconds + 1e-9), prepend=0.0)


@dataclass(frozen=True)
class Counter:
    """One counter with its labels, and its value at the end of each step."""

    metric: Metric
    labels: dict[str, str]
    values: Floats  # shape (steps,)

    @property
    def series(self) -> str:
        return f"{self.metric.exported}{{{','.join(f'{name}={json.dumps(value)}' for name, value in self.labels.items())}}}"


@dataclass(frozen=True)
class Past:
    """Counters whose `rate()` is `rates` (requests per second, one value per step, NaN = no sample); step 0 begins at `begins_at`.

    `begins_at` is Unix seconds. `scrape_labels` are those Prometheus puts on what it scrapes from the exporter: blocks need them too, for
    the series to go on.
    """

    application: str
    rates: Floats
    step_seconds: float
    begins_at: float
    image_share: float
    seed: int
    scrape_labels: dict[str, str] = field(default_factory=dict)

    def counters(self, scraped: bool) -> list[Counter]:
        """The counters; `scraped`: with the labels that a scrape adds."""
        counts = whole_requests(self.rates, self.step_seconds)
        images = np.random.default_rng(self.seed).binomial(counts.astype(np.int64), self.image_share).astype(np.float64)
        base = {"application": self.application, "deployment": DEPLOYMENT_NAME, "replica": REPLICA, **(self.scrape_labels if scraped else {})}
        return [
            Counter(REQUESTS_OFFERED, {**base, "kind": "image"}, np.cumsum(images)),
            Counter(REQUESTS_OFFERED, {**base, "kind": "text"}, np.cumsum(counts - images)),
            Counter(REQUESTS_FINISHED, {**base, "outcome": "ok"}, np.cumsum(counts)),
        ]


def write_history(path: Path, past: Past, until: float) -> int:
    """Write the past up to `until` (Unix seconds) as OpenMetrics; existing files are replaced. Gives the number of requests written."""
    steps = min(len(past.rates), int((until - past.begins_at) / past.step_seconds + 1e-6))
    times = past.begins_at + past.step_seconds * np.arange(1, steps + 1)
    known = ~np.isnan(past.rates[:steps])
    counters = past.counters(scraped=True)
    with path.open("w", encoding="utf-8") as file:
        for metric in (REQUESTS_OFFERED, REQUESTS_FINISHED):
            file.write(f"# TYPE ray_{metric.name} counter\n")
            for counter in (each for each in counters if each.metric is metric):
                rows = zip(counter.values[:steps], times, known, strict=True)
                file.writelines(f"{counter.series} {value:.0f} {at:.3f}\n" for value, at, there in rows if there)
        file.write("# EOF\n")
    return int(sum(counter.values[steps - 1] for counter in counters if counter.metric is REQUESTS_FINISHED)) if steps else 0


class Exporter:
    """Serves the past's counters as they stand now, on 127.0.0.1, until `end`: then it has none, and Prometheus sees the series end."""

    def __init__(self, past: Past, port: int) -> None:
        self.past = past
        self._counters = past.counters(scraped=False)
        self._ended = threading.Event()
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.text(time.time()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def text(self, now: float) -> str:
        """What a scrape gets at `now` (Unix seconds)."""
        step = int((now - self.past.begins_at) / self.past.step_seconds) - 1
        if self._ended.is_set() or step < 0:
            return ""
        return "".join(f"{counter.series} {counter.values[min(step, len(counter.values) - 1)]:.0f}\n" for counter in self._counters)

    def end(self) -> None:
        """From now on the live replicas count."""
        self._ended.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
