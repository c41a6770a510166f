"""The forecaster at the wire: advice is checked, never trusted; whatever it answers, nothing is raised."""

from __future__ import annotations

import json

import pytest
from fakes import Answer, forecast, http_server

from deepseek_forecaster.wire import ForecastBatchResponse, ForecastRequest, read_request, write
from deepseek_operator.core.foresight import usable
from deepseek_operator.edge.forecaster import Forecaster, NoForecaster

NOW = 1_790_000_000.0
REQUEST = ForecastRequest(series="default.chat", query="sum(x)", step_seconds=60, horizon_seconds=600, quantiles=(0.5, 0.95))
GOOD = forecast("default.chat", 20.0, NOW)


async def test_one_post_for_all_and_each_answer_or_reason() -> None:
    """Two series: one is answered, one is told why not."""
    asked: list[bytes] = []

    def say(method: str, path: str, body: bytes) -> Answer:
        assert (method, path) == ("POST", "/v1/forecasts")
        asked.append(body)
        return Answer(write(ForecastBatchResponse(forecasts=(GOOD,), errors={"default.other": "no samples yet"})))

    with http_server(say) as url:
        source = Forecaster(url)
        found = await source.ask(NOW, [REQUEST, REQUEST.model_copy(update={"series": "default.other"})])
        await source.close()
    assert [len(read_request(body).requests) for body in asked] == [2]
    assert found.by_series == {"default.chat": GOOD}
    assert found.problems == {"default.other": "no samples yet"}
    assert found.problem == ""


def poisoned(text: str, by: str) -> Answer:
    body = write(ForecastBatchResponse(forecasts=(GOOD,))).decode()
    assert text in body
    return Answer(body.replace(text, by, 1))


BAD = {
    "500": (Answer("oops", 500), "answered 500: oops"),
    "400": (Answer('{"error": "bad"}', 400), "answered 400"),
    "a page": (Answer("<html>"), "not valid"),
    "nothing": (Answer(""), "not valid"),
    "NaN": (poisoned('"mean":10.0', '"mean":NaN'), "not valid"),
    "a negative mean": (poisoned('"mean":10.0', '"mean":-1.0'), "not valid: forecasts.0.mean"),
    "1e999": (poisoned('"mean":10.0', '"mean":1e999'), "not valid"),
    "a text for a number": (poisoned('"mean":10.0', '"mean":"10"'), "not valid"),
    "an unknown field": (poisoned('"mean":10.0', '"mean":10.0,"extra":1'), "not valid"),
    "a path too short": (poisoned('"horizonSeconds":600', '"horizonSeconds":6000'), "not valid"),
    "hundred thousand brackets": (Answer("[" * 100_000), "not valid"),
}


@pytest.mark.parametrize(("answer", "message"), BAD.values(), ids=BAD.keys())
async def test_a_bad_answer_is_a_problem_in_words(answer: Answer, message: str) -> None:
    """No forecast, and why."""
    with http_server(lambda *_: answer) as url:
        source = Forecaster(url)
        found = await source.ask(NOW, [REQUEST])
        await source.close()
    assert message in found.problem
    assert found.by_series == {}


async def test_one_that_is_not_there_or_hangs_is_a_problem_in_time() -> None:
    """Refused; silent for longer than half a second."""
    absent = Forecaster("http://127.0.0.1:9")
    assert "cannot be reached" in (await absent.ask(NOW, [REQUEST])).problem
    await absent.close()
    with http_server(lambda *_: Answer("{}", after_seconds=20)) as url:
        slow = Forecaster(url, timeout_seconds=0.5)
        assert (await slow.ask(NOW, [REQUEST])).problem == "the forecaster did not answer within 0.5 s"
        await slow.close()


async def test_an_answer_of_70_mebibytes_is_not_read_to_its_end() -> None:
    """64 MiB are the limit."""
    with http_server(lambda *_: Answer(b" " * (70 * 1024 * 1024))) as url:
        source = Forecaster(url, timeout_seconds=20)
        assert "not valid" in (await source.ask(NOW, [REQUEST])).problem
        await source.close()


async def test_no_forecaster_is_a_reason_like_any_other() -> None:
    """It names the flag."""
    assert (await NoForecaster().ask(NOW, [REQUEST])).problem == "no forecaster is configured (--forecaster)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"issued_at": NOW - 120}, ""),
        ({"issued_at": NOW - 121}, "the forecast is 121 s old; at most 120 s is used"),
        ({"issued_at": NOW + 121}, "the forecast is -121 s old; at most 120 s is used"),
        ({"horizon_seconds": 599}, "the forecast looks 599 s ahead; 600 s is needed"),
        ({"on_probation": True}, "the forecaster is on probation: over the last day it did worse than the last value"),
        ({"peaks": {0.5: 1.0, 0.9: 2.0}}, "quantile must be between 0.5 and 0.9 (as issued), was 0.95"),
    ],
    ids=["fresh and long enough", "two steps old", "older", "from the future", "too short", "on probation", "without the quantile"],
)
def test_usable(change: dict[str, object], message: str) -> None:
    """Empty, or a sentence that says why not."""
    given = {"issued_at": NOW} | change
    made = forecast("default.chat", 20.0, float(str(given.pop("issued_at"))), **given)
    assert usable(made, NOW, 600, 60, 95) == message


def test_the_wire_is_json_with_camel_case() -> None:
    """What the other side reads."""
    assert json.loads(write(GOOD))["horizonSeconds"] == 600
