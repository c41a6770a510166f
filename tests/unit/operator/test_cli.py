"""The command line: flags, their environment variables, refusals that say what is allowed; the log; `explain` and `report`."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import deployment

from deepseek_operator import cli
from deepseek_operator.core import decide
from deepseek_operator.edge.telemetry import JsonLog
from deepseek_operator.explain import BINDING, in_full, one_line
from deepseek_operator.savings import as_json, as_table


def run_flags(*arguments: str) -> Any:
    return cli.parser().parse_args(["run", *arguments])


def test_defaults() -> None:
    """A tick of 15 s, a step and a window of 60 s, all namespaces."""
    options = run_flags()
    assert (options.tick_seconds, options.step_seconds, options.demand_window_seconds) == (15.0, 60, 60)
    assert (options.metrics_listen, options.health_listen) == (("0.0.0.0", 9090), ("0.0.0.0", 8080))
    assert (options.namespace, options.all_namespaces, options.log_format) == (None, False, "text")


FROM_ENVIRONMENT: dict[str, tuple[str, str, Any]] = {
    "TICK_SECONDS": ("2.5", "tick_seconds", 2.5),
    "STEP_SECONDS": ("2", "step_seconds", 2),
    "DEMAND_WINDOW_SECONDS": ("10", "demand_window_seconds", 10),
    "PROMETHEUS": ("http://p:9090", "prometheus", "http://p:9090"),
    "FORECASTER": ("http://f:8099", "forecaster", "http://f:8099"),
    "HTTP_PROXY": ("http://x:1", "http_proxy", "http://x:1"),
    "METRICS_LISTEN": ("127.0.0.1:1", "metrics_listen", ("127.0.0.1", 1)),
    "HEALTH_LISTEN": (":7", "health_listen", ("0.0.0.0", 7)),
    "LOG_FORMAT": ("json", "log_format", "json"),
    "NAMESPACE": ("a,b", "namespace", ["a,b"]),
    "ALL_NAMESPACES": ("true", "all_namespaces", True),
}


@pytest.mark.parametrize(("variable", "text", "field", "value"), [(k, *v) for k, v in FROM_ENVIRONMENT.items()], ids=FROM_ENVIRONMENT.keys())
def test_every_flag_is_a_variable_too(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: Any) -> None:
    """DEEPSEEK_OPERATOR_…, read with the flag's own rules."""
    monkeypatch.setenv(f"DEEPSEEK_OPERATOR_{variable}", text)
    assert getattr(run_flags(), field) == value


def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that may be given more than once."""
    monkeypatch.setenv("DEEPSEEK_OPERATOR_TICK_SECONDS", "7")
    monkeypatch.setenv("DEEPSEEK_OPERATOR_NAMESPACE", "from-the-environment")
    assert run_flags("--tick-seconds", "3").tick_seconds == 3
    assert run_flags("--namespace", "a", "--namespace", "b").namespace == ["a", "b"]
    assert run_flags().namespace == ["from-the-environment"]


REFUSED: dict[str, tuple[str, str, str]] = {
    "a tick of nothing": ("--tick-seconds", "0", "must be a number above 0 and below 1000000, was '0'"),
    "a negative tick": ("--tick-seconds", "-1", "must be a number above 0"),
    "a tick that is no number": ("--tick-seconds", "nan", "must be a number above 0 and below 1000000, was 'nan'"),
    "a step of half a second": ("--step-seconds", "0.5", "must be a whole number from 1 to 86400, was '0.5'"),
    "an address without a port": ("--metrics-listen", "127.0.0.1", "must be HOST:PORT, was '127.0.0.1'"),
    "a port beyond all ports": ("--health-listen", "x:65536", "must be HOST:PORT"),
    "an unknown log format": ("--log-format", "xml", "must be one of text, json, was 'xml'"),
    "an unknown log level": ("--log-level", "loud", "must be one of debug, info, warning, error, was 'loud'"),
}


@pytest.mark.parametrize(("flag", "text", "message"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_refusal_says_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by: str, flag: str, text: str, message: str
) -> None:
    """Exit status 2, by flag and by variable."""
    if by == "variable":
        monkeypatch.setenv("DEEPSEEK_OPERATOR_" + flag.removeprefix("--").replace("-", "_").upper(), text)
    with pytest.raises(SystemExit) as end:
        run_flags(*([f"{flag}={text}"] if by == "flag" else []))
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_namespaces_and_all_of_them_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and one line."""
    assert cli.main(["run", "--namespace", "a", "--all-namespaces"]) == 2
    assert capsys.readouterr().err.strip() == "give either --namespace or --all-namespaces"


