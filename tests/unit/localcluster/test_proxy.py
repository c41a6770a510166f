"""The forward proxy passes requests on and changes two ports in one of them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from deepseek_localcluster.ports import PortBlock, claim_block
from deepseek_localcluster.raynode.directory import Directory
from deepseek_localcluster.raynode.proxy import Proxy
from deepseek_localcluster.raynode.wiring import DASHBOARD, HTTP, Wiring


@dataclass
class FakePod:
    """A head whose dashboard and Serve port are one small server."""

    block: PortBlock
    name: str = "head"
    namespace: str = "default"
    ip: str = "10.77.0.1"
    ready: bool = True
    running: bool = True
    terminating: bool = False
    labels: dict[str, str] = field(default_factory=lambda: {"ray.io/node-type": "head", "app": "chat"})
    container: dict[str, Any] = field(default_factory=lambda: {"name": "c"})

    @property
    def wiring(self) -> Wiring:
        return Wiring(self.block.base, self.container)


@dataclass
class World:
    """A proxy in front of one pod, and what the pod has seen."""

    proxy: str
    session: aiohttp.ClientSession
    seen: list[tuple[str, str, dict[str, str], bytes]]
    cancelled: asyncio.Event


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """The pod answers /echo, /gzip, /sse (for ever), /cut (half an answer)."""
    seen: list[tuple[str, str, dict[str, str], bytes]] = []
    cancelled = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append((request.method, request.raw_path, dict(request.headers), await request.content.read()))
        if request.path == "/gzip":
            return web.Response(body=gzip.compress(b"hello"), headers={"Content-Encoding": "gzip"})
        if request.path == "/cut":
            answer = web.StreamResponse(headers={"Content-Length": "1000"})
            await answer.prepare(request)
            await answer.write(b"half")
            assert request.transport
            request.transport.abort()
            return answer
        if request.path == "/sse":
            answer = web.StreamResponse()
            await answer.prepare(request)
            try:
                while True:
                    await answer.write(b"data: x\n\n")
                    await asyncio.sleep(0.02)
            except (ConnectionError, asyncio.CancelledError):
                cancelled.set()
                raise
        return web.Response(text="ok", headers={"x-own": "1"}, status=201)

    block = claim_block()
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    for place in (DASHBOARD, HTTP):
        await web.TCPSite(runner, "127.0.0.1", block[place]).start()
    directory = Directory([FakePod(block)])
    directory.services["default", "chat"] = {"spec": {"selector": {"app": "chat"}, "ports": [{"port": 8000}, {"port": 8265}]}}
    proxy = Proxy(directory)
    await proxy.start(block[50])
    async with aiohttp.ClientSession() as session:
        yield World(f"http://127.0.0.1:{block[50]}", session, seen, cancelled)
    await proxy.stop()
    await runner.cleanup()
    block.release()


async def test_method_path_query_headers_body_and_status_arrive_unchanged(world: World) -> None:
    """And the answer says which pod gave it."""
    async with world.session.post(
        URL("http://chat:8000/a%20b?c=%2Fd&e", encoded=True), data=b"body", headers={"x-mine": "7", "Content-Type": "text/x"}, proxy=world.proxy
    ) as answer:
        assert (answer.status, await answer.text(), answer.headers["x-own"], answer.headers["x-pod"]) == (201, "ok", "1", "head")
    method, path, headers, body = world.seen[0]
    assert (method, path, body, headers["x-mine"], headers["Content-Type"]) == ("POST", "/a%20b?c=%2Fd&e", b"body", "7", "text/x")
    assert headers["Content-Length"] == "4"
    assert headers["Host"] == "chat:8000"


async def test_only_a_serve_configuration_put_has_its_ports_changed(world: World) -> None:
    """The same body elsewhere, or by POST, stays."""
    body = {"http_options": {"port": 8000}}
    for method, url in (("PUT", "http://chat:8265/api/serve/applications/"), ("PUT", "http://chat:8000/api/serve/applications/"),
                        ("POST", "http://chat:8265/api/serve/applications/")):  # fmt: skip
        async with world.session.request(method, url, json=body, proxy=world.proxy) as answer:
            assert answer.status == 201
    ports = [json.loads(seen[3])["http_options"]["port"] for seen in world.seen]
    assert ports == [int(world.proxy.rpartition(":")[2]) - 50 + HTTP, 8000, 8000]


async def test_a_compressed_answer_stays_compressed(world: World) -> None:
    """The client, not the proxy, unpacks it."""
    async with world.session.get("http://chat:8000/gzip", proxy=world.proxy) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert await answer.read() == b"hello"


async def test_an_answer_that_breaks_off_breaks_off_for_the_client_too(world: World) -> None:
    """Not a silent end."""
    with pytest.raises(aiohttp.ClientPayloadError):
        async with world.session.get("http://chat:8000/cut", proxy=world.proxy) as answer:
            await answer.read()


async def test_a_client_that_leaves_ends_the_stream_at_the_pod(world: World) -> None:
    """Serve hears of the disconnect and stops generating."""
    async with world.session.get("http://chat:8000/sse", proxy=world.proxy) as answer:
        assert await answer.content.readany()
        answer.close()
    await asyncio.wait_for(world.cancelled.wait(), 5)


async def test_a_port_nobody_listens_on_is_502_and_an_unknown_name_503(world: World) -> None:
    """Both say what was tried."""
    async with world.session.get("http://10.77.0.1:9999/", proxy=world.proxy) as answer:
        assert answer.status == 502
        assert "head:9999" in await answer.text()
    async with world.session.get("http://nobody:8000/", proxy=world.proxy) as answer:
        assert (answer.status, await answer.text()) == (503, "no Service or pod called nobody\n")


async def test_200_requests_take_less_than_4_seconds(world: World) -> None:
    """Fifty a second must be nothing."""
    began = asyncio.get_running_loop().time()

    async def once() -> int:
        async with world.session.get("http://chat:8000/", proxy=world.proxy) as answer:
            return answer.status

    assert set(await asyncio.gather(*(once() for _ in range(200)))) == {201}
    assert asyncio.get_running_loop().time() - began < 4
