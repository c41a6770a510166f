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
    ("text", "message"), [("t_min,count\n0,1\n1,many\n", r"trace\.csv.*line 3, column count"), (None, r"trace\.csv: No such file")]
)
def test_the_demo_says_what_the_reader_says_of_a_wrong_file(tmp_path: Path, text: str | None, message: str) -> None:
    """Which files are wrong, and why, is tested at the reader (tests/unit/forecaster/test_trace.py)."""
    path = tmp_path / "trace.csv" if text is None else csv(tmp_path, text)
    with pytest.raises(TraceError, match=message):
        read_trace(path)


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
