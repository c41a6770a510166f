"""The messages between the operator and the forecaster: what is accepted, and what a refusal says."""

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deepseek_forecaster.types import Forecast, Sustained, UnknownQuantileError
from deepseek_forecaster.wire import ForecastBatchResponse, WireError, read_request, read_response, write

QUESTION: dict[str, Any] = {
    "series": "default.chat",
    "query": "sum(rate(x[60s]))",
    "stepSeconds": 60,
    "horizonSeconds": 600,
    "quantiles": [0.5, 0.9, 0.95],
    "leadSeconds": 240,
    "slackSeconds": 10,
}


def forecast(**changes: Any) -> Forecast:
    given_fields: dict[str, Any] = {
        "series": "default.chat",
        "issued_at": 1000.0,
        "step_seconds": 60,
        "horizon_seconds": 150,
        "mean": 10.0,
        "peak": {0.5: 10.0, 0.9: 14.0, 0.95: 20.0},
        "path": {"mean": (9.0, 10.0, 11.0), "0.95": (15.0, 16.0, 17.0)},
        "models": {"arima": 0.6, "lstm": 0.4},
        "history_seconds": 3600.0,
    }
    return Forecast(**(given_fields | changes))


def batch(**changes: Any) -> str:
    return json.dumps({"now": 1_790_000_000.0, "requests": [QUESTION | changes]})


def test_the_contract_of_a_request_reads_and_writes_the_same() -> None:
    request = read_request(batch())
    assert request.requests[0].steps == 10
    assert json.loads(write(request)) == json.loads(batch())


def test_a_response_reads_back_equal_with_camel_case_names_and_quantiles_as_keys() -> None:
    response = ForecastBatchResponse(forecasts=(forecast(),), errors={"default.other": "no samples yet"})
    body = json.loads(write(response))
    assert body["forecasts"][0]["peak"] == {"0.5": 10.0, "0.9": 14.0, "0.95": 20.0}
    assert {"issuedAt", "stepSeconds", "onProbation", "recentWape", "naiveWape", "coverage90", "trainedAt"} <= body["forecasts"][0].keys()
    assert read_response(write(response)) == response


def test_a_question_without_a_lead_is_one_about_the_peak_alone() -> None:
    plain = {key: value for key, value in QUESTION.items() if key not in ("leadSeconds", "slackSeconds")}
    request = read_request(json.dumps({"now": 1.0, "requests": [plain]})).requests[0]
    assert (request.lead_seconds, request.slack_seconds) == (None, 0)
    assert forecast().sustained is None


def test_what_has_to_be_carried_rises_with_the_quantile() -> None:
    with pytest.raises(ValueError, match=r"sustained\.load must not fall as the quantile rises"):
        Sustained(lead_seconds=240, slack_seconds=10, load={0.5: 3.0, 0.9: 2.0})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stepSeconds": 0}, "requests.0.stepSeconds: Input should be greater than or equal to 1 (was 0)"),
        ({"stepSeconds": 1, "horizonSeconds": 3601}, "horizonSeconds must be at most 3600 × stepSeconds (3600), was 3601"),
        ({"stepSeconds": 1.5}, "requests.0.stepSeconds: Input should be a valid integer"),
        ({"stepSeconds": "60"}, "requests.0.stepSeconds: Input should be a valid integer (was '60')"),
        ({"quantiles": [0.5, 1.0]}, "requests.0.quantiles.1: a quantile must be above 0 and below 1, was 1"),
        ({"quantiles": [0.5, 0.5]}, "quantiles must be different from each other"),
        ({"leadSeconds": 601}, "leadSeconds must be at most horizonSeconds (600), was 601"),
        ({"slackSeconds": -1}, "requests.0.slackSeconds: Input should be greater than or equal to 0 (was -1)"),
        ({"quantiles": []}, "requests.0.quantiles: Tuple should have at least 1 item"),
        ({"quantiles": [float("nan")]}, "requests.0.quantiles.0: Input should be a finite number"),
        ({"series": ""}, "requests.0.series: String should have at least 1 character"),
        ({"query": "x" * 16_385}, "requests.0.query: String should have at most 16384 characters"),
        ({"surprise": 1}, "requests.0.surprise: Extra inputs are not permitted"),
    ],
)
def test_a_refused_question_says_where_and_what_is_allowed(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(WireError) as refusal:
        read_request(batch(**changes))
    assert says in str(refusal.value)


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"now": NaN, "requests": []}', '{"now": 1e400, "requests": []}', '{"requests": []}'])
def test_a_body_that_is_no_request_is_refused(body: str) -> None:
    with pytest.raises(WireError):
        read_request(body)


def test_the_same_series_twice_in_one_batch_is_refused() -> None:
    with pytest.raises(WireError, match=r"'default.chat' was asked for twice"):
        read_request(json.dumps({"now": 1.0, "requests": [QUESTION, QUESTION]}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peak": {0.5: 3.0, 0.9: 2.0}}, "peak must not fall as the quantile rises"),
        ({"peak": {0.5: float("nan")}}, "finite number"),
        ({"peak": {0.5: -1.0}}, "greater than or equal to 0"),
        ({"mean": float("inf")}, "finite number"),
        ({"path": {"mean": (1.0, 2.0)}}, "must have ceil(horizonSeconds ÷ stepSeconds) = 3 values, had 2"),
        ({"path": {"0.5": (1.0, 2.0, 3.0)}}, "path must have a row `mean`"),
        ({"path": {"mean": (1.0, 2.0, 3.0), "p95": (1.0, 2.0, 3.0)}}, "quantile above 0 and below 1, was called 'p95'"),
    ],
)
def test_a_forecast_that_contradicts_itself_cannot_exist(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        forecast(**changes)
    assert says in str(refusal.value)


def test_an_issued_quantile_is_answered_as_issued_and_one_between_lies_between() -> None:
    assert forecast().quantile(0.9) == 14.0
    assert 14.0 < forecast().quantile(0.93) < 20.0


@pytest.mark.parametrize("q", [0.4, 0.96, float("nan")])
def test_a_quantile_outside_those_issued_is_refused_with_the_allowed_range(q: float) -> None:
    with pytest.raises(UnknownQuantileError, match=r"between 0\.5 and 0\.95"):
        forecast().quantile(q)


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=8, unique=True), st.data())
def test_quantile_rises_with_q_for_any_forecast(quantiles: list[float], data: st.DataObject) -> None:
    loads = sorted(data.draw(st.lists(st.floats(0, 1e12), min_size=len(quantiles), max_size=len(quantiles))))
    one = forecast(peak=dict(zip(sorted(quantiles), loads, strict=True)))
    asked = sorted(data.draw(st.lists(st.floats(min(quantiles), max(quantiles)), min_size=2, max_size=5)))
    answers = [one.quantile(q) for q in asked]
    assert all(b >= a - 1e-9 * max(1.0, a) for a, b in itertools.pairwise(answers))
    assert loads[0] <= answers[0] + 1e-9 * loads[0]
    assert answers[-1] <= loads[-1] * (1 + 1e-9)


def test_a_forecast_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        forecast().mean = 3.0


def test_types_and_wire_bring_no_numpy_torch_or_http_server_with_them() -> None:
    program = "import sys, deepseek_forecaster.wire; print(sorted({'numpy','torch','aiohttp','pandas','statsmodels'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
