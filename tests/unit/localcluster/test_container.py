"""A container's processes are a family that ends together."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from deepseek_localcluster.processes import descendants
from deepseek_localcluster.raynode.container import Container, run_inside

# A command that starts a daemon (own session, orphaned, deaf to SIGTERM and SIGHUP) and then does what follows.
DAEMON = "(trap '' TERM HUP; exec setsid sh -c 'trap \"\" TERM; echo $$ > daemon; sleep 1000') & while [ ! -s daemon ]; do sleep 0.01; done; "


async def start(command: str, folder: Path) -> Container:
    """Run a shell command as a container."""
    return await Container.start(["sh", "-c", command], {"PATH": os.environ["PATH"]}, folder, folder / "log")


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: object, seconds: float = 5) -> None:
    """Wait for a callable to be true."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
async def test_its_exit_code_is_the_commands(command: str, code: int, tmp_path: Path) -> None:
    """128 + n for signal n."""
    container = await start(command, tmp_path)
    assert await container.ended() == code
    assert container.exit_code == code


async def test_a_command_that_does_not_exist_ends_with_127_and_says_so(tmp_path: Path) -> None:
    """In the container's log."""
    container = await Container.start(["no-such-program"], {}, tmp_path, tmp_path / "log")
    assert await container.ended() == 127
    assert "cannot run no-such-program" in (tmp_path / "log").read_text()


async def test_when_the_command_ends_the_daemon_it_left_ends_too(tmp_path: Path) -> None:
    """PID 1 gone: the container is gone."""
    container = await start(DAEMON + "exit 3", tmp_path)
    assert await container.ended() == 3
    assert not alive(int((tmp_path / "daemon").read_text()))


async def test_sigterm_reaches_the_command_and_only_it(tmp_path: Path) -> None:
    """It may take its time; the exit code is its own."""
    container = await start("trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.05; done", tmp_path)
    await until(lambda: "ready" in (tmp_path / "log").read_text())
    container.terminate()
    assert await container.ended() == 5
    assert "asked" in (tmp_path / "log").read_text()


async def test_kill_ends_everything_at_once(tmp_path: Path) -> None:
    """Also what ignores SIGTERM."""
    container = await start(DAEMON + "trap '' TERM; sleep 1000", tmp_path)
    await until(lambda: (tmp_path / "daemon").exists() and (tmp_path / "daemon").read_text())
    await container.kill()
    assert container.exit_code == 137
    assert not alive(container.pid)
    assert not alive(int((tmp_path / "daemon").read_text()))


async def test_the_pid_it_names_is_the_commands(tmp_path: Path) -> None:
    """A test can kill exactly what would be PID 1."""
    container = await start("echo $$; sleep 1000", tmp_path)
    await until(lambda: (tmp_path / "log").read_text().strip())
    assert int((tmp_path / "log").read_text()) == container.pid
    os.kill(container.pid, signal.SIGKILL)
    assert await container.ended() == 137


async def test_a_probe_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """After its timeout it has failed."""
    before = descendants(os.getpid())
    began = time.monotonic()
    assert not await run_inside(["sh", "-c", "sleep 1000 | cat"], dict(os.environ), tmp_path, 0.2)
    assert time.monotonic() - began < 2
    await until(lambda: not [pid for pid in descendants(os.getpid()) - before if alive(pid)])
    assert await run_inside(["true"], dict(os.environ), tmp_path, 2)
    assert not await run_inside(["false"], dict(os.environ), tmp_path, 2)
