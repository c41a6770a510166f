"""Quantiles from the ensemble's own errors: conformal, adaptive, in the logarithm, at the same horizon.

Around what the ensemble says lies a width: how far the experts' own quantiles of the peak are apart, wider or narrower in all by how wrong the
ensemble lately was. Each moment keeps its own: from an outage, when next to nothing comes, load may return hundredfold, and only the experts'
p99 tells of it. An error counts in such widths (a score). A quantile of the load is what is said now plus its width times a quantile of the
recent scores. The level at which the scores are read is nudged after each window by whether the load stayed within what was issued (adaptive
conformal inference: Gibbs & Candès 2021), so that 90 of 100 peaks stay within p90 also while the traffic changes its ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .ensemble import Blend
from .models.expert import PEAK_QUANTILES, Bools, Floats, Ints
from .running import delayed, fading_sums

PRIOR_SPREAD = 0.6
"""Standard deviation of the errors before anything is known: p95 of the peak is then exp(1.645 × 0.6) = 2.7 times the present load."""
PRIOR_WINDOWS = 1.0
"""The prior counts as one independent window, as conformal prediction counts the window that is still to come."""
PRIOR_POINTS = 25
HALF_LIFE_DAYS = 2.0
"""A score of two days ago counts half."""
WIDTH_HALF_LIFE_DAYS = 1.0
OWN_ERRORS = 0.4
"""How far the widths follow the ratio of the ensemble's own recent errors to the experts' recent widths, as a power."""
SCALE_HALF_LIFE_DAYS = 1 / 12
"""How wrong the last two hours were tells how wrong the next ten minutes may be."""
SCALE_TRUST = 0.5
GROUND_WINDOWS = 3.0
"""That many windows of the usual size keep a quiet half hour from promising a quiet future."""
LEAST_WIDTH = 0.15
"""No width is below this share of the usual one."""
NODES = (0.05, 0.5, 0.8, 0.9, 0.95, 0.99)
"""The quantiles whose level is adapted; between them the change of level is interpolated."""
STEP = 0.01
"""By how much a level moves after a window whose quantile should never have been exceeded; × (1 − q) or q of it, one way or the other."""
MOST_MOVED = 0.12
TAIL_WINDOWS = 20.0
"""A quantile with fewer windows above it than a twentieth, or one of twenty, is extrapolated by the mean excess of those there are."""
TAIL_PRIOR_WINDOWS = 3.0
MOST_EXCESS = 1.5
MOST_RANKED = 200

_NORMAL = NormalDist()
_NORMAL90 = _NORMAL.inv_cdf(0.9)
BEYOND = _NORMAL.inv_cdf(0.99) / _NORMAL90 - 1.0
"""A normal error's p99 has a score of 1.82: so far above that of p90 lies the experts' own p99, too."""
MEDIAN = PEAK_QUANTILES.index(0.5)
_PRIOR = np.array([_NORMAL.inv_cdf((i + 0.5) / PRIOR_POINTS) for i in range(PRIOR_POINTS)]) / _NORMAL90


@dataclass(frozen=True)
class Scores:
    """Recent scores in rising order, with the share of all weight that lies below each, and the two tails. All in widths."""

    values: Floats
    below: Floats
    tail_from: float
    excess: float
    low_tail_from: float
    low_excess: float

    def at(self, levels: Floats) -> Floats:
        """The scores at these levels (each above 0 and below 1): rising with the level. Shape as `levels`."""
        inner = np.interp(np.clip(levels, self.low_tail_from, self.tail_from), self.below, self.values)
        beyond = self.excess * np.log(np.maximum((1.0 - self.tail_from) / np.maximum(1.0 - levels, 1e-12), 1.0))
        under = self.low_excess * np.log(np.maximum(self.low_tail_from / np.maximum(levels, 1e-12), 1.0))
        return np.asarray(inner + beyond - under)


@dataclass(frozen=True)
class Widths:
    """How far the load may lie from what is expected, as log-ratios per unit of score: `under` it, `above` it up to a score of 1 (p90), and
    `beyond` that. Shapes alike."""

    above: Floats
    beyond: Floats
    under: Floats

    def at(self, rows: slice | int) -> Widths:
        """Those of some rows."""
        return Widths(self.above[rows], self.beyond[rows], self.under[rows])

    def scores(self, errors: Floats) -> Floats:
        """The errors (log-ratios) in these widths; rising with the error. Shape as `errors`."""
        with np.errstate(all="ignore"):
            over = np.where(errors > self.above, 1.0 + (errors - self.above) / self.beyond, errors / self.above)
            return np.asarray(np.where(errors > 0, over, errors / self.under))

    def errors(self, scores: Floats) -> Floats:
        """The log-ratios that these scores stand for."""
        over = self.above * np.minimum(scores, 1.0) + self.beyond * np.maximum(scores - 1.0, 0.0)
        return np.asarray(np.where(scores > 0, over, self.under * scores))


@dataclass(frozen=True)
class Calibrated:
    """All that is needed to give any quantile of the coming peak and of each step: immutable, and quick to ask."""

    mean: float
    path: Floats
    center: float
    widths: Widths
    """Of one place: each is a single number."""
    floor: float
    peak_scores: Scores
    step_scores: Scores
    moved: Floats

    def peak(self, quantiles: Sequence[float], wider: float = 1.0) -> Floats:
        """The load that the peak stays at or below with these probabilities; `wider` multiplies the width. Rising, shape (quantiles,)."""
        asked = np.asarray(quantiles, dtype=np.float64)
        return _loads(self.center, self.widths, wider * self.peak_scores.at(_moved_levels(asked, self.moved)), self.floor)

    def steps(self, quantiles: Sequence[float], wider: float = 1.0) -> Floats:
        """The same of each step's load, never above the peak's; shape (quantiles, steps)."""
        scores = wider * self.step_scores.at(np.asarray(quantiles, dtype=np.float64))
        middle = np.log(self.path + self.floor)[None, :]
        each = _loads(middle, self.widths, scores[:, None], self.floor)
        return np.asarray(np.minimum(each, self.peak(quantiles, wider)[:, None]))


class Calibration:
    """The part of calibration that has a memory: what was issued at the nodes after each origin, and how far the levels have moved."""

    def __init__(self) -> None:
        self.moved: Floats = np.zeros(len(NODES))
        self.origins: Ints = np.zeros(0, dtype=np.int64)
        self.issued: NDArray[np.float32] = np.zeros((0, len(NODES)), dtype=np.float32)
        self.judged = -1

    def extend(self, blended: Blend, rows_per_day: float, windows_per_row: float) -> Calibrated:
        """Issue quantiles after the origins that are new, learn from those that have come to pass, and give what holds after the end."""
        center, widths = _widths(blended, rows_per_day, windows_per_row)
        so_wide = widths.at(slice(None, -1))
        scores = so_wide.scores(_errors(blended.peak_came, center[:-1], blended.floor))
        known: Bools = blended.realized & np.isfinite(scores)
        late = round(1 / windows_per_row) if windows_per_row < 1 else 1
        done = int(self.origins[-1]) if len(self.origins) else -1
        new = np.flatnonzero(blended.origins > done)
        issued = np.full((len(blended.origins), len(NODES)), np.nan, dtype=np.float32)
        kept = np.isin(blended.origins, self.origins)
        issued[kept] = self.issued[np.isin(self.origins, blended.origins)]
        # what came to pass before the next origin was issued moves the levels first
        # where many origins are made up for at once, their scores are put in order anew for some of them only
        anew = max(1, len(new) // MOST_RANKED)
        so_far = ranked(np.zeros(0), np.zeros(0), windows_per_row)
        for number, row in enumerate(new.tolist()):
            self._learn(blended, issued, known, row - late, windows_per_row)
            if number % anew == 0:
                past = known[: max(0, row - late + 1)]
                so_far = ranked(scores[: len(past)][past], _recency(past, rows_per_day), windows_per_row)
            at = so_far.at(_moved_levels(np.array(NODES), self.moved))
            issued[row] = _loads(center[row], widths.at(row), at, blended.floor)
        self._learn(blended, issued, known, len(blended.origins) - 1, windows_per_row)
        self.origins, self.issued = blended.origins, issued
        steps = so_wide.scores(_errors(blended.knot_came, np.log(blended.knot + blended.floor), blended.floor))
        seen: Bools = blended.realized & np.isfinite(steps)
        return Calibrated(
            mean=blended.head_mean,
            path=blended.head_path,
            center=float(center[-1]),
            widths=widths.at(-1),
            floor=blended.floor,
            peak_scores=ranked(scores[known], _recency(known, rows_per_day), windows_per_row),
            step_scores=ranked(steps[seen], _recency(seen, rows_per_day), windows_per_row),
            moved=self.moved.copy(),
        )

    def hits(self, blended: Blend, quantile: float, rows: int) -> Floats:
        """For those of the last `rows` origins that have come to pass: 1 where the peak stayed within the quantile (of NODES), else 0."""
        issued = self.issued[:, NODES.index(quantile)]
        judged = np.flatnonzero(blended.realized & np.isfinite(issued))
        judged = judged[judged >= len(blended.origins) - rows]
        return np.asarray(_within(blended.peak_came[judged], issued[judged]), dtype=np.float64)

    def _learn(self, blended: Blend, issued: NDArray[np.float32], known: Bools, until: int, windows_per_row: float) -> None:
        """Move the levels by the origins up to row `until` that have come to pass since."""
        passed = max(0, until + 1)
        rows = np.flatnonzero(known[:passed] & (blended.origins[:passed] > self.judged))
        for row in rows:
            if np.isfinite(issued[row]).all():
                within = _within(blended.peak_came[row], issued[row])
                self.moved = np.clip(self.moved + STEP * windows_per_row * (np.array(NODES) - within), -MOST_MOVED, MOST_MOVED)
            self.judged = int(blended.origins[row])


def _widths(blended: Blend, rows_per_day: float, windows_per_row: float) -> tuple[Floats, Widths]:
    """log(load + floor) of the peak's middle after each origin and at the head, shape (origins + 1,), and the widths around it."""
    mean = np.log(np.append(blended.mean, blended.head_mean) + blended.floor)
    native = np.concatenate((blended.native, blended.head_native[None, :]))
    has: Bools = np.isfinite(native).all(axis=1) & np.isfinite(mean)
    late = round(1 / windows_per_row) if windows_per_row < 1 else 1
    # the peak lies above what is said of it (without a quantile of its own, above the mean) as it lately did, but for outliers
    peak = np.log(blended.peak_came + blended.floor)
    said = mean + np.where(has, native[:, MEDIAN], 0.0)
    above_said = np.where(blended.realized, peak - said[:-1], np.nan)
    most = 1.6 * _lately(np.abs(above_said), PRIOR_SPREAD, rows_per_day, windows_per_row, late)[:-1]
    center = said + _lately(np.clip(above_said, -most, most), 0.0, rows_per_day, windows_per_row, late)
    errors = np.where(blended.realized, np.abs(peak - center[:-1]), np.nan)
    # a normal error is on average 0.80 standard deviations in size, and p90 lies 1.28 above p50
    own = 1.6 * _lately(errors, _NORMAL90 * PRIOR_SPREAD / 1.6, rows_per_day, windows_per_row, late)
    above, beyond, under = own.copy(), own.copy(), own.copy()
    if has.any():
        lowest, middle, high, highest = native[has].T
        for side, width in ((above, high - middle), (beyond, (highest - high) / BEYOND), (under, middle - lowest)):
            width = np.maximum(width, max(LEAST_WIDTH * float(np.median(width)), 1e-4))
            said = np.full(len(mean), np.nan)
            said[has] = width
            usual = _lately(said[:-1], float(np.median(width)), rows_per_day, windows_per_row, 0)
            side[has] = width * (own[has] / usual[has]) ** OWN_ERRORS
    scores = np.abs(Widths(above[:-1], beyond[:-1], under[:-1]).scores(_errors(blended.peak_came, center[:-1], blended.floor)))
    scale = _recent_scale(np.where(blended.realized, np.minimum(scores, 8.0), np.nan), rows_per_day, windows_per_row, late)
    return center, Widths(*(np.maximum(side * scale, 1e-6) for side in (above, beyond, under)))


