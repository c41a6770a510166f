"""`deepseek-operator replay` as a user runs it: files in, figures out, errors in one line that say what is allowed."""

from __future__ import annotations

import csv
import json
import re
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from deepseek_operator import cli

MINUTES = 600
POLICY = """
apiVersion: inference.deepseek.dev/v1alpha1
kind: DeepSeekDeployment
metadata: {name: chat, namespace: team}
spec:
  model: {source: file:///none}
  nodes: {min: 1, max: 8}
  scaling: {mode: Reactive, capacity: {requestsPerSecondPerNode: "10"}, costPerNodeHour: "2"}
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Ten hours at 15 req/s, with half an hour of 45 req/s in the scored part and a gap of a minute."""
    path = tmp_path / "shop.csv"
    counts = ["2700" if 480 <= minute < 510 else "900" for minute in range(MINUTES)]
    counts[450] = ""
    path.write_text("t_min,count\n" + "".join(f"{minute},{count}\n" for minute, count in enumerate(counts)))
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "chat.yaml"
    path.write_text(POLICY)
    return path


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The JSON of a run that succeeds."""
    status = cli.main(["replay", *arguments, "--json", "-"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return dict(json.loads(out))


def named(found: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one for one in found["policies"]}


def test_the_bill_of_a_reactive_policy_by_hand(trace: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last 3 of 10 hours: 15 req/s need 2 nodes of 10 (the least), half an hour of 45 needs 5; three cold starts of 3 minutes are least."""
    found = figures(capsys, "--trace", str(trace), "--policy", str(policy))
    lines = named(found)
    assert (found["scoredFromSeconds"], found["scoredSeconds"]) == (25_200, 10_800)
    assert found["leastNodeHours"] == pytest.approx(2 * 3 + 3 * 0.5 + 3 * 0.05)
    assert list(lines) == ["Reactive", "static at the peak (5)", "knowing 240 s ahead", "knowing all (the least)"]
    assert lines["static at the peak (5)"]["nodeHours"] == pytest.approx(15)
    assert lines["static at the peak (5)"]["cost"] == pytest.approx(30)
    assert lines["Reactive"]["requests"] == pytest.approx(15 * 10_800 + 30 * 1800)
    assert 0 < lines["Reactive"]["latePercent"] < 25
    assert lines["knowing 240 s ahead"]["late"] == 0
    assert {"ScaleUp", "Steady", "DemandUnknown", "ScaleDownStabilized"} <= set(lines["Reactive"]["reasons"])


