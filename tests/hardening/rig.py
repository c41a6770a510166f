"""A server in a process of its own, whose memory, log and metrics can be looked at, and how much of it all to do.

`make test` runs a small part, wherever that is and whatever else runs there: its bounds hold on a machine that stops for half a second now
and then. `make test-hardening` sets DEEPSEEK_HARDENING=full: more of everything, and the bounds of a machine that has time for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

PATIENCE_SECONDS = 60.0
"""How long something is waited for that a quiet machine does within a second."""

FULL = os.environ.get("DEEPSEEK_HARDENING") == "full"

Figure = TypeVar("Figure", int, float)


def times(full: Figure, part: Figure) -> Figure:
    """How many cases, or which bound: of the full run, or of the part that every `make test` does."""
    return full if FULL else part


@dataclass
class Attacked:
    """The server under attack."""

    port: int
    process: subprocess.Popen[bytes]
    log_file: Path
    errors: list[str] = field(default_factory=list)

    def resident_mebibytes(self) -> float:
        return self._memory("VmRSS")

    def peak_mebibytes(self) -> float:
        return self._memory("VmHWM")

    def forget_the_peak(self) -> None:
        """From here on `peak_mebibytes` counts anew."""
        with contextlib.suppress(OSError):  # not everywhere allowed
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def numbers(self) -> dict[str, Any]:
        """Its metrics and what runs and waits now."""
        status, body = self.ask("GET", "/numbers")
        assert status == 200
        return dict(json.loads(body))

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """One request on a connection of its own; its status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def chat(self, content: Any, **options: Any) -> tuple[int, bytes]:
        body = {"model": "chat", "messages": [{"role": "user", "content": content}], **options}
        return self.ask("POST", "/v1/chat/completions", json.dumps(body).encode())

    def still_answers(self) -> None:
        """An honest request is answered, and nothing is left of what came before."""
        status, body = self.chat("hello")
        assert status == 200, body
        self.wait_until(lambda now: not now["running"] and not now["waiting"])

    def wait_until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The first of its numbers for which it holds; fails when there are none within that time."""
        deadline = time.monotonic() + seconds
        while not holds(now := self.numbers()):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {now}"
            time.sleep(0.05)
        return now

    def _memory(self, name: str) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) / 1024
        raise LookupError(name)


@contextmanager
def run_attacked(settings: dict[str, Any]) -> Iterator[Attacked]:
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, str(Path(__file__).with_name("attacked_server.py")), str(port), json.dumps(settings)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            server = Attacked(port, process, Path(folder) / "log")
            deadline = time.monotonic() + 3 * PATIENCE_SECONDS
            while True:
                assert process.poll() is None, server.log()
                assert time.monotonic() < deadline, server.log()
                with contextlib.suppress(OSError):
                    if server.ask("GET", "/readyz")[0] == 200:
                        break
                time.sleep(0.1)
            yield server
            assert process.poll() is None, "the server died:\n" + server.log()
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def gather_limited(count: int, at_once: int, one: Callable[[int], Any]) -> list[Any]:
    """`one(0)` … `one(count − 1)`, so many at a time."""
    gate = asyncio.Semaphore(at_once)

    async def each(index: int) -> Any:
        async with gate:
            return await one(index)

    return list(await asyncio.gather(*(each(index) for index in range(count))))