def _lately(numbers: Floats, prior: float, rows_per_day: float, windows_per_row: float, late: int) -> Floats:
    """The fading mean of the known numbers at each origin and at the head, joined by one window of the prior. Shape (origins + 1,)."""
    known = np.isfinite(numbers)
    decay = 0.5 ** (1.0 / max(1.0, rows_per_day * WIDTH_HALF_LIFE_DAYS))
    ground = PRIOR_WINDOWS / windows_per_row
    sums = fading_sums(np.where(known, numbers, 0.0), decay) + ground * prior
    counts = fading_sums(known.astype(np.float64), decay) + ground
    return delayed(sums / counts, prior, late)


def _recent_scale(sizes: Floats, rows_per_day: float, windows_per_row: float, late: int) -> Floats:
    """How large scores lately were against how large they had been, at each origin and at the head: 1 = as usual. Shape (origins + 1,)."""
    known = np.isfinite(sizes)
    size = np.where(known, sizes, 0.0)
    usual = (np.cumsum(size) + 1e-9) / np.maximum(np.cumsum(known), 1)
    decay = 0.5 ** (1.0 / max(1.0, rows_per_day * SCALE_HALF_LIFE_DAYS, 3.0 / windows_per_row))
    ground = GROUND_WINDOWS / windows_per_row
    recent = (fading_sums(size, decay) + ground * usual) / (fading_sums(known.astype(np.float64), decay) + ground) / usual
    recent = np.where(np.cumsum(known) * windows_per_row < 12, 1.0, recent)
    return np.asarray(np.clip(delayed(recent, 1.0, late), 0.25, 4.0) ** SCALE_TRUST)


