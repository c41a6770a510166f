"""Request counts over time: read from a CSV, or made by a generator with the traits of real traffic.

The CSV has the columns `t_min` (minutes since its start, increasing) and `count` (requests in the step; empty = unknown).
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MINUTES_PER_DAY = 1440


class TraceError(ValueError):
    """The file is no trace; the message names line and column and says what is expected there."""


@dataclass(frozen=True)
class Trace:
    """Requests per step; unknown steps are NaN."""

    name: str
    step_minutes: float
    counts: Floats  # shape (steps,)

    @property
    def minutes(self) -> float:
        """How long the trace is."""
        return len(self.counts) * self.step_minutes

    def requests_per_minute(self, minutes_per_step: float) -> Floats:
        """The mean rate in consecutive steps of `minutes_per_step`, shape (floor(minutes / minutes_per_step),).

        Shorter steps repeat the rate of the step they lie in (nothing is interpolated: a curve would know the next count);
        longer steps are the mean over the minutes that are known, NaN where none is.
        """
        steps = math.floor(self.minutes / minutes_per_step + 1e-9)
        edges = np.minimum(np.arange(steps + 1) * minutes_per_step / self.step_minutes, len(self.counts))
        known = ~np.isnan(self.counts)
        requests = _integral(np.where(known, self.counts, 0.0), edges)
        minutes_known = _integral(known.astype(np.float64) * self.step_minutes, edges)
        unknown = minutes_known <= 1e-9
        return np.where(unknown, np.nan, requests / np.where(unknown, 1.0, minutes_known))


def _integral(values: Floats, edges: Floats) -> Floats:
    """The integral of a step function between consecutive edges, which are given in steps: shape (len(edges) - 1,)."""
    cumulative = np.concatenate(([0.0], np.cumsum(values)))
    return np.diff(np.interp(edges, np.arange(len(cumulative)), cumulative))


def read_trace(path: Path) -> Trace:
    """Read a trace from a CSV. Rows may be missing (unknown); the step is the commonest distance between two rows.

    Raises `TraceError` with line, column and what is expected.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _parse(path.stem, list(csv.reader(file)), path)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}; expected a CSV file with the columns t_min,count") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: not a text file; expected a CSV file with the columns t_min,count") from None


def _parse(name: str, rows: list[list[str]], path: Path) -> Trace:
    header = [cell.strip() for cell in rows[0]] if rows else []
    for column in ("t_min", "count"):
        if column not in header:
            raise TraceError(f"{path}, line 1: expected a header with the columns t_min and count, was {','.join(header)!r}")
    at, of = header.index("t_min"), header.index("count")
    lines: list[int] = []
    times: list[float] = []
    counts: list[float] = []
    for line, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(at, of):
            raise TraceError(f"{path}, line {line}: expected {len(header)} columns ({','.join(header)}), found {len(row)}")
        time = _number(row[at], f"{path}, line {line}, column t_min: expected minutes since the start, a number of 0 or more")
        if times and time <= times[-1]:
            raise TraceError(f"{path}, line {line}, column t_min: expected more than the {times[-1]:g} of the row before, was {time:g}")
        expected = f"{path}, line {line}, column count: expected a number of 0 or more, or nothing where it is unknown"
        lines.append(line)
        times.append(time)
        counts.append(_number(row[of], expected) if row[of].strip() else math.nan)
    if len(times) < 2:
        raise TraceError(f"{path}: expected at least 2 rows below the header, found {len(times)}")
    distances, times_seen = np.unique(np.round(np.diff(times), 6), return_counts=True)
    step = float(distances[times_seen.argmax()])
    places = (np.asarray(times) - times[0]) / step
    crooked = np.flatnonzero(np.abs(places - np.round(places)) > 0.01)
    if len(crooked):
        line = lines[crooked[0]]
        raise TraceError(
            f"{path}, line {line}, column t_min: expected a multiple of the step ({step:g} min) after the first row, was {times[crooked[0]]:g}"
        )
    filled = np.full(round(float(places[-1])) + 1, np.nan)
    filled[np.round(places).astype(int)] = counts
    if not np.nanmax(filled, initial=0.0) > 0:
        raise TraceError(f"{path}, column count: expected at least one count above 0")
    return Trace(name, step, filled)


def _number(text: str, expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise TraceError(f"{expected}, was {text.strip()!r}")
    return number


def generate(days: int = 12, seed: int = 7, mean_per_minute: float = 1500.0) -> Trace:
    """Traffic per minute with the traits of real services: a day with a morning and an evening hump, quieter weekends, a level that
    drifts, bursts that come at random and fade, and noise that is partly carried from minute to minute."""
    random = np.random.default_rng(seed)
    minutes = days * MINUTES_PER_DAY
    hour = (np.arange(minutes) / 60.0) % 24.0
    day = np.arange(minutes) // MINUTES_PER_DAY
    # Two humps, at 10:30 and 19:30, over a night that is about an eighth of the peak.
    daily = 0.13 + 0.8 * _hump(hour, 10.5, 2.6) + 0.95 * _hump(hour, 19.5, 3.0)
    weekly = np.where(day % 7 >= 5, 0.8, 1.0)
    each_day = np.exp(random.normal(0.0, 0.06, days))[day]
    drift = np.exp(np.cumsum(random.normal(0.0, 0.12 / math.sqrt(MINUTES_PER_DAY), minutes)))
    carried = np.zeros(minutes)
    shocks = random.normal(0.0, 0.012, minutes)
    for minute in range(1, minutes):
        carried[minute] = 0.97 * carried[minute - 1] + shocks[minute]
    bursts = np.zeros(minutes)
    for start in np.flatnonzero(random.random(minutes) < 2.0 / MINUTES_PER_DAY):  # two a day on average
        length = min(minutes - int(start), 60)
        bursts[start : start + length] += random.exponential(0.25) * np.exp(-np.arange(length) / 12.0)
    rate = daily * weekly * each_day * drift * np.exp(carried) * (1.0 + bursts)
    rate *= mean_per_minute / rate.mean()
    # Real counts scatter more than Poisson's: a gamma-mixed Poisson with a variance of four times the mean.
    counts = random.poisson(random.gamma(rate / 3.0, 3.0))
    return Trace(f"generated-{days}d-seed{seed}", 1.0, counts.astype(np.float64))


def _hump(hour: Floats, centre: float, width: float) -> Floats:
    distance = np.abs(hour - centre)
    return np.asarray(np.exp(-0.5 * (np.minimum(distance, 24.0 - distance) / width) ** 2))
