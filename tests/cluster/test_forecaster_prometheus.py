"""The forecaster on a real Prometheus: three compressed days of a counter before it, a live exporter after, real fits, and a kill between."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from deepseek_forecaster.wire import ForecastBatchResponse, read_response
from deepseek_localcluster import prometheus
from deepseek_localcluster.build import ensure

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STEP = 2
DAY = 2_880
"""A day compressed thirty times, in seconds."""
DAYS = 3
QUERY = "sum(rate(shop_requests_total[8s]))"
HORIZON = 60


def rate_at(instant: float) -> float:
    """Requests per second: 60 ± 40 over the compressed day."""
    return 60 + 40 * math.sin(2 * math.pi * instant / DAY)


def total_at(instant: float, started: float) -> float:
    """The counter: the integral of the rate, set back to zero once (a restart of the shop) a day and a half before the live part."""

    def integral(to: float) -> float:
        return 60 * to - 40 * DAY / (2 * math.pi) * math.cos(2 * math.pi * to / DAY)

    reset = started - 1.5 * DAY
    beginning = reset if instant >= reset else started - DAYS * DAY
    return integral(instant) - integral(beginning)


@dataclass
class Shop:
    """What the test knows of the running Prometheus."""

    url: str
    started: float
    silent_from: float
    silent_to: float
    live: float
    """When scrapes began. The seconds between the written past and the first scrapes lack samples, and `rate` is low over them."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A Prometheus with three days behind it, two minutes of which nobody scraped, that scrapes the shop every second."""
    folder = tmp_path_factory.mktemp("prometheus")
    programs = ensure(["prometheus", "promtool"])
    started = float(math.floor(time.time()))
    silent_from, silent_to = started - DAY, started - DAY + 120
    past = [started - DAYS * DAY + at for at in range(0, DAYS * DAY, 2)]
    lines = [f"shop_requests_total {total_at(at, started):.3f} {at:.0f}" for at in past if not silent_from <= at < silent_to]
    openmetrics = folder / "past.txt"
    openmetrics.write_text("\n".join(["# TYPE shop_requests counter", *lines, "# EOF", ""]))
    prometheus.backfill(programs["promtool"], openmetrics, folder / "data")

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"# TYPE shop_requests_total counter\nshop_requests_total {total_at(time.time(), started):.3f}\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    exporter = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    exporter.daemon_threads = True
    threading.Thread(target=exporter.serve_forever, daemon=True).start()
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "storage": {"tsdb": {"out_of_order_time_window": "1h"}},
        # one series before and after: the labels of a scrape are dropped
        "scrape_configs": [
            {
                "job_name": "shop",
                "static_configs": [{"targets": [f"127.0.0.1:{exporter.server_port}"]}],
                "metric_relabel_configs": [{"action": "labeldrop", "regex": "job|instance"}],
            }
        ],
    }
    (folder / "prometheus.json").write_text(json.dumps(configuration))
    port = free_port()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            prometheus.command(programs["prometheus"], folder / "prometheus.json", folder / "data", port), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/-/ready"), 60, lambda: (folder / "log").read_text()[-2000:])
        yield Shop(url, started, silent_from, silent_to, time.time())
    finally:
        server.terminate()
        server.wait(30)
        exporter.shutdown()
        exporter.server_close()


def test_from_the_first_answer_to_fitted_models_and_over_a_kill(shop: Shop, tmp_path: Path) -> None:
    forecaster, url = start(shop.url, tmp_path)
    try:
        asked = time.monotonic()
        first = until(lambda: ask(url).forecasts, 60)[0]
        assert time.monotonic() - asked < 30, "a first answer seconds after the series is known"
        # the whole past but the two minutes nobody scraped, which are unknown and not zero
        known = DAYS * DAY - (shop.silent_to - shop.silent_from)
        assert first.history_seconds == pytest.approx(known, abs=120)
        assert first.recent_wape is not None
        assert first.recent_wape < 0.15
        came = [rate_at(first.issued_at + at) for at in range(HORIZON)]
        assert 0.7 * max(came) < first.quantile(0.95) < 1.6 * max(came)
        until(lambda: [one for one in ask(url).forecasts if {"arima", "lstm"} <= one.models.keys()], 400, lambda: metrics(url))
        # the dip in what was measured while Prometheus started must be out of the present level
        time.sleep(max(0.0, shop.live + 90 - time.time()))
        fitted = ask(url).forecasts[0]
        assert {"arima", "lstm"} <= fitted.models.keys()
        assert fitted.trained_at is not None
        # against what came and what Prometheus measured: on a busy machine scrapes come late, and `rate` over a window with few of them is low
        came = [rate_at(fitted.issued_at + at) for at in range(HORIZON)]
        low, high = sorted((sum(came) / HORIZON, measured(shop.url, fitted.issued_at)))
        assert 0.8 * low < fitted.mean < 1.25 * high
        assert not fitted.on_probation
    finally:
        forecaster.send_signal(signal.SIGKILL)
        forecaster.wait()
    # Prometheus is out of reach now: what was kept on disk is all there is, and it is enough
    forecaster, url = start("http://127.0.0.1:9", tmp_path)
    try:
        again = until(
            lambda: [one for one in ask(url, fitted.issued_at).forecasts if {"arima", "lstm"} <= one.models.keys()], 180, lambda: metrics(url)
        )[0]
        # a sample that came in late may be missing, whatever was kept is not
        assert again.history_seconds >= fitted.history_seconds - 10 * STEP
        assert again.quantile(0.95) == pytest.approx(fitted.quantile(0.95), rel=0.25)
    finally:
        forecaster.terminate()
        assert forecaster.wait(30) == 0


def start(prometheus_url: str, data: Path) -> tuple[subprocess.Popen[str], str]:
    """The forecaster as a process of its own, and its URL."""
    command = [sys.executable, "-c", "from deepseek_forecaster.cli import main; raise SystemExit(main())", "serve"]
    command += [
        "--prometheus",
        prometheus_url,
        "--listen",
        "127.0.0.1:0",
        "--data",
        str(data),
        "--season",
        str(DAY),
        "--history",
        f"{DAYS * DAY}s",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith("listening on "), said
    return process, said.removeprefix("listening on ").strip()


def ask(url: str, now: float | None = None) -> ForecastBatchResponse:
    question = {"series": "default.shop", "query": QUERY, "stepSeconds": STEP, "horizonSeconds": HORIZON, "quantiles": [0.5, 0.9, 0.95]}
    body = json.dumps({"now": time.time() if now is None else now, "requests": [question]}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/forecasts", body), timeout=30) as answer:
        return read_response(answer.read())


def measured(prometheus_url: str, at: float) -> float:
    """The middle of what the query gave over the minute before `at`; the load changes by less than 6 % in that time."""
    query = urlencode({"query": f"quantile_over_time(0.5, {QUERY}[60s:2s])", "time": f"{at:.0f}"})
    with urllib.request.urlopen(f"{prometheus_url}/api/v1/query?{query}", timeout=30) as answer:
        return float(json.load(answer)["data"]["result"][0]["value"][1])


def metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def until(found: Any, seconds: float, otherwise: Any = lambda: "nothing") -> Any:
    """What `found()` gives as soon as it is true; fails with `otherwise()` after `seconds`."""
    ends = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < ends, otherwise()
        time.sleep(0.3)
    return result
