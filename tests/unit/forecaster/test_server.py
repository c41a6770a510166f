"""The service from end to end: a real HTTP server, real training processes, and a Prometheus that is fake only beyond its socket."""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deepseek_forecaster.server import Settings, serving
from deepseek_forecaster.wire import Forecast, read_response

STEP = 2
SEASON = 2_880.0
"""A day compressed thirty times: 1,440 steps of two seconds."""


def wave(query: str, instant: float) -> float:
    """100 ± 60 per second over the compressed day, a few percent rough, the same at every reading."""
    rough = math.sin(12.9898 * round(instant) + len(query)) * 43758.5453 % 1.0
    return (100 + 60 * math.sin(2 * math.pi * instant / SEASON)) * (0.95 + 0.1 * rough)


def settings(prometheus: Any, data: Path, **changes: Any) -> Settings:
    return Settings(**({"prometheus": prometheus.url, "data": data, "season_seconds": SEASON, "history_seconds": 3 * SEASON} | changes))


def batch(*series: str, horizon: int = 40, step: int = STEP, now: float | None = None, query: str = "") -> dict[str, Any]:
    asked = [
        {"series": name, "query": query or f"rate({name}[2s])", "stepSeconds": step, "horizonSeconds": horizon, "quantiles": [0.5, 0.9, 0.95]}
        for name in series
    ]
    return {"now": time.time() if now is None else now, "requests": asked}


async def post(port: int, body: Any) -> tuple[int, bytes]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{port}/v1/forecasts", data=data) as answer:
        return answer.status, await answer.read()


async def get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def until(
    port: int, accept: Callable[[dict[str, Forecast]], bool], *series: str, within: float = 60.0, **about: Any
) -> dict[str, Forecast]:
    """Ask twice a second until the answer is accepted."""
    ends = time.monotonic() + within
    while True:
        status, body = await post(port, batch(*series, **about))
        assert status == 200, body
        response = read_response(body)
        if accept(response.by_series()):
            return response.by_series()
        assert time.monotonic() < ends, response.errors or [forecast.models for forecast in response.forecasts]
        await asyncio.sleep(0.3)


