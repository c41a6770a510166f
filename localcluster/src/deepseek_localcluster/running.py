"""The clusters that run on this machine, found by their supervisors; ending one from outside."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_localcluster.processes import descendants

END_SECONDS = 60.0


@dataclass(frozen=True)
class RunningCluster:
    """A cluster of this user."""

    supervisor: int
    directory: Path

    @property
    def note(self) -> dict[str, Any] | None:
        """What the cluster says of itself (``server``, ``env``), once it has finished starting."""
        try:
            loaded: dict[str, Any] = json.loads((self.directory / "cluster.json").read_text())
        except OSError:
            return None
        return loaded

    @property
    def processes(self) -> int:
        """How many processes it has, Ray's included."""
        return len(descendants(self.supervisor))

    @property
    def seconds(self) -> float:
        """How long it has been there."""
        return time.time() - Path(f"/proc/{self.supervisor}").stat().st_mtime

    def end(self) -> None:
        """End it and wait until its processes and its folder are gone; ``TimeoutError`` when that takes longer than a minute."""
        process = os.pidfd_open(self.supervisor)  # names this very process, whoever gets its id later
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            readable, _, _ = select.select([process], [], [], END_SECONDS)
        finally:
            os.close(process)
        if not readable:
            raise TimeoutError(f"the cluster in {self.directory} (supervisor {self.supervisor}) did not end within {END_SECONDS:g} s")


def running_clusters() -> list[RunningCluster]:
    """All clusters of this user on this machine, the oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid != os.getuid():
                continue
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "deepseek_localcluster.supervisor" in arguments and "--cluster" in arguments:
            found.append(RunningCluster(int(entry.name), Path(arguments[arguments.index("--cluster") + 1])))
    return sorted(found, key=lambda each: each.supervisor)
