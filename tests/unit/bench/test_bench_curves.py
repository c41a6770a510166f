"""Reading a cost off a curve, and what is told to rivals: by hand-made runs and observations."""

from __future__ import annotations

import pytest
from bench.curves import Table, cost_at
from bench.loads import of_rates
from bench.rivals.seen import in_flight, load
from bench.runs import Result

from deepseek_operator.replay import Observation


def run(knob: float, cost: float, late: float, policy: str = "hpa") -> Result:
    """A run of which only its place on the curve matters."""
    return Result(policy, knob, "day", 0, 180.0, cost, cost, late, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        pytest.param([(0.9, 1.1, 0.002), (0.7, 1.4, 0.0)], 1.25, id="half-way between 0.2 % and none: half-way in cost"),
        pytest.param([(0.9, 1.1, 0.0005), (0.7, 1.4, 0.0)], 1.1, id="the daring end is careful enough"),
        pytest.param([(0.9, 1.1, 0.03), (0.7, 1.4, 0.002)], None, id="it never gets there"),
        pytest.param([(0.9, 1.1, 0.0005), (0.8, 1.3, 0.002), (0.7, 1.6, 0.0)], 1.1, id="an uneven knob: the cheapest place counts"),
    ],
)
def test_cost_at_a_tenth_of_a_percent(points: list[tuple[float, float, float]], expected: float | None) -> None:
    """Straight lines between neighbours of the knob."""
    assert cost_at(0.001, [run(*point) for point in points]) == (None if expected is None else pytest.approx(expected))


def test_who_never_gets_there_counts_as_static_and_the_best_rival_is_the_cheapest() -> None:
    """HPA never gets to 0.1 %: it costs what static costs, 2.0; KPA gets there at 1.5 and is the best."""
    table = Table([run(0.9, 1.1, 0.03), run(0.9, 1.5, 0.0, "kpa"), run(1.0, 2.0, 0.0, "static")], 180.0)
    assert table.cost("day", "hpa", 0.001) == 2.0
    assert not table.reached("day", "hpa", 0.001)
    assert table.best("day", ("hpa", "kpa"), 0.001) == ("kpa", 1.5)
    assert table.cost("day", "ray", 0.001) is None


@pytest.mark.parametrize(
    ("rate", "waiting", "ready", "by_rate", "by_concurrency"),
    [
        pytest.param(20.0, 0.0, 4, 2.0, 2.0, id="20 req/s on nodes of 10: two nodes' worth"),
        pytest.param(
            50.0, 600.0, 4, 6.0, 10.0, id="short of nodes: 50 + 600 ÷ 60 = 60 req/s; 4 busy nodes and 600 ÷ (10 × 10 s) = 6 more in flight"
        ),
        pytest.param(None, 600.0, 4, None, None, id="silent metrics: nothing is told"),
    ],
)
def test_what_a_rival_is_told(rate: float | None, waiting: float, ready: int, by_rate: float | None, by_concurrency: float | None) -> None:
    """In node capacities of 10 requests per second."""
    seen = Observation(0.0, rate, 1, waiting, 0.0, ready, ready, ())
    assert load(seen, 10.0) == by_rate
    assert in_flight(seen, 10.0) == by_concurrency


def test_the_test_part_and_the_size_of_a_node() -> None:
    """Ten days by minutes: the last 30 % (4,320 minutes) are the test; 600 requests per second at the most need ten nodes of 60."""
    load = of_rates("ten days", [600.0] * 14_400)
    assert (load.start, load.minutes, load.capacity) == (10_080, 4_320, 60.0)
    assert of_rates("three weeks", [600.0] * 30_240).minutes == 5_760
    assert load.first(100).minutes == 100
    assert load.first(100).key != load.key
