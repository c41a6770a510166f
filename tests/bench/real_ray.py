"""Ray Serve's own autoscaler on the local cluster: the same application on the same nodes, its replica count decided by Ray.

Ray Serve decides how many replicas there shall be, in its own controller, by its own policy. Nodes follow at once: one for each replica, and a
node goes when Ray Serve has taken its replica away and its proxy has closed. That is kinder than Ray's node autoscaler, which gives a node back
after it was idle for a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import yaml
from bench.rivals.ray_serve import told

from deepseek_demo.player import Player
from deepseek_demo.record import Moment, Recording, demand_at
from deepseek_demo.subject import APPLICATION, NAME, NAMESPACE, Subject
from deepseek_localcluster.kubeapi import MERGE_PATCH, ApiError, KubeApi
from deepseek_operator.core.plan import ServeView
from deepseek_operator.edge.rayserve import RayServe, RayServeError
from deepseek_operator.edge.rayservice import CompileOptions, compile_service
from deepseek_operator.replay import Observation

CLUSTERS_PATH = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayclusters"
PODS_PATH = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=ray.io/node-type=worker"


def autoscaling(nodes: int, faster: float) -> dict[str, Any]:
    """Ray Serve's settings as shipped (target 2, upscale 30 s, downscale 600 s, look back 30 s), its times divided as all others are."""
    return {
        "min_replicas": 1,
        "max_replicas": nodes,
        "target_ongoing_requests": 2,
        "upscale_delay_s": 30.0 / faster,
        "downscale_delay_s": 600.0 / faster,
        "look_back_period_s": 30.0 / faster,
        "metrics_interval_s": max(0.5, 10.0 / faster),
    }


def service(subject: Subject, nodes: int, metrics_interval_seconds: float, faster: float) -> str:
    """The RayService our operator would make for the object, but for the replica count: that is Ray Serve's to decide."""
    compiled = compile_service(
        NAMESPACE, NAME, "none", subject.spec, nodes, CompileOptions(ray_metrics_interval_seconds=metrics_interval_seconds)
    )
    del compiled["metadata"]["ownerReferences"]
    config = yaml.safe_load(compiled["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    application.pop("external_scaler_enabled")
    (deployment,) = application["deployments"]
    deployment.pop("num_replicas")
    deployment["autoscaling_config"] = {**autoscaling(subject.pacing.nodes, faster), "initial_replicas": nodes}
    compiled["spec"]["serveConfigV2"] = yaml.safe_dump(config)
    interval = str(deployment["autoscaling_config"]["metrics_interval_s"])
    ray = compiled["spec"]["rayClusterConfig"]
    for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"]):
        environment = group["template"]["spec"]["containers"][0]["env"]
        environment += [{"name": f"RAY_SERVE_{who}_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "value": interval} for who in ("REPLICA", "HANDLE")]
    return yaml.safe_dump(compiled)


@dataclass
class Follower:
    """Gives every replica that Ray Serve wants a node, and records what there is, until it is cancelled."""

    api: KubeApi
    serve: RayServe
    player: Player
    recording: Recording
    step_seconds: float
    window_seconds: float
    most: int

    async def follow(self) -> None:
        """Look and act once per step."""
        while True:
            begun = time.monotonic()
            cluster, pods = await asyncio.to_thread(self._read)
            view = None
            if cluster is not None:
                try:
                    view = await self.serve.read(NAMESPACE, cluster["metadata"]["name"], APPLICATION)
                except RayServeError:
                    view = None  # busy: look again in a step
            if cluster is not None and view is not None:
                asked = await asyncio.to_thread(self._follow, cluster, pods, view)
                if begun - self.player.began_at >= self.step_seconds > 0 < self.player.began_at:
                    self.recording.add(self._moment(asked, view, len(pods)))
            await asyncio.sleep(max(0.05, begun + self.step_seconds - time.monotonic()))

    def _read(self) -> tuple[dict[str, Any] | None, list[str]]:
        clusters = self.api.request("GET", CLUSTERS_PATH).get("items") or []
        pods = self.api.request("GET", PODS_PATH).get("items") or []
        return (clusters[0] if clusters else None), [pod["metadata"]["name"] for pod in pods]

    def _follow(self, cluster: dict[str, Any], pods: list[str], view: ServeView) -> int:
        """Patch the node count to what Ray Serve wants; a node with a replica or an open proxy stays. Returns the count asked for."""
        group = cluster["spec"]["workerGroupSpecs"][0]
        asked, wanted = int(group["replicas"]), min(self.most, view.target)
        going = set((group.get("scaleStrategy") or {}).get("workersToDelete") or ())
        if wanted > asked:
            group["replicas"], group["scaleStrategy"] = wanted, {"workersToDelete": []}
        elif wanted < asked and len(pods) > wanted:
            held = {*view.replica_pods, *view.proxy_pods, *going}
            free = [pod for pod in pods if pod not in held][: asked - wanted]
            if not free:
                return asked
            group["replicas"], group["scaleStrategy"] = asked - len(free), {"workersToDelete": free}
        else:
            return asked
        version = cluster["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "spec": {"workerGroupSpecs": [group]}}
        try:
            self.api.request("PATCH", f"{CLUSTERS_PATH}/{cluster['metadata']['name']}", body, MERGE_PATCH)
        except ApiError as error:
            if error.status != 409:  # somebody else wrote: look again in a step
                raise
            return asked
        return int(group["replicas"])

    def _moment(self, asked: int, view: ServeView, pods: int) -> Moment:
        now = time.monotonic() - self.player.began_at
        demand = demand_at(self.player.tally.sent_at, now, min(self.window_seconds, now))
        return Moment(now, demand, None, None, asked=asked, ready=view.running, paid=max(asked, pods), reason="RayServe")


class Simulated:
    """The same policy, out of the installed Ray, in the simulator: asked every second, as its metrics come in."""

    def __init__(self, node_capacity: float, nodes: int, faster: float) -> None:
        from ray.serve import autoscaling_policy
        from ray.serve.config import AutoscalingConfig

        self._capacity = node_capacity
        self._config = AutoscalingConfig(**autoscaling(nodes, faster))
        self._now = 0.0
        autoscaling_policy.time = self  # its delays are measured by time.time(): here, by the world's clock
        self._policy = autoscaling_policy._apply_autoscaling_config(autoscaling_policy.default_autoscaling_policy)
        self._state: dict[str, Any] = {}
        self._look_back: deque[float] = deque(maxlen=max(1, round(self._config.look_back_period_s)))

    def time(self) -> float:
        """Seconds of the world."""
        return self._now

    def __call__(self, now: float, seen: Observation) -> int:
        """See `NodePolicy`."""
        self._now = now + 1.0
        self._look_back.append(in_flight(seen.rate or 0.0, seen.waiting, max(1, seen.ready), self._capacity))
        context = told(self._config, self._state, seen, sum(self._look_back) / len(self._look_back), self._now)
        nodes, self._state = self._policy(context)
        return int(nodes)


def in_flight(rate: float, waiting: float, ready: int, node_capacity: float) -> float:
    """Requests in service or waiting: what the fluid queue holds, and on each node what chance makes of its load (M/D/1: ρ + ρ² ÷ 2(1 − ρ)).

    1.6 req/s on one node of 2: ρ = 0.8, 0.8 + 0.64 ÷ 0.4 = 2.4
    """
    load = min(0.95, rate / (ready * node_capacity))
    return waiting + ready * (load + load * load / (2 * (1 - load)))
