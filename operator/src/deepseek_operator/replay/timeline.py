"""The timeline of a replay as CSV: enough to recompute every figure of it (docs/replay.md says how)."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from deepseek_operator.replay.simulate import Row

HEADER = ("t_seconds", "demand", "asked", "ready", "late")


def write_timeline(path: Path, rows: Iterable[Row]) -> None:
    """One line per tick. `t_seconds` counts from the start of the trace; numbers are written in full, so that they read back as the same."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for row in rows:
            at = int(row.t_seconds) if row.t_seconds.is_integer() else row.t_seconds
            writer.writerow((at, row.demand, row.asked, row.ready, row.late))
