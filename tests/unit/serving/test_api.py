"""The HTTP API through a real server, asked by the official client and by hand."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from deepseek_serving import metric_names as names
from deepseek_serving.shapes import draw
from deepseek_serving.streaming import EventStream

PICTURE = draw(random.Random(1)).data_url


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def words(count: int) -> str:
    return " ".join(["w"] * count)


@dataclass
class Answer:
    status: int
    headers: Any
    text: str


def request(method: str, url: str, body: bytes | None = None) -> Answer:
    """An answer as it is, whatever its status."""
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return Answer(answer.status, answer.headers, answer.read().decode())
    except urllib.error.HTTPError as answer:
        with answer:
            return Answer(answer.code, answer.headers, answer.read().decode())


def test_a_chat_answers_whole(echo: Any) -> None:
    answer = echo.client.chat.completions.create(model="chat", messages=user("one two three"))
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3, 6)
    assert answer.id.startswith("chatcmpl-")


def test_a_chat_answers_in_a_stream_with_usage(echo: Any) -> None:
    stream = echo.client.chat.completions.create(
        model="chat", messages=user("one two three"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 6)


async def test_the_async_client_streams_and_sees_pictures(echo: Any) -> None:
    content: Any = [{"type": "text", "text": "look:"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    async with echo.async_client as client:
        stream = await client.chat.completions.create(model="chat", messages=user(content), stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "look: [48x48 picture]"


def test_completions_continue_a_text(echo: Any) -> None:
    assert echo.client.completions.create(model="chat", prompt="once upon").choices[0].text == "once upon"
    stream = echo.client.completions.create(model="chat", prompt="once upon", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "once upon"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cuts_and_says_so(echo: Any, name: str) -> None:
    answer = echo.client.chat.completions.create(model="chat", messages=user("one two three"), **{name: 2})
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two", "length")


def test_the_server_s_own_limit_cuts_too(echo: Any) -> None:
    """maxOutputTokens 100: 150 words come back as 100, whatever the client allows."""
    answer = echo.client.chat.completions.create(model="chat", messages=user(words(150)), max_tokens=1000)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (100, "length")


def test_stop_texts_end_the_answer(echo: Any) -> None:
    for stream in (False, True):
        answer = echo.client.chat.completions.create(model="chat", messages=user("one two three four"), stop=["two thr"], stream=stream)
        if stream:
            chunks = list(answer)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one "
            assert chunks[-1].choices[0].finish_reason == "stop"
        else:
            assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one ", "stop")


def test_models_are_listed_by_their_served_name(echo: Any) -> None:
    assert [model.id for model in echo.client.models.list()] == ["chat"]
    assert echo.client.models.retrieve("chat").owned_by == "deepseek-serving"


@pytest.mark.parametrize(
    ("body", "status", "param", "code", "says"),
    [
        (b"{", 400, None, None, "not valid JSON"),
        (b"[" * 100_000, 400, None, None, "not valid JSON"),
        (b"[]", 400, None, None, "object"),
        (b'{"model": "chat"}', 400, "messages", None, "required"),
        ({"model": "other", "messages": user("hi")}, 404, "model", "model_not_found", "does not exist"),
        ({"model": "chat", "messages": []}, 400, "messages", None, "at least 1"),
        ({"model": "chat", "messages": [{"role": "wizard", "content": "hi"}]}, 400, "messages.0.role", None, "user"),
        ({"model": "chat", "messages": user("hi"), "max_tokens": -1}, 400, "max_tokens", None, "greater than or equal to 1"),
        ({"model": "chat", "messages": user("hi"), "temperature": 3}, 400, "temperature", None, "less than or equal to 2"),
        ({"model": "chat", "messages": user("hi"), "n": 9}, 400, "n", None, "less than or equal to 8"),
        ({"model": "chat", "messages": user("hi"), "n": 10**6}, 400, "n", None, "less than or equal to 8"),
        ({"model": "chat", "messages": user("hi"), "n": "2"}, 400, "n", None, "integer"),
        ({"model": "chat", "messages": user("hi"), "top_logprobs": 3}, 400, None, None, "logprobs"),
        ({"model": "chat", "messages": user("hi"), "chunk_size": "page"}, 400, "chunk_size", None, "paragraph"),
        (
            {"model": "chat", "messages": user("hi"), "response_format": {"type": "json_object"}},
            400, "response_format", "unsupported_parameter", "echo",
        ),
        (
            {"model": "chat", "messages": user("hi"), "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "beast"}}}},
            400, "response_format", "invalid_json_schema", "cannot be kept to",
        ),
        ({"model": "chat", "messages": user("hi"), "tools": [{"type": "function"}]}, 400, None, None, "tools is not supported"),
        ({"model": "chat", "messages": user("hi"), "stop": [""]}, 400, "stop", None, "stop must be"),
        ({"model": "chat", "messages": user("hi"), "stop": ["x"] * 10_000}, 400, "stop", None, "at most 4"),
        ({"model": "chat", "messages": user({"a": 1})}, 400, "messages.0.content", None, "valid"),
        ({"model": "chat", "messages": user(words(9000))}, 400, "messages", "context_length_exceeded", "8192"),
        (
            {"model": "chat", "messages": user([{"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}])},
            400, "messages", "image_url_refused", "not fetched",
        ),
        ({"model": "chat", "messages": user([{"type": "image_url", "image_url": {"url": PICTURE}}] * 9)}, 400, "messages", None, "at most 8"),
        (
            {"model": "chat", "messages": user([{"type": "image_url", "image_url": {"url": PICTURE[:99]}}])},
            400, "messages", "invalid_image", "The image",
        ),
        (b'{"model": "chat", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', 400, "temperature", None, "finite"),
        (b'{"model": "' + b"x" * 1_100_000 + b'"}', 413, None, "request_too_large", "at most 1 MiB"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_mistake_is_told_in_openai_s_shape(
    echo: Any, body: Any, status: int, param: str | None, code: str | None, says: str, stream: bool
) -> None:
    if isinstance(body, dict):
        body = json.dumps({**body, "stream": stream}).encode()
    answer = request("POST", f"{echo.url}/v1/chat/completions", body)
    assert answer.status == status, answer.text
    error = json.loads(answer.text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert says in error["message"]
    assert len(answer.text) < 1000


def test_the_official_client_raises_its_own_errors(echo: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        echo.client.chat.completions.create(model="other", messages=user("hi"))
    with pytest.raises(openai.BadRequestError):
        echo.client.chat.completions.create(model="chat", messages=[])


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/docs", 404)])
def test_an_unknown_route_is_told_in_openai_s_shape(echo: Any, method: str, path: str, status: int) -> None:
    answer = request(method, echo.url + path)
    assert (answer.status, json.loads(answer.text)["error"]["code"]) == (status, "unknown_url")


def test_health(echo: Any) -> None:
    assert [request("GET", echo.url + path).status for path in ("/healthz", "/readyz")] == [200, 200]


Serve = Callable[[dict[str, Any]], AbstractContextManager[Any]]


def echo_args(**limits: int) -> dict[str, Any]:
    return {"model": {"engine": "echo"}, "modelName": "chat", "serving": limits}


def test_beyond_the_queue_is_429_at_once_and_every_request_is_counted(serve: Serve) -> None:
    """1 runs (2 s), 1 waits, 6 of 8 are refused before its answer ends; offered = 8, rejected = 6, finished ok = 2."""
    with serve(echo_args(maxOngoingRequests=1, maxQueuedRequests=1, maxTokensPerSecond=20)) as server:

        def ask(index: int) -> tuple[int, float, str | None]:
            began = time.monotonic()
            body = {"model": "chat", "stream": index % 2 == 0, "messages": user(words(40))}
            answer = request("POST", f"{server.url}/v1/chat/completions", json.dumps(body).encode())
            return answer.status, time.monotonic() - began, answer.headers.get("retry-after")

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
        refused = [(seconds, retry_after) for status, seconds, retry_after in answers if status == 429]
        assert len(refused) == 6
        assert all(seconds < 1.9 and 1 <= int(retry_after or 0) <= 120 for seconds, retry_after in refused)
        server.wait_until(lambda: server.ledger.value(names.REQUESTS_FINISHED, "ok") == 2)
        assert server.ledger.value(names.REQUESTS_OFFERED, "text") == 8
        assert server.ledger.value(names.REQUESTS_REJECTED) == 6
        assert server.ledger.value(names.WORK_DONE) == 2


def test_waiting_too_long_is_429_and_counted_as_late(serve: Serve) -> None:
    """The only place is taken for 5 s, the queue's limit is 1 s."""
    with serve(echo_args(maxOngoingRequests=1, maxQueuedRequests=5, maxTokensPerSecond=20, requestTimeoutSeconds=1)) as server:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.client.chat.completions.create, model="chat", messages=user(words(100)))
            server.wait_until(lambda: server.service.admission.running == 1)
            with pytest.raises(openai.RateLimitError) as late:
                server.client.chat.completions.create(model="chat", messages=user("hi"))
            assert 1 <= int(late.value.response.headers["retry-after"]) <= 120
            assert first.result().usage.completion_tokens == 100
        server.wait_until(lambda: server.ledger.value(names.REQUESTS_FINISHED, "late") == 1)
        assert server.ledger.value(names.REQUESTS_REJECTED) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_client_that_leaves_frees_its_place_at_once(serve: Serve, stream: bool) -> None:
    """A 100 s answer; its client hangs up after 0.3 s. How soon the place is free is in the bench: 10 s are for a machine that is busy."""
    with serve(echo_args(maxOngoingRequests=1, maxQueuedRequests=0, maxTokensPerSecond=5)) as server:
        body = json.dumps({"model": "chat", "stream": stream, "messages": user(words(500))}).encode()
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            server.wait_until(lambda: server.service.admission.running == 1)
            time.sleep(0.3)
        server.wait_until(lambda: server.service.admission.running == 0, seconds=10)
        assert server.service.engine.stats().running == 0
        server.wait_until(lambda: server.ledger.value(names.REQUESTS_FINISHED, "cancelled") == 1)


