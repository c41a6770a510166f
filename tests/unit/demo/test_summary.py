"""The figures at the end and the verdict."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from deepseek_demo import picture
from deepseek_demo.player import Answer, Tally
from deepseek_demo.record import COLUMNS, Moment, Recording, demand_at
from deepseek_demo.stage import Pacing
from deepseek_demo.summary import figures, in_words, lead_of, quantile

PACING = Pacing(nodes=4, requests_per_second_per_node=2.0, scale_up_percent=80)  # one node carries 1.6 req/s


def recording(demand: list[float], asked: list[int], ready: list[int] | None = None) -> Recording:
    """One look per second."""
    ready = ready or asked
    rows = zip(demand, asked, ready, strict=True)
    return Recording(
        [Moment(float(t), d, 2.0, 3.0, a, r, max(a, r), "Predicted", "peak 4.7 req/s needs 3") for t, (d, a, r) in enumerate(rows)]
    )


def tally(answered: int = 10, failed: int = 0, late: int = 0) -> Tally:
    answers = [Answer(float(i), 0.2, 0.5, 200, True) for i in range(answered)]
    answers += [Answer(float(i), 11.0, 12.0, 200, True) for i in range(late)]
    answers += [Answer(float(i), 0.0, 0.1, 429) for i in range(failed)]
    return Tally([answer.sent_at for answer in answers], answers)


UP_AND_DOWN = [1.0] * 10 + [2.0] * 10 + [1.0] * 10


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param([1] * 4 + [2] * 21 + [1] * 5, 6.0, id="asked at 4 s, needed at 10 s: 6 s ahead"),
        pytest.param([1] * 10 + [2] * 20, 0.0, id="asked the very second demand passed it: not ahead"),
        pytest.param([1] * 13 + [2] * 17, -3.0, id="asked 3 s late"),
    ],
)
def test_lead_is_the_time_between_asking_and_needing(asked: list[int], expected: float) -> None:
    lead = lead_of(recording(UP_AND_DOWN, asked).moments, node=2, carried=1.6)
    assert lead is not None
    assert lead.seconds == expected


def test_a_node_that_was_there_all_along_has_no_lead() -> None:
    assert lead_of(recording(UP_AND_DOWN, [2] * 30).moments, node=2, carried=1.6) is None


def test_a_single_second_above_what_one_node_carries_is_no_need() -> None:
    assert lead_of(recording([1.0] * 5 + [9.0] + [1.0] * 5, [1] * 11).moments, node=2, carried=1.6) is None


def test_a_run_that_asked_before_the_rise_and_gave_back_after_it_is_a_success() -> None:
    result = figures(recording(UP_AND_DOWN, [1] * 4 + [2] * 21 + [1] * 5), tally(), PACING, None)
    assert result.faults == []
    assert [lead.node for lead in result.ahead] == [2]
    # 1 node for 4 s, 2 for 21 s, 1 for the last 4 s that have a later look
    assert result.node_hours == pytest.approx((4 + 42 + 4) / 3600)
    assert result.maximum_node_hours == pytest.approx(4 * 29 / 3600)
    words = "\n".join(in_words(result))
    assert "node 2 asked for 6 s before demand passed what 1 carry" in words
    assert "why        at the peak, 2 nodes: peak 4.7 req/s needs 3" in words


@pytest.mark.parametrize(
    ("asked", "given", "fault"),
    [
        pytest.param([1] * 4 + [2] * 21 + [1] * 5, tally(failed=2), "2 of 12 requests failed (2 × 429)", id="two answered 429"),
        pytest.param([1] * 13 + [2] * 12 + [1] * 5, tally(), "never asked for before", id="always behind"),
        pytest.param([1] * 4 + [2] * 26, tally(), "no node was given back", id="kept for ever"),
        pytest.param([1] * 4 + [2] * 21 + [1] * 5, Tally(), "no request was sent", id="nothing sent"),
    ],
)
def test_a_run_is_no_success_when(asked: list[int], given: Tally, fault: str) -> None:
    result = figures(recording(UP_AND_DOWN, asked), given, PACING, None)
    assert any(fault in each for each in result.faults)
    assert any(line.startswith("FAILED") for line in in_words(result))


def test_late_requests_are_told_but_are_no_failure() -> None:
    result = figures(recording(UP_AND_DOWN, [1] * 4 + [2] * 21 + [1] * 5), tally(late=3), PACING, None)
    assert (result.sent, result.answered, result.late, result.failed) == (13, 13, 3, 0)
    assert result.faults == []


def test_nodes_that_still_drain_are_paid_for() -> None:
    seen = Recording([Moment(0.0, 1, None, None, 1, 2, 2), Moment(3600.0, 1, None, None, 1, 1, 1)])
    assert seen.node_hours == 2.0


def test_the_timeline_has_the_agreed_columns_and_counts_each_late_request_once(tmp_path: Path) -> None:
    answers = [
        Answer(0.5, 11.0, 12.0, 200),
        Answer(1.5, 12.0, 12.0, 200),
        Answer(1.7, 0.1, 0.2, 200),
        Answer(1.8, 60.0, 60.0, 0, fault="TimeoutError"),
    ]
    recording([1.0, 2.0, 3.0], [1, 2, 2], [1, 1, 2]).write_csv(tmp_path / "t.csv", answers)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["late"] for row in rows] == ["0", "1", "1"]
    assert rows[1] == {
        "t_seconds": "1.0",
        "demand": "2.000",
        "forecast_p50": "2.000",
        "forecast_p95": "3.000",
        "asked": "2",
        "ready": "1",
        "late": "1",
    }


def test_10_requests_in_the_last_5_seconds_are_2_per_second() -> None:
    assert demand_at([0.1] + [6.0 + i / 10 for i in range(10)], now=10.0, window_seconds=5.0) == 2.0


def test_quantiles_of_nothing_are_not_known() -> None:
    assert quantile([], 0.5) is None
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0], 0.95) == 3.0


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    answers = [Answer(1.0, 0.1, 0.5, 200), Answer(2.0, 11.0, 12.0, 200), Answer(3.0, 0.0, 0.1, 503)]
    picture.draw(tmp_path / "demo.png", recording(UP_AND_DOWN, [1] * 10 + [2] * 20), answers, PACING, "a run")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
