"""Minutes for traces that were recorded in longer steps, and perturbed copies of a trace. Everything random comes from a seed.

A trace of 5- or 30-minute totals is brought to minutes by a *conditional sample*, never by a smooth curve: an interpolant bends towards the
next total and tells a forecaster the future. The model:

- the log of the rate is a random walk from minute to minute; the variance of its steps, and the scatter of the counts around the rate (their
  Fano factor, variance ÷ mean), are estimated from the changes between the totals themselves;
- one path of that walk is drawn given all totals (a Gaussian draw, exact for the mean of the log-rate of each step);
- the counts are negative-binomial around the path, drawn given their sum: a Dirichlet-multinomial, so each total is kept to the request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve_banded, cholesky_banded, solve_banded

Floats = NDArray[np.float64]
Counts = Sequence[float | None]

LARGEST_FANO = 20.0
"""More scatter than this between two minutes is no noise."""


# ---------------------------------------------------------------------------------------------------------- totals to minutes


@dataclass(frozen=True)
class Walk:
    """How the log of the rate moves: the variance of its step per minute, and the Fano factor of the counts around the rate."""

    step_variance: float
    fano: float


def estimate(totals: Counts, minutes: int) -> Walk:
    """The walk behind totals of `minutes` each, by two moments of their changes.

    With k minutes a step, s² the variance of a minute's step and τ² that of the scatter of one total's log, the changes of the log totals have
    variance  γ₀ = s² (2k² + 1) ÷ 3k + 2τ²  and neighbouring ones the covariance  γ₁ = s² (k² − 1) ÷ 6k − τ².
    """
    values = _array(totals)
    logs = np.log(values + 0.5)
    changes = np.diff(logs)
    neighbours = changes[1:] * changes[:-1]
    if not np.isfinite(neighbours).any():
        raise ValueError("totals must hold at least three known steps in a row to be brought to minutes")
    squared, product = float(np.nanmean(changes**2)), float(np.nanmean(neighbours))
    k = minutes
    in_square, in_product = (2 * k * k + 1) / (3 * k), (k * k - 1) / (6 * k)
    step_variance = max(1e-8, (squared + 2 * product) / (in_square + 2 * in_product))
    scatter = max(0.0, (squared - in_square * step_variance) / 2)
    fano = scatter / float(np.nanmean(1 / (values + 0.5)))
    return Walk(step_variance, min(LARGEST_FANO, max(1.0, fano)))


def to_minutes(totals: Counts, minutes: int, seed: int, walk: Walk | None = None) -> list[float | None]:
    """Counts per minute, `minutes` for each total and summing up to it; an unknown total (None) gives unknown minutes."""
    if minutes == 1:
        return list(totals)
    walk = walk or estimate(totals, minutes)
    random = np.random.default_rng(seed)
    values = _array(totals)
    rates = np.exp(_path(np.log(values + 0.5) - math.log(minutes), walk.fano / (values + 0.5), minutes, walk.step_variance, random))
    # A gamma with shape rate ÷ (F − 1) under a Poisson is a negative binomial with Fano factor F; at F = 1 it is the Poisson itself.
    shapes = rates / max(walk.fano - 1.0, 1e-6)
    weights = random.gamma(np.maximum(shapes, 1e-9)).reshape(-1, minutes) if walk.fano > 1.0 + 1e-6 else rates.reshape(-1, minutes)
    weights = np.maximum(weights, 1e-300)
    sampled: list[float | None] = []
    for total, weight in zip(totals, weights, strict=True):
        if total is None:
            sampled += [None] * minutes
        else:
            sampled += random.multinomial(round(total), weight / weight.sum()).astype(float).tolist()
    return sampled


def _path(means: Floats, variances: Floats, minutes: int, step_variance: float, random: np.random.Generator) -> Floats:
    """One draw of a random walk (per minute) given its noisy means over consecutive stretches of `minutes`; NaN means: not observed.

    The posterior is Gaussian with the banded precision  D'D ÷ s² + A'A ÷ τ²  (D: differences, A: means); a draw is its mean plus the solution
    of a triangular system with its Cholesky factor.
    """
    n = len(means) * minutes
    known = np.isfinite(means)
    weight = np.repeat(np.where(known, 1 / np.where(known, variances, 1.0), 0.0) / minutes**2, minutes)
    band = np.zeros((minutes, n))  # lower form: band[d, i] = precision[i + d, i]
    band[0] = weight + 2 / step_variance
    band[0, [0, -1]] -= 1 / step_variance
    band[0] += 1e-4 / n  # a walk without any observation has no level of its own
    place = np.arange(n) % minutes
    for distance in range(1, minutes):
        band[distance] = np.where(place + distance < minutes, weight, 0.0)
    band[1, :-1] -= 1 / step_variance
    factor = cholesky_banded(band, lower=True)
    mean = cho_solve_banded((factor, True), weight * minutes * np.repeat(np.where(known, means, 0.0), minutes))
    upper = np.zeros_like(factor)  # L' in the form solve_banded wants: upper[-1 - d, i + d] = L[i + d, i]
    for distance in range(minutes):
        upper[minutes - 1 - distance, distance:] = factor[distance, : n - distance]
    return np.asarray(mean + solve_banded((0, minutes - 1), upper, random.standard_normal(n)))


def _array(counts: Counts) -> Floats:
    return np.array([np.nan if count is None else count for count in counts], dtype=np.float64)


# ---------------------------------------------------------------------------------------------------------- perturbed copies


@dataclass(frozen=True)
class Copy:
    """A perturbed copy: counts per minute, and what of them a policy sees (the same, but for an outage of the metrics)."""

    name: str
    counts: list[float | None] = field(repr=False)
    seen: list[float | None] = field(repr=False)
    start: int
    """The first minute of the test part in this copy."""


FLASH_MINUTES = 30
OUTAGE_MINUTES = 120
EVENTS = 4
"""Flash crowds or outages per copy."""


def perturbed(counts: Counts, start: int, seed: int) -> Iterator[Copy]:
    """Seven copies of a trace by minutes whose test part begins at minute `start`: thinned, shifted, warped, two level shifts, flash crowds,
    and outages of the metrics. Sizes and places come from `seed`. Node capacity is to be kept from the original."""
    random = np.random.default_rng(seed)
    values = _array(counts)

    def copy(name: str, changed: Floats, seen: Floats | None = None, begins: int = start) -> Copy:
        return Copy(name, _listed(changed), _listed(changed if seen is None else seen), begins)

    yield copy("thinned", thinned(values, random.uniform(0.5, 0.9), random))
    cut = int(random.integers(60, max(61, min(1440, start // 2))))
    yield copy("shifted", values[cut:], begins=start - cut)
    yield copy("warped", warped(values, random))
    for factor in (2.0, 0.5):
        at = start + int((len(values) - start) * random.uniform(0.1, 0.6))
        yield copy(f"level ×{factor:g}", level_shift(values, at, factor, random))
    yield copy("flash crowds", flash_crowds(values, _places(len(values), start, FLASH_MINUTES, random), random))
    seen = values.copy()
    for at in _places(len(values), start, OUTAGE_MINUTES, random):
        seen[at : at + OUTAGE_MINUTES] = np.nan
    yield copy("outages", values, seen)


def thinned(values: Floats, share: float, random: np.random.Generator) -> Floats:
    """Each request stays with probability `share`."""
    known = np.isfinite(values)
    return np.where(known, random.binomial(np.where(known, np.round(values), 0).astype(np.int64), share), np.nan)


def warped(values: Floats, random: np.random.Generator, most: float = 0.1) -> Floats:
    """Time runs up to `most` faster or slower, changing smoothly over one to three days; the rate stays what it was, and the counts scatter
    as before because each minute is taken over whole."""
    days = random.uniform(1.0, 3.0)
    pace = 1 + most * np.sin(2 * np.pi * (np.arange(len(values)) / (1440 * days) + random.uniform()))
    source = np.cumsum(pace) - pace[0]
    return values[np.minimum(np.round(source * (len(values) - 1) / source[-1]).astype(int), len(values) - 1)]


def level_shift(values: Floats, at: int, factor: float, random: np.random.Generator) -> Floats:
    """From minute `at` on `factor` times the traffic: 2 adds an independent scatter of its own, a half thins."""
    if factor <= 1:
        return np.concatenate((values[:at], thinned(values[at:], factor, random)))
    more = values[at:] * (factor - 1)
    return np.concatenate((values[:at], values[at:] + np.where(np.isfinite(more), random.poisson(np.nan_to_num(more)), np.nan)))


def flash_crowds(values: Floats, places: Sequence[int], random: np.random.Generator) -> Floats:
    """At each place for 30 minutes one to three times the mean of the whole trace more, at once, fading in the last ten minutes."""
    crowded, mean = values.copy(), float(np.nanmean(values))
    shape = np.minimum(1.0, np.linspace(3.0, 0.0, FLASH_MINUTES, endpoint=False))
    for at in places:
        crowded[at : at + FLASH_MINUTES] += random.poisson(random.uniform(1.0, 3.0) * mean * shape)
    return crowded


def _places(length: int, start: int, minutes: int, random: np.random.Generator) -> list[int]:
    """Where events of `minutes` begin: one in each quarter of the test part, as far as it is long enough."""
    quarter = (length - start) // EVENTS
    if quarter <= minutes:
        return [start + int(random.integers(0, max(1, length - start - minutes)))]
    return [start + number * quarter + int(random.integers(0, quarter - minutes)) for number in range(EVENTS)]


def _listed(values: Floats) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]
