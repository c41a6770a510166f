"""A client in a process of its own: asks a server as told by the JSON on the command line, prints what it saw as JSON.

Raw sockets and hand-made requests: a comfortable client would cost more than the server, on the same cores.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

Answer = tuple[int, float, int]
"""Status, seconds, tokens (of a stream) or bytes; status 0 for a broken connection."""


def request(content: str, *, stream: bool = False, key: str = "", **options: Any) -> bytes:
    body = json.dumps({"model": "chat", "stream": stream, "messages": [{"role": "user", "content": content}], **options}).encode()
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{authorization}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, sent: bytes) -> Answer:
        began = time.perf_counter()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            at = head.find(b"content-length: ")
            if at >= 0:
                size = int(head[at + 16 : head.index(b"\r\n", at)])
                await reader.readexactly(size)
            else:
                size = 0
                while length := int(await reader.readuntil(b"\r\n"), 16):
                    size += (await reader.readexactly(length + 2)).count(b'"content":"') > 0
                await reader.readexactly(2)
            return status, time.perf_counter() - began, size
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return 0, time.perf_counter() - began, 0

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(port: int, clients: int, seconds: float, tokens: int, *, stream: bool) -> dict[str, Any]:
    """Each client asks again as soon as it is answered."""
    sent = request(" ".join(["w"] * tokens), stream=stream)
    answers: list[Answer] = []
    ends = time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() < ends:
            answers.append(await connection.ask(sent))
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - began
    good = sorted(seconds for status, seconds, _ in answers if status == 200)
    return {
        "per_second": len(good) / took,
        "p50": good[len(good) // 2] if good else None,
        "p99": good[int(len(good) * 0.99)] if good else None,
        "failed": len(answers) - len(good),
        "microseconds_per_token": took / (len(good) * tokens) * 1e6 if good else None,
    }


async def open_loop(port: int, flows: list[dict[str, Any]], seconds: float, seed: int) -> dict[str, Any]:
    """Poisson arrivals of several flows, each with its rate, key and priority, whatever becomes of the requests."""
    spare: list[Connection] = []
    seen: dict[str, list[Answer]] = {flow["name"]: [] for flow in flows}
    tasks: set[asyncio.Task[None]] = set()

    async def one(name: str, sent: bytes) -> None:
        connection = spare.pop() if spare else Connection(port)
        seen[name].append(await connection.ask(sent))
        spare.append(connection)

    async def play(flow: dict[str, Any], rng: random.Random) -> None:
        sent = request(" ".join(["w"] * flow["tokens"]), key=flow.get("key", ""), **flow.get("options", {}))
        at = time.perf_counter()
        ends = at + seconds
        while (at := at + rng.expovariate(flow["rate"])) < ends:
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(one(flow["name"], sent))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    began = time.perf_counter()
    await asyncio.gather(*(play(flow, random.Random(seed + index)) for index, flow in enumerate(flows)))
    await asyncio.gather(*tasks)
    took = time.perf_counter() - began  # with what the queue still held when the last request was sent
    return {name: told(answers, took) for name, answers in seen.items()}


def told(answers: list[Answer], seconds: float) -> dict[str, Any]:
    good = sorted(took for status, took, _ in answers if status == 200)
    refused = sorted(took for status, took, _ in answers if status == 429)
    return {
        "asked": len(answers),
        "good": len(good),
        "good_per_second": len(good) / seconds,
        "good_p99": good[int(len(good) * 0.99)] if good else None,
        "refused": len(refused),
        "refused_p99": refused[int(len(refused) * 0.99)] if refused else None,
        "other": len(answers) - len(good) - len(refused),
    }


async def leave_and_return(port: int, times: int) -> dict[str, Any]:
    """One place, held by a stream whose reader goes; how long until somebody else has the place."""
    long, short = request(" ".join(["w"] * 5000), stream=True), request("hi")
    waits = []
    for _ in range(times):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(long)
        await reader.readuntil(b"data: ")
        writer.close()
        began = time.perf_counter()
        connection = Connection(port)
        while (await connection.ask(short))[0] != 200:  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.001)
        waits.append(time.perf_counter() - began)
        connection.close()
    waits.sort()
    return {"times": times, "p50": waits[times // 2], "p99": waits[int(times * 0.99)], "most": waits[-1]}


def main() -> None:
    told_to = json.loads(sys.argv[1])
    kind = told_to.pop("kind")
    plays = {"closed": closed_loop, "open": open_loop, "leave": leave_and_return}
    print(json.dumps(asyncio.run(plays[kind](**told_to))))


if __name__ == "__main__":
    main()
