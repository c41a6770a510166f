"""JSON, bodies and connections from people who mean no good."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
import time
from typing import Any

import pytest
from hardening.rig import FULL, Attacked, times

GOOD = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


def body(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def deep(depth: int) -> bytes:
    return b'{"model": "chat", "messages": [], "x": ' + b"[" * depth + b"]" * depth + b"}"


JSON_ATTACKS: dict[str, bytes] = {
    "nothing": b"",
    "100,000 brackets": b"[" * 100_000,
    "100,000 deep in an unknown field": deep(100_000),
    "a million keys": ("{" + ",".join(f'"k{index}":1' for index in range(1_000_000)) + "}").encode(),
    "a million empty messages": body(messages=[]).replace(b"[]", b"[" + b",".join([b"{}"] * 1_000_000) + b"]"),
    "NaN": body().replace(b'"hi"}]', b'"hi"}], "temperature": NaN'),
    "Infinity": body().replace(b'"hi"}]', b'"hi"}], "top_p": Infinity'),
    "1e400": body().replace(b'"hi"}]', b'"hi"}], "temperature": 1e400'),
    "an integer of 100,000 digits": body().replace(b'"hi"}]', b'"hi"}], "max_tokens": ' + b"9" * 100_000),
    "half a surrogate": body().replace(b'"hi"', b'"\\ud800"'),
    "broken UTF-8": body().replace(b'"hi"', b'"\xff\xfe"'),
    "n = 1,000,000": body(n=1_000_000),
    "n = 9": body(n=9),
    "max_tokens = −1": body(max_tokens=-1),
    "max_tokens = 10¹²": body(max_tokens=10**12),
    "10,000 stop texts": body(stop=["x"] * 10_000),
    "a stop text of 1 MB": body(stop="x" * 1_000_000),
    "100,000 biases": body(logit_bias={str(index): 1 for index in range(100_000)}),
    "top_logprobs = 10⁶": body(logprobs=True, top_logprobs=10**6),
    "no messages": body(messages=[]),
    "2,000 messages": body(messages=user("hi") * 2000),
    "an unknown role": body(messages=[{"role": "root", "content": "hi"}]),
    "an unknown part": body(messages=[{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "http://127.0.0.1"}}]}]),
    "tools": body(tools=[{"type": "function", "function": {"name": "x", "parameters": {"$ref": "#"}}}]),
    "a schema that refers to itself without end": body(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}
    ),
    "a schema from elsewhere": body(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://127.0.0.1/x"}}}
    ),
    "a schema of 1 MB": body(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["x" * 100] * 10_000}}}),
    "a pattern that explodes": body(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "^(" + "(a{1,1000}){1,1000}" * 3 + ")$"}},
        }
    ),
    "ten nested repetitions": body(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "array", "minItems": 10**9, "items": {"type": "array", "minItems": 10**9}}},
        }
    ),
    "a model elsewhere": body(model="../../etc/passwd"),
    "a model with a line break": body(model="x\nERROR forged line"),
    "a prompt of 10 MB": body(messages=user("x " * 5_000_000)),
    "a list": b"[1]",
    "a string": b'"hi"',
    "null": b"null",
    "two bodies": body() + body(),
    "a comma too many": body()[:-1] + b",}",
    "a byte order mark": b"\xef\xbb\xbf" + body(),
    "a NUL": body().replace(b'"hi"', b'"a\\u0000b"'),
    "the same key twice": body()[:-1] + b', "n": 100}',
}

ALLOWED_200 = {"a NUL", "max_tokens = 10¹²", "half a surrogate"}


@pytest.mark.parametrize("name", JSON_ATTACKS)
def test_odd_json_is_4xx_in_openai_s_shape_and_holds_nobody_up(server: Attacked, name: str) -> None:
    """400, 404 or 413; the event loop turns again after at most 100 ms of the process' own time, so other clients' streams go on."""
    held = []
    for path in ("/v1/chat/completions", "/v1/completions"):
        # The shortest of three: what holds it up holds it up each time, a machine that is busy elsewhere does not.
        for _ in range(3):
            server.numbers()
            status, answer = server.ask("POST", path, JSON_ATTACKS[name])
            held.append(server.numbers()["held_seconds"])
            assert status in (400, 404, 413) or (name in ALLOWED_200 and status == 200), (status, answer[:300])
            if status != 200:
                assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
                assert len(answer) < 2000
            if held[-1] < 0.1:
                break
        assert held[-1] < 0.1, held


def test_random_bytes_and_random_changes_are_never_a_5xx(server: Attacked) -> None:
    """2,000 bodies (300 in the part)."""
    rng = random.Random(11)
    for _ in range(times(2000, 300)):
        raw = bytearray(body(stop=["a"], n=2, stream=rng.random() < 0.3, temperature=0.5))
        for _ in range(rng.choice((1, 3, 20))):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        status, answer = server.ask("POST", rng.choice(("/v1/chat/completions", "/v1/completions")), bytes(raw))
        assert status in (200, 400, 404), (status, bytes(raw), answer)
    server.still_answers()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/..%2f..%2f..%2fetc%2fpasswd"), ("GET", "/v1/models/../../etc/passwd"), ("GET", "/v1/models/%00"),
        ("GET", "//etc/passwd"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd"), ("GET", "/v1/chat/completions/../../../x"), ("POST", "/healthz"), ("DELETE", "/v1/models/chat"),
        ("PUT", "/v1/completions"), ("GET", "/" + "a" * 20_000), ("GET", "/v1/models/chat%0d%0aSet-Cookie:%20x=1"), ("OPTIONS", "/v1/models"),
        ("TRACE", "/v1/models"), ("GET", "/metrics"), ("GET", "/debug"), ("GET", "/.git/config"), ("GET", "/-/routes"),
    ],
)  # fmt: skip
def test_odd_paths_lead_nowhere(server: Attacked, method: str, path: str) -> None:
    status, answer = server.ask(method, path)
    assert status in (400, 404, 405)
    assert b"root:" not in answer
    assert b"Traceback" not in answer


def raw_connection(server: Attacked) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_a_body_of_2_gib_is_413_before_it_is_sent(server: Attacked) -> None:
    """Announced by its length: the answer comes although not one byte of the body was sent."""
    with raw_connection(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 2147483648\r\n\r\n")
        assert b" 413 " in connection.recv(4096)


def test_a_body_without_length_is_413_at_20_mib(server: Attacked) -> None:
    """Sent in chunks for ever: answered once the limit is passed; memory grows by 2 × 20 MiB at most."""
    before = server.resident_mebibytes()
    server.forget_the_peak()
    with raw_connection(server) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.sendall(chunk)
                sent += 1
        with contextlib.suppress(OSError):
            assert b" 413 " in connection.recv(4096)
    assert sent >= 20
    assert server.peak_mebibytes() - before <= 60
    server.still_answers()


@pytest.mark.parametrize(
    ("headers", "sent", "status"),
    [
        ({"Content-Encoding": "gzip"}, gzip.compress(b" " * 100_000_000), 415),
        ({"Content-Encoding": "br"}, b"x", 415),
        ({"Content-Type": "text/plain"}, body(), 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, body(), 415),
        ({"Content-Type": "application/json; charset=utf-8"}, body(), 200),
        ({"Content-Type": "application/vnd.api+json"}, body(), 200),
        ({"X-Max-Queue-Seconds": "nan"}, body(), 200),
        ({"X-Max-Queue-Seconds": "-1e999"}, body(), 200),
    ],
)
def test_a_body_in_another_form_is_415(server: Attacked, headers: dict[str, str], sent: bytes, status: int) -> None:
    assert server.ask("POST", "/v1/chat/completions", sent, headers)[0] == status


def test_a_length_that_lies_hurts_nobody(server: Attacked) -> None:
    """Shorter than the body: the rest is no request of anybody. Two lengths, a length and chunks, a negative one: 400 or closed."""
    with raw_connection(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 5\r\n\r\n" + body())
        assert b" 400 " in connection.recv(4096)
    for lengths in (
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ):
        with raw_connection(server) as connection:
            connection.sendall(HEAD + lengths + b"\r\n" + body())
            answer = connection.recv(4096)
            assert answer == b"" or b" 400 " in answer
    server.still_answers()


def wait_closed(connection: socket.socket) -> bool:
    """Whether the other side closed it, now or within 10 s."""
    connection.settimeout(10)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_heads_that_never_end_are_cut_off_after_10_seconds_while_others_are_served(server: Attacked) -> None:
    """500 connections (100 in the part) that send a header line a second: all closed after 10 s; requests meanwhile are answered."""
    connections = [raw_connection(server) for _ in range(times(500, 100))]
    for connection in connections:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
    began = time.monotonic()
    while time.monotonic() - began < 11:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(b"X-Slow: 1\r\n")
        assert server.chat("hello")[0] == 200
        time.sleep(1)
    for connection in connections:
        assert wait_closed(connection)
        connection.close()
    assert server.numbers()["held_seconds"] < 0.2


def test_a_head_of_a_megabyte_is_cut_off(server: Attacked) -> None:
    """200 headers of 8 kB: closed unanswered, though the head comes to its end."""
    answer = b""
    with raw_connection(server) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        for _ in range(200):
            connection.sendall(b"X-Long: " + b"x" * 8000 + b"\r\n")
        connection.sendall(b"\r\n")
        answer = connection.recv(4096)
    assert answer == b""
    server.still_answers()


@pytest.mark.skipif(not FULL, reason="takes 30 s")
def test_bodies_that_never_come_are_408_after_30_seconds(server: Attacked) -> None:
    """500 connections that announce 1,000 bytes and send one a second; others are served meanwhile, and no place is held."""
    connections = [raw_connection(server) for _ in range(500)]
    for connection in connections:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
    began = time.monotonic()
    while time.monotonic() - began < 30:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(b" ")
        server.still_answers()
        time.sleep(1)
    statuses = []
    for connection in connections:
        connection.settimeout(10)
        with contextlib.suppress(OSError):
            statuses.append(connection.recv(4096).partition(b" ")[2][:3])
        connection.close()
    assert statuses.count(b"408") >= 490
    assert server.resident_mebibytes() < 400
