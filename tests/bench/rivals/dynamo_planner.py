"""NVIDIA Dynamo's planner: its predictors and its throughput rule, its own code in its own environment (dynamo_worker.py).

The environment is made once per user, beside the local cluster's programs; the project's own lock file carries none of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.loads import STEP_SECONDS, Load
from bench.rivals.process import RivalProcess

from deepseek_localcluster.programs import cache_root
from deepseek_operator.replay import Observation

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "dynamo-requirements.txt"
WORKER = HERE / "dynamo_worker.py"
VERSION = "1.6.1"

INTERVAL_SECONDS = 180.0
"""throughput_adjustment_interval_seconds as shipped: so often it predicts and decides."""

WARM_UP_INTERVALS = 480
"""A day of history, as a load_predictor_warmup_trace. With the whole of it each ARIMA update would take seconds."""

PREDICTORS = ("constant", "arima", "kalman", "prophet")


def python(say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Path:
    """The interpreter of Dynamo's environment, made where it is not there yet (about a minute; 0.9 GB)."""
    pin = hashlib.sha256(REQUIREMENTS.read_bytes() + VERSION.encode()).hexdigest()[:12]
    folder = cache_root() / f"bench-dynamo-{pin}"
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").exists():
        say(f"installing ai-dynamo {VERSION} and what its predictors import into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        uv = shutil.which("uv") or str(HERE.parents[2] / ".uv" / "bin" / "uv")
        to_it = [uv, "pip", "install", "--quiet", "--python", str(interpreter)]
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        _run([*to_it, "--no-deps", f"ai-dynamo=={VERSION}", f"ai-dynamo-runtime=={VERSION}"])
        _run([*to_it, "--requirement", str(REQUIREMENTS)])
        (folder / "complete").touch()
    return interpreter


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {result.stderr.strip()[-2000:]}")


def predictions(kind: str, load: Load) -> list[float]:
    """Requests that the predictor foresees for each interval of the test part, each before it began."""
    per_interval = round(INTERVAL_SECONDS / STEP_SECONDS)

    def total(first: int) -> float | None:
        minutes = load.seen[first : first + per_interval]
        return None if any(rate is None for rate in minutes) else sum(rate * STEP_SECONDS for rate in minutes if rate is not None)

    intervals = range(load.start - WARM_UP_INTERVALS * per_interval, len(load.seen) - per_interval + 1, per_interval)
    counts = [total(first) for first in intervals if first >= 0]
    warm_up = sum(0 <= first < load.start for first in intervals)
    with RivalProcess([str(python()), "-P", str(WORKER)]) as worker:
        return list(worker.ask({"predict": kind, "history": counts[:warm_up], "values": counts[warm_up:]})["predicted"])


def kept_predictions(kind: str, load: Load, folder: Path) -> list[float]:
    """`predictions`, from the folder where they were made before."""
    pin = hashlib.sha256(REQUIREMENTS.read_bytes() + WORKER.read_bytes()).hexdigest()[:8]
    path = folder / f"dynamo-{kind}-{load.key}-{pin}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(predictions(kind, load)))
        unfinished.rename(path)
    return list(json.loads(path.read_text()))


class Dynamo:
    """One of its predictors and its throughput rule, on an engine that counts as good for `target` of its capacity (the headroom)."""

    def __init__(self, target: float, load: Load, predicted: list[float]) -> None:
        self._engine, self._begins, self._predicted = target * load.capacity, load.start * STEP_SECONDS, predicted
        self._process = RivalProcess([str(python()), "-P", str(WORKER)])

    def __call__(self, now: float, seen: Observation) -> int:
        at, since = divmod(now - self._begins, INTERVAL_SECONDS)
        if since > 1e-6:
            return seen.asked  # asked every minute for the timeline's sake, it decides every three
        demand = self._predicted[min(int(at), len(self._predicted) - 1)] / INTERVAL_SECONDS
        message = {"demand": demand, "engine": self._engine, "ready": seen.ready, "pending": seen.asked - seen.ready}
        nodes = self._process.ask(message)["nodes"]
        return seen.asked if nodes is None else int(nodes)

    def close(self) -> None:
        """End its process."""
        self._process.close()
