"""Kubernetes' HPA and KEDA: the controller's own code, in its own process (rivals/go/hpa)."""

from __future__ import annotations

from bench.rivals.process import RivalProcess
from bench.rivals.programs import HPA, built
from bench.rivals.seen import load

from deepseek_operator.replay import Observation

HPA_SYNC_SECONDS = 15.0
"""horizontal-pod-autoscaler-sync-period."""

KEDA_POLLING_SECONDS = 30.0
"""KEDA's pollingInterval: how old the metric may be that its adapter answers with, where the metric is cached for it."""


class Hpa:
    """The HorizontalController with a custom metric per pod: the request rate (queue included) in node capacities, target `target`."""

    metric = "Pods"

    def __init__(self, target: float, capacity: float, max_nodes: int = 40) -> None:
        self._capacity = capacity
        self._process = RivalProcess([built(HPA), f"-target={target}", f"-max={max_nodes}", f"-metric={self.metric}"])

    def told(self, now: float, seen: Observation) -> float | None:
        """The metric as the controller gets it now."""
        return load(seen, self._capacity)

    def __call__(self, now: float, seen: Observation) -> int:
        return int(self._process.ask({"load": self.told(now, seen), "asked": seen.asked, "ready": seen.ready})["nodes"])

    def close(self) -> None:
        """End the controller's process."""
        self._process.close()


class Keda(Hpa):
    """KEDA with a Prometheus trigger: it creates an HPA on an external metric, which it reads every 30 s.

    Its cooldownPeriod (300 s) acts between one replica and none only; with at least one node it never does.
    """

    metric = "External"

    def __init__(self, target: float, capacity: float, max_nodes: int = 40) -> None:
        super().__init__(target, capacity, max_nodes)
        self._polled_at = -KEDA_POLLING_SECONDS
        self._value: float | None = None

    def told(self, now: float, seen: Observation) -> float | None:
        """The value of the last poll."""
        if now - self._polled_at >= KEDA_POLLING_SECONDS:
            self._polled_at, self._value = now, load(seen, self._capacity)
        return self._value
