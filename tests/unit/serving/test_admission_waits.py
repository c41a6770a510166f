"""How long those who get in take, under floods and bursts, with the default limits and two kinds of engine, on a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VirtualTimeLoop

from deepseek_serving.admission import Admission, AdmissionError, Claim, QueueFullError
from deepseek_serving.pacing import Pacer
from deepseek_serving.settings import LimitSettings

LIMITS = LimitSettings()
CAPACITY = 20.0
"""Requests per second of both engines."""

Work = Callable[[], Awaitable[None]]


def shared() -> Work:
    """One engine for all, 8 tokens a request: n requests at once take n times as long as one."""
    pacer = Pacer(8 * CAPACITY, clock=asyncio.get_running_loop().time)

    async def work() -> None:
        for _ in range(8):
            await pacer.take(1)

    return work


def batched() -> Work:
    """Eight slots, an answer takes 0.2 to 0.6 s in its slot whoever else is there: 8 ÷ 0.4 s = 20 a second."""
    slots, rng = asyncio.Semaphore(LIMITS.slots), random.Random(1)

    async def work() -> None:
        async with slots:
            await asyncio.sleep(rng.uniform(0.2, 0.6))

    return work


@dataclass
class Seen:
    """Seconds that each of the answered took, in the order of their ends; how many were refused; seconds until all was over."""

    answered: list[float] = field(default_factory=list)
    refused: int = 0
    seconds: float = 0.0

    @property
    def p99(self) -> float:
        return sorted(self.answered)[int(0.99 * len(self.answered))]

    @property
    def goodput(self) -> float:
        """Answered per second, of the capacity."""
        return len(self.answered) / self.seconds / CAPACITY


def default_admission(clock: Callable[[], float], limits: LimitSettings = LIMITS) -> Admission:
    return Admission(
        ongoing=limits.ongoing, queued=limits.queued, standing=limits.standing, timeout_seconds=limits.request_timeout_seconds, clock=clock
    )


def play(arrivals: list[float], engine: Callable[[], Work], limits: LimitSettings = LIMITS) -> Seen:
    """Requests at those seconds."""
    loop = VirtualTimeLoop()
    seen = Seen()

    async def one(at: float, admission: Admission, work: Work) -> None:
        await asyncio.sleep(at)
        try:
            async with admission.turn():
                await work()
            seen.answered.append(loop.time() - at)
        except AdmissionError:
            seen.refused += 1

    async def everything() -> None:
        admission, work = default_admission(loop.time, limits), engine()
        await asyncio.gather(*(one(at, admission, work) for at in arrivals))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(everything())
    seen.seconds = loop.now
    return seen


def poisson(factor: float, *, seed: int, seconds: float = 30) -> list[float]:
    rng = random.Random(seed)
    arrivals, at = [], 0.0
    while (at := at + rng.expovariate(factor * CAPACITY)) < seconds:
        arrivals.append(at)
    return arrivals


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("engine", [shared, batched])
def test_whoever_gets_in_under_a_flood_takes_at_most_twice_as_long_as_in_calm(engine: Callable[[], Work], seed: int) -> None:
    """30 s at 2 and at 5 times the capacity: p99 of the answered at most 2 times that of 2 minutes at 0.8, and 95 % of the capacity used.

    At 0.8 hardly anybody is refused: at most 1 in 200.
    """
    calm = play(poisson(0.8, seed=seed, seconds=120), engine)
    assert calm.refused <= 0.005 * (calm.refused + len(calm.answered))
    for factor, least in ((2.0, 0.95), (5.0, 0.95)):
        flood = play(poisson(factor, seed=seed), engine)
        assert flood.p99 <= 2 * calm.p99
        assert flood.goodput >= least


@pytest.mark.parametrize("engine", [shared, batched])
def test_a_burst_is_taken_whole_and_a_queue_that_stands_takes_no_more(engine: Callable[[], Work]) -> None:
    """9 run at once: 81 requests in one instant all get in, the 82nd does not; 1 s later, 61 waiting, nobody does; after 5 s everybody."""
    assert (LIMITS.ongoing, LIMITS.queued, LIMITS.standing) == (9, 72, 9)
    assert play([0.0] * 82, engine).refused == 1
    assert play([0.0] * 81 + [1.0] * 5, engine).refused == 5
    assert play([0.0] * 81 + [5.0] * 81, engine).refused == 0


def test_a_burst_over_a_second_is_a_moment_where_answers_take_seconds() -> None:
    """Answers of 4 s, known since the first 8: 40 requests over 0.9 s all get in. Where answers take 0.9 s some do not."""

    def lasting(seconds: float) -> Callable[[], Work]:
        return lambda: lambda: asyncio.sleep(seconds)

    known = [0.0] * 8
    burst = [10 + 0.9 * index / 40 for index in range(40)]
    assert play(known + burst, lasting(4.0)).refused == 0
    assert play(known + burst, lasting(0.9)).refused > 0


async def test_what_a_full_queue_gives_up_stays_the_same_while_it_stands() -> None:
    """2 run, 2 wait and stand: a third is refused; an urgent one takes the place of batch work, as in any full queue."""
    now = 0.0
    admission = Admission(ongoing=2, queued=16, standing=2, timeout_seconds=60, clock=lambda: now)
    release = asyncio.Event()

    async def one(claim: Claim) -> None:
        async with admission.turn(claim):
            await release.wait()

    tasks = [asyncio.create_task(one(Claim(priority=priority))) for priority in (0, 0, -1, 0)]
    await asyncio.sleep(0)
    now = 0.2  # more than a moment
    with pytest.raises(QueueFullError):
        await one(Claim(priority=-1))
    urgent = asyncio.create_task(one(Claim(priority=5)))
    await asyncio.sleep(0)
    assert (admission.running, admission.waiting) == (2, 2)
    release.set()
    ended = await asyncio.gather(*tasks, urgent, return_exceptions=True)
    assert [type(end).__name__ for end in ended] == ["NoneType", "NoneType", "ShedError", "NoneType", "NoneType"]


@given(
    slots=st.integers(1, 256),
    ongoing=st.none() | st.integers(1, 4096),
    queued=st.none() | st.integers(0, 65536),
)
def test_what_is_said_is_kept_and_the_rest_follows_from_the_slots(slots: int, ongoing: int | None, queued: int | None) -> None:
    """One in eight more than slots run, as many wait, for a moment eight times as many; a number in the settings is that number."""
    limits = LimitSettings(slots=slots, max_ongoing_requests=ongoing, max_queued_requests=queued)
    assert limits.ongoing == (ongoing or max(slots + 1, slots + slots // 8))
    assert (limits.standing, limits.queued) == ((limits.ongoing, 8 * limits.ongoing) if queued is None else (queued, queued))
