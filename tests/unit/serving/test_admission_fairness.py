"""One client's flood beside nine clients who ask for less than their share, on a clock of its own: no machine is slow in here."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VirtualTimeLoop

from deepseek_serving.admission import Admission, AdmissionError, Claim
from deepseek_serving.pacing import Pacer

HEAVY = "heavy"
TOKENS, TOKENS_PER_SECOND = 8, 400
"""400 ÷ 8 = 50 requests per second."""


def play(arrivals: list[tuple[float, str]], *, ongoing: int = 8, queued: int = 8) -> dict[str, float]:
    """(second, client) of each request → the share of each client's requests that was answered."""
    loop = VirtualTimeLoop()
    served, asked = Counter[str](), Counter(client for _, client in arrivals)

    async def one(at: float, client: str, admission: Admission, pacer: Pacer) -> None:
        await asyncio.sleep(at)
        try:
            async with admission.turn(Claim(client)) as turn:
                for _ in range(TOKENS):
                    await pacer.take(1)
                    turn.cost += 1
            served[client] += 1
        except AdmissionError:
            pass

    async def everything() -> None:
        admission = Admission(ongoing=ongoing, queued=queued, timeout_seconds=60, clock=loop.time)
        pacer = Pacer(TOKENS_PER_SECOND, clock=loop.time)
        await asyncio.gather(*(one(at, client, admission, pacer) for at, client in arrivals))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(everything())
    return {client: served[client] / count for client, count in asked.items()}


def ten_clients(*, seconds: int, stopped: list[tuple[float, float]], seed: int) -> list[tuple[float, str]]:
    """Nine at 4 per second each, one at 40; what would come while everything is `stopped` (from, to) comes right after it, in any order."""
    rng = random.Random(seed)
    due = [(index / 40 + number / 4, f"light {index}") for index in range(9) for number in range(4 * seconds)]
    due += [(number / 40, HEAVY) for number in range(40 * seconds)]
    late = [(next((end for begin, end in stopped if begin <= at < end), at), client) for at, client in due]
    return sorted(late, key=lambda arrival: (arrival[0], rng.random()))


@pytest.mark.parametrize(
    ("stop_seconds", "least_of_each", "least_of_all"),
    [pytest.param(0.0, 1.0, 1.0, id="a machine that never stops"), pytest.param(0.2, 0.9, 0.97, id="one that stops 0.2 s in every second")],
)
def test_who_asks_for_less_than_a_share_is_hardly_refused_beside_a_flood(
    stop_seconds: float, least_of_each: float, least_of_all: float
) -> None:
    """Ten clients share 50/s, so 5 each: the nine at 4/s lose nothing, or what no queue of 8 could hold; the flood gets what is left.

    50 − 9 × 4 = 14 of its 40 per second: 35 %, and what was in the queue at the end.
    """
    stopped = [(second + 0.5, second + 0.5 + stop_seconds) for second in range(20)]
    shares = play(ten_clients(seconds=20, stopped=stopped, seed=1))
    heavy = shares.pop(HEAVY)
    assert min(shares.values()) >= least_of_each
    assert sum(shares.values()) / 9 >= least_of_all
    assert 0.3 <= heavy <= 0.4


@given(order=st.permutations([f"light {index}" for index in range(9)] + [HEAVY] * 20))
def test_of_a_burst_nobody_with_one_request_is_refused_while_another_has_many(order: list[str]) -> None:
    """29 requests in one instant, in any order, 8 turns and 9 places: nine clients with one each are all answered; the one with 20 gets 8."""
    shares = play([(0.0, client) for client in order], queued=9)
    assert shares.pop(HEAVY) == 8 / 20
    assert set(shares.values()) == {1.0}
