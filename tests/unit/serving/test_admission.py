"""Who gets in, who waits, who is told when to come back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.admission import Admission, ClosingError, QueueFullError, WaitedTooLongError


async def hold(admission: Admission, release: asyncio.Event, log: list[str], name: str) -> None:
    async with admission.turn():
        log.append(name)
        await release.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_2_run_3_wait_the_6th_is_refused_and_the_order_is_kept() -> None:
    admission = Admission(ongoing=2, queued=3, timeout_seconds=60)
    release, log = asyncio.Event(), list[str]()
    tasks = [asyncio.create_task(hold(admission, release, log, name)) for name in "abcde"]
    await settle()
    assert (admission.running, admission.waiting, log) == (2, 3, ["a", "b"])
    with pytest.raises(QueueFullError) as refusal:
        async with admission.turn():
            pass
    assert refusal.value.status == 429
    release.set()
    await asyncio.gather(*tasks)
    assert log == list("abcde")
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_wait_of_50_ms_ends_in_429_and_leaves_no_trace() -> None:
    admission = Admission(ongoing=1, queued=1, timeout_seconds=0.05)
    async with admission.turn():
        with pytest.raises(WaitedTooLongError) as refusal:
            async with admission.turn():
                pass
        assert refusal.value.status == 429
        assert (admission.running, admission.waiting) == (1, 0)
    assert admission.running == 0


async def test_one_that_leaves_the_queue_gives_its_place_to_the_next() -> None:
    admission = Admission(ongoing=1, queued=2, timeout_seconds=60)
    release, log = asyncio.Event(), list[str]()
    tasks = [asyncio.create_task(hold(admission, release, log, name)) for name in "abc"]
    await settle()
    tasks[1].cancel()
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert log == ["a", "c"]
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_turn_that_comes_while_its_waiter_is_cancelled_is_passed_on() -> None:
    """The turn is handed over and the waiter cancelled in the same moment: the turn must not be lost."""
    admission = Admission(ongoing=1, queued=2, timeout_seconds=60)
    release, log = asyncio.Event(), list[str]()
    async with admission.turn():
        second = asyncio.create_task(hold(admission, release, log, "b"))
        third = asyncio.create_task(hold(admission, release, log, "c"))
        await settle()
    second.cancel()  # the turn is b's since the line above, but b has not run yet
    release.set()
    await asyncio.gather(second, third, return_exceptions=True)
    assert log == ["c"]
    assert admission.running == 0


async def test_closing_refuses_those_who_wait_and_those_who_come() -> None:
    admission = Admission(ongoing=1, queued=1, timeout_seconds=60)
    release, log = asyncio.Event(), list[str]()
    running = asyncio.create_task(hold(admission, release, log, "a"))
    waiting = asyncio.create_task(hold(admission, release, log, "b"))
    await settle()
    admission.close()
    with pytest.raises(ClosingError):
        await waiting
    with pytest.raises(ClosingError):
        async with admission.turn():
            pass
    release.set()
    await running
    assert log == ["a"]


async def test_retry_after_is_the_time_the_queue_needs() -> None:
    """4 running, 4 at a time, the answers took 10 s each → 1 round × about 10 s; a fresh queue says at least 1."""
    now = 0.0
    admission = Admission(ongoing=4, queued=0, timeout_seconds=60, clock=lambda: now)
    assert admission.retry_after_seconds() == 1
    for _ in range(40):
        async with admission.turn():
            now += 10
    release, log = asyncio.Event(), list[str]()
    tasks = [asyncio.create_task(hold(admission, release, log, "x")) for _ in range(4)]
    await settle()
    assert admission.retry_after_seconds() == 10
    release.set()
    await asyncio.gather(*tasks)


@given(seconds=st.floats(0, 1e6), ongoing=st.integers(1, 50))
def test_retry_after_is_always_a_whole_number_from_1_to_120(seconds: float, ongoing: int) -> None:
    async def check() -> int:
        now = 0.0
        admission = Admission(ongoing=ongoing, queued=0, timeout_seconds=1, clock=lambda: now)
        async with admission.turn():
            now += seconds
        async with admission.turn():
            return admission.retry_after_seconds()

    assert 1 <= asyncio.run(check()) <= 120
