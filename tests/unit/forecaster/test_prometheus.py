"""Reading Prometheus: whole ranges in chunks it accepts, and a sentence for everything that is not one series of loads."""

from typing import Any

import numpy as np
import pytest

from deepseek_forecaster.prometheus import POINTS_PER_QUERY, PrometheusReader, ReadError, samples


def read(url: str, first: int, last: int, step: int = 60, timeout: float = 5.0) -> dict[int, float]:
    found: dict[int, float] = {}
    for indices, loads in PrometheusReader(url, timeout).chunks("rate(x[60s])", step, first, last):
        found |= dict(zip(indices.tolist(), loads.tolist(), strict=True))
    return found


def test_fourteen_days_at_a_minute_are_read_in_three_ranges_on_the_grid_without_a_hole(prometheus: Any) -> None:
    prometheus.load = lambda query, instant: instant / 60 % 7
    first, last = 29_000_000, 29_000_000 + 20_160
    assert read(prometheus.url, first, last) == {index: float(index % 7) for index in range(first, last + 1)}
    assert [round((end - start) / 60) + 1 for _, start, end, _ in prometheus.ranges] == [POINTS_PER_QUERY, POINTS_PER_QUERY, 161]


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "-3"])
def test_what_is_no_load_is_unknown_never_zero(prometheus: Any, text: str) -> None:
    prometheus.load = lambda query, instant: text if round(instant / 60) == 101 else 5.0
    assert read(prometheus.url, 100, 102) == {100: 5.0, 102: 5.0}


def test_a_query_that_finds_nothing_gives_nothing(prometheus: Any) -> None:
    prometheus.load = lambda query, instant: None
    assert read(prometheus.url, 100, 102) == {}


def test_two_series_are_refused_with_what_to_do(prometheus: Any) -> None:
    prometheus.series_per_query = 2
    with pytest.raises(ReadError, match=r"must give ONE series, gave 2: aggregate it"):
        read(prometheus.url, 100, 102)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, b'{"error": "parse error: unclosed left parenthesis"}', "refused the query: .*unclosed left parenthesis"),
        (500, b"oops", "refused the query: .*500"),
        (503, b"oops", "refused the query: .*503"),
        (200, b"<html>login</html>", "gave something that is no range result|could not be read"),
        (200, b'{"status": "success"}', "gave something that is no range result"),
        (200, b'{"data": {"result": {"a": 1}}}', "must be a list of series"),
        (200, b'{"data": {"result": [{"values": [[1, "x"]]}]}}', "must hold .instant, value. pairs"),
        (200, b'{"data": {"result": [{"metric": {}}]}}', "must hold .instant, value. pairs"),
    ],
)
def test_every_broken_answer_is_a_read_error_that_says_what_came(prometheus: Any, status: int, body: bytes, says: str) -> None:
    prometheus.broken = (status, body)
    with pytest.raises(ReadError, match=says):
        read(prometheus.url, 0, 2)


def test_nobody_listening_is_a_read_error() -> None:
    with pytest.raises(ReadError, match="could not be read"):
        read("http://127.0.0.1:9", 0, 2)


def test_of_two_values_for_one_instant_the_later_counts_and_instants_outside_the_range_are_ignored() -> None:
    result = [{"values": [[60, "1"], [60, "2"], [6000, "3"], [-60, "4"]]}]
    indices, loads = samples(result, 60, 0, 10)
    assert indices.tolist() == [1]
    assert loads.tolist() == [2.0]
    assert np.issubdtype(indices.dtype, np.int64)
