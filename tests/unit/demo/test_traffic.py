"""Traces: read from a CSV or made by the generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepseek_demo.traffic import MINUTES_PER_DAY, Trace, TraceError, generate, read_trace


def csv(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_five_minute_trace_with_a_gap_and_a_missing_row_has_two_unknown_steps(tmp_path: Path) -> None:
    trace = read_trace(csv(tmp_path, "t_min,count\n0,10\n5,\n10,30\n20,50\n"))
    assert trace.step_minutes == 5
    assert trace.name == "trace"
    np.testing.assert_array_equal(trace.counts, [10, np.nan, 30, np.nan, 50])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "line 1: expected a header with the columns t_min and count", id="an empty file"),
        pytest.param(
            "minute,count\n0,1\n", "line 1: expected a header with the columns t_min and count, was 'minute,count'", id="another header"
        ),
        pytest.param("t_min,count\n0,1\n1,many\n", "line 3, column count: expected a number of 0 or more, or nothing", id="a word as a count"),
        pytest.param("t_min,count\n0,1\n1,-4\n", "line 3, column count: expected a number of 0 or more", id="a negative count"),
        pytest.param("t_min,count\n0,1\n1,inf\n", "line 3, column count", id="an infinite count"),
        pytest.param("t_min,count\n0,1\n,4\n", "line 3, column t_min: expected minutes since the start", id="no time"),
        pytest.param(
            "t_min,count\n0,1\n5,4\n5,4\n", "line 4, column t_min: expected more than the 5 of the row before, was 5", id="the same time twice"
        ),
        pytest.param("t_min,count\n0,1\n2,1\n4,1\n5.5,1\n", "line 5, column t_min: expected a multiple of the step", id="a crooked step"),
        pytest.param("t_min,count\n0,1\n1\n", "line 3: expected 2 columns (t_min,count), found 1", id="a short row"),
        pytest.param("t_min,count\n0,1\n", "expected at least 2 rows below the header, found 1", id="one row"),
        pytest.param("t_min,count\n0,0\n1,\n", "expected at least one count above 0", id="nothing but zeros"),
    ],
)
def test_a_wrong_file_is_refused_with_line_column_and_what_is_expected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(csv(tmp_path, text))
    assert message in str(caught.value)
    assert "trace.csv" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"absent\.csv: No such file"):
        read_trace(tmp_path / "absent.csv")


def test_60_requests_in_30_minutes_are_2_per_minute_at_any_step() -> None:
    trace = Trace("taxi", 30.0, np.array([60.0, 120.0]))
    np.testing.assert_allclose(trace.requests_per_minute(10.0), [2, 2, 2, 4, 4, 4])
    np.testing.assert_allclose(trace.requests_per_minute(60.0), [3])
    np.testing.assert_allclose(trace.requests_per_minute(20.0), [2, 3, 4])


def test_a_step_with_half_its_minutes_unknown_has_the_rate_of_the_known_half() -> None:
    trace = Trace("gap", 1.0, np.array([8.0, np.nan, np.nan, np.nan, 4.0, 6.0]))
    np.testing.assert_allclose(trace.requests_per_minute(2.0), [8, np.nan, 5])


def test_the_generator_makes_the_same_days_from_the_same_seed_and_others_from_another() -> None:
    np.testing.assert_array_equal(generate(days=2, seed=3).counts, generate(days=2, seed=3).counts)
    assert not np.array_equal(generate(days=2, seed=3).counts, generate(days=2, seed=4).counts)


def test_generated_days_have_the_traits_of_real_ones() -> None:
    counts = generate(days=14, seed=1).counts
    assert len(counts) == 14 * MINUTES_PER_DAY
    by_day = counts.reshape(14, MINUTES_PER_DAY)
    hourly = by_day.reshape(14, 24, 60).mean(axis=(0, 2))
    assert hourly.max() / hourly.min() > 3.0, "a day rises and falls more than threefold"
    assert by_day[5:7].mean() < by_day[:5].mean(), "the weekend is quieter"
    differences = np.diff(counts)
    assert differences.var() > 2 * counts.mean(), "counts scatter more than Poisson's would (its differences: twice the mean)"
