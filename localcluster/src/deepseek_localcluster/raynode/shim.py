"""PID 1 of a container that has no namespace: all of the container's processes stay its descendants.

    python -c "…shim.main()" PID_FD COMMAND…

It runs COMMAND, writes its process id to the file descriptor PID_FD, and is the subreaper of everything below it. SIGTERM is passed on to
the command. When the command ends, all that is left is killed and its exit code becomes the shim's own (128 + n for signal n). SIGQUIT, also
sent by the kernel when the kubelet dies, ends everything at once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from deepseek_localcluster.processes import become_subreaper, die_with_parent, end_descendants, reap, send

KILLED = 128 + signal.SIGKILL
HANDLED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT}


def command(pid_fd: int, argv: list[str]) -> list[str]:
    """How to run ``argv`` under a shim, without the site packages' start-up time."""
    source = Path(__file__).resolve().parents[2]
    code = f"import sys; sys.path.insert(0, {str(source)!r}); from deepseek_localcluster.raynode.shim import main; main()"
    return [sys.executable, "-I", "-S", "-c", code, str(pid_fd), *argv]


def main() -> None:
    """Run the command line."""
    kubelet = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    become_subreaper()
    die_with_parent(signal.SIGQUIT)
    if os.getppid() != kubelet:  # it died before the kernel was asked to tell
        os._exit(KILLED)
    pid_fd, argv = int(sys.argv[1]), sys.argv[2:]
    child = os.fork()
    if child == 0:
        _become(argv, pid_fd)
    os.write(pid_fd, str(child).encode())
    os.close(pid_fd)
    os._exit(_follow(child))


def _become(argv: list[str], pid_fd: int) -> None:
    os.setsid()
    os.close(pid_fd)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - the container's own command, no shell in between
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error}\n".encode())
        os._exit(127)


def _follow(child: int) -> int:
    while True:
        received = signal.sigwait(HANDLED)
        if received == signal.SIGQUIT:
            end_descendants()
            return KILLED
        if received == signal.SIGTERM:
            send(child, signal.SIGTERM)
            continue
        ended = reap()
        if child in ended:
            end_descendants()
            code = ended[child]
            return code if code >= 0 else 128 - code
