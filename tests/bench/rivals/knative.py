"""Knative's KPA: its own autoscaler and metric windows, in their own process (rivals/go/kpa)."""

from __future__ import annotations

from bench.rivals.process import RivalProcess
from bench.rivals.programs import KPA, built
from bench.rivals.seen import in_flight

from deepseek_operator.replay import Observation

TICK_SECONDS = 5.0
"""Knative ticks every 2 s; nothing in this world changes faster than a queue moves in 5 s."""


class Kpa:
    """The KPA on concurrency, with a target utilization of `target` of what a node has in flight at full load."""

    def __init__(self, target: float, capacity: float, max_nodes: int = 40) -> None:
        self._capacity = capacity
        self._process = RivalProcess([built(KPA), f"-target={target}", f"-max={max_nodes}", f"-tick={TICK_SECONDS:g}s"])

    def __call__(self, now: float, seen: Observation) -> int:
        message = {"t": now, "load": in_flight(seen, self._capacity), "asked": seen.asked, "ready": seen.ready}
        return int(self._process.ask(message)["nodes"])

    def close(self) -> None:
        """End the autoscaler's process."""
        self._process.close()
