"""What the API offers, asked for by the official client: choices, log-probabilities, chunk sizes, keys, priorities, budgets, quality."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai
import pytest

from deepseek_serving import metric_names as names
from deepseek_serving.keys import new_key
from deepseek_serving.settings import ServingSettings

Serve = Callable[[dict[str, Any]], AbstractContextManager[Any]]


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def words(count: int) -> str:
    return " ".join(["w"] * count)


def echo_args(**sections: Any) -> dict[str, Any]:
    return {"model": {"engine": "echo"}, "modelName": "chat", **sections}


def test_three_choices_come_whole_and_in_one_stream(echo: Any) -> None:
    """n = 3: three whole answers of 2 words, 6 tokens of usage; streamed, the same three, each with its own end."""
    answer = echo.client.chat.completions.create(model="chat", messages=user("one two"), n=3)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(index, "one two") for index in range(3)]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 6)
    texts, ends = ["", "", ""], [0, 0, 0]
    for chunk in echo.client.chat.completions.create(model="chat", messages=user("one two"), n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] += choice.finish_reason is not None
    assert (texts, ends) == (["one two"] * 3, [1] * 3)


def test_log_probabilities_come_with_each_token(echo: Any) -> None:
    """The echo is certain: 0.0 for each of 3 words. In a stream each chunk carries those of its text; without asking there are none."""
    answer = echo.client.chat.completions.create(model="chat", messages=user("a bé c"), logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert [(token.token, token.logprob) for token in tokens] == [("a", 0.0), (" bé", 0.0), (" c", 0.0)]
    assert bytes(tokens[1].bytes).decode() == " bé"
    assert [other.token for other in tokens[0].top_logprobs] == ["a"]
    stream = echo.client.chat.completions.create(model="chat", messages=user("a bé c"), logprobs=True, stream=True)
    streamed = [
        (chunk.choices[0].delta.content, [token.token for token in chunk.choices[0].logprobs.content])
        for chunk in stream
        if chunk.choices[0].logprobs is not None
    ]
    assert streamed == [("a", ["a"]), (" bé", [" bé"]), (" c", [" c"])]
    assert echo.client.chat.completions.create(model="chat", messages=user("a")).choices[0].logprobs is None


def test_log_probabilities_of_a_continuation(echo: Any) -> None:
    logprobs = echo.client.completions.create(model="chat", prompt="once upon a", logprobs=1).choices[0].logprobs
    assert logprobs.tokens == ["once", " upon", " a"]
    assert logprobs.token_logprobs == [0.0, 0.0, 0.0]
    assert logprobs.top_logprobs == [{"once": 0.0}, {" upon": 0.0}, {" a": 0.0}]
    assert logprobs.text_offset == [0, 4, 9]


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        ("token", ["One", " two.", " Three", " four!", " Five"]),
        ("word", ["One ", "two. ", "Three ", "four! Five"]),
        ("sentence", ["One two. ", "Three four! Five"]),
        ("paragraph", ["One two. Three four! Five"]),
    ],
)
def test_chunks_are_as_large_as_the_client_likes(echo: Any, size: str, pieces: list[str]) -> None:
    """The last token ends whatever is open, so its unit leaves with the one before."""
    stream = echo.client.chat.completions.create(
        model="chat", messages=user("One two. Three four! Five"), stream=True, extra_body={"chunk_size": size}
    )
    assert [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content] == pieces


def test_usage_tells_image_tokens_apart(echo: Any) -> None:
    answer = echo.client.chat.completions.create(model="chat", messages=user("hi"))
    assert answer.usage.model_dump()["prompt_tokens_details"]["image_tokens"] == 0


def test_the_document_of_the_api_is_served_and_names_its_types(echo: Any) -> None:
    document = json.loads(echo.client.with_options(base_url=echo.url).get("/openapi.json", cast_to=str))
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]["/v1/chat/completions"]["post"]["responses"]) >= {"200", "400", "401", "413", "429"}
    assert "chunk_size" in document["components"]["schemas"]["ChatRequest"]["properties"]


# ------------------------------------------------------------------------------------------------------------------- keys


@pytest.fixture
def guarded(serve: Serve, tmp_path: Path) -> Iterator[tuple[Any, str, Path]]:
    """A server that asks for keys, a key that is good there, and the folder of keys."""
    key, line = new_key()
    (tmp_path / "alice").write_text(line)
    with serve(echo_args(access={"keysFolder": str(tmp_path)})) as server:
        yield server, key, tmp_path


def test_without_a_valid_key_is_401_everywhere_but_for_probes(guarded: tuple[Any, str, Path]) -> None:
    server, key, _ = guarded
    for wrong in ("none", key[:-1], key + "x"):
        client = server.client.with_options(api_key=wrong)
        with pytest.raises(openai.AuthenticationError) as refusal:
            client.chat.completions.create(model="chat", messages=user("hi"))
        assert refusal.value.body["code"] == "invalid_api_key"
        assert refusal.value.response.headers["www-authenticate"] == "Bearer"
        assert key not in refusal.value.response.text
    with pytest.raises(openai.AuthenticationError):
        server.client.models.list()
    with pytest.raises(openai.AuthenticationError):
        server.client.get("/nothing", cast_to=str)
    root = server.client.with_options(base_url=server.url)
    assert (root.get("/healthz", cast_to=str), root.get("/readyz", cast_to=str)) == ("ok\n", "ok\n")
    good = server.client.with_options(api_key=key)
    assert good.chat.completions.create(model="chat", messages=user("hi")).choices[0].message.content == "hi"
    server.wait_until(lambda: server.ledger.value(names.REQUESTS_UNAUTHORIZED, "key") == 5)
    server.wait_until(lambda: server.ledger.value(names.REQUESTS_OFFERED, "text") == 1)


def test_a_new_key_is_good_and_an_old_one_bad_within_seconds_without_a_restart(guarded: tuple[Any, str, Path]) -> None:
    server, old, folder = guarded
    new, line = new_key()
    (folder / "alice").write_text(line + "\n")

    def works(key: str) -> bool:
        try:
            server.client.with_options(api_key=key).models.list()
        except (openai.AuthenticationError, openai.RateLimitError):
            return False
        return True

    server.wait_until(lambda: works(new))
    assert not works(old)


def test_two_authorization_headers_are_none(guarded: tuple[Any, str, Path]) -> None:
    import http.client

    server, key, _ = guarded
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.putrequest("GET", "/v1/models")
    for value in (f"Bearer {key}", f"Bearer {key}"):
        connection.putheader("Authorization", value)
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_a_budget_that_is_used_up_is_429_with_the_time_to_wait(serve: Serve, tmp_path: Path) -> None:
    """60 tokens a minute; one answer of 40 + 40 leaves −20: the next comes in 21 s, less what has passed meanwhile."""
    key, line = new_key()
    (tmp_path / "alice").write_text(f"tokens-per-minute: 60\n{line}")
    with serve(echo_args(access={"keysFolder": str(tmp_path)})) as server:
        client = server.client.with_options(api_key=key)
        client.chat.completions.create(model="chat", messages=user(words(40)))
        with pytest.raises(openai.RateLimitError) as refusal:
            client.chat.completions.create(model="chat", messages=user("hi"))
        assert 11 <= int(refusal.value.response.headers["retry-after"]) <= 21
        server.wait_until(lambda: server.ledger.value(names.REQUESTS_REJECTED) == 1)


# ---------------------------------------------------------------------------------------------------- priorities, overload


async def test_interactive_work_goes_before_batch_work(serve: Serve) -> None:
    """1 at a time: behind a running answer wait 3 of batch, asked for in two ways, and then 2 interactive ones; those end first."""
    with serve(echo_args(serving={"maxOngoingRequests": 1, "maxTokensPerSecond": 50})) as server:
        ended: list[str] = []

        async def ask(name: str, **options: Any) -> None:
            await client.chat.completions.create(model="chat", messages=user(words(100 if name == "first" else 10)), **options)
            ended.append(name)

        async with server.async_client as client:
            tasks = [asyncio.create_task(ask("first"))]
            await asyncio.to_thread(server.wait_until, lambda: server.service.admission.running == 1)
            batch: list[dict[str, Any]] = [{"extra_body": {"priority": -5}}, {"service_tier": "flex"}, {"extra_body": {"priority": -1}}]
            tasks += [asyncio.create_task(ask("batch", **options)) for options in batch]
            await asyncio.to_thread(server.wait_until, lambda: server.service.admission.waiting == 3)
            tasks += [asyncio.create_task(ask("interactive")) for _ in range(2)]
            await asyncio.gather(*tasks)
        assert ended == ["first", "interactive", "interactive", "batch", "batch", "batch"]


async def test_a_client_s_impatience_is_respected(serve: Serve) -> None:
    """x-max-queue-seconds: 0.3 behind a 20 s answer: refused after 0.3 s (10 s on a busy machine), not after the server's 60."""
    with serve(echo_args(serving={"maxOngoingRequests": 1, "maxTokensPerSecond": 10})) as server:
        async with server.async_client as client:
            running = asyncio.create_task(client.chat.completions.create(model="chat", messages=user(words(200))))
            await asyncio.to_thread(server.wait_until, lambda: server.service.admission.running == 1)
            began = time.monotonic()
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model="chat", messages=user("hi"), extra_headers={"x-max-queue-seconds": "0.3"})
            assert 0.25 <= time.monotonic() - began <= 10
            running.cancel()