def test_the_summary_says_what_would_have_been_saved(trace: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against static at the peak, in node-hours, percent and money a day; and which rules decided how often."""
    assert cli.main(["replay", "--trace", str(trace), "--policy", str(policy)]) == 0
    out = capsys.readouterr().out
    assert "shop: 10.0 hours in steps of 60 s, of which the last 3.0 hours count, from day 1, 07:00 on" in out
    assert re.search(r"Reactive saves \d+\.\d node-hours a day \(\d+ %, \d+\.\d\d\) against static at the peak \(5\), with .* more late", out)
    assert re.search(r"^reasons Steady \d+\.\d %, ", out, flags=re.MULTILINE)


def test_the_timeline_adds_up_to_the_figures(trace: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row per tick of 15 s, from the start of the trace; node-hours, requests and late requests are its sums."""
    out = tmp_path / "timeline.csv"
    found = named(figures(capsys, "--trace", str(trace), "--policy", str(policy), "--timeline", str(out)))["Reactive"]
    with out.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["t_seconds", "demand", "asked", "ready", "late"]
    assert [row[0] for row in rows[1:4]] == ["25200", "25215", "25230"]
    assert len(rows) == 1 + 3 * 240
    assert sum(int(row[2]) for row in rows[1:]) * 15 / 3600 == pytest.approx(found["nodeHours"])
    assert sum(float(row[1]) for row in rows[1:]) * 15 == pytest.approx(found["requests"])
    assert sum(float(row[4]) for row in rows[1:]) == pytest.approx(found["late"])


def test_without_a_policy_the_99_9th_percentile_needs_ten_nodes_and_it_is_said(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """45 req/s are the percentile, so a node takes 4.5; the bounds are 1 and 40."""
    found = figures(capsys, "--trace", str(trace), "--mode", "Reactive")
    assert (found["requestsPerSecondPerNode"], found["capacityGiven"]) == (pytest.approx(4.5), False)
    assert found["nodes"] == {"min": 1, "max": 40}
    assert cli.main(["replay", "--trace", str(trace), "--mode", "Reactive"]) == 0
    assert "4.5 req/s per node (none given: the 99.9th percentile of the trace then needs ten nodes)" in capsys.readouterr().out


def test_capacity_cold_start_and_begin_can_be_given(trace: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A begin in seconds, a node of 20 req/s, a cold start of a minute: 1 node, and 3 for half an hour with two cold starts."""
    found = figures(
        capsys,
        "--trace",
        str(trace),
        "--policy",
        str(policy),
        "--from",
        "18000",
        "--capacity",
        "20",
        "--cold-start",
        "60",
        "--tick-seconds",
        "30",
    )
    assert found["scoredFromSeconds"] == 18_000
    assert found["leastNodeHours"] == pytest.approx(5 + 2 * 0.5 + 2 / 60)
    assert found["tickSeconds"] == 30


def test_manual_runs_its_count(trace: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3 nodes for three hours, beside what Reactive would have taken."""
    policy.write_text(POLICY.replace("max: 8}", "max: 8, count: 3}").replace("mode: Reactive", "mode: Manual"))
    lines = named(figures(capsys, "--trace", str(trace), "--policy", str(policy)))
    assert lines["Manual"]["nodeHours"] == pytest.approx(9, rel=0.01)
    assert lines["Manual"]["reasons"] == {"Manual": 720}
    assert "Reactive" in lines


def test_shadow_acts_as_reactive_and_walks_the_forecaster_over_the_trace(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last 12 of 45 steady minutes (too few to teach a model anything, so that it is quick): what Predictive would have done in the shadow
    stands on forecasts it could have had, fresh and far-sighted at every tick; if one may not be acted on, then only on probation."""
    path = tmp_path / "short.csv"
    path.write_text("t_min,count\n" + "".join(f"{minute},900\n" for minute in range(45)))
    stretch = ("--trace", str(path), "--policy", str(policy), "--from", "1980")
    shadow, reactive = named(figures(capsys, *stretch, "--mode", "Shadow")), named(figures(capsys, *stretch))
    assert shadow["Shadow"]["nodeHours"] == reactive["Reactive"]["nodeHours"]
    assert "Reactive" not in shadow
    foreseen = shadow["Predictive, in the shadow"]
    assert sum(foreseen["reasons"].values()) == 48
    assert all("on probation" in why for why in foreseen.get("withoutForecast", {}))
    assert foreseen["late"] == 0


def test_without_the_models_it_names_what_to_install(
    trace: Path, policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the operator's image; mode Reactive goes on working there."""
    monkeypatch.setitem(sys.modules, "deepseek_forecaster.walk", None)
    assert cli.main(["replay", "--trace", str(trace), "--policy", str(policy), "--mode", "Predictive"]) == 2
    assert "pip install deepseek-forecaster[models]" in capsys.readouterr().err
    assert cli.main(["replay", "--trace", str(trace), "--policy", str(policy)]) == 0


def test_the_page_stands_alone_and_shows_curves_bill_and_reasons(
    trace: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No script, nothing fetched; a drawing that parses; the figures of the JSON in its table; the late half hour named with its reason."""
    out, name = tmp_path / "page.html", "<b>shop & co</b>.csv".replace("/", "_")
    named_badly = trace.rename(tmp_path / name)
    found = named(figures(capsys, "--trace", str(named_badly), "--policy", str(policy), "--report", str(out)))
    text = out.read_text()
    assert "<script" not in text
    assert not re.search(r"(src|href)=|url\(|@import|https?://", text)
    drawing = ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert {element.get("class") for element in drawing.iter()} >= {"demand", "asked", "ready", "late"}
    assert "<b>shop" not in text
    assert "&lt;b&gt;shop &amp; co" in text
    assert f"{found['Reactive']['nodeHours']:,.1f}" in text
    assert f"{found['Reactive']['cost']:,.2f}" in text
    assert "Where requests were late (1 incident" in text
    assert "day 1, 08:00" in text
    assert "ScaleDownStabilized" in text


def test_a_long_trace_keeps_every_late_request_in_the_drawing(tmp_path: Path, policy: Path) -> None:
    """Two weeks of ticks in a thousand columns: the page stays under 400 kB and a single late minute is a bar."""
    path, out = tmp_path / "long.csv", tmp_path / "page.html"
    path.write_text("t_min,count\n" + "".join(f"{minute},{9000 if minute == 15_000 else 600}\n" for minute in range(20_160)))
    assert cli.main(["replay", "--trace", str(path), "--policy", str(policy), "--report", str(out)]) == 0
    assert len(out.read_bytes()) < 400_000
    assert 'class="late"' in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --trace FILE.csv and --prometheus URL"),
        (["--trace", "{trace}", "--prometheus", "http://localhost:1"], "give one of --trace FILE.csv and --prometheus URL"),
        (["--trace", "absent.csv"], "absent.csv: No such file"),
        (["--trace", "{trace}", "--policy", "absent.yaml"], "absent.yaml"),
        (["--trace", "{trace}", "--from", "36000"], "--from must lie before the end of the trace (36000 s), was 36000"),
        (["--prometheus", "http://localhost:1"], "--prometheus needs a --query, or a --policy with a name"),
    ],
    ids=["no traffic", "two sources", "no file", "no policy file", "nothing left to score", "no query"],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], message: str, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, nothing on standard output."""
    assert cli.main(["replay", *(argument.replace("{trace}", str(trace)) for argument in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("kind: Pod\n", "expected the yaml of a DeepSeekDeployment, found none"),
        (POLICY.replace("max: 8", "max: 0"), "nodes.max"),
        (POLICY.replace("mode: Reactive", "mode: Clever"), "scaling.mode"),
        ("a: [", "while parsing"),
    ],
    ids=["another kind", "out of range", "an unknown mode", "no yaml"],
)
def test_a_policy_that_is_none_says_where(yaml: str, message: str, trace: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File, field, what is allowed."""
    policy.write_text(yaml)
    assert cli.main(["replay", "--trace", str(trace), "--policy", str(policy)]) == 2
    err = capsys.readouterr().err
    assert "chat.yaml" in err
    assert message in err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--from", "-1", "must be a share below 1 or seconds since the start of the trace, was '-1'"),
        ("--days", "0", "must be days from 0.05 to 400, was '0'"),
        ("--capacity", "zero", "must be a number above 0"),
    ],
)
def test_a_flag_out_of_range_says_what_is_allowed(flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As argparse does, exit status 2."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["replay", f"{flag}={value}"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- Prometheus


class FakePrometheus(ThreadingHTTPServer):
    """Answers range queries with 12 req/s at every minute but some; refuses the query `bad`."""

    asked: list[dict[str, list[str]]]


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        form = parse_qs(urlsplit(self.path).query)
        assert isinstance(self.server, FakePrometheus)
        self.server.asked.append(form)
        query, begin, end = form["query"][0], float(form["start"][0]), float(form["end"][0])
        if query == "bad":
            self.reply(400, {"status": "error", "errorType": "bad_data", "error": "parse error: unexpected end"})
            return
        values = [[at, "NaN" if at % 7200 == 0 else "12"] for at in range(int(begin), int(end) + 1, 60)]
        series = {"metric": {}, "values": values}
        result = [] if query == "none" else [series, series] if query == "two" else [series]
        self.reply(200, {"status": "success", "data": {"resultType": "matrix", "result": result}})

    def reply(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def prometheus() -> Iterator[tuple[str, FakePrometheus]]:
    with FakePrometheus(("127.0.0.1", 0), Answer) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", server
        server.shutdown()
        thread.join()


def test_two_weeks_from_prometheus_in_queries_it_accepts(
    prometheus: tuple[str, FakePrometheus], policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """20,160 minutes in three queries of at most 10,000; NaN is unknown; the policy's own application is asked for; the date is known."""
    url, server = prometheus
    found = figures(capsys, "--prometheus", url, "--policy", str(policy), "--days", "14")
    assert len(server.asked) == 3
    assert all("team.chat" in form["query"][0] for form in server.asked)
    assert found["scoredSeconds"] == pytest.approx(0.3 * 14 * 86_400, abs=120)
    assert named(found)["Reactive"]["requests"] == pytest.approx(12 * found["scoredSeconds"])
    assert named(found)["Reactive"]["reasons"]["DemandUnknown"] > 0
    assert cli.main(["replay", "--prometheus", url, "--policy", str(policy), "--days", "1"]) == 0
    assert time.strftime("%Y-%m-", time.gmtime(time.time() - 7 * 3600)) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("bad", "Prometheus refused the query"),
        ("none", "has no sample of the query within the last 1 days: none"),
        ("two", "the query must give one series, gave 2; wrap it in sum()"),
    ],
)
def test_what_prometheus_cannot_answer_is_one_line(
    prometheus: tuple[str, FakePrometheus], query: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2."""
    assert cli.main(["replay", "--prometheus", prometheus[0], "--query", query, "--days", "1", "--mode", "Reactive"]) == 2
    assert message in capsys.readouterr().err


def test_a_prometheus_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The address is in the line."""
    assert cli.main(["replay", "--prometheus", "http://127.0.0.1:9", "--query", "up", "--mode", "Reactive"]) == 2
    assert "Prometheus at http://127.0.0.1:9 could not be read" in capsys.readouterr().err
