"""The one reader of recorded request counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_forecaster.trace import Trace, TraceError, parse_trace, read_trace


def csv(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_five_minute_trace_with_a_gap_and_a_missing_row_has_two_unknown_steps(tmp_path: Path) -> None:
    trace = read_trace(csv(tmp_path, "t_min,count\n0,10\n5,\n10,30\n20,50\n"))
    assert trace == Trace("trace", 300, (10.0, None, 30.0, None, 50.0))
    assert trace.seconds == 1_500


def test_600_requests_in_a_step_of_10_minutes_are_1_per_second() -> None:
    assert Trace("t", 600, (600.0, None, 1_200.0)).loads() == (1.0, None, 2.0)


def test_a_first_row_at_minute_7_is_the_start_and_other_columns_are_passed_over(tmp_path: Path) -> None:
    """As a spreadsheet saves it: a byte order mark, another order of columns, one more of them, an empty line at the end."""
    path = tmp_path / "trace.csv"
    path.write_bytes("\ufeffcount,t_min,note\r\n3,7,a\r\n4,8,\r\n5,9,b\r\n\r\n".encode())
    assert read_trace(path) == Trace("trace", 60, (3.0, 4.0, 5.0))


def test_minutes_with_four_decimals_give_a_step_of_2_seconds() -> None:
    lines = ["t_min,count", *(f"{2 * at / 60:.4f},{at}" for at in range(100))]
    trace = parse_trace("t", lines, "t.csv")
    assert trace.step_seconds == 2
    assert len(trace.counts) == 100
    assert None not in trace.counts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "line 1: expected a header with the columns t_min and count", id="an empty file"),
        pytest.param(
            "minute,count\n0,1\n", "line 1: expected a header with the columns t_min and count, was 'minute,count'", id="another header"
        ),
        pytest.param("t_min,count\n0,1\n1,many\n", "line 3, column count: expected a number of 0 or more, or nothing", id="a word as a count"),
        pytest.param("t_min,count\n0,1\n1,-4\n", "line 3, column count: expected a number of 0 or more", id="a negative count"),
        pytest.param("t_min,count\n0,1\n1,nan\n", "line 3, column count: expected a number of 0 or more, or nothing", id="NaN as a count"),
        pytest.param("t_min,count\n0,1\n1,inf\n", "line 3, column count", id="an infinite count"),
        pytest.param("t_min,count\n0,1\n,4\n", "line 3, column t_min: expected minutes since the start", id="no time"),
        pytest.param(
            "t_min,count\n0,1\n5,4\n5,4\n", "line 4, column t_min: expected more than the 5 of the row before, was 5", id="the same time twice"
        ),
        pytest.param(
            "t_min,count\n0,1\n2,1\n4,1\n5.5,1\n", "line 5, column t_min: expected a multiple of the step (2 min)", id="a crooked step"
        ),
        pytest.param("t_min,count\n0,1\n1\n", "line 3: expected 2 columns (t_min,count), found 1", id="a short row"),
        pytest.param("t_min,count\n0,1\n1,2,3\n", "line 3: expected 2 columns (t_min,count), found 3", id="a long row"),
        pytest.param("t_min,count\n0,1\n", "expected at least 2 rows below the header, found 1", id="one row"),
        pytest.param("t_min,count\n0,0\n1,\n", "column count: expected at least one count above 0", id="nothing but zeros"),
        pytest.param("t_min,count\n0,1\n0.001,1\n", "line 3, column t_min: expected rows at least 1 second", id="a millisecond apart"),
        pytest.param(
            "t_min,count\n0,1\n1,1\n2,1\n1e12,1\n", "line 5, column t_min: expected at most 5000000 steps of 60 s", id="a million years"
        ),
        pytest.param('t_min,count\n0,1\n"1,2\n', "expected 2 columns (t_min,count), found 1", id="a quote that never ends"),
    ],
)
def test_a_wrong_file_is_refused_with_line_column_and_what_is_expected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(csv(tmp_path, text))
    assert message in str(caught.value)
    assert "trace.csv" in str(caught.value)


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"absent\.csv: No such file"):
        read_trace(tmp_path / "absent.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(TraceError, match=r"picture\.csv: not a text file"):
        read_trace(tmp_path / "picture.csv")


@given(
    step=st.integers(1, 86_400),
    counts=st.lists(st.none() | st.floats(0, 1e9), min_size=2, max_size=60).filter(lambda counts: any(counts) and counts[0] is not None),
)
def test_what_is_written_is_read_back_whatever_the_step(step: int, counts: list[float | None]) -> None:
    """Each unknown count is written as an empty cell; the rows are all there, so the step is the distance of any two."""
    lines = ["t_min,count", *(f"{at * step / 60!r},{'' if count is None else repr(count)}" for at, count in enumerate(counts))]
    assert parse_trace("t", lines, "t.csv") == Trace("t", step, tuple(counts))
