"""What a fleet costs the forecaster: 1,000 series of 14 days at one minute, in the real service on one core.

    python tests/bench/forecast_fleet.py [--series 1000]

The histories are laid on disk as the service keeps them, with fits of every expert (five different series, each under 200 names); a stand-in
for Prometheus answers at once. Measured are the answer to one request for all, the processor time of taking in a step, the memory, and what
fitting them all once a day would take.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from deepseek_demo.traffic import generate
from deepseek_forecaster.history import SampleFile
from deepseek_forecaster.models import TRAINABLE
from deepseek_forecaster.prometheus import TOGETHER_LABEL
from deepseek_forecaster.registry import ABOUT, About, Registry, _folder
from deepseek_forecaster.schedule import TRAIN_SHARE
from deepseek_forecaster.train import Job, fit
from deepseek_forecaster.wire import ForecastRequest, read_response

STEP = 60
DAYS = 14
HORIZON = 600
DIFFERENT = 5
WATCHED_STEPS = 3
"""So many steps are taken in while their cost is measured."""
GOAL_ANSWER_SECONDS, GOAL_MEMORY, GOAL_TRAINING = 2.0, 2**30, 0.2


def measure(series: int = 1_000, folder: Path | None = None) -> dict[str, Any]:
    """All figures, as rows for the table."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        data = Path(name)
        started = time.time()
        loads = [generate(days=DAYS, seed=seed).counts / 60.0 for seed in range(DIFFERENT)]
        newest = int(time.time() // STEP)
        costs = lay_out(data, loads, series, newest)
        print(f"  laid out in {time.time() - started:.0f} s", flush=True)
        with prometheus(loads, newest) as url, forecaster(url, data) as (process, address):
            found = watch(process, address, series)
    daily = series * sum(statistics.median(seconds) for seconds in costs.values())
    budget = TRAIN_SHARE * 86_400
    cheap = {name: series * statistics.median(seconds) for name, seconds in costs.items() if name != "lstm"}
    lstm_every = series * statistics.median(costs["lstm"]) / max(1.0, budget - sum(cheap.values()))
    each = ", ".join(f"{name.replace('_', ' ')} {statistics.median(seconds):.2g} s" for name, seconds in costs.items())
    answers = found["answers"]
    rows = [
        (
            f"one request for {series:,} series, on one core",
            f"{min(answers):.2f} – {max(answers):.2f} s (median {statistics.median(answers):.2f})",
            f"≤ {GOAL_ANSWER_SECONDS:g} s",
            statistics.median(answers) <= GOAL_ANSWER_SECONDS,
        ),
        (
            "memory of the service, at most",
            f"{found['peak'] / 2**20:.0f} MiB",
            f"≤ {GOAL_MEMORY / 2**20:.0f} MiB",
            found["peak"] <= GOAL_MEMORY,
        ),
        (
            "fitting every expert of every series once a day",
            f"{daily / 86_400:.0%} of a core without the budget; at most {TRAIN_SHARE:.0%} with it",
            f"≤ {GOAL_TRAINING:.0%}",
            TRAIN_SHARE <= GOAL_TRAINING,
        ),
        ("taking in one step of every series", f"{found['taking_in'] / STEP:.0%} of a core", "keeps up", found["taking_in"] < STEP),
        ("from a restart to an answer for every series", f"{found['ready']:.0f} s", "–", True),
    ]
    rest = max(0.0, budget - sum(cheap.values()))
    note = f"One fit: {each}. "
    if rest:
        note += (
            f"With `--train-share {TRAIN_SHARE:g}` all but the LSTM are fitted daily in {sum(cheap.values()) / 86_400:.0%} of a core,"
            f" and the LSTM of each series every {max(1.0, lstm_every):.1f} days in the rest."
        )
    else:
        note += f"Even without the LSTM a daily fit of all takes more than `--train-share {TRAIN_SHARE:g}` allows; what pays most comes first."
    return {
        "series": series,
        "days": DAYS,
        "rows": [dict(zip(("figure", "measured", "goal", "met"), row, strict=True)) for row in rows],
        "note": note,
        "answers": answers,
        "fitSeconds": costs,
    }


def lay_out(data: Path, loads: list[np.ndarray], series: int, newest: int) -> dict[str, list[float]]:
    """Put every series' history and fits on disk; gives the processor time of each expert's fit."""
    costs: dict[str, list[float]] = {name: [] for name in TRAINABLE}
    for number in range(series):
        if number == min(DIFFERENT, series):
            remember(data)
        request = request_for(number)
        directory = data / "series" / _folder(request)
        if number < DIFFERENT:
            indices = np.arange(newest - len(loads[number]) + 1, newest + 1)
            SampleFile(directory, len(indices)).add(indices, loads[number])
            for name in TRAINABLE:
                if number < 2 or name != "lstm":
                    # the second fit, as on every day after the first: the first one is made twice
                    fit(Job(str(directory), name, 86_400 / STEP, HORIZON // STEP))
                    costs[name].append(fit(Job(str(directory), name, 86_400 / STEP, HORIZON // STEP))["seconds"])
                else:
                    for part in (f"{name}.npz", f"{name}.before.npz"):
                        shutil.copy(data / "series" / _folder(request_for(number % 2)) / part, directory / part)
                print(f"  {name}: {costs[name][-1]:.1f} s", flush=True)
        else:
            shutil.copytree(data / "series" / _folder(request_for(number % DIFFERENT)), directory)
        (directory / ABOUT).write_bytes(About(request=request, asked_at=time.time()).model_dump_json().encode())
    return costs


def remember(data: Path) -> None:
    """Let the forecaster work once on what lies there, and keep what it remembers, as it does every hour."""
    with Registry(data, 86_400.0) as registry:
        for watched in registry:
            watched.open(DAYS * 86_400.0)
            watched.keep_memory()


def request_for(number: int) -> ForecastRequest:
    return ForecastRequest(series=f"fleet.s{number}", query=f"load_{number}", step_seconds=STEP, horizon_seconds=HORIZON)


@contextlib.contextmanager
def prometheus(loads: list[np.ndarray], newest: int) -> Iterator[str]:
    """Answers the queries of the fleet, one or many, going round and round through each series' two weeks."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            given = parse_qs(f"{urlsplit(self.path).query}&{sent}")
            query, start, end = given["query"][0], float(given["start"][0]), float(given["end"][0])
            steps = range(round(start / STEP), round(end / STEP) + 1)
            result = []
            for part in query.split("load_")[1:]:
                number = int("".join(letter for letter in part.split("\n")[0] if letter.isdigit()))
                label = part.split(f'"{TOGETHER_LABEL}", "')[1].split('"')[0] if TOGETHER_LABEL in part else "0"
                load = loads[number % DIFFERENT]
                values = [[step * STEP, f"{load[(step - newest) % len(load)]:.4f}"] for step in steps]
                result.append({"metric": {TOGETHER_LABEL: label}, "values": values})
            body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def forecaster(prometheus_url: str, data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service as it is run, bound to one core."""
    command = [sys.executable, "-c", "from deepseek_forecaster.cli import main; raise SystemExit(main())", "serve"]
    command += ["--prometheus", prometheus_url, "--listen", "127.0.0.1:0", "--data", str(data), "--log-level", "WARNING"]
    core = {min(os.sched_getaffinity(0))}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, core))
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said.startswith("listening on "), said
        yield process, said.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.wait(30)


def watch(process: subprocess.Popen[str], address: str, series: int) -> dict[str, Any]:
    """What the running service needs."""
    started = time.monotonic()
    missing = series
    while missing:
        found, _ = ask(address, series)
        missing = series - len(found.forecasts)
        print(f"\r  {series - missing} of {series} answered after {time.monotonic() - started:.0f} s", end="", flush=True)
        assert time.monotonic() - started < 1_800, next(iter(found.errors.values()))
        time.sleep(min(10.0, 1.0 + missing / 50))
    print()
    ready = time.monotonic() - started
    # each request in a moment when nothing else is due
    answers = []
    for _ in range(5):
        time.sleep(2)
        answers.append(ask(address, series)[1])
    experts = {name for one in ask(address, 5)[0].forecasts for name in one.models}
    assert set(TRAINABLE) <= experts, experts
    used, at = processor_seconds(process.pid), time.monotonic()
    time.sleep(WATCHED_STEPS * STEP)
    taking_in = (processor_seconds(process.pid) - used) / (time.monotonic() - at) * STEP
    return {"ready": ready, "answers": answers, "taking_in": taking_in, "peak": peak_memory(process.pid)}


def ask(address: str, series: int) -> tuple[Any, float]:
    """One request for all, and the seconds until its last byte was here."""
    requests = [request_for(number).model_dump(mode="json", by_alias=True) for number in range(series)]
    body = json.dumps({"now": time.time(), "requests": requests}).encode()
    started = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(f"{address}/v1/forecasts", body), timeout=120) as answer:
        said = answer.read()
    return read_response(said), time.perf_counter() - started


def processor_seconds(pid: int) -> float:
    """User and system time of a process, its children not included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int:
    """The largest resident memory so far, in bytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    reader.add_argument("--series", type=int, default=1_000)
    reader.add_argument("--folder", type=Path, help="where the histories are laid out (about half a megabyte each)")
    given = reader.parse_args()
    socketserver.TCPServer.request_queue_size = 128
    found = measure(given.series, given.folder)
    for row in found["rows"]:
        print(f"| {row['figure']} | {row['measured']} | {row['goal']} | {'yes' if row['met'] else 'no'} |")
    print(found["note"])


if __name__ == "__main__":
    main()
