"""Running averages over the rows of a record, and what of them was known at each row."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter  # type: ignore[import-untyped]

from .models.expert import Floats


def fading_sums(numbers: Floats, decay: float) -> Floats:
    """At each row, the sum of the rows up to it, each worth `decay` (0 to 1) less per row of age. Shape as `numbers`."""
    return np.asarray(lfilter([1.0], [1.0, -decay], numbers, axis=0), dtype=np.float64) if len(numbers) else numbers


def delayed(rows: Floats, before: Floats | float, late: int) -> Floats:
    """What was known at each row (the rows up to `late` before it; until then `before`) and, in one more row, at the end."""
    count = len(rows)
    known = np.empty((count + 1, *rows.shape[1:]))
    known[:] = before
    known[min(late, count) : count] = rows[: max(0, count - late)]
    if count:
        known[-1] = rows[-1]
    return known
