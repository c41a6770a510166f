"""Our application in real Ray Serve, in a Ray of its own with its own folder and ports; it ends with the block that started it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

APPLICATION = "default.chat"

_ENDS_WITHIN_SECONDS = 60.0

# On a machine that is busy a proxy needs more than the 5 s after which Ray kills it as not ready, and begins anew, in vain again.
_PATIENT = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60"}

# Ends by itself when its standard input closes, so it cannot outlive whoever started it.
_DRIVER = """
import json, sys
told = json.loads(sys.argv[1])
import ray
from ray import serve
ray.init(
    num_cpus=8, _temp_dir=told["folder"], include_dashboard=False, _metrics_export_port=told["metrics_port"], log_to_driver=False,
    object_store_memory=10**8,
)
serve.start(http_options={"host": told["host"], "port": told["port"]})
from deepseek_serving.app import build
application = build(told["args"])
options = {"num_replicas": told["replicas"], "ray_actor_options": {"num_cpus": 1}}
application = type(application)(application._bound_deployment.options(**options))
serve.run(application, name=told["application"], route_prefix="/")
print("READY", flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""


@dataclass(frozen=True)
class Served:
    """An application that answers: the ports of its proxy and of its metrics, and the process from which all of Ray descends."""

    port: int
    metrics_port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served_by_ray(
    args: dict[str, Any], *, replicas: int = 1, host: str = "127.0.0.1", environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """`args` as ServingSettings reads them; in the values of `environment`, `{folder}` becomes Ray's own folder.

    Raises RuntimeError, with what Ray printed last, when it does not start.
    """
    # Ray puts Unix sockets in the folder, whose paths may have 107 characters: pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = {name: value.replace("{folder}", folder) for name, value in (environment or {}).items()}
        whole = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", **_PATIENT, **own}
        whole.pop("RAY_ADDRESS", None)
        ports = {"port": free_port(), "metrics_port": free_port()}
        told = {**ports, "folder": folder, "host": host, "args": args, "replicas": replicas, "application": APPLICATION}
        driver = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, json.dumps(told)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=whole,
        )  # fmt: skip
        assert driver.stdin is not None
        assert driver.stdout is not None
        try:
            lines = []
            for line in driver.stdout:
                lines.append(line)
                if line.strip() == "READY":
                    break
            else:
                raise RuntimeError("Ray Serve did not start:\n" + "".join(lines[-60:]))
            yield Served(**ports, pid=driver.pid)
        finally:
            driver.stdin.close()
            try:
                driver.wait(_ENDS_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                driver.kill()
                driver.wait()
            driver.stdout.close()
