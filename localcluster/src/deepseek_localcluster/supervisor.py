"""The process that owns every process of one cluster, and outlives whoever asked for the cluster just long enough to clean up.

It runs in a session of its own (Ctrl-C in the terminal does not reach it), takes one JSON request per line on standard input and
answers each with one JSON line on standard output:

    {"do": "start", "name": "etcd", "argv": […], "env": {…}, "log": "…/etcd.log"}      → {"pid": 4711}
    {"do": "stop", "name": "etcd", "grace_seconds": 5}                                  → {"returncode": -15}
    {"do": "signal", "name": "etcd", "signal": 9}                                       → {}
    {"do": "status"}                                                                    → {"etcd": {"pid": 4711, "returncode": null}}

When standard input ends, the parent dies (also by SIGKILL) or SIGTERM arrives, it stops the components in reverse order, kills all
that descends from it — it is their subreaper, so daemons and orphans count — and removes the folders it was given.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_localcluster.processes import become_subreaper, die_with_parent, end_descendants, reap, send


@dataclass
class Component:
    """One program of the cluster."""

    pid: int
    grace_seconds: float
    """How long SIGTERM is given at shutdown; 0 means SIGKILL at once."""
    returncode: int | None = None


class Supervisor:
    """Starts, watches and ends components."""

    def __init__(self) -> None:
        self.components: dict[str, Component] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks."""
        match request["do"]:
            case "start":
                return self.start(request)
            case "stop":
                component = self.components[request["name"]]
                self.stop(component, float(request["grace_seconds"]))
                return {"returncode": component.returncode}
            case "signal":
                send(self.components[request["name"]].pid, int(request["signal"]))
                return {}
            case "status":
                return {name: {"pid": each.pid, "returncode": each.returncode} for name, each in self.components.items()}
            case other:
                raise ValueError(f"`do` is start, stop, signal or status, was {other!r}")

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a component, its output appended to its log."""
        grace = float(request.get("grace_seconds", 0))

        def in_child() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            # Should this supervisor be killed, components with something of their own to end get the chance to.
            die_with_parent(signal.SIGTERM if grace else signal.SIGKILL)

        with Path(request["log"]).open("ab") as log:
            process = subprocess.Popen(
                request["argv"], env=request["env"], cwd=request.get("cwd"), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=in_child,
            )  # fmt: skip
        process.returncode = 0  # reaped by `collect`, not by this object
        self.components[request["name"]] = Component(process.pid, grace)
        return {"pid": process.pid}

    def collect(self) -> None:
        """Note which components have ended."""
        ended = reap()
        for component in self.components.values():
            if component.returncode is None and component.pid in ended:
                component.returncode = ended[component.pid]

    def stop(self, component: Component, grace_seconds: float) -> None:
        """SIGTERM, wait, SIGKILL."""
        if component.returncode is None:
            send(component.pid, signal.SIGTERM if grace_seconds > 0 else signal.SIGKILL)
        deadline = time.monotonic() + grace_seconds
        while component.returncode is None:
            if grace_seconds > 0 and time.monotonic() > deadline:
                send(component.pid, signal.SIGKILL)
                grace_seconds = 0
            time.sleep(0.01)
            self.collect()

    def shut_down(self) -> None:
        """End everything, the latest started first."""
        for component in reversed(self.components.values()):
            self.stop(component, component.grace_seconds)
        end_descendants()


def serve(supervisor: Supervisor, parent: int) -> None:
    """Answer requests until there is a reason to end."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    stopping: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        if number != signal.SIGCHLD:
            stopping.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, on_signal)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    try:
        # Standard input may be held open by a child the parent forked; its own end is certain this way.
        watched = [0, wake_read, os.pidfd_open(parent)]
    except ProcessLookupError:
        return
    pending = b""
    while not stopping:
        readable, _, _ = select.select(watched, [], [])
        supervisor.collect()
        if watched[2] in readable:
            return
        if wake_read in readable:
            os.read(wake_read, 4096)
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                try:
                    answer = supervisor.answer(json.loads(line))
                except (OSError, KeyError, ValueError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()


def main() -> None:
    """Run until the parent lets go."""
    parser = argparse.ArgumentParser(description="Owns the processes of one local cluster.")
    parser.add_argument("--parent", type=int, required=True, help="process id whose end ends the cluster")
    parser.add_argument("--cluster", type=Path, help="folder of the cluster; by it others find this process")
    parser.add_argument("--remove", type=Path, action="append", default=[], help="folder to remove at the end")
    arguments = parser.parse_args()
    become_subreaper()
    supervisor = Supervisor()
    try:
        serve(supervisor, arguments.parent)
    except BrokenPipeError:
        pass  # the parent ended while it was being answered
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C does not stop the clean-up
        supervisor.shut_down()
        for folder in arguments.remove:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