def test_no_cluster_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Not a traceback."""
    assert cli.main(["run", "--kubeconfig", str(tmp_path / "absent")]) == 1
    assert "no way to a cluster" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The distribution's."""
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip().count(".") == 2


# --------------------------------------------------------------------------------------------------------------------- log


def test_a_log_line_is_one_json_object_with_its_traceback_inside() -> None:
    """Quotes and line breaks in a message do not break it."""
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.LogRecord("deepseek_operator.tick", logging.ERROR, "f", 1, 'said "%s"\nand more', ("x",), sys.exc_info())
    record.created = 1_790_000_000.0
    line = JsonLog().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert read.pop("error").endswith("ValueError: no")
    assert read == {"time": "2026-09-21T14:13:20Z", "level": "error", "logger": "deepseek_operator.tick", "message": 'said "x"\nand more'}


# ----------------------------------------------------------------------------------------------------------------- explain

STATUS: dict[str, Any] = {
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "Serving", "message": "4 of 6 nodes answer", "lastTransitionTime": "2026-09-21T14:00:00Z"}
    ],
    "nodes": {"desired": 6, "current": 6, "ready": 4},
    "demand": {"requestsPerSecond": "20", "observedAt": "2026-09-21T14:00:00Z"},
    "utilization": {"currentPercent": 33, "predictedPercent": 80},
    "forecast": {
        "issuedAt": "2026-09-21T14:00:00Z",
        "horizonSeconds": 600,
        "percentile": 95,
        "peakRequestsPerSecond": "48",
        "meanRequestsPerSecond": "30",
        "models": {"lstm": 40, "arima": 60},
    },
    "capacity": {"requestsPerSecondPerNode": "10", "source": "Spec"},
    "coldStart": {"p90Seconds": 90, "samples": 4, "schedulingSeconds": 30, "startingSeconds": 20, "loadingSeconds": 40},
    "savings": [
        {
            "date": "2026-09-20",
            "nodeHours": "60",
            "reactiveNodeHours": "70.5",
            "savedGpuHours": "10.5",
            "savedCost": "26.25",
            "overloadedSeconds": 30,
            "reactiveOverloadedSeconds": 90,
        },
        {
            "date": "2026-09-21",
            "nodeHours": "3",
            "reactiveNodeHours": "2.5",
            "savedGpuHours": "-0.5",
            "savedCost": "-1.25",
            "overloadedSeconds": 0,
            "reactiveOverloadedSeconds": 15,
        },
    ],
    "decision": {
        "nodes": 6,
        "recommended": 6,
        "reason": "ScaleUp",
        "message": "forecast peak 48 req/s needs 6",
        "at": "2026-09-21T14:00:00Z",
        "shadowNodes": 7,
    },
    "lastScaleAt": "2026-09-21T13:59:00Z",
    "ledger": {"since": "2026-09-01T00:00:00Z", "nodeHours": "3", "atMaximumNodeHours": "10", "reactiveNodeHours": "4"},
}


def test_explain_in_full() -> None:
    """Every figure the decision stood on."""
    assert list(in_full(deployment() | {"status": STATUS})) == [
        "chat runs 6 nodes (4 ready): ScaleUp: forecast peak 48 req/s needs 6",
        "  mode         Reactive: add above 80 %, release below 30 %, consolidate in between",
        "  bounds       1 to 10 nodes",
        "  demand       20 req/s",
        "  capacity     10 req/s per node (spec)",
        "  utilization  now 33 %, predicted 80 %",
        "  forecast     peak 48 req/s (95th percentile), mean 30, over 600 s; models: arima 60 %, lstm 40 %",
        "  cold start   90 s (90th percentile of 4; finding a machine 30 s, image and pod 20 s, model 40 s)",
        "  bound by     the load calls for 6; nothing holds that back",
        "  decided      2026-09-21T14:00:00Z, last change of the count 2026-09-21T13:59:00Z",
        "  shadow       Predictive would run 7 nodes",
        "  ledger       3 node-hours since 2026-09-01T00:00:00Z; 10 at the maximum, 4 in mode Reactive",
        "  2026-09-21   3 node-hours, 2.5 in mode Reactive; saved -0.5 GPU-hours and -1.25 in money",
        "  Ready             True    Serving: 4 of 6 nodes answer",
    ]


def test_explain_before_the_first_decision_says_what_may_be_wrong() -> None:
    """In one line."""
    assert one_line(deployment()) == "chat: nothing decided yet; is the operator running and watching namespace default?"
    assert list(in_full(deployment())) == [one_line(deployment())]


