"""How a replica leaves its own port: nobody who asked in time is broken off."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from deepseek_serving import side_door
from deepseek_serving.side_door import PORT_HERE, SideDoor

ASK = b"GET /words/%d HTTP/1.1\r\nHost: x\r\n\r\n"


def app() -> FastAPI:
    """Streams so many words, 0.05 s apart."""
    made = FastAPI()

    @made.get("/words/{count}")
    async def words(count: int) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            for _ in range(count):
                yield "word "
                await asyncio.sleep(0.05)

        return StreamingResponse(stream())

    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late is who comes 0.4 s after the port has closed."""
    monkeypatch.setattr(side_door, "LATE_SECONDS", 0.4)


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[SideDoor]:
    door = SideDoor(app(), port)
    door.open()
    await listens(port)
    yield door


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def listens(port: int) -> None:
    while not await accepts(port):  # noqa: ASYNC110 - the event is the kernel's
        await asyncio.sleep(0.02)


class Client:
    """One kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, words: int) -> tuple[int, int, bool]:
        """Status, words, and whether the server says that the connection ends."""
        self._writer.write(ASK % words)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        status, closes = int(head[9:12]), "connection: close" in head
        if "transfer-encoding: chunked" not in head:
            await self._reader.readexactly(int(head.partition("content-length: ")[2].partition("\r")[0]))
            return status, 0, closes
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += await self._reader.readexactly(size + 2)
        await self._reader.readexactly(2)
        return status, body.count(b"word"), closes

    async def ended(self) -> bool:
        return await self._reader.read(1) == b""

    def leave(self) -> None:
        self._writer.close()


async def test_a_kept_connection_is_told_to_close_while_the_port_lingers_and_a_long_stream_ends_whole() -> None:
    """Before: kept open. In the linger of 0.3 s: answered, with Connection: close. A stream of 40 words over 2 s outlasts the port."""
    port = free_port()
    async with opened(port) as door:
        kept, streaming = await Client.connect(port), await Client.connect(port)
        assert await kept.ask(1) == (200, 1, False)
        long = asyncio.create_task(streaming.ask(40))
        await asyncio.sleep(0.2)
        closing = asyncio.create_task(door.close(0.3))
        await asyncio.sleep(0.1)
        assert await kept.ask(1) == (200, 1, True)
        assert await kept.ended()
        newcomer = await Client.connect(port)
        assert await newcomer.ask(1) == (200, 1, True)
        await asyncio.sleep(0.4)
        assert not await accepts(port)
        assert not closing.done()
        assert await long == (200, 40, False)
        # Its head said nothing of an end, so it may ask once more, and hears a clean no.
        assert await streaming.ask(1) == (503, 0, True)
        assert await streaming.ended()
        await asyncio.wait_for(closing, 5)


async def test_a_connection_that_nobody_uses_does_not_hold_the_replica() -> None:
    """Idle since before the end: closed about 0.4 s after the port, and `close` returns within 3 s."""
    port = free_port()
    async with opened(port) as door:
        idle = await Client.connect(port)
        assert await idle.ask(1) == (200, 1, False)
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(door.close(0), 3)
        assert asyncio.get_running_loop().time() - began >= 0.4
        assert await idle.ended()


async def test_a_request_on_its_way_when_the_port_closes_is_answered() -> None:
    """A kept connection asks 0.1 s after the port has closed: answered, not refused and not broken off."""
    port = free_port()
    async with opened(port) as door:
        kept = await Client.connect(port)
        assert await kept.ask(1) == (200, 1, False)
        closing = asyncio.create_task(door.close(0))
        await asyncio.sleep(0.1)
        assert not await accepts(port)
        assert await kept.ask(1) == (200, 1, True)
        await asyncio.wait_for(closing, 5)


async def test_what_the_kernel_has_connected_when_one_of_two_leaves_is_answered() -> None:
    """Two replicas on one port, 60 connections made and not yet accepted when one of them leaves: all 60 are answered."""
    port = free_port()
    async with opened(port) as leaving, opened(port) as staying:
        sockets = []
        for _ in range(60):  # made while the event loop sleeps, so that nobody accepts them
            made = socket.create_connection(("127.0.0.1", port))
            made.sendall(ASK % 1)
            made.setblocking(False)
            sockets.append(made)
        closing = asyncio.create_task(leaving.close(0))
        clients = [Client(*await asyncio.open_connection(sock=made)) for made in sockets]
        heads = await asyncio.gather(*(client._reader.readuntil(b"\r\n\r\n") for client in clients))
        assert [head[9:12] for head in heads] == [b"200"] * 60
        for client in clients:
            client.leave()
        await asyncio.wait_for(closing, 10)
        assert await accepts(port)
        await asyncio.wait_for(staying.close(0), 10)


async def test_a_connection_kept_for_long_ends_with_its_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.5 s are long here: asked at 0 s it stays, asked at 0.6 s it is answered and ends."""
    monkeypatch.setattr(side_door, "OLDEST_SECONDS", 0.5)
    port = free_port()
    async with opened(port) as door:
        kept = await Client.connect(port)
        assert await kept.ask(1) == (200, 1, False)
        await asyncio.sleep(0.6)
        assert await kept.ask(1) == (200, 1, True)
        assert await kept.ended()
        await asyncio.wait_for(door.close(0), 5)


async def test_a_replica_has_started_when_a_probe_has_asked_it_and_the_service_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked after 0.3 s, + 0.2 s until every node knows: 0.5 s. Never asked: 1 s and no longer. Told not to wait: at once."""
    monkeypatch.setattr(side_door, "KNOWN_SECONDS", 0.2)
    port, clock = free_port(), asyncio.get_running_loop().time
    async with opened(port) as door:
        began = clock()
        await door.noticed(0)
        assert clock() - began < 0.1
        await door.noticed(1)
        assert 1 <= clock() - began < 1.5
        waiting = asyncio.create_task(door.noticed(30))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await reader.read()
        asked_at = clock()
        await asyncio.wait_for(waiting, 5)
        assert clock() - asked_at >= 0.15
        writer.close()
        await asyncio.wait_for(door.close(0), 5)


async def test_a_replica_waits_for_no_probe_where_a_neighbour_listens_already() -> None:
    """The first of two on a port waits its second; the second is done at once, though nobody asked it either."""
    port, clock = free_port(), asyncio.get_running_loop().time
    async with opened(port) as first, opened(port) as second:
        began = clock()
        await second.noticed(30)
        assert clock() - began < 0.1
        await first.noticed(1)
        assert clock() - began >= 1
        await asyncio.gather(first.close(0), second.close(0))


async def test_a_node_may_have_another_port_than_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable says 127.0.0.1:N where the settings say 8100."""
    port = free_port()
    monkeypatch.setenv(PORT_HERE, str(port))
    door: Any = SideDoor(app(), 8100)
    door.open()
    await listens(port)
    assert await accepts(port)
    await asyncio.wait_for(door.close(0), 5)
