"""Clients that stream answers without a pause and tell every way in which a request can go wrong apart. Raw sockets: a comfortable client
would retry in silence."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

PATIENCE_SECONDS = 60.0


@dataclass
class Clients:
    """`number` clients; with `keep` every second one keeps its connection from request to request. `choose` gives pod and port of a new one.

    `outcomes` counts how requests ended: "whole", "refused 429" and "refused 503" are clean, anything else is a fault.
    """

    choose: Callable[[], tuple[str, int]]
    model: str = "chat"
    number: int = 8
    keep: bool = True
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    answered_by: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    _stop: bool = False

    async def play(self) -> None:
        """Ask until `stop` is called; every request that has begun is waited for."""
        await asyncio.gather(*(self._client(index) for index in range(self.number)))

    def stop(self) -> None:
        """No new requests from now on."""
        self._stop = True

    @property
    def sent(self) -> int:
        """Requests that have ended."""
        return self.outcomes.total()

    async def _client(self, index: int) -> None:
        keeps, turn = self.keep and index % 2 == 0, 0
        connection: _Connection | None = None
        while not self._stop:
            words = (4, 20, 60)[(index + turn) % 3]
            reused = connection is not None
            pod = connection.pod if connection else "?"
            at = time.monotonic() - self.began
            try:
                if connection is None:
                    pod, port = self.choose()
                    connection = await _Connection.open(pod, port)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    outcome, open_still = await connection.ask(self.model, words, close=not keeps)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                stage = connection.stage if connection else "connecting"
                outcome, open_still = f"{stage}: {type(error).__name__}", False
                self.faults.append(
                    f"{at:.1f} s: client {index}, {'kept' if reused else 'new'} connection to {pod}, {words} words, "
                    f"failed at {time.monotonic() - self.began:.1f} s {stage}: {error!r}"
                )
            self.outcomes[outcome] += 1
            if outcome == "whole":
                self.answered_by[pod] += 1
            else:
                await asyncio.sleep(0.2)
            if connection and not open_still:
                connection.close()
                connection = None
            turn += 1
        if connection:
            connection.close()


class _Connection:
    def __init__(self, pod: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pod, self._reader, self._writer = pod, reader, writer
        self.stage = "before the first byte"

    @classmethod
    async def open(cls, pod: str, port: int) -> _Connection:
        return cls(pod, *await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, model: str, words: int, *, close: bool) -> tuple[str, bool]:
        """How the request ended, and whether the connection may be used again."""
        self.stage = "before the first byte"
        content = " ".join(f"w{number}" for number in range(words))
        body = json.dumps({"model": model, "stream": True, "max_tokens": 100, "messages": [{"role": "user", "content": content}]}).encode()
        kept = "Connection: close\r\n" if close else ""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: chat\r\nContent-Type: application/json\r\n{kept}Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.stage = "in the middle of the answer"
        status = int(answer[9:12])
        stays = "connection: close" not in answer
        if "transfer-encoding: chunked" not in answer:
            length = next(int(line[16:]) for line in answer.split("\r\n") if line.startswith("content-length: "))
            text = await self._reader.readexactly(length)
        else:
            text = b""
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                text += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readexactly(2)
        if status in (429, 503):
            return f"refused {status}", stays
        if status != 200:
            raise ValueError(f"status {status}: {text[:200]!r}")
        events = [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: {")]
        told = "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices") or [])
        if told.split() != content.split() or not text.rstrip().endswith(b"data: [DONE]"):
            raise ValueError(f"an answer of {len(told.split())} of {words} words, the last bytes are {text[-80:]!r}")
        return "whole", stays

    def close(self) -> None:
        self._writer.close()