def test_explain_of_an_object_from_an_older_definition_still_explains() -> None:
    """Just then somebody asks: the spec's fault in words, and the conditions."""
    degraded = {"type": "Degraded", "status": "True", "reason": "InvalidSpec", "message": "x", "lastTransitionTime": "2026-09-21T14:00:00Z"}
    body = deployment(nodes={"min": 9, "max": 3}) | {"status": {"conditions": [degraded]}}
    lines = list(in_full(body))
    assert any("nodes.min must be at most nodes.max (3), was 9" in line for line in lines)
    assert lines[-1] == "  Degraded          True    InvalidSpec: x"


def test_explain_of_an_unreadable_status_says_so() -> None:
    """Another version wrote it."""
    lines = list(in_full(deployment() | {"status": {"nodes": "many"}}))
    assert "cannot be read" in lines[0]


BOUND = {
    "MaximumNodes": "the load calls for 12; nodes.max",
    "BudgetLimited": "the load calls for 12; scaling.budget",
    "ScaleDownStabilized": "the load calls for 12; scaling.scaleDownStabilizationSeconds",
    "ScheduledFloor": "the load calls for 12; scaling.schedule",
    "Steady": "the load calls for 12; nothing holds that back",
}


@pytest.mark.parametrize(("reason", "words"), BOUND.items(), ids=BOUND.keys())
def test_explain_names_the_binding_constraint(reason: str, words: str) -> None:
    """By the field that a person would change."""
    status = STATUS | {"decision": {"nodes": 10, "recommended": 12, "reason": reason, "message": "x", "at": "2026-09-21T14:00:00Z"}}
    assert f"  bound by     {words}" in list(in_full(deployment() | {"status": status}))


def test_explain_names_floors_and_budgets() -> None:
    """As the spec has them."""
    floor = {"name": "office", "minNodes": 4, "cron": "0 8 * * MON-FRI", "durationSeconds": 36_000}
    money = {"costPerNodeHour": "2.5", "budget": {"costPerDay": "300", "whenSpent": "Hold"}}
    lines = list(in_full(deployment(scaling={"schedule": [floor], **money}) | {"status": STATUS}))
    assert "  floor        office: 4 nodes, 0 8 * * MON-FRI (UTC) for 36000 s" in lines
    assert "  budget       300 in money a day; when spent: hold" in lines


def test_every_reason_of_the_core_but_those_of_the_load_has_its_constraint_named() -> None:
    """So that a new rule does not go unexplained."""
    text = "".join(path.read_text() for path in Path(decide.__file__).parent.glob("*.py"))
    given = re.findall(r'(?:\.but\(|hold\(|Decision\()[^"]*"([A-Z][A-Za-z]+)",', text)
    reasons = set(given)
    assert {"MaximumNodes", "BudgetLimited", "ScheduledFloor", "ReactiveFloor"} <= reasons, "the pattern finds no reasons any more"
    assert reasons - BINDING.keys() == {"ScaleUp", "ScaleDown", "Consolidate", "Steady"}


# ------------------------------------------------------------------------------------------------------------------ savings


def test_the_report_is_a_table_with_a_line_a_day_and_the_sum() -> None:
    """63 node-hours beside 73: 10 GPU-hours and 25 in money, half a minute of overload beside almost two."""
    lines = list(as_table([deployment() | {"status": STATUS}]))
    assert [" ".join(line.split()) for line in lines] == [
        "OBJECT DAY NODE-HOURS REACTIVE PREDICTIVE SAVED GPU-HOURS SAVED COST OVERLOADED REACTIVE OVERLOADED",
        "default/chat 2026-09-20 60.00 70.50 – 10.50 26.25 0.5 min 1.5 min",
        "default/chat 2026-09-21 3.00 2.50 – -0.50 -1.25 0.0 min 0.2 min",
        "default/chat total 63.00 73.00 – 10.00 25.00 0.5 min 1.8 min",
    ]


def test_the_report_as_json_has_the_days_and_the_total() -> None:
    """With the names of the API."""
    (found,) = as_json([deployment() | {"status": STATUS}])
    assert (found["namespace"], found["name"], len(found["days"])) == ("default", "chat", 2)
    assert found["total"] == {
        "nodeHours": "63",
        "reactiveNodeHours": "73",
        "savedGpuHours": "10",
        "savedCost": "25",
        "overloadedSeconds": 30,
        "reactiveOverloadedSeconds": 105,
    }


def test_the_report_before_the_first_day_and_of_an_unreadable_status() -> None:
    """Says so, and leaves the others."""
    assert list(as_table([deployment(), deployment("odd") | {"status": {"savings": "many"}}])) == ["no day has been counted yet"]
    assert as_json([deployment()]) == [{"namespace": "default", "name": "chat", "days": [], "total": None}]
