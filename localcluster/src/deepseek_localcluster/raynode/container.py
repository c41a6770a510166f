"""One run of a container: a command under a shim, with its log."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

from deepseek_localcluster.processes import send
from deepseek_localcluster.raynode import shim


class Container:
    """Started by :meth:`start`; ``exit_code`` is set once every process of it is gone."""

    def __init__(self, process: asyncio.subprocess.Process, pid: int) -> None:
        self._process = process
        self.pid = pid
        """The process id of the command itself, what the container would see as PID 1."""

    @classmethod
    async def start(cls, argv: list[str], env: dict[str, str], folder: Path, log: Path) -> Container:
        """Run ``argv`` in ``folder``, its output appended to ``log``."""
        read_end, write_end = os.pipe()
        try:
            with log.open("ab") as sink:
                process = await asyncio.create_subprocess_exec(
                    *shim.command(write_end, argv), env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                    pass_fds=[write_end], start_new_session=True,
                )  # fmt: skip
            os.close(write_end)
            write_end = -1
            pid = await asyncio.to_thread(os.read, read_end, 32)
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)
        return cls(process, int(pid or 0))

    @property
    def exit_code(self) -> int | None:
        """``None`` while it runs; 128 + n after signal n."""
        code = self._process.returncode
        return code if code is None or code >= 0 else 128 - code

    async def ended(self) -> int:
        """Wait for the end; the exit code."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """SIGTERM to the command."""
        if self.exit_code is None:
            send(self._process.pid, signal.SIGTERM)

    async def kill(self) -> None:
        """End every process of the container now."""
        if self.exit_code is None:
            send(self._process.pid, signal.SIGQUIT)
        await self._process.wait()


async def run_inside(argv: list[str], env: dict[str, str], folder: Path, timeout_seconds: float) -> bool:
    """Run a probe's or hook's command beside the container; whether it ended with 0 in time. It is killed when it does not."""
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return await asyncio.wait_for(process.wait(), timeout_seconds) == 0
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
