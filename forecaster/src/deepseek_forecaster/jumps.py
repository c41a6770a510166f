"""After a jump of the load the usual weights mislead: for half an hour those count that did best after earlier jumps of this series.

A jump is an error far beyond the usual ones. Which experts then serve is a trait of the traffic: where a jump is a spike, those that come back
to what was usual; where it is a new level, those that follow at once. Until the series has shown which it is, the ones that follow are trusted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .models.expert import Bools, Floats
from .running import delayed, fading_sums

JUMP = 4.5
"""An error of the mean's logarithm this many times the usual one is a jump …"""
LEAST_JUMP = 0.2
"""… from e^0.2 = 22 % on."""
USUAL_HALF_LIFE_DAYS = 3.0
LEAST_KNOWN_WINDOWS = 24.0
HELD_DAYS = 3 / 144
"""Half an hour after a jump is known of, the usual weights hold again: by then the errors of ten minutes speak for themselves."""
PRIOR_LOSS = {"ten_minute_mean": 1.0, "last_value": 1.15, "holt": 1.15}
OTHERS_PRIOR_LOSS = 1.5
"""What an expert's loss after jumps is taken to be before any was seen, relative to others: those that know only the newest steps follow."""
PRIOR_WINDOWS = 1.0


def after_jumps(
    said: Floats, came: Floats, losses: Floats, names: Sequence[str], floor: float, *, rows_per_day: float, windows_per_row: float, late: int
) -> tuple[Bools, Floats]:
    """Which origins lie within half an hour after a jump, and the experts' relative losses at such times, by what was known at each origin.

    `said` and `came` (origins,) are the ensemble's word and what came, NaN where unknown; `losses` (origins, experts); `late` rows pass until a
    row is known. Shapes of the answers: (origins + 1,) and (origins + 1, experts), the last row standing for the end of the history.
    """
    with np.errstate(all="ignore"):
        errors = np.abs(np.log((said + floor) / (came + floor)))
    known = np.isfinite(errors)
    size = np.where(known, np.minimum(errors, 20.0), 0.0)
    decay = 0.5 ** (1.0 / max(1.0, rows_per_day * USUAL_HALF_LIFE_DAYS))
    number = fading_sums(known.astype(np.float64), decay)
    usual = fading_sums(size, decay) / np.maximum(number, 1e-9)
    # a jump is held against what was usual before it
    before = np.concatenate(([0.0], usual[:-1])) if len(usual) else usual
    enough = np.cumsum(known) * windows_per_row > LEAST_KNOWN_WINDOWS
    jumped = known & enough & (size > np.maximum(JUMP * before, LEAST_JUMP))
    held = max(1, round(HELD_DAYS * rows_per_day))
    told = delayed(jumped.astype(np.float64), 0.0, late)
    counts = np.cumsum(np.concatenate(([0.0], told)))
    after: Bools = counts[1:] - counts[np.maximum(np.arange(len(told)) + 1 - held, 0)] > 0
    counted = after[:-1, None] & np.isfinite(losses)
    speaking = counted.sum(axis=1, keepdims=True)
    everyone = np.where(counted, losses, 0.0).sum(axis=1, keepdims=True) / np.maximum(speaking, 1)
    counted &= everyone > 0
    relative = np.where(counted, losses, 0.0) / np.where(everyone > 0, everyone, 1.0)
    prior = np.array([PRIOR_LOSS.get(name, OTHERS_PRIOR_LOSS) for name in names])
    ground = PRIOR_WINDOWS / windows_per_row
    sums = np.cumsum(relative, axis=0) + ground * prior
    numbers = np.cumsum(counted, axis=0) + ground
    return after, delayed(sums / numbers, prior, late)
