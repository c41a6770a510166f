"""More load than the server can carry: it goes on working at its capacity, and tells the rest when to come back. Figures are in the bench."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from hardening.rig import Attacked, times

from deepseek_serving.keys import new_key

Attack = Callable[[dict[str, Any]], AbstractContextManager[Attacked]]
CAPACITY = 50
"""Requests per second: 400 tokens a second, 8 tokens each."""

LIMITS = {"maxTokensPerSecond": 400, "maxOngoingRequests": 8, "maxQueuedRequests": 8}


async def flood(server: Attacked, rate: float, seconds: float, *, key: str = "", **options: Any) -> tuple[Counter[int], list[str]]:
    """Requests at even distances, whatever becomes of them: how many of each status, and the Retry-After of those refused."""
    statuses: Counter[int] = Counter()
    retry_after: list[str] = []
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": "chat", "messages": [{"role": "user", "content": "w w w w w w w w"}], **options}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}", connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def one() -> None:
            async with session.post("/v1/chat/completions", json=body) as answer:
                statuses[answer.status] += 1
                if answer.status != 200:
                    retry_after.append(answer.headers.get("Retry-After", ""))
                    assert set(json.loads(await answer.text())["error"]) == {"message", "type", "param", "code"}
                else:
                    await answer.read()

        tasks = []
        began = time.monotonic()
        for index in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + index / rate - time.monotonic()))
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
    return statuses, retry_after


@pytest.mark.parametrize("factor", [2, 5])
def test_what_is_too_much_is_429_with_a_whole_number_of_seconds_and_nothing_else(attack: Attack, factor: int) -> None:
    """20 s (4 s in the part): only 200 and 429; at least 80 % of the capacity is served even on a busy machine; then all is as before."""
    seconds = times(20, 4)
    with attack({"model": {"engine": "echo"}, "modelName": "chat", "serving": LIMITS, "testQuiet": True}) as server:
        statuses, retry_after = asyncio.run(flood(server, factor * CAPACITY, seconds))
        assert set(statuses) == {200, 429}
        assert statuses[200] >= 0.8 * CAPACITY * seconds
        assert all(text.isdigit() and 1 <= int(text) <= 120 for text in retry_after)
        server.still_answers()
        time.sleep(0.6)  # metrics are written twice a second
        metrics = server.numbers()["metrics"]
        assert metrics["ray_deepseek_requests_offered_total['text']"] == sum(statuses.values()) + 1
        assert metrics["ray_deepseek_requests_rejected_total[]"] == statuses[429]


def test_one_client_s_flood_leaves_the_others_their_share(attack: Attack, tmp_path: Path) -> None:
    """9 clients at 4/s each beside one at 40/s, capacity 50/s: of the nine's requests at least 95 % are answered, of the flood's less."""
    keys = [new_key() for _ in range(10)]
    for index, (_, line) in enumerate(keys):
        (tmp_path / f"client-{index}").write_text(line)
    settings = {"model": {"engine": "echo"}, "modelName": "chat", "serving": LIMITS, "access": {"keysFolder": str(tmp_path)}, "testQuiet": True}

    async def play(server: Attacked) -> list[tuple[Counter[int], list[str]]]:
        seconds = times(20, 5)

        async def later(index: int) -> tuple[Counter[int], list[str]]:
            await asyncio.sleep(index / 40)  # not all in the same instant
            return await flood(server, 4, seconds, key=keys[index][0])

        normal = [later(index) for index in range(9)]
        return await asyncio.gather(*normal, flood(server, 40, seconds, key=keys[9][0]))

    with attack(settings) as server:
        *normal, heavy = asyncio.run(play(server))
    served = sum((statuses for statuses, _ in normal), Counter())
    assert set(served) <= {200, 429}
    assert served[200] / served.total() >= 0.95
    assert heavy[0][200] / heavy[0].total() < served[200] / served.total()


def test_the_official_client_s_retries_bring_nearly_everybody_through(attack: Attack) -> None:
    """1.2 × the capacity for 5 s, then nothing: with the client's own two retries at least 95 % are served in the end."""

    async def play(server: Attacked) -> Counter[str]:
        outcomes: Counter[str] = Counter()

        async def one(client: openai.AsyncOpenAI) -> None:
            try:
                await client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "w w w w w w w w"}])
                outcomes["served"] += 1
            except openai.RateLimitError:
                outcomes["refused"] += 1

        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=2, timeout=60) as client:
            tasks = []
            for _ in range(int(1.2 * CAPACITY * 5)):
                tasks.append(asyncio.create_task(one(client)))
                await asyncio.sleep(1 / (1.2 * CAPACITY))
            await asyncio.gather(*tasks)
        return outcomes

    with attack({"model": {"engine": "echo"}, "modelName": "chat", "serving": LIMITS, "testQuiet": True}) as server:
        outcomes = asyncio.run(play(server))
    assert outcomes["served"] / outcomes.total() >= 0.95


def test_batch_work_gives_way(attack: Attack) -> None:
    """3 × the capacity of batch work beside 0.3 × of interactive: no interactive request is refused, most of the batch is."""

    async def play(server: Attacked) -> list[tuple[Counter[int], list[str]]]:
        seconds = times(20, 5)
        return await asyncio.gather(flood(server, 0.3 * CAPACITY, seconds), flood(server, 3 * CAPACITY, seconds, priority=-1))

    with attack({"model": {"engine": "echo"}, "modelName": "chat", "serving": LIMITS, "testQuiet": True}) as server:
        (interactive, _), (batch, _) = asyncio.run(play(server))
    assert set(interactive) == {200}
    assert batch[429] > batch[200] > 0
