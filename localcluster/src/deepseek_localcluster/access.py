"""What one can do with any cluster there is a kubeconfig for, ours or not."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deepseek_localcluster.build import ensure

T = TypeVar("T")


class CommandError(RuntimeError):
    """A kubectl or helm command failed; the message holds what it wrote."""


class Cluster:
    """An existing cluster, reached through its kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, input: str | None = None, timeout_seconds: float = 120) -> str:
        """Run ``kubectl ARGUMENTS`` and give its standard output; :class:`CommandError` when it fails."""
        return self._run("kubectl", arguments, input, timeout_seconds)

    def helm(self, *arguments: str, input: str | None = None, timeout_seconds: float = 300) -> str:
        """Run ``helm ARGUMENTS`` and give its standard output; :class:`CommandError` when it fails. Helm is built when missing."""
        return self._run("helm", arguments, input, timeout_seconds)

    def apply(self, manifests: str | Path) -> str:
        """Server-side apply of a file, a folder, or yaml text of one or more objects."""
        command = ("apply", "--server-side", "--force-conflicts", "-f")
        if isinstance(manifests, Path):
            return self.kubectl(*command, str(manifests))
        return self.kubectl(*command, "-", input=manifests)

    def wait(self, what: str, check: Callable[[], T | None], timeout_seconds: float = 60, every_seconds: float = 0.2) -> T:
        """Ask ``check`` until it gives something true; ``TimeoutError`` naming ``what`` and the last answer after the deadline."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            answer = check()
            if answer:
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {timeout_seconds:g} s; the last answer was {answer!r}")
            time.sleep(every_seconds)

    def env(self) -> dict[str, str]:
        """Environment variables that point programs at this cluster."""
        return {"KUBECONFIG": str(self.kubeconfig)}

    def binary(self, name: str) -> Path:
        """A client program: the one on PATH for a foreign cluster, else ours, built when missing."""
        found = shutil.which(name)
        return Path(found) if found else ensure([name])[name]

    def _run(self, program: str, arguments: tuple[str, ...], text: str | None, timeout_seconds: float) -> str:
        environment = {**os.environ, **self.env()}
        command = [str(self.binary(program)), *arguments]
        result = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, timeout=timeout_seconds, check=False)
        if result.returncode:
            raise CommandError(f"{program} {' '.join(arguments)}: exit {result.returncode}: {(result.stderr or result.stdout).strip()}")
        return result.stdout
