"""Collecting: many series in one query, each with its own fate; and clocks that are set back and forth."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_forecaster.collect import RECENT_STEPS, TOGETHER, Collector, batches, next_due
from deepseek_forecaster.prometheus import TOGETHER_LABEL, PrometheusReader, ReadError, can_stand_together
from deepseek_forecaster.registry import Registry, Watched
from deepseek_forecaster.wire import ForecastRequest

STEP = 60
NOW = 1_790_000_030.0
NEWEST = math.floor(NOW / STEP)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path, 86_400.0) as opened:
        yield opened


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def collector(registry: Registry, prometheus: Any, clock: Callable[[], float]) -> Collector:
    return Collector(registry, PrometheusReader(prometheus.url, 5.0), 3_600.0, 86_400.0, clock)


def watch(registry: Registry, name: str, query: str, step: int = STEP) -> Watched:
    return registry.register(ForecastRequest(series=name, query=query, step_seconds=step, horizon_seconds=600), NOW)


def collect(of: Collector, registry: Registry, clock: Clock) -> list[int]:
    """Everything once, as the loop does it; gives the sizes of the batches."""
    parts = batches(list(registry), clock())
    for part in parts:
        of._collect(part)
    return [len(part) for part in parts]


def loads_of(watched: Watched) -> dict[int, float]:
    assert watched.samples is not None
    first, values = watched.samples.grid()
    return {first + at: float(load) for at, load in enumerate(values) if np.isfinite(load)}


def of_parts(query: str, load: Callable[[str, float], float | None]) -> dict[str, Callable[[float], float | None]]:
    """What a Prometheus makes of a query for many: each part's number and its load."""
    parts = re.findall(rf'label_replace\(\(\n(.*?)\n\), "{TOGETHER_LABEL}", "(\d+)", "", ""\)', query, re.DOTALL)
    return {number: (lambda instant, part=part: load(part, instant)) for part, number in parts}


def test_120_series_are_read_in_120_queries_at_first_and_in_3_from_then_on(registry: Registry, prometheus: Any) -> None:
    prometheus.load = lambda query, instant: float(query[1:]) + instant % 7
    prometheus.parts = of_parts
    clock = Clock()
    reading = collector(registry, prometheus, clock)
    for number in range(120):
        watch(registry, f"s{number}", f"q{number}")
    assert collect(reading, registry, clock) == [1] * 120
    clock.now += STEP
    prometheus.ranges.clear()
    assert collect(reading, registry, clock) == [TOGETHER, TOGETHER, 20]
    assert len(prometheus.ranges) == 3
    for watched in registry:
        number = float(watched.series[1:])
        assert watched.trouble is None
        assert loads_of(watched)[NEWEST + 1] == number + (NEWEST + 1) * STEP % 7
        assert watched.forecaster.history is not None


def test_series_of_another_step_or_far_behind_are_read_apart(registry: Registry, prometheus: Any) -> None:
    clock = Clock()
    reading = collector(registry, prometheus, clock)
    for name, step in (("a", 60), ("b", 60), ("c", 30), ("d", 60)):
        watch(registry, name, name, step)
    collect(reading, registry, clock)
    behind = next(iter(registry))
    assert behind.samples is not None
    behind.samples.drop_after(NEWEST - RECENT_STEPS)
    assert sorted([one.series for one in part] for part in batches(registry, clock())) == [["a"], ["b", "d"], ["c"]]


def test_one_refused_query_of_eight_costs_the_other_seven_nothing(registry: Registry, prometheus: Any) -> None:
    prometheus.load = lambda query, instant: 5.0
    prometheus.parts = of_parts
    clock = Clock()
    reading = collector(registry, prometheus, clock)
    for number in range(8):
        watch(registry, f"s{number}", f"q{number}")
    collect(reading, registry, clock)
    prometheus.refuse = lambda query: "q3" in query
    clock.now += STEP
    collect(reading, registry, clock)
    fates = {watched.series: watched.trouble for watched in registry}
    assert "refused the query" in (fates.pop("s3") or "")
    assert set(fates.values()) == {None}
    assert all(NEWEST + 1 in loads_of(watched) for watched in registry if watched.series != "s3")


def test_of_two_series_in_one_query_one_that_gives_two_is_refused_and_a_silent_one_is_unknown(registry: Registry, prometheus: Any) -> None:
    prometheus.load = lambda query, instant: 5.0
    prometheus.parts = of_parts
    clock = Clock()
    reading = collector(registry, prometheus, clock)
    twice, silent, good = (watch(registry, name, name) for name in ("twice", "silent", "good"))
    collect(reading, registry, clock)
    prometheus.load = lambda query, instant: None if query == "silent" else 5.0
    prometheus.twice = "twice"
    clock.now += STEP
    assert collect(reading, registry, clock) == [3]
    assert "must give ONE series, gave 2" in (twice.trouble or "")
    assert silent.trouble is None
    assert NEWEST + 1 not in loads_of(silent)
    assert NEWEST + 1 in loads_of(good)


