"""The open-loop load generator, against a real HTTP server that stands where the forward proxy does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from deepseek_demo.letters import Letter, write_letters
from deepseek_demo.player import LATE_SECONDS, Answer, Player

URL = "http://chat-serve-svc.default.svc.cluster.local:8000/v1/chat/completions"
LETTERS = write_letters(20, "chat", image_share=0.8, stream_share=0.5, seed=1)
Answerer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Served = Callable[[Answerer], Awaitable[str]]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """Serve one answerer; gives the address to use as proxy."""
    servers: list[TestServer] = []

    async def serve(answerer: Answerer) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answerer)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return f"http://127.0.0.1:{server.port}"

    yield serve
    for server in servers:
        await server.close()


async def right(request: web.Request) -> web.StreamResponse:
    """Answer as the service does, with the caption the letter expects."""
    assert request.url.host == "chat-serve-svc.default.svc.cluster.local", "requests go through the proxy in absolute form"
    body = await request.read()
    text = next(letter.answer for letter in LETTERS if letter.body == body)
    if not json.loads(body)["stream"]:
        return web.json_response({"choices": [{"message": {"content": text}}]})
    return await stream(request, text.split(" "), done=True)


async def stream(request: web.Request, words: list[str], *, done: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n')
    for number, word in enumerate(words):
        event = {"choices": [{"delta": {"content": word if number == 0 else " " + word}}]}
        await response.write(f"data: {json.dumps(event)}\n\n".encode())
    if done:
        await response.write(b"data: [DONE]\n\n")
    return response


async def play(proxy: str, letters: list[Letter], requests: int) -> Player:
    player = Player(URL, proxy, letters, seed=3)
    await player.play(np.full(1, requests * 4.0), 0.25, time.monotonic())
    return player


async def test_every_request_of_a_step_is_sent_once_and_captions_are_checked(served: Served) -> None:
    tally = (await play(await served(right), LETTERS, 20)).tally
    assert (tally.sent, tally.answered, tally.failed, tally.late) == (20, 20, 0, 0)
    pictures = sum(letter.has_picture for letter in LETTERS)
    assert 10 <= pictures < 20
    assert (tally.checked, tally.right) == (pictures, pictures)


async def test_a_wrong_caption_is_answered_but_not_right(served: Served) -> None:
    letters = [letter for letter in LETTERS if letter.has_picture][:1]
    wrong = [replace(letters[0], answer="a red circle at the top left.")]
    tally = (await play(await served(right), wrong, 1)).tally
    assert (tally.answered, tally.checked, tally.right) == (1, 1, 0)


async def test_a_429_is_not_sent_again_and_counts_as_failed(served: Served) -> None:
    calls: list[str] = []

    async def full(request: web.Request) -> web.StreamResponse:
        calls.append(request.path)
        return web.json_response({}, status=429)

    tally = (await play(await served(full), LETTERS, 4)).tally
    assert len(calls) == 4
    assert dict(tally.failures) == {"429": 4}


async def test_a_stream_without_its_end_has_failed(served: Served) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        return await stream(request, ["a", "red"], done=False)

    tally = (await play(await served(cut), [letter for letter in LETTERS if letter.streamed], 2)).tally
    assert dict(tally.failures) == {"200: stream ended early": 2}


async def test_nobody_listening_is_no_answer_and_ends_the_wait_for_the_first_one() -> None:
    player = Player(URL, "http://127.0.0.1:9", LETTERS, seed=3)
    await player.play(np.full(1, 2.0), 1.0, time.monotonic() - 0.5)
    assert dict(player.tally.failures) == {"no answer: ClientProxyConnectionError": 2}
    with pytest.raises(TimeoutError, match="ClientProxyConnectionError"):
        await player.until_answered(0.0)


async def test_slow_answers_do_not_hold_later_requests_back(served: Served) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.6)
        return await right(request)

    begun = time.monotonic()
    tally = (await play(await served(slow), LETTERS, 20)).tally
    assert tally.answered == 20
    assert max(tally.sent_at) < 0.5
    assert time.monotonic() - begun < 2.5  # one after the other would be 12 s


async def test_steps_already_past_are_left_out(served: Served) -> None:
    player = Player(URL, await served(right), LETTERS, seed=3)
    await player.play(np.full(10, 4.0), 1.0, time.monotonic() - 9.0)
    assert 0 < player.tally.sent <= 8  # the step that runs and at most the one before it


def test_more_than_10_seconds_to_the_first_token_is_late() -> None:
    assert LATE_SECONDS == 10
    assert not Answer(0.0, 10.0, 12.0, 200).late
    assert Answer(0.0, 10.1, 12.0, 200).late
    assert not Answer(0.0, 60.0, 60.0, 0, fault="TimeoutError").late, "a failure is counted once"


@pytest.mark.parametrize("proxy", ["http://192.0.2.7:8888", "http://example.com", ""])
def test_only_a_proxy_on_this_machine_is_used(proxy: str) -> None:
    with pytest.raises(ValueError, match="must be an address of this machine"):
        Player(URL, proxy, LETTERS, seed=3)


async def test_a_play_of_a_million_requests_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 20000 requests"):
        await Player(URL, "http://127.0.0.1:9", LETTERS, seed=3).play(np.full(100, 10_000.0), 1.0, time.monotonic())