def _errors(came: Floats, center: Floats, floor: float) -> Floats:
    with np.errstate(all="ignore"):
        return np.asarray(np.log(came + floor) - center)


def _recency(known: Bools, rows_per_day: float) -> Floats:
    """The weight of the known rows by their age: 1 for the newest row."""
    age = np.flatnonzero(known[::-1])[::-1]
    return np.asarray(0.5 ** (age / max(1.0, HALF_LIFE_DAYS * rows_per_day)))


def ranked(scores: Floats, recency: Floats, windows_per_row: float) -> Scores:
    """The scores in order, joined by the prior: as wide as normal errors of the width's own size, less where experience is large."""
    weight = recency * windows_per_row
    values = np.concatenate((scores, _PRIOR))
    weights = np.concatenate((weight, np.full(PRIOR_POINTS, PRIOR_WINDOWS / PRIOR_POINTS)))
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    total = float(weights.sum())
    below = (np.cumsum(weights) - 0.5 * weights) / total
    # with 40 windows the tail begins at 1 − 4 ÷ 40 = 0.9
    tail_from = float(np.clip(1.0 - 0.2 * TAIL_WINDOWS / total, 0.8, 0.95))
    start, low_start = (float(np.interp(level, below, values)) for level in (tail_from, 1.0 - tail_from))
    excess = _excess(values - start, weights, tail_from)
    low_excess = _excess(low_start - values, weights, tail_from)
    return Scores(values, below, tail_from, excess, 1.0 - tail_from, low_excess)


