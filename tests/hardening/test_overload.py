"""More load than the server can carry: it goes on working at its capacity, and tells the rest when to come back. Figures are in the bench."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
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

RUNNING, QUEUED = 8, times(8, 32)
"""A machine that stops for half a second lets half a second's requests come at once. In the part there are places for them, or what is
refused would tell of the machine alone; what admission does at the instant is in tests/unit/serving/test_admission_fairness.py."""

LIMITS = {"maxTokensPerSecond": 400, "maxOngoingRequests": RUNNING, "maxQueuedRequests": QUEUED}


@dataclass
class Flood:
    """What became of requests: how many of each status, the Retry-After of those refused, and in how many seconds all were sent."""

    statuses: Counter[int] = field(default_factory=Counter)
    retry_after: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def served(self) -> float:
        """The share that was answered."""
        return self.statuses[200] / self.statuses.total()


async def flood(server: Attacked, rate: float, seconds: float, *, key: str = "", **options: Any) -> Flood:
    """Requests at even distances, whatever becomes of them."""
    seen = Flood()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": "chat", "messages": [{"role": "user", "content": "w w w w w w w w"}], **options}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}", connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def one() -> None:
            async with session.post("/v1/chat/completions", json=body) as answer:
                seen.statuses[answer.status] += 1
                if answer.status != 200:
                    seen.retry_after.append(answer.headers.get("Retry-After", ""))
                    assert set(json.loads(await answer.text())["error"]) == {"message", "type", "param", "code"}
                else:
                    await answer.read()

        tasks = []
        began = time.monotonic()
        for index in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + index / rate - time.monotonic()))
            tasks.append(asyncio.create_task(one()))
        seen.seconds = time.monotonic() - began
        await asyncio.gather(*tasks)
    return seen


@pytest.mark.parametrize("factor", [2, 5])
def test_what_is_too_much_is_429_with_a_whole_number_of_seconds_and_nothing_else(attack: Attack, factor: int) -> None:
    """20 s (4 s in the part): only 200 and 429; at least 80 % (50 %) of the capacity is served; then all is as before."""
    seconds = times(20, 4)
    with attack({"model": {"engine": "echo"}, "modelName": "chat", "serving": LIMITS, "testQuiet": True}) as server:
        seen = asyncio.run(flood(server, factor * CAPACITY, seconds))
        asked, refused = seen.statuses.total(), seen.statuses[429]
        assert set(seen.statuses) <= {200, 429}
        assert refused or asked <= CAPACITY * seen.seconds + RUNNING + QUEUED, seen
        assert seen.statuses[200] >= times(0.8, 0.5) * CAPACITY * seconds
        assert all(text.isdigit() and 1 <= int(text) <= 120 for text in seen.retry_after)
        server.still_answers()
        offered, rejected = "ray_deepseek_requests_offered_total['text']", "ray_deepseek_requests_rejected_total[]"
        now = server.wait_until(lambda now: now["metrics"][offered] >= asked + 1 and now["metrics"][rejected] >= refused)
        assert (now["metrics"][offered], now["metrics"][rejected]) == (asked + 1, refused)


def test_one_client_s_flood_leaves_the_others_their_share(attack: Attack, tmp_path: Path) -> None:
    """9 clients at 4/s each beside one at 40/s, capacity 50/s: of the nine's requests at least 95 % (85 %) are answered, of the flood's less.

    First come, first served would answer two thirds of everybody's.
    """
    keys = [new_key() for _ in range(10)]
    for index, (_, line) in enumerate(keys):
        (tmp_path / f"client-{index}").write_text(line)
    settings = {"model": {"engine": "echo"}, "modelName": "chat", "serving": LIMITS, "access": {"keysFolder": str(tmp_path)}, "testQuiet": True}

    async def play(server: Attacked) -> list[Flood]:
        seconds = times(20, 5)

        async def later(index: int) -> Flood:
            await asyncio.sleep(index / 40)  # not all in the same instant
            return await flood(server, 4, seconds, key=keys[index][0])

        normal = [later(index) for index in range(9)]
        return await asyncio.gather(*normal, flood(server, 40, seconds, key=keys[9][0]))

    with attack(settings) as server:
        *normal, heavy = asyncio.run(play(server))
    together = Flood(sum((each.statuses for each in normal), Counter()))
    assert set(together.statuses) <= {200, 429}
    assert together.served >= times(0.95, 0.85), (together.statuses, heavy.statuses)
    assert heavy.served < together.served


def test_the_official_client_s_retries_bring_nearly_everybody_through(attack: Attack) -> None:
    """1.2 × the capacity for 5 s, 16 places, then nothing: with the client's own two retries at least 95 % are served in the end.

    In the part: of those refused at first, at least half.
    """
    limits = {**LIMITS, "maxQueuedRequests": 8}

    async def play(server: Attacked) -> Counter[str]:
        outcomes: Counter[str] = Counter()

        async def one(client: openai.AsyncOpenAI) -> None:
            try:
                answer = await client.chat.completions.with_raw_response.create(
                    model="chat", messages=[{"role": "user", "content": "w w w w w w w w"}]
                )
                outcomes["served after a retry" if answer.retries_taken else "served at once"] += 1
            except openai.RateLimitError:
                outcomes["refused"] += 1

        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=2, timeout=60) as client:
            tasks = []
            for _ in range(int(1.2 * CAPACITY * 5)):
                tasks.append(asyncio.create_task(one(client)))
                await asyncio.sleep(1 / (1.2 * CAPACITY))
            await asyncio.gather(*tasks)
        return outcomes

    with attack({"model": {"engine": "echo"}, "modelName": "chat", "serving": limits, "testQuiet": True}) as server:
        outcomes = asyncio.run(play(server))
    assert outcomes["refused"] <= times(0.05 * outcomes.total(), outcomes["served after a retry"]), outcomes


def test_batch_work_gives_way(attack: Attack) -> None:
    """3 × the capacity of batch work beside 0.3 × of interactive: no interactive request (at most 5 %) is refused, most of the batch is."""

    async def play(server: Attacked) -> list[Flood]:
        seconds = times(20, 5)
        return await asyncio.gather(flood(server, 0.3 * CAPACITY, seconds), flood(server, 3 * CAPACITY, seconds, priority=-1))

    with attack({"model": {"engine": "echo"}, "modelName": "chat", "serving": LIMITS, "testQuiet": True}) as server:
        interactive, batch = asyncio.run(play(server))
    assert set(interactive.statuses) | set(batch.statuses) <= {200, 429}
    assert interactive.served >= times(1.0, 0.95), interactive.statuses
    assert batch.statuses[429] > times(batch.statuses[200], 0), batch.statuses
    assert 0 < batch.served < interactive.served
