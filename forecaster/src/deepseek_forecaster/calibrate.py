"""Quantiles from the ensemble's own errors: conformal, in the logarithm, at the same horizon, over a rolling window.

The error of an origin is log((what came + floor) ÷ (what was said + floor)). A quantile of the load is what is said now, times the quantile of
the recent errors. With little history the errors are joined by a prior as wide as an unknown service deserves, and it fades as errors come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .ensemble import Blend, fading_sums
from .models.expert import Floats

PRIOR_SPREAD = 0.6
"""Standard deviation of the prior errors: before anything is known, p95 of the peak is exp(1.645 × 0.6) = 2.7 times the present load."""
PRIOR_POINTS = 99
PRIOR_WEIGHT = 1.0
"""The prior counts as one independent window, as conformal prediction counts the window that is still to come."""
HALF_LIFE_DAYS = 1.5
SCALE_HALF_LIFE_DAYS = 1 / 24
"""How wrong the last hour was tells how wrong the next ten minutes may be."""
SCALE_TRUST = 0.5
PATH_KNOTS = 12
"""Errors are sorted at this many steps of the path; between them their quantiles are interpolated."""

_PRIOR = PRIOR_SPREAD * np.array([NormalDist().inv_cdf((i + 0.5) / PRIOR_POINTS) for i in range(PRIOR_POINTS)])


@dataclass(frozen=True)
class Calibrated:
    """Quantiles of the peak, shape (quantiles,), and of each step, shape (quantiles, steps), in units of work per second."""

    peak: Floats
    path: Floats

    def below(self, ceiling: float) -> Calibrated:
        """The same, with nothing above `ceiling`."""
        return Calibrated(np.minimum(self.peak, ceiling), np.minimum(self.path, ceiling))


def calibrate(blended: Blend, quantiles: Sequence[float], rows_per_day: float, windows_per_row: float, stale: float) -> Calibrated:
    """The quantiles (rising order) after the end of the history.

    `windows_per_row` is how many independent windows one origin stands for (stride ÷ steps); `stale` widens everything: the square root of
    how many times longer than calibrated the last sample is away.
    """
    rows = blended.realized
    weight = _recency(blended, rows_per_day) * windows_per_row
    peak_errors, scale, scale_now = scaled_errors(blended, rows_per_day, windows_per_row)
    asked = np.asarray(quantiles, dtype=np.float64)
    peak_quantiles = stale * scale_now * weighted_quantiles(peak_errors[rows], weight[rows], asked)
    head_peak = blended.head.max()
    peak = _loads(head_peak, peak_quantiles, blended.floor)
    steps = len(blended.head)
    knots = np.unique(np.linspace(0, steps - 1, min(steps, PATH_KNOTS)).round().astype(int))
    at_knots = np.empty((len(asked), len(knots)))
    for column, knot in enumerate(knots):
        errors = _errors(blended.truth[:, knot], blended.path[:, knot], blended.floor) / scale
        known = rows & np.isfinite(errors)
        at_knots[:, column] = weighted_quantiles(errors[known], weight[known], asked)
    along = np.stack([np.interp(np.arange(steps), knots, row) for row in at_knots])
    path = _loads(blended.head[None, :], stale * scale_now * along, blended.floor)
    # no single step exceeds the peak of them all
    return Calibrated(peak=peak, path=np.minimum(path, peak[:, None]))


def covered(blended: Blend, quantile: float, rows_per_day: float, windows_per_row: float, rows: int) -> Floats:
    """For each of the last `rows` realized origins: 1 where the peak stayed within the quantile as it would have been issued there, else 0."""
    errors, _, _ = scaled_errors(blended, rows_per_day, windows_per_row)
    weight = _recency(blended, rows_per_day) * windows_per_row
    judged = np.flatnonzero(blended.realized)
    known_after = round(1 / max(windows_per_row, 1e-9)) if windows_per_row < 1 else 1
    every = max(1, len(judged[-rows:]) // 150)
    hits = []
    for row in judged[-rows:][::every]:
        past = judged[judged <= row - known_after]
        # weights of the past relative to each other do not change with the origin, only the prior's share does
        fade = weight[row] / windows_per_row
        limit = weighted_quantiles(errors[past], weight[past] / max(fade, 1e-12), np.array([quantile]))[0]
        hits.append(float(errors[row] <= limit))
    return np.array(hits)


def scaled_errors(blended: Blend, rows_per_day: float, windows_per_row: float) -> tuple[Floats, Floats, float]:
    """The peak's errors divided by how large errors lately were, that scale at each origin, and at the head. Shapes (origins,), (origins,)."""
    peak_truth = np.where(np.isfinite(blended.truth), blended.truth, -np.inf).max(axis=1, initial=-np.inf)
    peak_said = blended.path.max(axis=1, initial=0.0)
    errors = np.where(blended.realized, _errors(np.where(blended.realized, peak_truth, np.nan), peak_said, blended.floor), np.nan)
    scale = _recent_scale(errors, rows_per_day, windows_per_row)
    return errors / scale[:-1], scale[:-1], float(scale[-1])


def weighted_quantiles(errors: Floats, weight: Floats, quantiles: Floats) -> Floats:
    """Quantiles of the errors joined by the prior; rising with the quantile. Shape (quantiles,)."""
    values = np.concatenate((errors, _PRIOR))
    weights = np.concatenate((weight, np.full(PRIOR_POINTS, PRIOR_WEIGHT / PRIOR_POINTS)))
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    middle = (cumulative - 0.5 * weights[order]) / cumulative[-1]
    return np.asarray(np.interp(quantiles, middle, values[order]))


def _recent_scale(errors: Floats, rows_per_day: float, windows_per_row: float) -> Floats:
    """How large errors lately were against how large they usually are, at each origin and at the head: 1 = as usual. Shape (origins + 1,)."""
    count = len(errors)
    scale = np.ones(count + 1)
    known = np.isfinite(errors)
    if known.sum() * windows_per_row < 12:
        return scale
    size = np.where(known, np.abs(errors), 0.0)
    usual = size[known].mean() + 1e-6
    decay = 0.5 ** (1.0 / max(1.0, rows_per_day * SCALE_HALF_LIFE_DAYS, 3.0 / windows_per_row))
    # three windows' worth of the usual size keep a quiet half hour from promising a quiet future
    grounded = 3.0 / windows_per_row
    sums = fading_sums(size, decay) + grounded * usual
    counts = fading_sums(known.astype(np.float64), decay) + grounded
    recent = sums / counts / usual
    late = min(round(1 / windows_per_row), count)
    scale[late + 1 :] = recent[: count - late]
    last_known = np.flatnonzero(known)[-1]
    scale[-1] = recent[last_known]
    return np.asarray(np.clip(scale, 0.25, 4.0) ** SCALE_TRUST)


def _recency(blended: Blend, rows_per_day: float) -> Floats:
    age = np.arange(len(blended.origins))[::-1]
    return np.asarray(0.5 ** (age / max(1.0, HALF_LIFE_DAYS * rows_per_day)))


def _errors(came: Floats, said: Floats, floor: float) -> Floats:
    with np.errstate(all="ignore"):
        return np.asarray(np.log((came + floor) / (said + floor)))


def _loads(said: Floats, errors: Floats, floor: float) -> Floats:
    return np.asarray(np.maximum((said + floor) * np.exp(np.clip(errors, -20.0, 20.0)) - floor, 0.0))
