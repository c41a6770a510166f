"""Fetching pictures for strangers without being sent to one's own network."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deepseek_serving import remote
from deepseek_serving.engine import RequestError
from deepseek_serving.remote import ImageFetcher, is_public

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("255.255.255.255", False), ("224.0.0.1", False), ("240.0.0.1", False),
        ("192.0.2.1", False), ("198.18.0.1", False), ("::1", False), ("::", False), ("fe80::1", False), ("fe80::1%eth0", False),
        ("fc00::1", False), ("fd00:ec2::254", False), ("ff02::1", False), ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False), ("64:ff9b::a9fe:a9fe", False), ("2002:7f00:1::", False), ("2001:0:7f00:1::", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_what_counts_as_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@asynccontextmanager
async def server(answer: bytes, *, stall: bool = False) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A raw server on loopback that says `answer` to everybody; its port and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            if stall:
                await asyncio.sleep(60)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], asked


def said(body: bytes, *, status: str = "200 OK", type: str = "image/png", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {type}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


async def test_a_named_host_is_fetched_from_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name resolves to 127.0.0.1 once and to a canary's address from the second time on: the connection goes to the first."""
    lookups = []

    async def getaddrinfo(self: object, host: str, port: int, **_: object) -> list[object]:
        lookups.append(host)
        address = "127.0.0.1" if len(lookups) == 1 else "127.0.0.66"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    async with server(said(b"png")) as (port, asked):
        fetched = await ImageFetcher(["pictures.test"], also=LOOPBACK, ports=[port]).fetch(f"http://pictures.test:{port}/a.png?x=1")
    assert fetched == "data:image/png;base64,cG5n"
    assert lookups == ["pictures.test"]
    assert asked[0].startswith(b"GET /a.png?x=1 HTTP/1.1\r\n")
    assert b"authorization" not in asked[0].lower()
    assert b"cookie" not in asked[0].lower()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (said(b"", status="302 Found", extra="Location: http://127.0.0.1:1/\r\n"), "redirects are not followed"),
        (said(b"secret", type="text/html"), "must answer 200 with an image"),
        (said(b"secret", status="404 Not Found"), "must answer 200"),
        (said(b"x" * (remote.MOST_MEBIBYTES * 2**20 + 1)), "at most 10 MiB"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "could not be fetched"),
    ],
    ids=["redirect", "page", "missing", "too big", "no http"],
)
async def test_only_a_picture_comes_back(answer: bytes, words: str) -> None:
    async with server(answer) as (port, _):
        with pytest.raises(RequestError, match=words) as refusal:
            await ImageFetcher(["127.0.0.1"], also=LOOPBACK, ports=[port]).fetch(f"http://127.0.0.1:{port}/")
    assert "secret" not in str(refusal.value)
    assert "SSH" not in str(refusal.value)


async def test_a_host_that_keeps_us_waiting_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MOST_SECONDS", 0.2)
    async with server(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n1", stall=True) as (port, _):
        with pytest.raises(RequestError, match="did not come within"):
            await ImageFetcher(["*"], also=LOOPBACK, ports=[port]).fetch(f"http://127.0.0.1:{port}/")


async def test_a_host_with_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(self: object, host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("93.184.216.34", "127.0.0.1")]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    with pytest.raises(RequestError, match="no public address"):
        await ImageFetcher(["*"]).fetch("http://mixed.test/a.png")


async def test_a_host_that_is_not_named_is_not_even_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        raise AssertionError("looked up")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    with pytest.raises(RequestError, match="not fetched from that host"):
        await ImageFetcher(["pictures.test"]).fetch("http://other.test/a.png")
