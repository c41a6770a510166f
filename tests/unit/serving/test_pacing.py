"""A replica's rate, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter

import pytest

from deepseek_serving.pacing import Pacer


class Time:
    """A clock whose sleepers wake in order when nothing else is left to do."""

    def __init__(self) -> None:
        self.now = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), woken))
        await woken.wait()

    async def run_until(self, end: float) -> None:
        while True:
            for _ in range(10):
                await asyncio.sleep(0)
            if not self._sleepers or self._sleepers[0][0] > end:
                self.now = end
                return
            at, _, woken = heapq.heappop(self._sleepers)
            self.now = max(self.now, at)
            woken.set()


async def stream(pacer: Pacer, name: str, got: Counter[str], tokens: int = 10**6) -> None:
    for _ in range(tokens):
        await pacer.take(1)
        got[name] += 1


@pytest.mark.parametrize("requests", [1, 3, 16])
async def test_40_tokens_per_second_are_40_whoever_asks_and_each_gets_its_share(requests: int) -> None:
    time = Time()
    pacer = Pacer(40, clock=time.clock, sleep=time.sleep)
    got: Counter[str] = Counter()
    tasks = [asyncio.create_task(stream(pacer, str(index), got)) for index in range(requests)]
    await time.run_until(110.0)
    assert sum(got.values()) == pytest.approx(400, abs=1)
    assert max(got.values()) - min(got.values()) <= 1
    assert pacer.busy_seconds() == pytest.approx(10.0, abs=0.05)
    for task in tasks:
        task.cancel()


async def test_half_the_load_is_half_the_busy_time() -> None:
    """10 answers of 16 tokens at 40/s, one a second, take 0.4 s each: busy 4 s of 10."""
    time = Time()
    pacer = Pacer(40, clock=time.clock, sleep=time.sleep)
    got: Counter[str] = Counter()
    for second in range(10):
        task = asyncio.create_task(stream(pacer, "a", got, 16))
        await time.run_until(101.0 + second)
        assert task.done()
    assert got["a"] == 160
    assert pacer.busy_seconds() == pytest.approx(4.0)


async def test_idle_time_is_not_saved_up() -> None:
    """After an hour of silence the first second still gives 40 tokens, not 144,000."""
    time = Time()
    pacer = Pacer(40, clock=time.clock, sleep=time.sleep)
    time.now += 3600
    got: Counter[str] = Counter()
    task = asyncio.create_task(stream(pacer, "a", got))
    await time.run_until(time.now + 1)
    assert got["a"] == pytest.approx(40, abs=1)
    task.cancel()


async def test_a_late_loop_is_made_up_for() -> None:
    """Each token is asked for 20 ms late; at 10/s they still come each 100 ms, not each 120."""
    time = Time()
    pacer = Pacer(10, clock=time.clock, sleep=time.sleep)
    got: Counter[str] = Counter()

    async def late() -> None:
        while True:
            await pacer.take(1)
            got["a"] += 1
            await time.sleep(0.02)

    task = asyncio.create_task(late())
    await time.run_until(110.0)
    assert got["a"] == pytest.approx(100, abs=1)
    task.cancel()


async def test_without_a_rate_nothing_waits() -> None:
    pacer = Pacer(None)
    for _ in range(1000):
        await asyncio.wait_for(pacer.take(5), 1)
    assert pacer.busy_seconds() == 0