async def test_a_new_series_is_answered_from_its_history_in_prometheus(prometheus: Any, tmp_path: Path) -> None:
    prometheus.load = wave
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0) as (_, port):
        status, body = await post(port, batch("default.chat"))
        assert status == 200
        assert read_response(body).errors == {"default.chat": "no samples yet: its history is being read"}
        forecast = (await until(port, bool, "default.chat"))["default.chat"]
        now = forecast.issued_at
        expected = [wave("rate(default.chat[2s])", (now // STEP + ahead) * STEP) for ahead in range(1, 21)]
        assert forecast.history_seconds >= 3 * SEASON - 10
        assert len(forecast.path_of()) == 20
        assert forecast.quantile(0.95) == pytest.approx(max(expected), rel=0.25)
        assert forecast.mean == pytest.approx(sum(expected) / 20, rel=0.2)
        assert forecast.recent_wape is not None
        assert forecast.coverage90 is not None
        assert {"last_value", "ten_minute_mean", "seasonal_naive"} <= forecast.models.keys()


async def test_while_a_model_is_fitted_answers_come_at_once_and_then_carry_it_also_after_a_restart(prometheus: Any, tmp_path: Path) -> None:
    """400 steps of history: boosting is the first to be fitted."""
    prometheus.load = wave
    short = settings(prometheus, tmp_path, history_seconds=400.0 * STEP)
    async with serving(short, "127.0.0.1", 0) as (service, port):
        await until(port, bool, "a")
        slowest, ends = 0.0, time.monotonic() + 120
        while True:
            started = time.perf_counter()
            _, body = await post(port, batch("a"))
            slowest = max(slowest, time.perf_counter() - started)
            forecast = read_response(body).by_series()["a"]
            if "boosting" in forecast.models:
                break
            assert time.monotonic() < ends, service.trainer.failures
            await asyncio.sleep(0.1)
        assert forecast.trained_at is not None
        assert slowest < 2.0
        _, metrics = await get(port, "/metrics")
        assert 'deepseek_forecaster_fits_total{model="boosting"} 1.0' in metrics
        assert 'deepseek_forecaster_model_weight{model="boosting",series="a"}' in metrics
        child = service.trainer._child
        assert child is not None
    assert child.returncode is not None, "the training process ends with the service"
    async with serving(short, "127.0.0.1", 0) as (service, port):
        await until(port, lambda found: "a" in found and "boosting" in found["a"].models, "a")
        assert service.trainer.fits["boosting"] == 0


async def test_a_batch_of_100_known_series_is_answered_in_less_than_a_second(prometheus: Any, tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(100)]
    async with serving(settings(prometheus, tmp_path, history_seconds=300 * 60.0), "127.0.0.1", 0) as (_, port):
        await until(port, lambda found: len(found) == 100, *names, step=60, horizon=600, within=120)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            _, body = await post(port, batch(*names, step=60, horizon=600))
            times.append(time.perf_counter() - started)
            assert len(read_response(body).forecasts) == 100
        assert min(times) < 1.0, times


async def test_a_restart_forecasts_the_same_from_disk_alone(prometheus: Any, tmp_path: Path) -> None:
    prometheus.load = wave
    frozen = math.floor(time.time() / STEP) * STEP + 0.5
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0, now=lambda: frozen) as (_, port):
        before = (await until(port, bool, "a", now=frozen))["a"]
    prometheus.broken = (503, b"down")
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0, now=lambda: frozen) as (_, port):
        after = (await until(port, bool, "a", now=frozen))["a"]
    weighed = {"models", "peak", "path", "mean", "recent_wape", "naive_wape", "history_seconds"}
    if before.models.keys() == after.models.keys():
        assert after.model_dump(include=weighed) == before.model_dump(include=weighed)
    assert after.mean == pytest.approx(before.mean, rel=0.1)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"load": lambda query, instant: None}, "no samples yet: the query returned nothing"),
        ({"series_per_query": 2}, "no samples yet: the query must give ONE series, gave 2"),
        ({"broken": (400, b"parse error")}, "no samples yet: Prometheus refused the query"),
        ({"load": lambda query, instant: 5.0 if instant < time.time() - 300 else None}, "the newest sample must be at most 40 s old"),
    ],
    ids=["nothing", "two series", "refused", "stopped 300 s ago"],
)
async def test_a_series_without_a_forecast_says_why_and_the_others_are_answered(
    prometheus: Any, tmp_path: Path, about: dict[str, Any], says: str
) -> None:
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0) as (_, port):
        await until(port, bool, "good")
        for name, value in about.items():
            setattr(prometheus, name, value)
        ends = time.monotonic() + 20
        errors: dict[str, str] = {}
        while says not in errors.get("bad", ""):
            assert time.monotonic() < ends, errors
            status, body = await post(port, batch("good", "bad"))
            assert status == 200
            errors = dict(read_response(body).errors)
            await asyncio.sleep(0.1)
        assert "good" in read_response(body).by_series() or "good" in errors


async def test_bad_requests_are_400_with_the_reason_and_change_nothing(prometheus: Any, tmp_path: Path) -> None:
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0) as (service, port):
        for body, says in (
            (b"{", "Invalid JSON"),
            (json.dumps(batch("a") | {"now": "yesterday"}).encode(), "now: Input should be a valid number"),
            (json.dumps(batch("a", horizon=0)).encode(), "greater than or equal to 1"),
        ):
            status, answer = await post(port, body)
            assert status == 400
            assert says in json.loads(answer)["error"]
        assert len(service.registry) == 0
        assert await get(port, "/healthz") == (200, '{"status": "ok", "series": 0, "collectedSecondsAgo": 0.0}')
        assert (await get(port, "/v1/forecasts"))[0] == 405


async def test_a_new_query_for_a_known_series_starts_its_history_anew(prometheus: Any, tmp_path: Path) -> None:
    prometheus.load = lambda query, instant: 10.0 if query == "old" else 50.0
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0) as (service, port):
        assert (await until(port, bool, "a", query="old"))["a"].mean == pytest.approx(10.0)
        assert (await until(port, bool, "a", query="new"))["a"].mean == pytest.approx(50.0)
        assert len(service.registry) == 1


