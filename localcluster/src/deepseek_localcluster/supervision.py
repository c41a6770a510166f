"""The parent's end of the supervisor: start, stop and ask after components."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

SHUTDOWN_SECONDS = 60.0


class SupervisorError(RuntimeError):
    """The supervisor refused a request or is gone."""


class Supervision:
    """Starts a supervisor and speaks with it; safe to use from several threads."""

    def __init__(self, logs: Path, remove: list[Path], claims: list[int], cluster: Path | None = None) -> None:
        """Start the supervisor.

        ``logs``: folder of the components' logs. ``remove``: folders that go at the end. ``claims``: file descriptors to keep open as long
        as it lives. ``cluster``: the folder by which ``deepseek-localcluster status`` knows it; without it, it is not listed.
        """
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._remove = remove
        self._lock = threading.Lock()
        command = [sys.executable, "-m", "deepseek_localcluster.supervisor", "--parent", str(os.getpid())]
        if cluster:
            command += ["--cluster", str(cluster)]
        for folder in remove:
            command += ["--remove", str(folder)]
        self._log = logs / "supervisor.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, pass_fds=claims, text=True
            )

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self._process.poll() is None

    def start(self, name: str, argv: list[str], env: dict[str, str] | None = None, *, grace_seconds: float = 0, cwd: Path | None = None) -> int:
        """Start a component and give its process id. Its output goes to ``<logs>/<name>.log``."""
        request = {
            "do": "start", "name": name, "argv": argv, "env": {**base_environment(), **(env or {})}, "log": str(self.log(name)),
            "grace_seconds": grace_seconds, "cwd": str(cwd or self.logs),
        }  # fmt: skip
        return int(self._ask(request)["pid"])

    def stop(self, name: str, grace_seconds: float = 10.0) -> int:
        """SIGTERM, after the grace SIGKILL; the exit code, negative for a signal."""
        return int(self._ask({"do": "stop", "name": name, "grace_seconds": grace_seconds})["returncode"])

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a component."""
        self._ask({"do": "signal", "name": name, "signal": int(number)})

    def status(self) -> dict[str, dict[str, int | None]]:
        """``{name: {"pid": …, "returncode": … or None}}`` of every component started so far."""
        return self._ask({"do": "status"})

    def log(self, name: str) -> Path:
        """Where a component's output goes."""
        return self.logs / f"{name}.log"

    def end(self) -> None:
        """End every process and remove the folders; returns when that is done."""
        with self._lock:
            for stream in (self._process.stdin, self._process.stdout):
                if stream:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        continue
        try:
            self._process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for folder in self._remove:  # the supervisor has done it, unless somebody killed it
            shutil.rmtree(folder, ignore_errors=True)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            try:
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
                line = stdout.readline()
            except (OSError, ValueError) as error:
                raise SupervisorError(f"the cluster has ended ({error}); see {self._log}") from error
        if not line:
            raise SupervisorError(f"the cluster's supervisor (pid {self._process.pid}) is gone; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SupervisorError(f"cannot {request['do']} {request.get('name', '')}: {answer['error']}")
        return answer


def base_environment() -> dict[str, str]:
    """The environment of components: the caller's, without what would make them talk to another cluster or through a proxy."""
    refused = {"KUBECONFIG", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}
    return {name: value for name, value in os.environ.items() if name not in refused}
