"""A rival in its own process: one JSON line in, one JSON line out, and it ends with the run."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Have the kernel end this process when the one that started it is gone, however that ended (Linux: prctl(2))."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class RivalError(RuntimeError):
    """A rival's process ended or answered nonsense; the text has what it said last."""


class RivalProcess:
    """`ask` sends a message and returns the answer. The process reads its standard input and ends when that does."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        # One thread each: the run is as many processes as there are cores already.
        given = {"GOMAXPROCS": "1", "GOGC": "400", "OMP_NUM_THREADS": "1", **(environment or {})}
        self._command = command
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **given},
            preexec_fn=end_with_parent,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._write, self._flush, self._read = self._process.stdin.write, self._process.stdin.flush, self._process.stdout.readline

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one message. `RivalError` when there is none."""
        try:
            self._write(json.dumps(message).encode() + b"\n")
            self._flush()
            line = self._read()
            answer = json.loads(line)
        except (OSError, ValueError) as error:
            raise RivalError(f"{self._command[0]} did not answer {str(message)[:200]}: {self._last_words() or error}") from error
        if not isinstance(answer, dict):
            raise RivalError(f"{self._command[0]} must answer an object, answered {answer!r}")
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _last_words(self) -> str:
        self._process.kill()
        _, said = self._process.communicate()
        return said.decode(errors="replace")[-1000:].strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