async def test_a_stream_that_cannot_be_sent_is_closed_at_once() -> None:
    """The connection breaks at the first byte: both generators are closed by the time the response has ended."""
    closed = []

    async def generator(name: str) -> AsyncGenerator[Any, None]:
        try:
            while True:
                yield b"data"
        finally:
            closed.append(name)

    events, deltas = generator("events"), generator("deltas")
    await anext(deltas)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("connection reset")

    async def receive() -> Any:
        await asyncio.sleep(60)

    with pytest.raises(OSError, match="reset"):
        await EventStream(events, deltas, headers={})({"type": "http"}, receive, send)
    assert sorted(closed) == ["deltas", "events"]


async def test_pacing_holds_for_all_requests_together(serve: Serve) -> None:
    """4 answers of 25 words at 50 words a second take 2 s together at least, and are 2 s of busy time."""
    with serve(echo_args(maxTokensPerSecond=50)) as server:
        async with server.async_client as client:
            began = time.monotonic()
            await asyncio.gather(*(client.chat.completions.create(model="chat", messages=user(words(25))) for _ in range(4)))
            took = time.monotonic() - began
        assert took >= 1.8
        server.wait_until(lambda: server.ledger.value(names.ENGINE_BUSY_SECONDS) >= 1.9)
        assert server.ledger.value(names.ENGINE_BUSY_SECONDS) == pytest.approx(2.0, abs=0.1)
