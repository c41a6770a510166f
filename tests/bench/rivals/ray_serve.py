"""Ray Serve's autoscaler: `ray.serve.autoscaling_policy` of the installed Ray, with the wrapper that applies factors, delays and bounds."""

from __future__ import annotations

from collections import deque
from typing import Any

from bench.rivals.seen import in_flight

from deepseek_operator.replay import Observation

TICK_SECONDS = 10.0
"""Ray's metrics_interval_s. Its control loop runs ten times a second, on nothing new in between."""

REQUESTS_PER_NODE = 5
"""max_ongoing_requests as shipped: a replica at full load has so many in flight, and target_ongoing_requests as shipped (2) is 40 % of it."""


class RayServe:
    """target_ongoing_requests = `target` × max_ongoing_requests; upscale_delay_s 30, downscale_delay_s 600, look_back_period_s 30."""

    def __init__(self, target: float, capacity: float, max_nodes: int = 40) -> None:
        from ray.serve import autoscaling_policy
        from ray.serve.config import AutoscalingConfig

        self._clock = Clock()
        autoscaling_policy.time = self._clock  # its delays are measured by time.time(): here, by the world's clock
        self._capacity = capacity
        self._config = AutoscalingConfig(min_replicas=1, max_replicas=max_nodes, target_ongoing_requests=target * REQUESTS_PER_NODE)
        self._policy = autoscaling_policy._apply_autoscaling_config(autoscaling_policy.default_autoscaling_policy)
        self._state: dict[str, Any] = {}
        self._look_back: deque[float] = deque(maxlen=round(self._config.look_back_period_s / TICK_SECONDS))

    def __call__(self, now: float, seen: Observation) -> int:
        load = in_flight(seen, self._capacity)
        if load is None:
            return seen.asked
        self._clock.now = now
        self._look_back.append(load * REQUESTS_PER_NODE)
        context = told(self._config, self._state, seen, sum(self._look_back) / len(self._look_back), now)
        nodes, self._state = self._policy(context)
        return max(self._config.min_replicas, min(self._config.max_replicas, int(nodes)))

    def close(self) -> None:
        """Nothing to end: it runs in this process."""


def told(config: Any, state: dict[str, Any], seen: Observation, requests: float, now: float) -> Any:
    """What Ray's policy is told of a moment: the replicas there are, and the mean of the `requests` in flight over its look-back period."""
    from ray.serve._private.common import DeploymentID
    from ray.serve.config import AutoscalingContext

    return AutoscalingContext(
        deployment_id=DeploymentID("chat"),
        deployment_name="chat",
        app_name="chat",
        current_num_replicas=seen.ready,
        target_num_replicas=seen.asked,
        running_replicas=[],
        total_num_requests=requests,
        total_queued_requests=None,
        aggregated_metrics=None,
        raw_metrics=None,
        capacity_adjusted_min_replicas=config.min_replicas,
        capacity_adjusted_max_replicas=config.max_replicas,
        policy_state=state,
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=config,
    )


class Clock:
    """The `time` of a module, standing where it is put."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        """Seconds."""
        return self.now
