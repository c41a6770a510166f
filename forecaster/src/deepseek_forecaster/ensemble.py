"""The ensemble: experts weighted by their own recent error, blended in the logarithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .models.expert import Bools, Floats, History
from .record import TrackRecord

HALF_LIFE_DAYS = 1 / 8
"""An error of three hours ago counts half."""
SHARPNESS = 4.0
"""Weight ∝ error to the power −4: an expert with 1.5 times the error of the best has a fifth of its weight."""
SMALLEST_WEIGHT = 0.002
"""Each expert with an opinion keeps a trace of weight. Errors are known of all of them, so none needs more to be found good again."""


@dataclass(frozen=True)
class Blend:
    """The ensemble over the window [lag, lag + steps) of each path, and what came.

    `path` and `truth` have the shape (origins, steps), truth being NaN where it is not known (yet); `names` are the experts in the order of the
    columns of `weights` (origins, experts). `realized` marks the origins whose whole window has passed with at least half of it known.
    `head` (steps,) is the blend after the end of the history, with `head_weights` (experts,).
    """

    origins: Floats
    names: tuple[str, ...]
    weights: Floats
    path: Floats
    truth: Floats
    realized: Bools
    naive: Floats
    head: Floats
    head_weights: Floats
    floor: float


def blend(history: History, record: TrackRecord, head: Mapping[str, Floats], lag: int, steps: int, naive: str) -> Blend:
    """Weight the experts at every origin by what was known there, and at the head; `naive` names the expert that the others must beat.

    `head` must name at least one expert.
    """
    names = tuple(record.said)
    window = slice(lag, lag + steps)
    truth = what_came(history, record)[:, window]
    floor = history.floor
    count = len(record.origins)
    said = np.stack([record.said[name][:, window] for name in names], axis=1).astype(np.float64) if names else np.zeros((count, 0, steps))
    logs = np.log(np.maximum(said, 0.0) + floor)  # (origins, experts, steps)
    realized = np.isfinite(truth).mean(axis=1) >= 0.5 if count else np.zeros(0, dtype=bool)
    realized &= record.origins + lag + steps <= history.first + len(history) - 1
    losses = _losses(said, truth, realized, floor)
    rows_until_known = -(-(lag + steps) // record.stride)
    weights = _weights(losses, history.day / record.stride, rows_until_known)
    opinion: Bools = np.asarray(np.isfinite(logs).all(axis=2))
    anyone: Bools = np.asarray(opinion.any(axis=1))
    at_origins = _normalized(weights[:count], opinion)
    path = np.exp(np.einsum("oe,oes->os", at_origins, np.where(opinion[:, :, None], logs, 0.0))) - floor
    path = np.where(anyone[:, None], np.maximum(path, 0.0), np.nan)
    present = np.array([name in head for name in names])
    head_weights = _normalized(weights[-1:], present[None, :])[0]
    head_logs = np.stack([np.log(head[name][window] + floor) if name in head else np.zeros(steps) for name in names])
    return Blend(
        origins=record.origins.astype(np.float64),
        names=names,
        weights=at_origins,
        path=path,
        truth=truth,
        realized=realized & np.isfinite(path).all(axis=1),
        naive=said[:, names.index(naive)],
        head=np.maximum(np.exp(head_weights @ head_logs) - floor, 0.0),
        head_weights=head_weights,
        floor=floor,
    )


def what_came(history: History, record: TrackRecord) -> Floats:
    """The loads after each origin of the record, NaN where they are unknown: shape (origins, record.steps)."""
    padded = np.concatenate((history.values, np.full(record.steps, np.nan)))
    at = record.origins[:, None] - history.first + np.arange(1, record.steps + 1)[None, :]
    inside = (at >= 0) & (at < len(padded))
    return np.asarray(np.where(inside, padded[np.clip(at, 0, len(padded) - 1)], np.nan))


def _losses(said: Floats, truth: Floats, realized: Bools, floor: float) -> Floats:
    """How wrong each expert was: log ratio of the window's mean, and of its last third, where a rise shows; NaN if unknown.

    Shape (origins, experts).
    """
    steps = truth.shape[1]
    losses = np.zeros(said.shape[:2])
    for part in (slice(0, steps), slice(steps - max(1, steps // 3), steps)):
        known = np.isfinite(truth[:, part])
        number = known.sum(axis=1)
        came = np.where(known, truth[:, part], 0.0).sum(axis=1) / np.maximum(number, 1)
        expected = np.where(known[:, None, :], said[:, :, part], 0.0).sum(axis=2) / np.maximum(number, 1)[:, None]
        error = np.abs(np.log((expected + floor) / (came[:, None] + floor)))
        losses += 0.5 * np.where((number > 0)[:, None], error, 0.0)
    return np.asarray(np.where(realized[:, None], losses, np.nan))


def _weights(losses: Floats, rows_per_day: float, rows_until_known: int) -> Floats:
    """Unnormalized weights at each origin and, in one more row, at the head: shape (origins + 1, experts)."""
    decay = 0.5 ** (1.0 / max(1.0, rows_per_day * HALF_LIFE_DAYS))
    known = np.isfinite(losses)
    sums = fading_sums(np.where(known, losses, 0.0), decay)
    counts = fading_sums(known.astype(np.float64), decay)
    average = np.full((len(losses) + 1, losses.shape[1]), np.nan)
    # the error of the path after row i is known rows_until_known rows later
    late = min(rows_until_known, len(losses) + 1)
    enough = counts > 1e-6
    average[late:] = np.where(enough, sums / np.where(enough, counts, 1.0), np.nan)[: len(losses) + 1 - late]
    if len(losses):
        average[-1] = np.where(enough[-1], sums[-1] / np.where(enough[-1], counts[-1], 1.0), np.nan)
    # an expert without a record yet is taken to be as good as the middle one of those that have one
    has_record = np.isfinite(average)
    ranked = np.sort(np.where(has_record, average, np.inf), axis=1)
    number = has_record.sum(axis=1)
    middle = np.where(number > 0, ranked[np.arange(len(ranked)), np.maximum(number - 1, 0) // 2], 1.0)
    average = np.where(has_record, average, middle[:, None])
    best = np.maximum(average.min(axis=1, keepdims=True), 1e-6)
    return np.asarray((best / np.maximum(average, best)) ** SHARPNESS)


def fading_sums(numbers: Floats, decay: float) -> Floats:
    """At each row, the sum of the rows up to it, each worth `decay` (0 to 1) less per row of age. Shape as `numbers`.

    Rows must not fade by more than 2^900 from the first to the last; a record of two days and half-lives above three minutes stay far below.
    """
    growth = decay ** -np.arange(len(numbers), dtype=np.float64)
    growth = growth.reshape((-1,) + (1,) * (numbers.ndim - 1))
    return np.asarray(np.cumsum(numbers * growth, axis=0) / growth, dtype=np.float64)


def _normalized(weights: Floats, opinion: Bools) -> Floats:
    """Weights that add up to 1 over the experts with an opinion, each at least SMALLEST_WEIGHT; all 0 in a row where none has one."""
    mine = np.where(opinion, weights, 0.0)
    mine = mine / np.maximum(mine.sum(axis=1, keepdims=True), 1e-300)
    mine = np.where(opinion, np.maximum(mine, SMALLEST_WEIGHT), 0.0)
    total = mine.sum(axis=1, keepdims=True)
    return np.asarray(mine / np.where(total > 0, total, 1.0))
