"""`make bench`: what a decision costs in time, and what the rules cost in node-hours and late requests. Prints markdown tables.

Times are medians with their spread over rounds, and ratios within the run; the policies run in mode Reactive (no forecaster), on traffic that
is generated from three seeds or read from `--trace`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deepseek_demo.traffic import generate
from deepseek_forecaster.trace import read_trace
from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.types import Demand, Memory, PeakForecast, Policy, Situation
from deepseek_operator.replay import replay

ROUNDS = 7
COLD_START_SECONDS = 180.0

POLICIES = {
    "80 % / 30 %, consolidate (default)": Policy(mode="Reactive", max_nodes=40),
    "80 % / 30 %, hold in between": Policy(mode="Reactive", max_nodes=40, between_thresholds="Hold"),
    "95 % / 30 %, consolidate": Policy(mode="Reactive", max_nodes=40, scale_up_percent=95),
    "60 % / 30 %, consolidate": Policy(mode="Reactive", max_nodes=40, scale_up_percent=60),
}


def microseconds(work: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Minimum, median and maximum over rounds of the time one call takes."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        times.append((time.perf_counter() - started) / repeats * 1e6)
    return min(times), statistics.median(times), max(times)


def cost_of_a_decision() -> None:
    memory = Memory.begin(0.0, 6)
    now = 0.0

    def one() -> None:
        nonlocal memory, now
        now += 15.0
        rate = 20 + 15 * ((now / 15) % 40) / 40
        forecast = PeakForecast(peak=rate * 1.3, mean=rate, percentile=95, horizon_seconds=600, issued_at=now)
        situation = Situation(now, Policy(), 6, Demand(rate), 8.0, forecast, memory)
        memory = remember(situation, decide(situation))

    document = {"metadata": {"name": "chat"}, "spec": {"nodes": {"min": 1, "max": 10}}, "status": {"values": list(range(50))}}
    yardstick = microseconds(lambda: json.loads(json.dumps(document)), 2000)
    decision = microseconds(one, 2000)
    print("| what | min µs | median µs | max µs | ÷ JSON round trip of a small object |")
    print("|---|---|---|---|---|")
    for name, (low, middle, high) in (("JSON round trip (yardstick)", yardstick), ("decide and remember", decision)):
        print(f"| {name} | {low:.1f} | {middle:.1f} | {high:.1f} | {middle / yardstick[1]:.2f} |")


def cost_of_the_rules(traces: Sequence[tuple[str, Sequence[float | None], float]]) -> None:
    print("\n| traffic | policy | node-hours ÷ static at the peak | late % | changes a day |")
    print("|---|---|---|---|---|")
    for name, rates, step_seconds in traces:
        known = [rate for rate in rates if rate is not None]
        capacity = max(known) / 10  # the peak needs ten nodes
        days = len(rates) * step_seconds / 86_400
        static = 10 * days * 24
        for label, policy in POLICIES.items():
            outcome = replay(rates, step_seconds, replace(policy), capacity, cold_start_seconds=COLD_START_SECONDS)
            ratio, changes = outcome.node_hours / static, outcome.changes / days
            print(f"| {name} | {label} | {ratio:.3f} | {100 * outcome.late_share:.2f} | {changes:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, action="append", default=[], help="CSV t_min,count; may be given more than once")
    given = parser.parse_args().trace
    cost_of_a_decision()
    if given:
        traces = [read_trace(path) for path in given]
        cost_of_the_rules([(trace.name, trace.loads(), trace.step_seconds) for trace in traces])
    else:
        generated = [(seed, generate(days=7, seed=seed)) for seed in (7, 8, 9)]
        cost_of_the_rules([(f"generated, seed {seed}", list(trace.requests_per_minute(1.0) / 60), 60.0) for seed, trace in generated])


if __name__ == "__main__":
    main()
