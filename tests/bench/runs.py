"""One run: one policy with one knob on one load, and what came of it; kept by everything it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import cast

from bench.loads import STEP_SECONDS, Load
from bench.policies import CONTENDERS, Ends, Place
from bench.prepare import ROOT, forecaster_hash, source_hash

from deepseek_operator.replay import clairvoyant_node_hours, simulate, write_timeline

MAX_NODES = 40
OPERATOR = ROOT / "operator" / "src" / "deepseek_operator"
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Job:
    """Which run."""

    policy: str
    knob: float
    load: Load
    cold_start_seconds: float

    def describe(self) -> str:
        """A line for the progress."""
        return f"{self.policy} {self.knob:g} on {self.load.name}, cold start {self.cold_start_seconds:g} s"


@dataclass(frozen=True)
class Result:
    """What came of a run. `cost`: GPU-hours ÷ clairvoyant minimum; `late`: share of requests; times in seconds."""

    policy: str
    knob: float
    load: str
    seed: int
    cold_start_seconds: float
    gpu_hours: float
    cost: float
    late: float
    longest_wait_seconds: float
    flaps_per_day: float
    changes_per_day: float
    decision_seconds: float
    days: float


def run(job: Job, cache_folder: Path, timelines: Path | None) -> Result:
    """The result, from the cache where it was run before; the timeline as CSV."""
    kept = cache_folder / f"run-{key(job)}.json"
    timeline = timelines and timelines / name_of(job)
    if kept.exists() and (timeline is None or timeline.exists()):
        return Result(**json.loads(kept.read_text()))
    contender, load = CONTENDERS[job.policy], job.load
    policy = contender.make(job.knob, Place(load, job.cold_start_seconds, cache_folder))
    try:
        outcome = simulate(
            load.rates,
            STEP_SECONDS,
            load.capacity,
            policy,
            cold_start_seconds=job.cold_start_seconds,
            tick_seconds=contender.tick_seconds,
            start=load.start,
            seen=load.seen,
            max_nodes=MAX_NODES,
        )
    finally:
        close = getattr(policy, "close", None)
        if close is not None:
            cast(Ends, policy).close()
    least = clairvoyant_node_hours(load.rates, STEP_SECONDS, load.capacity, job.cold_start_seconds, start=load.start)
    days = outcome.seconds / 86_400
    result = Result(
        job.policy, float(job.knob), load.name, load.seed, job.cold_start_seconds, outcome.node_hours, outcome.node_hours / least,
        outcome.late_share, outcome.longest_wait_seconds, outcome.flaps_per_day, outcome.changes / days, outcome.decision_seconds_mean, days,
    )  # fmt: skip
    if timeline is not None:
        timeline.parent.mkdir(parents=True, exist_ok=True)
        write_timeline(timeline, outcome.rows)
    kept.parent.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(".part")
    unfinished.write_text(json.dumps(asdict(result)))
    unfinished.rename(kept)
    return result


def name_of(job: Job) -> str:
    """The timeline's file name."""
    load = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in job.load.name)
    seed = f"-seed{job.load.seed}" if job.load.seed else ""
    return f"{load}{seed}/{job.policy}-{job.knob:g}-cold{job.cold_start_seconds:g}.csv"


def key(job: Job) -> str:
    """Changes when the load, the policy's code or the world does."""
    parts = [
        job.policy,
        f"{job.knob:g}",
        job.load.key,
        f"{job.cold_start_seconds:g}",
        f"{CONTENDERS[job.policy].tick_seconds:g}",
        code(job.policy),
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:20]


@cache
def code(policy: str) -> str:
    """A hash of the code that a policy's run passes through."""
    world = [OPERATOR / "replay" / f"{name}.py" for name in ("world", "simulate", "clairvoyant")]
    rivals = HERE / "rivals"
    of: dict[str, Callable[[], str]] = {
        "predictive": lambda: source_hash(*world, OPERATOR / "core", OPERATOR / "replay" / "decider.py", HERE / "ours.py") + forecaster_hash(),
        "reactive": lambda: source_hash(*world, OPERATOR / "core", OPERATOR / "replay" / "decider.py", HERE / "ours.py"),
        "hpa": lambda: source_hash(*world, rivals / "kubernetes.py", rivals / "seen.py") + _programs("HPA"),
        "keda": lambda: source_hash(*world, rivals / "kubernetes.py", rivals / "seen.py") + _programs("HPA"),
        "kpa": lambda: source_hash(*world, rivals / "knative.py", rivals / "seen.py") + _programs("KPA"),
        "ray": lambda: source_hash(*world, rivals / "ray_serve.py", rivals / "seen.py"),
        "phpa": lambda: source_hash(*world, rivals / "holt_winters.py", rivals / "seen.py"),
    }
    if CONTENDERS[policy].ours:
        policy = "predictive"
    if policy.startswith("dynamo"):
        return source_hash(*world, rivals / "dynamo_planner.py", rivals / "dynamo_worker.py")
    return of.get(policy, lambda: source_hash(*world))()


def _programs(name: str) -> str:
    from bench.rivals import programs

    return str(getattr(programs, name).key)
