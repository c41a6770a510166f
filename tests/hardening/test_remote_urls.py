"""300 URLs that try to make the server ask its own network: nobody there is ever asked."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import aiohttp
import pytest
from hardening.rig import Attacked, gather_limited, times

Attack = Callable[[dict[str, Any]], AbstractContextManager[Attacked]]


@contextmanager
def canaries() -> Iterator[tuple[int, list[str]]]:
    """Listeners on one port of 127.0.0.1, 127.0.0.2 and ::1; who connects is written down. Gives the port and the list."""
    hits: list[str] = []
    sockets: list[socket.socket] = []
    stop = threading.Event()

    def watch(listening: socket.socket) -> None:
        while not stop.is_set():
            try:
                connection, address = listening.accept()
            except TimeoutError:
                continue
            hits.append(f"{address} to {listening.getsockname()}")
            connection.close()

    first = socket.create_server(("127.0.0.1", 0))
    port = first.getsockname()[1]
    sockets.append(first)
    sockets.append(socket.create_server(("127.0.0.2", port)))
    if socket.has_ipv6:
        with suppress(OSError):
            sockets.append(socket.create_server(("::1", port), family=socket.AF_INET6))
    threads = []
    for listening in sockets:
        listening.settimeout(0.1)
        threads.append(threading.Thread(target=watch, args=(listening,)))
        threads[-1].start()
    try:
        yield port, hits
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for listening in sockets:
            listening.close()


def forms(port: int) -> list[str]:
    """Ways of saying "this machine, that port", and other places where nothing of a client's has any business."""
    hosts = [
        "127.0.0.1", "127.0.0.2", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001",
        "127.0.0.1.", "127.000.000.001", "localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ip6-localhost", "[::1]",
        "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
        "[::1%25lo]",
        "①②⑦.⓪.⓪.①", "127。0。0。1", "loc%61lhost", "localhost%00.example.com", "localhost%23.example.com", "localhost%2eexample.com",
        "169.254.169.254", "[fd00:ec2::254]", "metadata.google.internal", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
        "10.0.0.1", "10.96.0.1", "172.17.0.1", "192.168.0.1", "100.100.100.200", "224.0.0.1", "255.255.255.255", "[fe80::1]", "[ff02::1]",
    ]  # fmt: skip
    shapes = [
        "http://{host}:{port}/", "https://{host}:{port}/x.png", "http://user:pass@{host}:{port}/", "http://example.com@{host}:{port}/",
        "http://{host}:{port}#@example.com/", "http://example.com:80@{host}:{port}/x", "http://{host}:{port}\\@example.com/",
        "http:\\\\{host}:{port}\\", "http:/{host}:{port}/", "http:///{host}:{port}/", "http://{host}:{port}/%0d%0aHost:%20x", "HtTp://{host}:{port}/",
        "http://{host}:{port}/?x=\r\nHost: y", " http://{host}:{port}/", "http://{host}\t:{port}/", "http://{host}/",
    ]  # fmt: skip
    others = [
        "file:///etc/passwd", "file://localhost/etc/passwd", "ftp://127.0.0.1:{port}/", "gopher://127.0.0.1:{port}/_x", "dict://127.0.0.1:{port}/",
        "ldap://127.0.0.1:{port}/", "unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/x", "jar:http://127.0.0.1:{port}!/",
        "//127.0.0.1:{port}/", "127.0.0.1:{port}/x.png", "javascript:alert(1)", "http://", "http://:{port}/", "http://[/", "http://[::1:{port}/",
        "http://127.0.0.1:{port}:80/", "http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "ws://127.0.0.1:{port}/", "view-source:http://127.0.0.1:{port}/",
        "data:text/html,<img src=http://127.0.0.1:{port}/>", "data:image/svg+xml;base64,PHN2Zy8+", "netdoc:///etc/passwd",
        "http://127.0.0.1:{port}" + "/a" * 2000,
    ]  # fmt: skip
    made = [shape.format(host=host, port=port) for shape in shapes for host in hosts] + [other.replace("{port}", str(port)) for other in others]
    random.Random(7).shuffle(made)
    # Every one of `others`, and as many of the products as it takes.
    singular = [other.replace("{port}", str(port)) for other in others]
    return singular + [each for each in made if each not in singular]


async def ask_all(server: Attacked, urls: list[str]) -> tuple[Counter[int], list[str]]:
    statuses: Counter[int] = Counter()
    texts: list[str] = []
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}", timeout=aiohttp.ClientTimeout(60)) as session:

        async def one(index: int) -> None:
            content = [{"type": "image_url", "image_url": {"url": urls[index]}}]
            async with session.post(
                "/v1/chat/completions", json={"model": "chat", "messages": [{"role": "user", "content": content}]}
            ) as answer:
                statuses[answer.status] += 1
                texts.append(await answer.text())

        await gather_limited(len(urls), 16, one)
    return statuses, texts


@pytest.mark.parametrize("hosts", [[], ["*"], ["localhost", "127.0.0.1"]], ids=["off, as it comes", "every public host", "even hosts named"])
def test_nobody_in_the_own_network_is_asked(attack: Attack, hosts: list[str]) -> None:
    """300 URLs: all 400, no canary hit, whether pictures are fetched at all or not; naming a host does not make its private address public."""
    with (
        canaries() as (port, hits),
        attack({"model": {"engine": "echo"}, "modelName": "chat", "access": {"remoteImageHosts": hosts}}) as server,
    ):
        # Port 80 and 443 only are let through: half of the list says so, and so the check of addresses itself is reached.
        urls = forms(port)[: times(300, 300) // 2] + forms(80)[: times(300, 300) // 2]
        statuses, texts = asyncio.run(ask_all(server, urls))
        assert statuses == {400: len(urls)}
        assert hits == []
        assert all(json.loads(text)["error"]["type"] == "invalid_request_error" for text in texts)
        assert not any("root:" in text for text in texts)
        server.still_answers()
