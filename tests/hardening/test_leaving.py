"""Clients that leave, in every way there is: their places become free, and nothing is left of them."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hardening.rig import Attacked, gather_limited, times

Attack = Callable[[dict[str, Any]], AbstractContextManager[Attacked]]
SLOW = {"model": {"engine": "echo"}, "modelName": "chat", "serving": {"maxTokensPerSecond": 2000, "maxOngoingRequests": 64}}


def request(stream: bool) -> bytes:
    text = " ".join(["w"] * 400)
    body = json.dumps({"model": "chat", "stream": stream, "n": 2, "messages": [{"role": "user", "content": text}]}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def leave(port: int, how: str, rng: random.Random) -> None:
    """Ask, read for a while or not at all, and go: by FIN, by RST, half of the connection only, or in the middle of the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = request(stream=how != "whole")
    writer.write(sent[: len(sent) // 2] if how == "mid-body" else sent)
    await writer.drain()
    if how in ("stream", "reset"):
        for _ in range(rng.randrange(1, 6)):
            await reader.readline()
    else:
        await asyncio.sleep(rng.random() * 0.2)
    if how == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


@pytest.mark.parametrize("how", ["stream", "reset", "whole", "mid-body"])
def test_places_are_free_once_the_clients_have_left(attack: Attack, how: str) -> None:
    """1,000 requests (150 in the part), 50 at a time, of 800 tokens at 2,000 tokens a second: by themselves they would take 400 s (60 s).

    How fast a single place is free is in the bench.
    """
    count = times(1000, 150)
    with attack(SLOW) as server:
        rng = random.Random(5)
        asyncio.run(_play(server, count, how, rng))
        server.wait_until(lambda now: not now["running"] and not now["waiting"] and not now["engine"], times(10, 30))
        finished = "ray_deepseek_requests_finished_total['{}']"
        if how != "mid-body":
            # Metrics are written twice a second.
            server.wait_until(lambda now: now["metrics"][finished.format("cancelled")] >= count * 0.9)
        time.sleep(0.6)
        assert server.numbers()["metrics"][finished.format("error")] == 0
        server.still_answers()
        assert "Task was destroyed" not in server.log()
        assert "never retrieved" not in server.log()


async def _play(server: Attacked, count: int, how: str, rng: random.Random) -> None:
    await gather_limited(count, 50, lambda _: leave(server.port, how, rng))


def test_a_reader_that_stops_reading_loses_its_place(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of megabytes into a window of 4 kB that nobody empties: cut after 60 s at most; here the server's patience is 4 s."""
    with attack({**SLOW, "serving": {"maxTokensPerSecond": 1_000_000, "maxOutputTokens": 8000}, "testStalledSeconds": 4}) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        text = " ".join(["w" * 10] * 8000)
        body = json.dumps({"model": "chat", "stream": True, "n": 8, "messages": [{"role": "user", "content": text}]}).encode()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        server.wait_until(lambda now: now["running"] == 1)
        server.wait_until(lambda now: not now["running"], 30)
        connection.close()
        server.still_answers()