def test_prometheus_out_of_reach_is_the_trouble_of_each(registry: Registry, prometheus: Any) -> None:
    clock = Clock()
    reading = collector(registry, prometheus, clock)
    for name in ("a", "b"):
        watch(registry, name, name)
    collect(reading, registry, clock)
    gone = Collector(registry, PrometheusReader("http://127.0.0.1:9", 2.0), 3_600.0, 86_400.0, clock)
    clock.now += STEP
    collect(gone, registry, clock)
    assert all("could not be read" in (watched.trouble or "") for watched in registry)
    assert gone.read_errors == 2


def test_a_late_sample_and_a_corrected_one_are_taken_over_within_three_steps(registry: Registry, prometheus: Any) -> None:
    late = NEWEST * STEP
    prometheus.load = lambda query, instant: None if instant == late else 5.0
    clock = Clock()
    reading = collector(registry, prometheus, clock)
    watched = watch(registry, "a", "q")
    collect(reading, registry, clock)
    assert NEWEST not in loads_of(watched)
    prometheus.load = lambda query, instant: 7.0 if instant == late else 5.0
    clock.now += 2 * STEP
    collect(reading, registry, clock)
    assert loads_of(watched)[NEWEST] == 7.0


@pytest.mark.parametrize("hours", [1, 24 * 365], ids=["an hour", "a year"])
def test_a_clock_that_runs_ahead_and_is_set_back_leaves_no_sample_from_the_future(registry: Registry, prometheus: Any, hours: int) -> None:
    """Ahead, Prometheus answers with values of that time, too; once set back they are dropped, and their time is read when it comes."""
    prometheus.load = lambda query, instant: 50.0 if instant > NOW + 120 else 5.0
    clock = Clock()
    reading = collector(registry, prometheus, clock)
    watched = watch(registry, "a", "q")
    collect(reading, registry, clock)
    clock.now = NOW + 3_600 * hours
    collect(reading, registry, clock)
    assert max(loads_of(watched)) > NEWEST + 30
    clock.now = NOW + STEP
    assert watched in reading._due(clock.now), "due, though its time was to come much later"
    collect(reading, registry, clock)
    assert max(loads_of(watched)) <= NEWEST + 1
    clock.now = NOW + 2 * STEP
    collect(reading, registry, clock)
    assert loads_of(watched)[NEWEST + 2] == 5.0
    forecast = watched.forecaster.forecast("a", clock.now, 600, (0.5, 0.9))
    assert forecast.mean == pytest.approx(5.0)


def test_a_clock_set_back_by_one_step_drops_nothing(registry: Registry, prometheus: Any) -> None:
    prometheus.load = lambda query, instant: 5.0
    clock = Clock()
    reading = collector(registry, prometheus, clock)
    watched = watch(registry, "a", "q")
    collect(reading, registry, clock)
    before = loads_of(watched)
    clock.now -= STEP
    collect(reading, registry, clock)
    assert loads_of(watched) == before


@pytest.mark.parametrize(
    ("now", "step", "due"),
    [(120.0, 60.0, 121.0), (121.0, 60.0, 181.0), (150.0, 60.0, 181.0), (10.1, 2.0, 10.2)],
    ids=["before the settling second is over", "right after", "in the middle", "two-second steps settle in 0.2 s"],
)
def test_a_series_is_due_one_second_or_a_tenth_of_a_step_after_each_step(now: float, step: float, due: float) -> None:
    assert next_due(now, step) == pytest.approx(due)


@pytest.mark.parametrize(
    "query",
    ['sum(rate(x{a="b)"}[1m]))', "x", "(a or b)", "x{a='}'} / y[5m:1m]", 'x{a=~"a\\"b("}', "x{a=~`\\`}", "1 + (2)"],
)
def test_ordinary_queries_can_stand_together(query: str) -> None:
    assert can_stand_together(query)


@pytest.mark.parametrize(
    "query",
    [
        'x), "deepseek_forecaster_series", "0", "", "") or label_replace((y',
        "sum(x",
        "x)",
        "x # and the rest is a comment",
        'x{a="b}',
        "x{a=`b}",
        "sum(x]",
        "x{",
        '"\\"',
    ],
)
def test_a_query_that_would_reach_out_of_its_parentheses_stands_alone(query: str) -> None:
    assert not can_stand_together(query)


@given(st.text(alphabet="()[]{}\"'`\\#xy ,", max_size=30))
def test_whatever_stands_together_closes_no_parenthesis_of_another(query: str) -> None:
    """Read by another way: with every string taken out, the depth never falls below zero and ends at zero."""
    if can_stand_together(query):
        bare = re.sub(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`', "", query, flags=re.DOTALL)
        assert not set(bare) & set("\"'`#")
        depth = np.cumsum([{"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(letter, 0) for letter in bare] or [0])
        assert depth.min() >= 0
        assert depth[-1] == 0


def test_a_forged_answer_for_many_is_an_error_and_never_another_series(prometheus: Any) -> None:
    prometheus.broken = (200, b'{"data": {"result": [{"metric": {"deepseek_forecaster_series": "7"}, "values": [[60, "1"]]}]}}')
    with pytest.raises(ReadError, match="must carry the label"):
        PrometheusReader(prometheus.url, 5.0).together({"a": "x", "b": "y"}, 60, 0, 3)
