"""A recorded trace from a CSV."""

from __future__ import annotations

import csv
import math
from pathlib import Path


def read_trace(path: Path) -> tuple[list[float | None], float]:
    """Requests per second per step, and the step in seconds, from a CSV `t_min,count` (an empty count is unknown).

    Raises `ValueError` naming the line and what is expected there.
    """
    minutes: list[float] = []
    counts: list[float | None] = []
    with path.open(newline="") as file:
        rows = csv.reader(file)
        if next(rows, None) != ["t_min", "count"]:
            raise ValueError(f"{path}: line 1 must be t_min,count")
        for number, row in enumerate(rows, start=2):
            try:
                minute, count = row
                minutes.append(float(minute))
                counts.append(float(count) if count.strip() else None)
                if (counts[-1] or 0) < 0 or not math.isfinite(minutes[-1] + (counts[-1] or 0)):
                    raise ValueError
            except ValueError:
                raise ValueError(f"{path}: line {number} must be MINUTE,COUNT with a count ≥ 0 or none, was {','.join(row)!r}") from None
            if len(minutes) > 1 and minutes[-1] <= minutes[-2]:
                raise ValueError(f"{path}: line {number}: t_min must rise, was {minutes[-1]:g} after {minutes[-2]:g}")
    if len(minutes) < 2:
        raise ValueError(f"{path}: at least two rows are needed, had {len(minutes)}")
    step = minutes[1] - minutes[0]
    return [None if count is None else count / (60 * step) for count in counts], 60 * step