def _excess(beyond: Floats, weights: Floats, level: float) -> float:
    """The mean of what lies beyond a level, joined by that of normal errors: density ÷ (1 − level) − score, 0.42 standard deviations at p95."""
    score = _NORMAL.inv_cdf(level)
    usual = (_NORMAL.pdf(score) / (1.0 - level) - score) / _NORMAL90
    out = beyond > 0
    number = float(weights[out].sum())
    mean = (float((weights[out] * beyond[out]).sum()) + TAIL_PRIOR_WINDOWS * usual) / (number + TAIL_PRIOR_WINDOWS)
    return min(mean, MOST_EXCESS)


def _moved_levels(levels: Floats, moved: Floats) -> Floats:
    """The levels that the scores are read at, in the order of the levels asked for."""
    shifted = np.clip(levels + np.interp(levels, NODES, moved), 0.5 * levels, 1.0 - 0.25 * (1.0 - levels))
    return np.asarray(np.maximum.accumulate(shifted))


def _within(came: Floats | np.float64, issued: NDArray[np.float32]) -> Bools:
    """Whether the load stayed within what was issued, but for rounding to single precision."""
    return np.asarray(came <= issued * (1.0 + 1e-6))


def _loads(center: Floats | float, widths: Widths, scores: Floats, floor: float) -> Floats:
    logs = center + np.clip(widths.errors(scores), -20.0, 20.0)
    return np.asarray(np.maximum(np.exp(np.minimum(logs, 690.0)) - floor, 0.0))
