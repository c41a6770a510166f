"""How well a forecast did: WAPE, pinball loss, coverage, and whether it has to stand back (probation)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .ensemble import Blend
from .models.expert import Floats

PROBATION_MARGIN = 1.02
PROBATION_ALLOWANCE = 0.005
"""Worse than the naive forecast by less than 2 % of its error, or by half a percent of the load, is a tie."""
PROBATION_WINDOWS = 12
"""Fewer independent windows than this prove nothing."""


@dataclass(frozen=True)
class Record:
    """How the ensemble did over the last day; None where nothing has come yet to judge it by."""

    wape: float | None
    naive_wape: float | None
    coverage90: float | None
    on_probation: bool


def wape(said: Floats, came: Floats) -> float | None:
    """Sum of absolute errors ÷ sum of what came, over the pairs that are known; None without any, or when nothing came at all."""
    known = np.isfinite(said) & np.isfinite(came)
    total = float(came[known].sum())
    return float(np.abs(said - came)[known].sum()) / total if total > 0 else None


def pinball(said: Floats, came: Floats, quantile: float) -> float | None:
    """The mean pinball loss of a quantile, in the unit of the loads; None without known pairs."""
    known = np.isfinite(said) & np.isfinite(came)
    if not known.any():
        return None
    short = came[known] - said[known]
    return float(np.maximum(quantile * short, (quantile - 1.0) * short).mean())


def coverage(said: Floats, came: Floats) -> float | None:
    """The share of known pairs in which what came stayed at or below what was said; None without any."""
    known = np.isfinite(said) & np.isfinite(came)
    return float((came[known] <= said[known]).mean()) if known.any() else None


def judge(blended: Blend, hits: Floats, rows_per_day: float, windows_per_row: float) -> Record:
    """Hold what was said over the last day against what came, and the naive expert's word beside it; `hits` are those of the p90 of the peak.

    The forecast is on probation when its WAPE of the horizon's mean is worse than the naive one by more than a tie, over at least 12 windows.
    """
    rows = np.flatnonzero(blended.realized)
    rows = rows[rows >= len(blended.origins) - max(1.0, rows_per_day)]
    if not len(rows):
        return Record(None, None, None, False)
    came = blended.came[rows]
    own, naive = wape(blended.mean[rows], came), wape(blended.naive[rows], came)
    enough = len(rows) * windows_per_row >= PROBATION_WINDOWS
    worse = own is not None and naive is not None and own > PROBATION_MARGIN * naive + PROBATION_ALLOWANCE
    return Record(own, naive, float(hits.mean()) if len(hits) else None, bool(enough and worse))
