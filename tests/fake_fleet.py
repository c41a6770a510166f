"""The whole operator on fakes: the real tick, everything outside it from `fakes.py`."""

from __future__ import annotations

from typing import Any

from fakes import Body, Clock, FakeCluster, FakeForecaster, FakeKubeRay, FakePrometheus, FakeServe, deployment

from deepseek_operator.edge.telemetry import Telemetry
from deepseek_operator.fleet import KINDS, Seen
from deepseek_operator.tick import Settings, Tick

QUICK = {"scaleDownStabilizationSeconds": 60, "scaleDownCooldownSeconds": 15}
PREDICTIVE = {"mode": "Predictive", "capacity": {"requestsPerSecondPerNode": "10"}} | QUICK


class Fleet:
    """The operator's tick on fakes. `live` lets time pass: every 5 s KubeRay and Ray Serve move, every 15 s the operator ticks."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock)
        self.serve = FakeServe(self.clock)
        self.kuberay = FakeKubeRay(self.cluster, self.serve)
        self.prometheus, self.forecaster = FakePrometheus(), FakeForecaster()
        self.settings = Settings(**settings)
        self.restart()

    def restart(self) -> None:
        """The operator's process anew: everything it had in memory is lost."""
        self.seen, self.telemetry = Seen(), Telemetry()
        self.operator = Tick(
            self.seen,
            self.prometheus,
            self.forecaster,
            self.cluster,
            self.serve,
            self.telemetry,
            self.settings,
            self.clock.monotonic,
            self.clock.wall,
        )

    def watch(self) -> None:
        """The watches have told everything."""
        for kind in KINDS:
            self.seen.replace(kind, self.cluster.store[kind].values())  # stored bodies are replaced, never changed

    async def tick(self, *, watch: bool = True) -> None:
        """One tick, and the writes it started."""
        if watch:
            self.watch()
        await self.operator.run()
        await self.operator.settle()

    async def live(self, seconds: float) -> None:
        """So much time passes."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            for _ in range(3):
                self.clock.now += 5
                self.kuberay.step()
            await self.tick()

    def apply(self, name: str = "chat", **spec: Any) -> Body:
        """Create or change an object."""
        body = deployment(name, **spec)
        before = self.cluster.store["objects"].get(("default", name))
        return self.cluster.put("objects", body | ({"status": before["status"]} if before and "status" in before else {}))

    def load(self, rate: object, name: str = "chat", reporting: object = 1000) -> None:
        """From now on so many requests per second."""
        self.prometheus.load(f"default.{name}", rate, reporting)

    def status(self, name: str = "chat") -> Body:
        """As the API has it."""
        return self.cluster.get("objects", name).get("status") or {}

    def condition(self, kind: str, name: str = "chat") -> tuple[str, str]:
        """Status and reason."""
        found = [c for c in self.status(name).get("conditions") or [] if c["type"] == kind]
        return (found[0]["status"], found[0]["reason"]) if found else ("absent", "")

    def message(self, kind: str, name: str = "chat") -> str:
        """A condition's words."""
        return next(str(c["message"]) for c in self.status(name)["conditions"] if c["type"] == kind)

    def decision(self, name: str = "chat") -> tuple[int, str]:
        """Count and reason."""
        return self.status(name)["decision"]["nodes"], self.status(name)["decision"]["reason"]

    def ray_cluster(self, name: str = "chat") -> Body:
        """The live RayCluster."""
        service = self.cluster.get("services", name)
        status = service.get("status") or {}
        active = (status.get("activeServiceStatus") or {}).get("rayClusterName") or status["pendingServiceStatus"]["rayClusterName"]
        return self.cluster.get("clusters", active)

    def group(self, name: str = "chat") -> Body:
        """The live RayCluster's worker group."""
        return self.ray_cluster(name)["spec"]["workerGroupSpecs"][0]

    def mirrored(self, name: str = "chat") -> int:
        """The count in the RayService."""
        return int(self.cluster.get("services", name)["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"])

    def pods(self, name: str = "chat") -> list[str]:
        """Live nodes."""
        cluster = self.ray_cluster(name)["metadata"]["name"]
        return [
            body["metadata"]["name"]
            for body in self.cluster.bodies("pods")
            if body["metadata"]["labels"]["ray.io/cluster"] == cluster and not body["metadata"].get("deletionTimestamp")
        ]

    def metric(self, name: str, /, **labels: str) -> float | None:
        """A value from /metrics."""
        return self.telemetry.registry.get_sample_value(f"deepseek_operator_{name}", labels)


async def running(fleet: Fleet, nodes: int, rate: float, /, **spec: Any) -> None:
    """An object that has settled on so many nodes."""
    fleet.apply(**({"scaling": {"mode": "Reactive", "capacity": {"requestsPerSecondPerNode": "10"}} | QUICK} | spec))
    fleet.load(rate)
    await fleet.live(180)
    assert (fleet.group()["replicas"], len(fleet.pods())) == (nodes, nodes)
    assert fleet.condition("Ready") == ("True", "Serving")
