"""The serving application in real Ray Serve: an own local Ray with its own folder and ports, started and ended by the test."""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from ray_serve import APPLICATION, free_port, served_by_ray

from deepseek_localcluster.build import ensure
from deepseek_serving import metric_names
from deepseek_serving.shapes import QUESTION, draw

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

PATIENCE_SECONDS = 60.0
"""How long something is waited for that a quiet machine does within a second or two."""


@dataclass
class Running:
    """A served application."""

    url: str
    metrics_url: str
    client: openai.OpenAI

    def metrics(self) -> str:
        with urllib.request.urlopen(self.metrics_url, timeout=PATIENCE_SECONDS) as answer:
            return str(answer.read().decode())

    def total(self, name: str, **labels: str) -> float | None:
        """Sum of all series of that exact name that carry the labels; None when there is none."""
        found = None
        for line in self.metrics().splitlines():
            match = re.match(rf"{name}\{{(.*)\}} (\S+)$", line)
            if match and all(f'{key}="{value}"' in match[1] for key, value in labels.items()):
                found = (found or 0.0) + float(match[2])
        return found

    def wait_for_total(self, at_least: float, name: str, **labels: str) -> float:
        """Waits, since what was counted is exported a second later, and Ray leaves a gauge out that was not set for two exports."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (value := self.total(name, **labels)) is None or value < at_least:
            assert time.monotonic() < deadline, f"{name} {labels} is {value} after {PATIENCE_SECONDS:g} s, not {at_least}"
            time.sleep(0.5)
        return value


def run_serve(args: dict[str, Any], *, replicas: int = 1) -> Iterator[Running]:
    with served_by_ray(args, replicas=replicas, environment={"RAY_metrics_report_interval_ms": "1000"}) as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=2 * PATIENCE_SECONDS)
        yield Running(served.url, served.metrics_url, client)


@pytest.fixture(scope="module")
def echo() -> Iterator[Running]:
    limits = {"maxOngoingRequests": 1, "maxQueuedRequests": 1, "maxTokensPerSecond": 10}
    yield from run_serve({"model": {"engine": "echo"}, "serving": limits, "modelName": "chat"})


def test_every_metric_appears_under_its_name_on_rays_port(echo: Running) -> None:
    """All metrics, each with application="default.chat"; counters of every label combination from 0 on, before the first request."""
    echo.wait_for_total(0, str(metric_names.REQUESTS_OFFERED), application=APPLICATION)
    for kind in metric_names.KINDS:
        assert echo.wait_for_total(0, str(metric_names.REQUESTS_OFFERED), kind=kind, application=APPLICATION) == 0
    for outcome in metric_names.OUTCOMES:
        assert echo.wait_for_total(0, str(metric_names.REQUESTS_FINISHED), outcome=outcome, application=APPLICATION) == 0
    echo.client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi there"}])
    echo.wait_for_total(1, f"{metric_names.E2E_LATENCY_SECONDS}_count", application=APPLICATION)
    for metric in metric_names.ALL:
        name = f"{metric}_bucket" if metric.kind == "histogram" else str(metric)
        echo.wait_for_total(0, name, application=APPLICATION, deployment="Engine")


def test_each_request_is_offered_once_and_a_refusal_is_told_apart(echo: Running) -> None:
    """8 at once, 1 answered and 1 queued at a time, 3 s each: at least 4 get 429 with Retry-After 1..120, all 8 are offered load."""
    offered = str(metric_names.REQUESTS_OFFERED)
    before = echo.wait_for_total(0, offered, application=APPLICATION)
    rejected_before = echo.wait_for_total(0, str(metric_names.REQUESTS_REJECTED), application=APPLICATION)

    def ask(_: int) -> tuple[int, str]:
        try:
            echo.client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "a " * 30}])
        except openai.APIStatusError as error:
            return error.status_code, error.response.headers["retry-after"]
        return 200, ""

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    retry_after = [int(seconds) for status, seconds in answers if status == 429]
    refused = len(retry_after)
    assert refused >= 4
    assert [status for status, _ in answers].count(200) == 8 - refused
    assert all(1 <= seconds <= 120 for seconds in retry_after)
    assert echo.wait_for_total(before + 8, offered, application=APPLICATION) == before + 8
    rejected = echo.wait_for_total(rejected_before + refused, str(metric_names.REQUESTS_REJECTED), application=APPLICATION)
    assert rejected == rejected_before + refused
    # The proxy counted the same refusals: this is what the demand query subtracts.
    assert echo.wait_for_total(refused, metric_names.SERVE_PROXY_ERRORS, application=APPLICATION, error_code="429") == refused


def test_a_client_that_leaves_frees_its_place(echo: Running) -> None:
    """The only place is taken by a 30 s answer; its reader leaves after the first word; the next is answered within 15 s."""
    stream = echo.client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "b " * 300}], stream=True)
    next(iter(stream))
    stream.close()
    time.sleep(0.5)
    began = time.monotonic()
    answer = echo.client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "next"}])
    assert answer.choices[0].message.content == "next"
    assert time.monotonic() - began < 15
    echo.wait_for_total(1, str(metric_names.REQUESTS_FINISHED), outcome="cancelled", application=APPLICATION)


def prometheus_value(url: str, query: str) -> dict[str, float]:
    """Value by application."""
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=PATIENCE_SECONDS) as answer:
        return {each["metric"]["application"]: float(each["value"][1]) for each in json.load(answer)["data"]["result"]}


def test_prometheus_sees_the_demand_that_was_offered(echo: Running, tmp_path: Path) -> None:
    """60 requests in 20 s, at most 2 at a time in the replica, many refused: demand over 60 s is 60 ÷ 60 = 1 per second, ± 15 %.

    The fleet's query gives the same, and what a saturated replica can do comes out as 10 tokens/s ÷ 5 tokens = 2 requests/s, ± 25 %.
    """
    prometheus, port = ensure(["prometheus"])["prometheus"], free_port()
    target = echo.metrics_url.split("/")[2]
    configuration = {"global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(configuration))
    command = [str(prometheus), f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    scraper = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"])
    try:
        url = f"http://127.0.0.1:{port}"
        offered = f'sum by (application) ({metric_names.REQUESTS_OFFERED}{{application="{APPLICATION}"}})'

        def wait_for_offered(at_least: float) -> float:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while True:
                with suppress(OSError):
                    found = prometheus_value(url, offered).get(APPLICATION, -1.0)
                    if found >= at_least:
                        return found
                assert time.monotonic() < deadline, f"Prometheus does not know of {at_least} requests after {PATIENCE_SECONDS:g} s"
                time.sleep(0.2)

        before = wait_for_offered(0)

        def ask(_: int) -> int:
            try:
                echo.client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "a b c d e"}])
            except openai.RateLimitError:
                return 429
            return 200

        with ThreadPoolExecutor(16) as pool:
            answers = []
            began = time.monotonic()
            for index in range(60):
                time.sleep(max(0.0, began + index / 3 - time.monotonic()))
                answers.append(pool.submit(ask, index))
            statuses = [answer.result() for answer in answers]
        assert 5 <= statuses.count(429) <= 45
        wait_for_offered(before + 60)
        time.sleep(2)  # what the replica counted together may lie in two scrapes
        demand = prometheus_value(url, metric_names.demand_query(APPLICATION, 60))
        assert demand == {APPLICATION: pytest.approx(1.0, rel=0.15)}
        assert prometheus_value(url, metric_names.fleet_demand_query(60)) == {APPLICATION: pytest.approx(1.0, rel=0.15)}
        assert prometheus_value(url, metric_names.fleet_capacity_query(60)) == {APPLICATION: pytest.approx(2.0, rel=0.25)}
    finally:
        scraper.terminate()
        scraper.wait(20)


DEMAND_CASES = {
    "two replicas, text and pictures; what they refuse passes the proxies too": (
        {
            'offered{kind="text",replica="1"}': 1, 'offered{kind="image",replica="1"}': 0.5,
            'offered{kind="text",replica="2"}': 1, 'offered{kind="image",replica="2"}': 0.5,
            'rejected{replica="1"}': 0.5, 'rejected{replica="2"}': 0, 'errors{error_code="429"}': 0.5,
        },
        3.0,
    ),
    "no replica yet: only the proxies refuse": ({'errors{error_code="503"}': 3}, 3.0),
    "proxies refuse 1.5, of which 0.5 came from a replica": (
        {'offered{kind="text"}': 1, "rejected{}": 0.5, 'errors{error_code="429"}': 1, 'errors{error_code="503"}': 0.5},
        2.0,
    ),
    "proxies not scraped yet: never less than what arrived": ({'offered{kind="text"}': 1, "rejected{}": 0.5}, 1.0),
    "other errors are no demand of their own": ({'offered{kind="text"}': 1, 'errors{error_code="500"}': 4, 'errors{error_code="404"}': 4}, 1.0),
    "nobody came": ({'offered{kind="text"}': 0, "rejected{}": 0}, 0.0),
}  # fmt: skip


def test_demand_counts_each_request_once(tmp_path: Path) -> None:
    """Each case is an application of its own, rates in requests per second; promtool evaluates the fleet's query over all of them."""
    written = {
        "offered": str(metric_names.REQUESTS_OFFERED),
        "rejected": str(metric_names.REQUESTS_REJECTED),
        "errors": metric_names.SERVE_PROXY_ERRORS,
    }
    series = []
    for application, (rates, _) in DEMAND_CASES.items():
        for selector, rate in rates.items():
            name, _, labels = selector.partition("{")
            labels = f'application="{application}",{labels}'.replace(",}", "}")
            series.append({"series": f"{written[name]}{{{labels}", "values": f"0+{rate * 10:g}x60"})
    series.append({"series": f'{metric_names.SERVE_PROXY_ERRORS}{{application="",error_code="503"}}', "values": "0+50x60"})
    expected = [{"labels": f'{{application="{application}"}}', "value": rate} for application, (_, rate) in DEMAND_CASES.items()]
    case = {
        "interval": "10s",
        "input_series": series,
        "promql_expr_test": [{"expr": metric_names.fleet_demand_query(60), "eval_time": "5m", "exp_samples": expected}],
    }
    file = tmp_path / "demand.yaml"
    file.write_text(json.dumps({"rule_files": [], "fuzzy_compare": True, "tests": [case]}))
    result = subprocess.run([str(ensure(["promtool"])["promtool"]), "test", "rules", str(file)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_health_and_unknown_routes_pass_through_serve(echo: Running) -> None:
    """/healthz and /readyz answer 200, an unknown path 404 in OpenAI's shape."""
    for path in ("/healthz", "/readyz"):
        with urllib.request.urlopen(echo.url + path, timeout=PATIENCE_SECONDS) as answer:
            assert answer.status == 200
    with pytest.raises(openai.NotFoundError):
        echo.client.models.retrieve("other")


@pytest.fixture(scope="module")
def tiny_model() -> Path:
    folder = Path(__file__).parents[2] / "build" / "tiny-model"
    subprocess.run([sys.executable, "-m", "deepseek_serving.cli", "tiny-model", "--out", str(folder)], check=True, timeout=1500)
    return folder


@pytest.fixture(scope="module")
def captions(tiny_model: Path) -> Iterator[Running]:
    args = {"model": {"source": tiny_model.as_uri(), "quantization": "int8"}, "modelName": "shapes"}
    yield from run_serve(args, replicas=2)


def test_the_official_client_gets_exact_captions(captions: Running) -> None:
    """20 fresh pictures as data URLs, whole and streamed in turn, through 2 int8 replicas: at least 19 exact captions, and 20 counted.

    The trained model itself errs about once in a thousand pictures, in float32 as in int8, and each kind of processor trains another model.
    """
    rng = random.Random(99)
    wrong = []
    for index in range(20):
        drawn = draw(rng)
        content: Any = [
            {"type": "image_url", "image_url": {"url": drawn.data_url}},
            {"type": "text", "text": QUESTION},
        ]
        if index % 2:
            answer = captions.client.chat.completions.create(model="shapes", messages=[{"role": "user", "content": content}])
            text = answer.choices[0].message.content or ""
        else:
            stream = captions.client.chat.completions.create(model="shapes", messages=[{"role": "user", "content": content}], stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        if text.strip() != drawn.caption:
            wrong.append(f"picture {index} shows {drawn.caption!r}, the answer was {text!r}")
    assert len(wrong) <= 1, "\n".join(wrong)
    assert captions.wait_for_total(20, str(metric_names.REQUESTS_OFFERED), kind="image", application=APPLICATION) == 20
    assert captions.wait_for_total(320, str(metric_names.IMAGE_TOKENS), application=APPLICATION) == 320
    for part in metric_names.STARTUP_PARTS:
        captions.wait_for_total(0, str(metric_names.STARTUP_SECONDS), part=part, application=APPLICATION)


def test_a_damaged_picture_is_the_clients_mistake(captions: Running) -> None:
    """A cut PNG gives 400 invalid_image, never 500."""
    url = "data:image/png;base64," + base64.b64encode(draw(random.Random(1)).png[:80]).decode()
    with pytest.raises(openai.BadRequestError, match="damaged"):
        captions.client.chat.completions.create(
            model="shapes", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        )


def test_the_replicas_own_port_is_shared_and_no_answer_is_cut_when_they_go() -> None:
    """2 replicas on one port: both answer there. Told to stop while 4 streams of 3 s run through it, they end every one with [DONE]."""
    port = free_port()
    limits = {"directPort": port, "directLingerSeconds": 1, "maxTokensPerSecond": 20}
    serving = run_serve({"model": {"engine": "echo"}, "serving": limits, "modelName": "chat"}, replicas=2)
    running = next(serving)
    direct = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=2 * PATIENCE_SECONDS)
    for _ in range(20):
        answer = direct.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "hi"
    assert running.client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}]).usage.total_tokens == 2
    running.wait_for_total(21, str(metric_names.REQUESTS_OFFERED), application=APPLICATION)

    begun = threading.Barrier(5)

    def stream(_: int) -> str:
        body = json.dumps({"model": "chat", "stream": True, "messages": [{"role": "user", "content": "w " * 30}]}).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
            first = answer.readline()
            begun.wait(PATIENCE_SECONDS)
            return str((first + answer.read()).decode())

    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(stream, index) for index in range(4)]
        begun.wait(PATIENCE_SECONDS)
        next(serving, None)  # ends the application
        assert all(each.result().rstrip().endswith("data: [DONE]") for each in streams)