async def test_under_overload_answers_are_shorter_where_the_settings_allow_it_and_say_so(serve: Serve) -> None:
    """2 of 4 places in the queue taken: from then on 5 words instead of 20, with a header; the first, begun before, has its 20."""
    settings = {"serving": {"maxOngoingRequests": 1, "maxQueuedRequests": 4, "maxTokensPerSecond": 20}, "degrade": {"maxOutputTokens": 5}}
    with serve(echo_args(**settings)) as server:

        async def ask(stream: bool) -> tuple[int, str | None]:
            raw = await client.chat.completions.with_raw_response.create(model="chat", messages=user(words(20)), stream=stream)
            parsed = raw.parse()
            if not stream:
                return parsed.usage.completion_tokens, raw.headers.get("x-degraded")
            return len([chunk async for chunk in parsed if chunk.choices[0].delta.content]), raw.headers.get("x-degraded")

        async with server.async_client as client:
            answers = await asyncio.gather(*(ask(index % 2 == 1) for index in range(4)))
        assert sorted(answers, key=str) == sorted([(20, None), *[(5, "max-output-tokens=5")] * 3], key=str)
        server.wait_until(lambda: server.ledger.value(names.REQUESTS_DEGRADED, "max-output-tokens") == 3)
        assert server.ledger.value(names.DEGRADED) == 1


def test_settings_of_access_and_quality_survive_the_way_through_the_serve_config() -> None:
    args = echo_args(access={"keysFolder": "/keys", "remoteImageHosts": ["a.test"]}, degrade={"quantization": "int4"})
    settings = ServingSettings.from_args(json.loads(json.dumps(ServingSettings.from_args(args).to_args())))
    assert (settings.access.keys_folder, settings.access.remote_image_hosts) == ("/keys", ("a.test",))
    assert settings.degrade.quantization == "int4"