async def test_with_two_series_allowed_a_third_is_refused_until_one_of_them_is_forgotten(prometheus: Any, tmp_path: Path) -> None:
    """The two are answered all the same, also under a new query; the third leaves nothing in memory or on disk."""
    async with serving(settings(prometheus, tmp_path, max_series=2), "127.0.0.1", 0) as (service, port):
        await until(port, lambda found: len(found) == 2, "a", "b")
        status, body = await post(port, batch("a", "c", "b"))
        response = read_response(body)
        assert status == 200
        assert response.by_series().keys() == {"a", "b"}
        assert response.errors.keys() == {"c"}
        assert response.errors["c"].startswith("at most 2 series are watched (--max-series), and 2 are")
        assert len(service.registry) == 2
        assert len(list((tmp_path / "series").iterdir())) == 2
        assert "a" in await until(port, bool, "a", query="another")
        await until(port, bool, "b")
        (forgotten,) = (watched for watched in service.registry if watched.series == "a")
        forgotten.asked_at = 0.0
        assert service.registry.forget(1.0) == ["a"]
        assert "c" in await until(port, bool, "c")


async def test_more_series_on_disk_than_are_allowed_are_kept_and_no_further_one_is_taken(prometheus: Any, tmp_path: Path) -> None:
    """Started again with one series allowed where two lie on disk: both are answered, a third is not."""
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0) as (_, port):
        await until(port, lambda found: len(found) == 2, "a", "b")
    async with serving(settings(prometheus, tmp_path, max_series=1), "127.0.0.1", 0) as (_, port):
        await until(port, lambda found: len(found) == 2, "a", "b")
        _, body = await post(port, batch("c"))
        assert read_response(body).errors["c"].startswith("at most 1 series are watched (--max-series), and 2 are")


async def test_a_series_nobody_asks_about_is_forgotten_with_its_files(prometheus: Any, tmp_path: Path) -> None:
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0) as (service, port):
        await until(port, lambda found: len(found) == 2, "a", "b")
        gone: list[str] = []
        while len(gone) < 2:  # one that is being read is not forgotten meanwhile
            gone += service.registry.forget(time.time() + 10)
            await asyncio.sleep(0.05)
        assert sorted(gone) == ["a", "b"]
        assert list((tmp_path / "series").iterdir()) == []


async def test_the_collector_reads_only_the_newest_steps_after_the_first_time(prometheus: Any, tmp_path: Path) -> None:
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0) as (_, port):
        await until(port, bool, "a")
        seen = len(prometheus.ranges)
        await asyncio.sleep(1.5 * STEP)
        later = prometheus.ranges[seen:]
        assert 1 <= len(later) <= 3
        assert all(end - start <= 6 * STEP for _, start, end, _ in later)


async def test_two_forecasters_on_one_directory_are_refused(prometheus: Any, tmp_path: Path) -> None:
    async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0):
        with pytest.raises(RuntimeError, match="serves one forecaster at a time"):
            async with serving(settings(prometheus, tmp_path), "127.0.0.1", 0):
                pass


def start_cli(prometheus: Any, data: Path) -> tuple["subprocess.Popen[str]", int]:
    command = [sys.executable, "-c", "from deepseek_forecaster.cli import main; raise SystemExit(main())", "serve", "--listen", "127.0.0.1:0"]
    environment = os.environ | {
        "DEEPSEEK_FORECASTER_PROMETHEUS": prometheus.url,
        "DEEPSEEK_FORECASTER_DATA": str(data),
        "DEEPSEEK_FORECASTER_SEASON": "48m",
        "DEEPSEEK_FORECASTER_HISTORY": "10m",
    }
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert server.stdout is not None
    said = server.stdout.readline()
    assert said.startswith("listening on http://127.0.0.1:"), said
    return server, int(said.rsplit(":", 1)[1])


async def test_the_command_ends_with_status_0_at_sigterm_and_a_killed_one_leaves_no_training_process(prometheus: Any, tmp_path: Path) -> None:
    prometheus.load = wave
    server, port = await asyncio.to_thread(start_cli, prometheus, tmp_path)
    try:
        await until(port, bool, "a")
        server.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 20) == 0
    finally:
        server.kill()
    server, port = await asyncio.to_thread(start_cli, prometheus, tmp_path)
    try:
        await until(port, bool, "a")
        ends = time.monotonic() + 60
        while not (children := children_of(server.pid)):
            assert time.monotonic() < ends
            await asyncio.sleep(0.1)
    finally:
        server.kill()
        await asyncio.to_thread(server.wait)
    ends = time.monotonic() + 30
    while any(alive(child) for child in children):
        assert time.monotonic() < ends, children
        await asyncio.sleep(0.1)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def children_of(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
