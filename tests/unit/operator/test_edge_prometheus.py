"""Prometheus at the wire: what it may answer, and what is made of it. Not knowing is never zero."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlparse

import promql_parser
import pytest
from fakes import Answer, http_server, prometheus_says

from deepseek_operator.edge import prometheus as prometheus_edge
from deepseek_operator.edge.prometheus import OWN_AT_ONCE, Prometheus, Reading, by_application, fleet_query, single


def series(reading: str, value: object, application: str = "default.chat") -> dict[str, Any]:
    return {"metric": {"application": application, "reading": reading}, "value": [0, value]}


def test_three_readings_of_two_applications() -> None:
    """12.5 req/s by 2 replicas that do 6 each; the other is only known to have demand."""
    vector = [series("demand", "12.5"), series("capacity", "6"), series("reporting", "2"), series("demand", "0", "default.other")]
    assert by_application(vector) == {"default.chat": Reading(12.5, 6.0, 2), "default.other": Reading(0.0)}


@pytest.mark.parametrize(
    "vector",
    [
        [series("demand", value)] for value in ("NaN", "+Inf", "-Inf", "-1", "", "twelve", None)
    ]
    + [
        [series("demand", "5"), series("demand", "5")],
        [series("demand", "5"), series("demand", "5"), series("demand", "5")],
        [{"metric": {"application": "default.chat", "reading": "demand"}}],
        [{"metric": {"application": "default.chat", "reading": "demand"}, "value": []}],
        [],
        [{"metric": {"reading": "demand"}, "value": [0, "5"]}],
        [{"metric": {"application": "default.chat"}, "value": [0, "5"]}],
        [{"value": [0, "5"]}],
    ],
    ids=[
        "NaN", "+Inf", "-Inf", "negative", "empty", "a word", "null", "twice", "three times", "no value", "half a value", "no series",
        "no application", "no reading", "no labels",
    ],
)  # fmt: skip
def test_demand_that_is_not_one_finite_number_is_not_known(vector: list[dict[str, Any]]) -> None:
    """None, never 0."""
    assert by_application(vector).get("default.chat", Reading()).demand is None


@pytest.mark.parametrize(
    ("vector", "answer"),
    [
        ([{"metric": {}, "value": [0, "4.5"]}], 4.5),
        ([], "the query gives no series"),
        ([series("a", "1"), series("b", "2")], "the query must give one series, gave 2; wrap it in sum()"),
        ([{"metric": {}, "value": [0, "NaN"]}], "the query must give a finite number ≥ 0, gave [0, 'NaN']"),
        ([{"metric": {}, "value": [0, "-2"]}], "the query must give a finite number ≥ 0, gave [0, '-2']"),
    ],
    ids=["a number", "nothing", "two", "NaN", "negative"],
)
def test_a_users_own_query_gives_one_number_or_a_reason(vector: list[dict[str, Any]], answer: float | str) -> None:
    """In words the user can act on."""
    assert single(vector) == answer


async def test_one_request_for_the_fleet_and_one_for_each_distinct_own_query() -> None:
    """Two objects with the same query ask it once."""
    asked: list[str] = []

    def answer(query: str) -> list[dict[str, Any]]:
        asked.append(query)
        return [series("demand", "7")] if query == fleet_query(60) else [{"metric": {}, "value": [0, "3"]}]

    with http_server(prometheus_says(answer)) as url:
        readings = await Prometheus(url).read(0, 60, ["sum(a)", "sum(b)", "sum(a)"])
    assert sorted(asked) == sorted([fleet_query(60), "sum(a)", "sum(b)"])
    assert readings.by_application == {"default.chat": Reading(7.0)}
    assert readings.own == {"sum(a)": 3.0, "sum(b)": 3.0}
    assert readings.problem == ""


BAD = {
    "a page instead of JSON": Answer("<html>hello</html>", content_type="text/html"),
    "an error": Answer(json.dumps({"status": "error", "error": "many-to-many matching not allowed"}), 422),
    "401": Answer("Unauthorized", 401),
    "503": Answer("no", 503),
    "nothing": Answer(""),
    "JSON of another kind": Answer("[1, 2]"),
    "no result": Answer(json.dumps({"status": "success", "data": {}})),
    "a result that is no vector": Answer(json.dumps({"status": "success", "data": {"result": {"a": 1}}})),
    "a redirect to nowhere": Answer("", 302),
    "half a body": Answer('{"status": "succ'),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
async def test_a_bad_answer_is_a_problem_in_words_and_never_raises(answer: Answer) -> None:
    """The fleet's demand is not known then; nothing is zero."""
    with http_server(lambda *_: answer) as url:
        readings = await Prometheus(url).read(0, 60, ["sum(a)"])
    assert readings.problem.startswith("Prometheus")
    assert "\n" not in readings.problem
    assert readings.by_application == {}
    assert isinstance(readings.own["sum(a)"], str)


