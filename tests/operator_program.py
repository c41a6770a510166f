"""The operator's program beside a local cluster, as the end-to-end tests run it: one tick a second."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepseek_localcluster import LocalCluster


@contextmanager
def running_operator(cluster: LocalCluster) -> Iterator[Path]:
    """Runs until the end of the block; gives its log, whose end is printed then."""
    log = cluster.directory / "operator.log"
    command = [
        str(Path(sys.executable).parent / "deepseek-operator"), "run", "--kubeconfig", str(cluster.kubeconfig),
        "--prometheus", cluster.prometheus_url, "--http-proxy", cluster.proxy_url, "--tick-seconds", "1", "--step-seconds", "2",
        "--demand-window-seconds", "10", "--ray-metrics-interval-seconds", "1",
        "--metrics-listen", f"127.0.0.1:{cluster.free_port()}", "--health-listen", f"127.0.0.1:{cluster.free_port()}",
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield log
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            print(log.read_text()[-8000:])
