"""What a forecast is held against: the last ten minutes' mean, rolling conformal quantiles, an oracle between two neighbours, pure chance.

None of them is part of the forecaster.
"""

from __future__ import annotations

import math

import numpy as np

from deepseek_forecaster.models.expert import Floats, Ints

from .blocks import Blocks

CONFORMAL_DAYS = 3.0
"""The errors of the last three days give the quantiles."""
LEAST_ERRORS = 10
FLOOR_SHARE = 0.02
"""Ratios are taken of load + 2 % of the mean load, so that an empty block is low and not minus infinity."""


def floor_of(blocks: Blocks) -> float:
    """What is added before a logarithm is taken: 2 % of the mean load before the tested part."""
    known = blocks.loads[: blocks.start]
    known = known[np.isfinite(known)]
    return max(1e-12, FLOOR_SHARE * float(known.mean())) if len(known) else 1e-12


def rolling_conformal(said: Floats, came: Floats, quantiles: tuple[float, ...], blocks: Blocks) -> Floats:
    """Split conformal quantiles around a point forecast, from the log-ratio errors of the last three days.

    `said` and `came` belong to consecutive blocks, shape (blocks,); the error of a block is known at the next one. The level is the conformal
    one: the ⌈(n + 1) q⌉-th smallest of n errors. NaN below ten errors. Shape (quantiles, blocks).
    """
    floor = floor_of(blocks)
    window = max(LEAST_ERRORS, round(CONFORMAL_DAYS * blocks.per_day))
    with np.errstate(all="ignore"):
        errors = np.log((came + floor) / (said + floor))
    answer = np.full((len(quantiles), len(said)), np.nan)
    for row in range(len(said)):
        past = errors[max(0, row - window) : row]
        past = np.sort(past[np.isfinite(past)])
        if len(past) < LEAST_ERRORS:
            continue
        for place, quantile in enumerate(quantiles):
            rank = min(len(past), math.ceil((len(past) + 1) * quantile)) - 1
            answer[place, row] = max(0.0, (said[row] + floor) * math.exp(past[rank]) - floor)
    return answer


def ten_minute_mean(blocks: Blocks, origins: Ints) -> Floats:
    """The mean of what is known of the ten minutes (or the step, if longer) before each origin; else the last known load. Shape (origins,)."""
    window = max(1, round(600 / blocks.step_seconds))
    answer = np.full(len(origins), np.nan)
    for row, origin in enumerate(origins):
        recent = blocks.loads[max(0, int(origin) - window) : int(origin)]
        known = recent[np.isfinite(recent)]
        if not len(known):
            known = blocks.loads[: int(origin)]
            known = known[np.isfinite(known)][-1:]
        if len(known):
            answer[row] = known.mean()
    return answer


def between_neighbours(blocks: Blocks) -> Floats:
    """An oracle that sees the blocks before and after: the mean of both, NaN where either is unknown. Shape (origins,).

    It tells how much real variation there is from block to block; it is no strict bound.
    """
    before, _ = blocks.came(blocks.origins - blocks.steps)
    after, _ = blocks.came(blocks.origins + blocks.steps)
    return np.asarray((before + after) / 2)


def chance(blocks: Blocks) -> float:
    """The WAPE of a forecast that knows the true rate of a Poisson process: Σ √(2 N ÷ π) ÷ Σ N over the blocks' counts N."""
    mean, _ = blocks.came(blocks.origins)
    counts = mean[np.isfinite(mean)] * blocks.horizon_seconds
    total = float(counts.sum())
    return float(np.sqrt(2.0 * counts / math.pi).sum()) / total if total > 0 else math.nan
