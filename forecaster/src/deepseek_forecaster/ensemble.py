"""The ensemble: experts weighted by their own recent error, blended in the logarithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .jumps import after_jumps
from .models.expert import PEAK_QUANTILES, Bools, Floats, History, Ints
from .record import Head, TrackRecord
from .running import delayed, fading_sums

HALF_LIVES_DAYS = (1 / 4, 2.0)
"""An error counts half after six hours in the one average and after two days in the other; a weight is the product of both judgements."""
SHARPNESS = 8.0
"""Weight ∝ error to the power −8: an expert with 1.1 times the error of the best has less than half of its weight."""
SMALLEST_WEIGHT = 0.002
"""Each expert with an opinion keeps a trace of weight. Errors are known of all of them, so none needs more to be found good again."""


@dataclass(frozen=True)
class Blend:
    """The ensemble after each of the record's origins, and what came. All loads in units of work per second.

    `mean` (origins,) is what was said of the horizon's mean and `came` what it was, `peak_came` and `knot_came` likewise of the peak and of the
    step that the origin's path is judged at, `knot` what was said of that step; NaN where it is not known (yet). `native` (origins,
    len(PEAK_QUANTILES)) are the blended log-ratios of the experts' peak quantiles to their means, NaN where none has any. `realized` marks
    origins whose whole horizon has passed with at least half of it known. `weights` (origins, experts) are in the order of `names`.
    What begins with `head` is the same after the end of the history.
    """

    origins: Ints
    names: tuple[str, ...]
    weights: Floats
    mean: Floats
    knot: Floats
    native: Floats
    came: Floats
    peak_came: Floats
    knot_came: Floats
    realized: Bools
    naive: Floats
    floor: float
    head_weights: Floats
    head_mean: float
    head_path: Floats
    head_native: Floats


def blend(history: History, record: TrackRecord, heads: Mapping[str, Head], naive: str) -> Blend:
    """Weight the experts at every origin by what was known there, and at the head; `naive` names the expert that the others must beat.

    `heads` must name at least one expert.
    """
    names = tuple(record.means)
    floor, steps, count = history.floor, record.steps, len(record.origins)
    after = record.origins - history.first + 1
    came, peak_came, realized = what_came(history, after, steps, record.slack)
    at_knot = after + record.knot_of(record.origins)
    knot_came = history.mean_between(at_knot, at_knot + 1)
    said = np.stack([record.means[name] for name in names], axis=1).astype(np.float64) if names else np.zeros((count, 0))
    losses = np.abs(said - came[:, None])
    losses[~realized] = np.nan
    late, rows_per_day = -(-steps // record.stride), record.rows_per_day(history.day)
    weights = _weights(losses, rows_per_day, late)
    opinion: Bools = np.isfinite(said)
    anyone: Bools = np.asarray(opinion.any(axis=1))
    logs = np.where(opinion, np.log(np.maximum(said, 0.0) + floor), 0.0)
    usually = np.where(anyone & realized, (_normalized(weights[:count], opinion) * logs).sum(axis=1), np.nan)
    after_jump, losses_then = after_jumps(
        np.exp(usually) - floor,
        came,
        losses,
        names,
        floor,
        rows_per_day=rows_per_day,
        windows_per_row=record.windows_per_row,
        late=late,
    )
    weights = np.where(after_jump[:, None], _by_loss(losses_then), weights)
    at_origins = _normalized(weights[:count], opinion)
    mean = np.where(anyone, np.maximum(np.exp((at_origins * logs).sum(axis=1)) - floor, 0.0), np.nan)
    bends = np.stack([record.bends[name] for name in names], axis=1).astype(np.float64) if names else np.zeros((count, 0))
    knot = mean * (at_origins * np.where(opinion, np.clip(bends, 0.0, steps), 0.0)).sum(axis=1)
    native = np.full((count, len(PEAK_QUANTILES)), np.nan)
    voices = [(record.means[name].astype(np.float64), rows.astype(np.float64)) for name, rows in record.peaks.items()]
    if voices:
        native = _together([np.log(peak + floor) - np.log(mean_said + floor)[:, None] for mean_said, peak in voices])
    present = np.array([name in heads for name in names])
    head_weights = _normalized(weights[-1:], present[None, :])[0]
    head_logs = np.array([np.log(heads[name].mean + floor) if name in heads else 0.0 for name in names])
    head_mean = max(float(np.exp(head_weights @ head_logs) - floor), 0.0)
    shares = np.stack([_share(heads.get(name), steps) for name in names])
    spoken = [np.log(head.peak + floor) - np.log(head.mean + floor) for head in heads.values() if head.peak is not None]
    return Blend(
        origins=record.origins,
        names=names,
        weights=at_origins,
        mean=mean,
        knot=knot,
        native=native,
        came=came,
        peak_came=peak_came,
        knot_came=knot_came,
        realized=realized & np.isfinite(mean),
        naive=said[:, names.index(naive)],
        floor=floor,
        head_weights=head_weights,
        head_mean=head_mean,
        head_path=head_mean * (head_weights @ shares),
        head_native=_together(spoken) if spoken else np.full(len(PEAK_QUANTILES), np.nan),
    )


def what_came(history: History, after: Ints, steps: int, slack: float = 0.0) -> tuple[Floats, Floats, Bools]:
    """Mean and peak of the `steps` steps from each position `after` on, and whether all of them have passed with half of them known.

    With a slack (in steps) the peak is what had to be carried so that no work waited longer than that.
    """
    if not len(after):
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool)
    mean = history.mean_between(after, after + steps)
    realized: Bools = (after + steps <= len(history)) & (2 * history.known_between(after, after + steps) >= steps)
    return mean, history.sustained_between(after, steps, slack) if slack else history.peak_between(after, steps), realized


def _weights(losses: Floats, rows_per_day: float, rows_until_known: int) -> Floats:
    """Unnormalized weights at each origin and, in one more row, at the head: shape (origins + 1, experts)."""
    weights = np.ones((len(losses) + 1, losses.shape[1]))
    known = np.isfinite(losses)
    for half_life in HALF_LIVES_DAYS:
        decay = 0.5 ** (1.0 / max(3.0, rows_per_day * half_life))
        sums = fading_sums(np.where(known, losses, 0.0), decay)
        counts = fading_sums(known.astype(np.float64), decay)
        enough = counts > 1e-6
        # the error of what was said after row i is known rows_until_known rows later
        average = delayed(np.where(enough, sums / np.where(enough, counts, 1.0), np.nan), np.nan, rows_until_known)
        # an expert without a record yet is taken to be as good as the middle one of those that have one
        has_record = np.isfinite(average)
        ranked = np.sort(np.where(has_record, average, np.inf), axis=1)
        number = has_record.sum(axis=1)
        middle = np.where(number > 0, ranked[np.arange(len(ranked)), np.maximum(number - 1, 0) // 2], 1.0)
        average = np.where(has_record, average, middle[:, None])
        weights *= _by_loss(average)
    return weights


def _by_loss(average: Floats) -> Floats:
    """1 for the expert with the least loss of its row, less for the others. Shape as `average` (rows, experts)."""
    best = np.maximum(average.min(axis=1, keepdims=True), 1e-12)
    return np.asarray((best / np.maximum(average, best)) ** SHARPNESS)


def _normalized(weights: Floats, opinion: Bools) -> Floats:
    """Weights that add up to 1 over the experts with an opinion, each at least SMALLEST_WEIGHT; all 0 in a row where none has one."""
    mine = np.where(opinion, weights, 0.0)
    mine = mine / np.maximum(mine.sum(axis=1, keepdims=True), 1e-300)
    mine = np.where(opinion, np.maximum(mine, SMALLEST_WEIGHT), 0.0)
    total = mine.sum(axis=1, keepdims=True)
    return np.asarray(mine / np.where(total > 0, total, 1.0))


def _together(voices: list[Floats]) -> Floats:
    """The mean of what the experts say of each quantile, the highest of what they say of the last one; NaN where none says anything.

    Of the chance that one of two gives to what the other deems impossible half is left: one in a hundred becomes one in two hundred.
    """
    together = np.stack(voices)
    known = np.isfinite(together)
    number = known.sum(axis=0)
    mean = np.where(known, together, 0.0).sum(axis=0) / np.maximum(number, 1)
    mean[..., -1] = np.where(known, together, -np.inf).max(axis=0)[..., -1]
    return np.asarray(np.where(number > 0, mean, np.nan))


def _share(head: Head | None, steps: int) -> Floats:
    """The path ÷ its mean; flat for an expert without a path, or one that says nothing will come."""
    if head is None or head.path is None or not head.mean > 0:
        return np.ones(steps)
    return np.asarray(head.path / head.mean)