async def test_a_prometheus_that_is_not_there_or_hangs_is_a_problem_in_time() -> None:
    """Refused at once; silent for longer than allowed: given up after about a second."""
    assert "Prometheus: " in (await Prometheus("http://127.0.0.1:9", 1).read(0, 60, ())).problem
    with http_server(lambda *_: Answer("{}", after_seconds=20)) as url:
        began = time.monotonic()
        readings = await Prometheus(url, 1).read(0, 60, ())
        assert time.monotonic() - began < 8
    assert readings.problem


def test_the_fleet_query_names_each_reading() -> None:
    """Seven parts, told apart by the label `reading`; the recent rate over half a window, capacity over two."""
    query = fleet_query(30)
    names = ("demand", "recent", "waiting", "capacity", "busy", "queued", "reporting")
    assert [f'"reading", "{name}"' in query for name in names] == [True] * 7
    assert "[15s]" in query
    assert "[60s]" in query


# ------------------------------------------------------------------------------------------------------ users' own queries


class Slow:
    """A Prometheus that answers the fleet's query at once and every other after so many seconds; counts how many it is asked at once."""

    def __init__(self, after_seconds: float) -> None:
        self.after_seconds, self.now, self.most, self.asked = after_seconds, 0, 0, 0
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str, body: bytes) -> Answer:
        query = (parse_qs(urlparse(path).query) | parse_qs(body.decode()))["query"][0]
        if query == fleet_query(60):
            return prometheus_says([series("demand", "7")])(method, path, body)
        with self._lock:
            self.now, self.asked = self.now + 1, self.asked + 1
            self.most = max(self.most, self.now)
        time.sleep(self.after_seconds)
        with self._lock:
            self.now -= 1
        return prometheus_says([{"metric": {}, "value": [0, "3"]}])(method, path, body)


async def test_a_slow_query_of_a_users_own_delays_the_tick_by_its_own_limit_and_no_more() -> None:
    """It takes 1 s, 0.3 are waited for: the fleet's demand is there, the user's is not yet; at the next tick it is, and it is asked anew."""
    slow = Slow(1.0)
    with http_server(slow) as url:
        prometheus = Prometheus(url, 5, own_seconds=0.3)
        began = time.monotonic()
        first = await prometheus.read(0, 60, ["sum(a)"])
        assert time.monotonic() - began < 0.9
        assert first.by_application == {"default.chat": Reading(7.0)}
        assert first.own == {"sum(a)": "Prometheus has not answered the query within 0.3 s; it goes on trying"}
        again = await prometheus.read(0, 60, ["sum(a)"])
        assert slow.asked == 1, "the same query was asked again while it was being answered"
        assert isinstance(again.own["sum(a)"], str)
        await asyncio.sleep(1.2)
        assert (await prometheus.read(0, 60, ["sum(a)"])).own == {"sum(a)": 3.0}
        assert slow.asked == 2
        prometheus.close()


async def test_a_few_queries_of_users_own_are_asked_at_once_and_the_others_get_their_turn() -> None:
    """40 of 0.1 s each, 8 at once: all are answered within a few ticks, and the fleet's never waits for them."""
    slow = Slow(0.1)
    queries = [f"sum(a{number})" for number in range(40)]
    with http_server(slow) as url:
        prometheus = Prometheus(url, 5, own_seconds=0.2)
        longest, answered = 0.0, 0
        for _ in range(40):
            began = time.monotonic()
            readings = await prometheus.read(0, 60, queries)
            longest = max(longest, time.monotonic() - began)
            answered = sum(answer == 3.0 for answer in readings.own.values())
            if answered == 40:
                break
        assert (answered, slow.most) == (40, OWN_AT_ONCE)
        assert longest < 2
        prometheus.close()


async def test_an_answer_that_is_older_than_a_minute_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The query has hung since: demand is unknown, and the words say why."""
    slow = Slow(0.0)
    with http_server(slow) as url:
        prometheus = Prometheus(url, 5, own_seconds=0.2)
        assert (await prometheus.read(0, 60, ["sum(a)"])).own == {"sum(a)": 3.0}
        slow.after_seconds = 1.5
        assert (await prometheus.read(0, 60, ["sum(a)"])).own == {"sum(a)": 3.0}, "the last answer, while the next one is waited for"
        monkeypatch.setattr(prometheus_edge, "OWN_ANSWER_LASTS_SECONDS", 0.1)
        assert "has not answered" in str((await prometheus.read(0, 60, ["sum(a)"])).own["sum(a)"])
        prometheus.close()


async def test_a_query_that_nobody_has_any_more_is_forgotten() -> None:
    """Its answer is not kept for an object that comes with it later."""
    with http_server(Slow(0.0)) as url:
        prometheus = Prometheus(url)
        await prometheus.read(0, 60, ["sum(a)", "sum(b)"])
        assert set((await prometheus.read(0, 60, ["sum(b)"])).own) == {"sum(b)"}
        prometheus.close()


def test_the_fleet_query_is_promql() -> None:
    """Read by a parser of PromQL, for a window of a second and of a minute."""
    for window in (1, 60):
        assert promql_parser.parse(fleet_query(window)) is not None
