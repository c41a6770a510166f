"""Who gets in, who waits, who is told when to come back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.admission import Admission, Claim, ClosingError, QueueFullError, ShedError, WaitedTooLongError


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


async def waiting(admission: Admission, claims: list[Claim]) -> tuple[list[asyncio.Task[None]], list[str], asyncio.Event]:
    """Tasks of `claims` in that order, each named by its place, behind a turn that is held until the event."""
    release, log = asyncio.Event(), list[str]()

    async def one(index: int, claim: Claim) -> None:
        async with admission.turn(claim) as turn:
            log.append(f"{claim.client}{index}")
            turn.cost = 10
            if not index:
                await release.wait()

    tasks = []
    for index, claim in enumerate(claims):
        tasks.append(asyncio.create_task(one(index, claim)))
        await asyncio.sleep(0)
    await settle()
    return tasks, log, release


async def test_the_more_urgent_goes_first_and_equals_in_order() -> None:
    admission = Admission(ongoing=1, queued=9, timeout_seconds=60)
    claims = [Claim("", priority) for priority in (0, -1, 0, 5, 0, -1, 5)]
    tasks, log, release = await waiting(admission, claims)
    release.set()
    await asyncio.gather(*tasks)
    assert log == ["0", "3", "6", "2", "4", "1", "5"]


async def test_clients_take_turns_however_many_requests_one_of_them_has() -> None:
    """6 of a, then 2 of b and 2 of c, each costing the same: a b c a b c a a a, not a a a a a a b b c c."""
    admission = Admission(ongoing=1, queued=20, timeout_seconds=60)
    claims = [Claim(client) for client in "aaaaaabbcc"]
    tasks, log, release = await waiting(admission, claims)
    release.set()
    await asyncio.gather(*tasks)
    assert "".join(name[0] for name in log) == "abcabcaaaa"


async def test_long_answers_count_for_more_than_short_ones() -> None:
    """a's answers cost 30, b's 10: in the time of 4 of a there are about 12 of b."""
    admission = Admission(ongoing=1, queued=100, timeout_seconds=60)
    log: list[str] = []
    release = asyncio.Event()

    async def one(client: str, cost: float) -> None:
        async with admission.turn(Claim(client)) as turn:
            turn.cost = cost
            log.append(client)
            await release.wait()

    tasks = [asyncio.create_task(one(client, 30 if client == "a" else 10)) for client in "a" * 20 + "b" * 20]
    await settle()
    release.set()
    await asyncio.gather(*tasks)
    at = [index for index, client in enumerate(log) if client == "b"][11]
    assert 3 <= log[:at].count("a") <= 6


async def test_batch_work_leaves_half_of_the_turns_to_the_rest() -> None:
    """4 turns, 8 batch requests: 2 run. Two interactive ones that come then run at once."""
    admission = Admission(ongoing=4, queued=20, timeout_seconds=60, batch_share=0.5)
    release, log = asyncio.Event(), list[str]()

    async def one(name: str, priority: int) -> None:
        async with admission.turn(Claim(priority=priority)):
            log.append(name)
            await release.wait()

    batch = [asyncio.create_task(one("batch", -1)) for _ in range(8)]
    await settle()
    assert (admission.running, admission.waiting) == (2, 6)
    interactive = [asyncio.create_task(one("interactive", 0)) for _ in range(2)]
    await settle()
    assert log == ["batch", "batch", "interactive", "interactive"]
    release.set()
    await asyncio.gather(*batch, *interactive)
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_full_queue_gives_up_batch_work_first() -> None:
    """1 runs, 2 batch requests wait, no more may: an interactive one takes the place of the newer; a batch one is refused."""
    admission = Admission(ongoing=1, queued=2, timeout_seconds=60)
    tasks, log, release = await waiting(admission, [Claim(""), Claim("b", -1), Claim("b", -2)])
    with pytest.raises(QueueFullError):
        async with admission.turn(Claim("b", -2)):
            pass
    urgent = asyncio.create_task(hold(admission, release, log, "urgent"))
    await settle()
    with pytest.raises(ShedError) as refusal:
        await tasks[2]
    assert (refusal.value.status, admission.waiting) == (429, 2)
    release.set()
    await asyncio.gather(urgent, tasks[0], tasks[1])
    assert log == ["0", "urgent", "b1"]


async def test_a_client_that_fills_the_queue_makes_room_for_the_others() -> None:
    """a runs 1 and waits in all 4 places; b and c get one each, b one more; then a has 1 + 1 and b 2, and a third of b is refused."""
    admission = Admission(ongoing=1, queued=4, timeout_seconds=60)
    tasks, log, release = await waiting(admission, [Claim("a")] * 5)
    late = [asyncio.create_task(_take(admission, Claim(client), log)) for client in "bcb"]
    await settle()
    assert sum(task.done() for task in tasks) == 3
    with pytest.raises(QueueFullError):
        async with admission.turn(Claim("b")):
            pass
    release.set()
    await asyncio.gather(*tasks, *late, return_exceptions=True)
    assert log == ["a0", "b", "c", "a1", "b"]


async def _take(admission: Admission, claim: Claim, log: list[str]) -> None:
    async with admission.turn(claim) as turn:
        log.append(claim.client)
        turn.cost = 10


async def test_who_would_wait_too_long_is_told_at_once() -> None:
    """Answers take 10 s, 1 at a time, 3 wait: the fourth would wait 30 s; with 20 s of patience it is refused, with 40 s it waits."""
    now = 0.0
    admission = Admission(ongoing=1, queued=9, timeout_seconds=60, clock=lambda: now)
    for _ in range(40):
        async with admission.turn():
            now += 10
    tasks, _, release = await waiting(admission, [Claim("")] * 4)
    with pytest.raises(QueueFullError):
        async with admission.turn(Claim(patience_seconds=20)):
            pass
    patient = asyncio.create_task(_take(admission, Claim(patience_seconds=40), []))
    await settle()
    assert admission.waiting == 4
    release.set()
    await asyncio.gather(*tasks, patient)


@given(
    claims=st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 2), st.booleans()), max_size=40),
    ongoing=st.integers(1, 4),
    queued=st.integers(0, 6),
)
def test_whoever_comes_and_goes_no_turn_is_lost_and_none_is_given_twice(claims: list[tuple[str, int, bool]], ongoing: int, queued: int) -> None:
    """At most `ongoing` run and `queued` wait at any time; in the end nobody does, and every one was served, refused or left."""

    async def play() -> None:
        admission = Admission(ongoing=ongoing, queued=queued, timeout_seconds=60)

        async def one(client: str, priority: int) -> None:
            async with admission.turn(Claim(client, priority)):
                assert admission.running <= ongoing
                assert admission.waiting <= queued
                await asyncio.sleep(0)

        tasks = []
        for client, priority, leaves in claims:
            tasks.append(asyncio.create_task(one(client, priority)))
            if leaves:
                await asyncio.sleep(0)
                tasks[len(tasks) // 2].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, (QueueFullError, ShedError, asyncio.CancelledError)) for end in ended)
        assert (admission.running, admission.waiting, admission._running_batch) == (0, 0, 0)

    asyncio.run(play())
