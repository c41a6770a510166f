"""The programs beside the cluster: the tiny model's training, the forecaster and the operator. They end with this process, however it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deepseek_localcluster import LocalCluster

BESIDE_PYTHON = Path(sys.executable).parent


class ProgramError(RuntimeError):
    """A program ended that should not have; the message ends with the tail of its log."""


def train_tiny_model(directory: Path) -> None:
    """Make the tiny model unless it is there already; it says itself what it does. Raises `ProgramError`."""
    command = [str(BESIDE_PYTHON / "deepseek-serving"), "tiny-model", "--out", str(directory), "--least-accuracy", "0.95"]
    if subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode:
        raise ProgramError(f"the tiny model could not be made; try again by hand: {' '.join(command)}")


class Programs:
    """Forecaster and operator, run under the cluster's own supervisor."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.forecaster_url = f"http://127.0.0.1:{cluster.free_port()}"

    def start_forecaster(self, data: Path, season_seconds: float, history_seconds: float) -> None:
        """Start it at the lowest priority: fitting must not take the cores from the replicas."""
        flags = {
            "--prometheus": self._cluster.prometheus_url,
            "--listen": self.forecaster_url.removeprefix("http://"),
            "--data": str(data),
            "--season": f"{season_seconds:.0f}",
            "--history": f"{history_seconds:.0f}s",
            "--train-every": f"{season_seconds:.0f}",
        }
        command = [str(BESIDE_PYTHON / "deepseek-forecaster"), "serve", *_flat(flags)]
        self._cluster.run("forecaster", ["nice", "-n", "19", *command], {"OMP_NUM_THREADS": "1"})

    def start_operator(self, step_seconds: float, tick_seconds: float, window_seconds: float) -> None:
        """Start it on the cluster's API server."""
        metrics, health = self._cluster.free_port(), self._cluster.free_port()
        flags = {
            "--namespace": "default",
            "--prometheus": self._cluster.prometheus_url,
            "--forecaster": self.forecaster_url,
            "--http-proxy": self._cluster.proxy_url,
            "--step-seconds": f"{step_seconds:g}",
            "--tick-seconds": f"{tick_seconds:g}",
            "--demand-window-seconds": f"{window_seconds:g}",
            "--metrics-listen": f"127.0.0.1:{metrics}",
            "--health-listen": f"127.0.0.1:{health}",
            "--ray-metrics-interval-seconds": f"{step_seconds:g}",
        }
        self._cluster.run("operator", [str(BESIDE_PYTHON / "deepseek-operator"), "run", *_flat(flags)])

    def check(self) -> None:
        """Raise `ProgramError` when one of them, or a part of the cluster, has ended."""
        for name, state in self._cluster.components().items():
            if state["returncode"] is not None:
                raise ProgramError(f"{name} ended with exit code {state['returncode']}; the end of its log:\n{self._cluster.logs(name, 20)}")

    def keep_logs(self, folder: Path) -> None:
        """Copy every log: the cluster's folder goes with it."""
        for source in (self._cluster.directory / "logs").glob("*.log"):
            shutil.copy(source, folder / source.name)


def _flat(flags: dict[str, str]) -> list[str]:
    return [word for flag in flags.items() for word in flag]
