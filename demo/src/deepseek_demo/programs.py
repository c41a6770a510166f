"""The programs beside the cluster: the tiny model's training, the forecaster and the operator. They end with this process, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deepseek_localcluster import LocalCluster
from deepseek_localcluster.supervision import Supervision

BESIDE_PYTHON = Path(sys.executable).parent


class ProgramError(RuntimeError):
    """A program ended that should not have; the message ends with the tail of its log."""


def train_tiny_model(directory: Path) -> None:
    """Make the tiny model unless it is there already; it says itself what it does. Raises `ProgramError`."""
    command = [str(BESIDE_PYTHON / "deepseek-serving"), "tiny-model", "--out", str(directory)]
    if subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode:
        raise ProgramError(f"the tiny model could not be made; try again by hand: {' '.join(command)}")


class Programs:
    """Forecaster and operator, each with its log in `logs`."""

    def __init__(self, logs: Path, cluster: LocalCluster) -> None:
        self.logs = logs
        self._cluster = cluster
        self._supervision = Supervision(logs, [], [])
        self.forecaster_url = f"http://127.0.0.1:{cluster.free_port()}"

    def start_forecaster(self, data: Path, prometheus_url: str, season_seconds: float, history_seconds: float) -> None:
        """Start it at the lowest priority: fitting must not take the cores from the replicas."""
        flags = {
            "--prometheus": prometheus_url,
            "--listen": self.forecaster_url.removeprefix("http://"),
            "--data": str(data),
            "--season": f"{season_seconds:.0f}",
            "--history": f"{history_seconds:.0f}s",
            "--train-every": f"{season_seconds:.0f}",
        }
        command = [str(BESIDE_PYTHON / "deepseek-forecaster"), "serve", *_flat(flags)]
        self._supervision.start("forecaster", ["nice", "-n", "19", *command], {"OMP_NUM_THREADS": "1"}, grace_seconds=5)

    def start_operator(self, prometheus_url: str, step_seconds: float, tick_seconds: float, window_seconds: float) -> None:
        """Start it on the cluster's API server."""
        metrics, health = self._cluster.free_port(), self._cluster.free_port()
        flags = {
            "--namespace": "default",
            "--prometheus": prometheus_url,
            "--forecaster": self.forecaster_url,
            "--http-proxy": self._cluster.proxy_url,
            "--step-seconds": f"{step_seconds:g}",
            "--tick-seconds": f"{tick_seconds:g}",
            "--demand-window-seconds": f"{window_seconds:g}",
            "--metrics-listen": f"127.0.0.1:{metrics}",
            "--health-listen": f"127.0.0.1:{health}",
            "--ray-metrics-interval-seconds": f"{step_seconds:g}",
        }
        command = [str(BESIDE_PYTHON / "deepseek-operator"), "run", *_flat(flags)]
        self._supervision.start("operator", command, {"KUBECONFIG": str(self._cluster.kubeconfig)}, grace_seconds=5)

    def check(self) -> None:
        """Raise `ProgramError` when one of them has ended."""
        for name, state in self._supervision.status().items():
            if state["returncode"] is not None:
                log = self._supervision.log(name)
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise ProgramError(f"the {name} ended with exit code {state['returncode']}; the end of {log}:\n{tail}")

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: object) -> None:
        self._supervision.end()


def _flat(flags: dict[str, str]) -> list[str]:
    return [word for flag in flags.items() for word in flag]
