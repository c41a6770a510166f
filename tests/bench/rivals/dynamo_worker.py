"""Runs inside Dynamo's own environment: its predictors and its throughput rule, spoken to by JSON lines. Standard library and Dynamo only.

{"predict": "arima", "history": [counts per interval], "values": [...]}  →  {"predicted": [the forecast before each value]}
{"demand": req/s, "engine": req/s, "ready": 4, "pending": 1}             →  {"nodes": 5 or null for no change}
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from types import SimpleNamespace
from typing import Any


def open_planner() -> None:
    """Register Dynamo's planner as empty packages with the real paths: its own `__init__` imports a module that no registry carries."""
    spec = importlib.util.find_spec("dynamo")
    roots = [f"{path}/planner" for path in (spec.submodule_search_locations or []) if os.path.isdir(f"{path}/planner")] if spec else []  # noqa: PTH112  # no pathlib needed
    if not roots:
        raise SystemExit("ai-dynamo is not installed in this environment")
    for name in ("", ".core", ".core.load", ".config"):
        package = types.ModuleType(f"dynamo.planner{name}")
        package.__path__ = [roots[0] + name.replace(".", "/")]
        sys.modules[package.__name__] = package


def configuration() -> Any:
    """PlannerConfig as shipped, with throughput scaling alone and a budget of this world's 40 nodes."""
    from dynamo.planner.config.planner_config import PlannerConfig

    return PlannerConfig(optimization_target="sla", enable_load_scaling=False, max_gpu_budget=40)


def predictions(kind: str, history: list[float | None], values: list[float | None]) -> list[float]:
    """What the predictor says before each value is known, taught by the history and then value by value."""
    from dynamo.planner.core.load.predictors import LOAD_PREDICTORS

    predictor = LOAD_PREDICTORS[kind](configuration())
    for count in history:
        predictor.add_data_point(float("nan") if count is None else count)
    told = []
    for count in values:
        told.append(float(predictor.predict_next()))
        predictor.add_data_point(float("nan") if count is None else count)
    return told


def rule() -> Any:
    """Dynamo's own throughput rule for one aggregated engine. Of the planner around it only what the rule asks: the capacity of an engine,
    how many workers are ready and pending, and a budget that never binds (the world has its own bound)."""
    from dynamo.planner.core.throughput_scaling import ThroughputScalingMixin

    class Rule(ThroughputScalingMixin):
        def __init__(self) -> None:
            self._config = configuration()
            self._capabilities = SimpleNamespace(decode=SimpleNamespace(max_num_batched_tokens=8192))
            self._agg_regression = self
            self._num_p_workers = self._pending_num_p = 0

        def decide(self, demand: float, engine: float, ready: int, pending: int) -> int | None:
            self._engine, self._num_d_workers, self._pending_num_d = engine, ready, pending
            decision = self._throughput_agg(demand, self._config.isl if hasattr(self._config, "isl") else 3000, 150)
            return None if decision is None else decision.num_decode

        def find_engine_capacity_rps(self, **_: Any) -> Any:
            return SimpleNamespace(rps=self._engine, ttft_ms=0.0, itl_ms=0.0, eligible=True)

        def _current_decode_accept_length(self) -> float:
            return 1.0

        def _fit_single_throughput_ceiling(self, desired: int, _component: str) -> tuple[int, None]:
            return desired, None

        def _apply_single_scaling_budget(self, desired: int, _component: str) -> tuple[int, None]:
            return desired, None

    return Rule()


def main() -> None:
    # Its loggers and Stan's write to standard output; the answers go to the real one.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    open_planner()
    decider = None
    for line in sys.stdin:
        message = json.loads(line)
        if "predict" in message:
            answer: dict[str, Any] = {"predicted": predictions(message["predict"], message["history"], message["values"])}
        else:
            decider = decider or rule()
            answer = {"nodes": decider.decide(message["demand"], message["engine"], message["ready"], message["pending"])}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
