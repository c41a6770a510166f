"""Recorded request counts, read from a CSV. The one reader that backtest, replay and demo share; it needs the standard library alone.

The CSV has a header with the columns `t_min` (minutes since its start, rising) and `count` (requests in the step that begins there; empty =
unknown). The step is the commonest distance between two rows; rows that are missing are unknown.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

COLUMNS = ("t_min", "count")
MOST_STEPS = 5_000_000
"""No trace is longer: nine years at one minute."""
OFF_GRID_SECONDS = 0.1
"""Minutes written with three decimals are up to 0.03 s off."""


class TraceError(ValueError):
    """The file is no trace; the text names line and column and says what is expected there."""


@dataclass(frozen=True)
class Trace:
    """Requests per step: `counts[i]` came in [i, i + 1) × `step_seconds` after the trace's first row, None where that is unknown."""

    name: str
    step_seconds: int
    counts: tuple[float | None, ...]

    @property
    def seconds(self) -> int:
        """How long the trace is."""
        return len(self.counts) * self.step_seconds

    def loads(self) -> tuple[float | None, ...]:
        """Requests per second in each step, None where unknown."""
        return tuple(None if count is None else count / self.step_seconds for count in self.counts)


def read_trace(path: Path) -> Trace:
    """The trace in a CSV file; TraceError with file, line, column and what is expected."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return parse_trace(path.stem, file, str(path))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}; expected a CSV file with the columns {','.join(COLUMNS)}") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: not a text file; expected a CSV file with the columns {','.join(COLUMNS)}") from None


def parse_trace(name: str, lines: Iterable[str], where: str) -> Trace:
    """The trace in lines of CSV; `where` is what errors call the file. TraceError."""
    numbers: list[int] = []
    seconds: list[float] = []
    counts: list[float | None] = []
    for number, minute, count in _rows(lines, where):
        if seconds and 60 * minute <= seconds[-1]:
            raise TraceError(
                f"{where}, line {number}, column t_min: expected more than the {seconds[-1] / 60:g} of the row before, was {minute:g}"
            )
        numbers.append(number)
        seconds.append(60 * minute)
        counts.append(count)
    if len(seconds) < 2:
        raise TraceError(f"{where}: expected at least 2 rows below the header, found {len(seconds)}")
    step = Counter(round(after - before) for before, after in pairwise(seconds)).most_common(1)[0][0]
    if step < 1:
        raise TraceError(
            f"{where}, line {numbers[1]}, column t_min: expected rows at least 1 second (0.01667 min) apart, was {seconds[1] / 60:g}"
        )
    if (seconds[-1] - seconds[0]) / step >= MOST_STEPS:
        raise TraceError(
            f"{where}, line {numbers[-1]}, column t_min: expected at most {MOST_STEPS} steps of {step} s, was {seconds[-1] / 60:g}"
        )
    filled: list[float | None] = [None] * (round((seconds[-1] - seconds[0]) / step) + 1)
    for number, instant, count in zip(numbers, seconds, counts, strict=True):
        place = round((instant - seconds[0]) / step)
        if abs(instant - seconds[0] - place * step) > OFF_GRID_SECONDS:
            raise TraceError(
                f"{where}, line {number}, column t_min: expected a multiple of the step ({step / 60:g} min) after the first row"
                f" ({seconds[0] / 60:g}), was {instant / 60:g}"
            )
        filled[place] = count
    if not any(filled):
        raise TraceError(f"{where}, column count: expected at least one count above 0")
    return Trace(name, step, tuple(filled))


def _rows(lines: Iterable[str], where: str) -> Iterator[tuple[int, float, float | None]]:
    """Line number, minute and count of each row below the header; empty lines are passed over."""
    reader = csv.reader(lines)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if any(column not in header for column in COLUMNS):
            raise TraceError(f"{where}, line 1: expected a header with the columns {' and '.join(COLUMNS)}, was {','.join(header)[:100]!r}")
        at, of = (header.index(column) for column in COLUMNS)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            here = f"{where}, line {reader.line_num}"
            if len(row) != len(header):
                raise TraceError(f"{here}: expected {len(header)} columns ({','.join(header)}), found {len(row)}")
            minute = _number(row[at], f"{here}, column t_min: expected minutes since the start, a number of 0 or more")
            expected = f"{here}, column count: expected a number of 0 or more, or nothing where it is unknown"
            yield reader.line_num, minute, _number(row[of], expected) if row[of].strip() else None
    except csv.Error as error:
        raise TraceError(f"{where}, line {reader.line_num}: expected CSV: {error}") from None


def _number(text: str, expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise TraceError(f"{expected}, was {text.strip()[:40]!r}")
    return number
