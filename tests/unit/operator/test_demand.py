"""What arrives lately and what waits: how soon a jump is seen, and that noise is not taken for one."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_operator.core.demand import BACKLOG_SECONDS, offered, sure_rate


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        pytest.param({"rate": 20.0}, 20, id="the mean of the window, where that is all"),
        pytest.param({"rate": 20.0, "recent": 20.0}, 20, id="the same lately: nothing more"),
        pytest.param(
            {"rate": 20.0, "recent": 40.0}, (1200 - 3 * math.sqrt(1200)) / 30, id="40 lately are 1200 requests in 30 s, 1096 for sure: 36.5"
        ),
        pytest.param({"rate": 20.0, "recent": 40.0, "export_seconds": 10.0}, (1200 - 3 * math.sqrt(1200)) / 40, id="counters 10 s old: 27.4"),
        pytest.param({"rate": 20.0, "recent": 5.0}, 20, id="less lately takes nothing away"),
        pytest.param({"rate": 20.0, "waiting": 300.0}, 25, id="300 that wait are 5 req/s more"),
        pytest.param({"rate": 0.0, "recent": 0.1}, 0, id="three requests in 30 s are chance"),
    ],
)
def test_demand_of_three_readings(given: dict[str, float], rate: float) -> None:
    """In requests per second."""
    assert offered(**given).rate == pytest.approx(rate)


def test_the_words_say_what_it_is_made_of() -> None:
    """Only where it is more than what arrived over the window."""
    assert offered(20.0).made_of == ""
    assert offered(20.0, recent=60.0, waiting=300.0).made_of == " (20 arrived, and rising, 300 requests wait)"


@pytest.mark.parametrize("rate", [2.0, 20.0, 200.0], ids=lambda rate: f"{rate:g} req/s")
def test_chance_alone_raises_the_demand_by_less_than_a_tenth_in_a_day_of_ticks(rate: float) -> None:
    """Poisson arrivals, 5,760 ticks: the sure rate passes 1.1 times the true one in less than one tick of a thousand."""
    draw = random.Random(7)

    def arrivals(mean: float) -> float:  # a normal number is near enough to a Poisson number of 60 and more
        return max(0.0, draw.gauss(mean, math.sqrt(mean)))

    false_alarms = sum(sure_rate(arrivals(30 * rate) / 30, 30, 0) > 1.1 * rate for _ in range(5760))
    assert false_alarms <= 5


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 1e9), st.floats(1, 600), st.floats(0, 60))
def test_the_sure_rate_is_never_more_than_the_reading(rate: float, seconds: float, export: float) -> None:
    """Nor below nothing."""
    assert 0 <= sure_rate(rate, seconds, export) <= rate * (1 + 1e-12)


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 1e6), st.none() | st.floats(0, 1e6), st.none() | st.floats(0, 1e6))
def test_more_readings_never_lower_the_demand(rate: float, recent: float | None, waiting: float | None) -> None:
    """The fast path only ever raises."""
    assert offered(rate, recent=recent, waiting=waiting).rate >= rate


def test_a_jump_is_half_seen_within_half_a_minute() -> None:
    """From 20 to 60 req/s: after 30 s the minute's mean is 40, the last half's 60, sure are 42 with counters 10 s old; the 600 that wait
    on nodes for 40 req/s add 10."""
    after_30 = offered((20 * 30 + 60 * 30) / 60, recent=60.0, export_seconds=10.0, waiting=(60 - 40) * 30)
    assert after_30.rate == pytest.approx((1800 - 3 * math.sqrt(1800)) / 40 + 600 / BACKLOG_SECONDS)
    assert after_30.rate > 51
