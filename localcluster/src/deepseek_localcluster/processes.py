"""Process families on Linux: who descends from whom, dying with the parent, and ending a whole family."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """From now on every orphaned descendant becomes a child of this process, so none can slip away."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send signal ``number`` to this process when its parent dies. Not inherited by children."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def parents() -> dict[int, int]:
    """Every process that has not been reaped, by id, with its parent's id; zombies included."""
    table: dict[int, int] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a thousand Path objects per scan are worth avoiding
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
            except OSError:
                continue
            table[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    return table


def descendants(ancestor: int) -> set[int]:
    """The ids of all processes below ``ancestor``, without itself."""
    table = parents()
    children: dict[int, list[int]] = {}
    for pid, parent in table.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = [ancestor]
    while todo:
        for child in children.get(todo.pop(), []):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def send(pid: int, number: int) -> bool:
    """Send a signal; ``False`` when the process is gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def reap() -> dict[int, int]:
    """Collect every child that has ended: exit code by process id, negative for a signal."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def end_descendants(timeout_seconds: float = 10.0) -> dict[int, int]:
    """Kill and reap everything below this process; it must be a subreaper. Returns the exit codes by process id."""
    ended = reap()
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        family = descendants(os.getpid())
        if not family:
            break
        for pid in family:
            send(pid, signal.SIGKILL)
        time.sleep(0.01)
        ended |= reap()
    return ended
