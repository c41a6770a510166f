"""The status of a pod, as a kubelet reports it."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepseek_localcluster.raynode.kubernetes import Object
from deepseek_localcluster.raynode.node import timestamp


@dataclass
class PodStatus:
    """What is known of one pod; :meth:`body` is the status object for the API server."""

    ip: str
    phase: str = "Pending"
    ready: bool = False
    restarts: int = 0
    exit_code: int | None = None
    """Of the last run, once it has ended."""
    waiting: tuple[str, str] | None = ("PodInitializing", "")
    """Reason and message while nothing runs."""
    started_at: str = field(default_factory=timestamp)
    running_since: str = ""
    last_exit_code: int | None = None
    """Of the run before this one."""
    _since: dict[str, tuple[bool, str]] = field(default_factory=dict)

    def body(self, containers: list[Object], init_containers: list[Object]) -> Object:
        """The status with one entry per container: all follow the Ray container, the only one that runs."""
        initialized = self.phase != "Pending" or self.restarts > 0
        conditions = {"PodScheduled": True, "Initialized": initialized, "ContainersReady": self.ready, "Ready": self.ready}
        return {
            "phase": self.phase,
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "hostIP": "127.0.0.1",
            "startTime": self.started_at,
            "conditions": [self._condition(kind, holds) for kind, holds in conditions.items()],
            "containerStatuses": [self._container(each) for each in containers],
            "initContainerStatuses": [self._init_container(each, initialized) for each in init_containers],
        }

    def _condition(self, kind: str, holds: bool) -> Object:
        if self._since.get(kind, (None, ""))[0] != holds:
            self._since[kind] = (holds, timestamp())
        return {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": self._since[kind][1]}

    def _container(self, container: Object) -> Object:
        running = self.exit_code is None and self.waiting is None
        state: Object
        if running:
            state = {"running": {"startedAt": self.running_since}}
        elif self.waiting is not None:
            state = {"waiting": {"reason": self.waiting[0], "message": self.waiting[1]}}
        else:
            state = self._terminated(self.exit_code or 0)
        last = self._terminated(self.last_exit_code) if self.last_exit_code is not None else {}
        image = container.get("image", "")
        return {
            "name": container["name"], "image": image, "imageID": f"process://{image}", "ready": self.ready, "started": running,
            "restartCount": self.restarts, "state": state, "lastState": last,
        }  # fmt: skip

    def _init_container(self, container: Object, done: bool) -> Object:
        image = container.get("image", "")
        state = self._terminated(0) if done else {"waiting": {"reason": "PodInitializing"}}
        return {"name": container["name"], "image": image, "imageID": f"process://{image}", "ready": done, "restartCount": 0, "state": state}

    def _terminated(self, code: int) -> Object:
        return {
            "terminated": {
                "exitCode": code,
                "reason": "Completed" if code == 0 else "Error",
                "startedAt": self.running_since or self.started_at,
                "finishedAt": timestamp(),
            }
        }
