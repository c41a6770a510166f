"""Scoring what was said against what came: errors, losses, coverage, and how the error goes on after the largest jumps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deepseek_forecaster.evaluate import coverage, pinball, wape
from deepseek_forecaster.models.expert import Bools, Floats

from .blocks import Blocks
from .play import QUANTILES, Played, Said
from .yardsticks import CONFORMAL_DAYS, between_neighbours, chance, rolling_conformal, ten_minute_mean

JUMPS = 10
"""The largest changes from one block to the next that are looked at."""
APART_HOURS = 6
"""Jumps are at least this far apart, so that each is seen with what follows it."""
AFTER = {"the jump itself": (0, 1), "1 block after": (1, 2), "2 blocks after": (2, 3), "3 to 5 blocks after": (3, 6), "later": (6, 10**9)}
"""Blocks since the jump: [from, to)."""
ALLOWED_BY_TRAFFIC = 0.036
"""Where the oracle between two neighbours errs by at most 3.6 %, an error under 5 % is within reach; elsewhere it rarely is."""


@dataclass(frozen=True)
class Truth:
    """What came in each block, per second, and what the last ten minutes' mean said, with rolling conformal quantiles. Shapes (origins,)."""

    mean: Floats
    peak: Floats
    naive: Said


@dataclass(frozen=True)
class Score:
    """How one forecaster did. Shares are of 1; losses are in the load's unit; None where nothing could be compared.

    `mean_ratio` and `peak_ratio` are its WAPE ÷ that of the last ten minutes' mean on the same origins; `peak_pinball_ratio[q]` its pinball
    loss of the peak ÷ that of the last ten minutes' mean with rolling conformal quantiles.
    """

    origins: int
    answered: int
    wape_mean: float | None
    wape_peak: float | None
    mean_ratio: float | None
    peak_ratio: float | None
    pinball_mean: Mapping[float, float | None]
    pinball_peak: Mapping[float, float | None]
    peak_pinball_ratio: Mapping[float, float | None]
    coverage_mean: Mapping[float, float | None]
    coverage_peak: Mapping[float, float | None]
    after_jumps: Mapping[str, tuple[float | None, float | None]]
    """By time since the largest jumps: WAPE of the mean, and its ratio to the last ten minutes' mean."""


@dataclass(frozen=True)
class Scores:
    """All that a backtest found."""

    ensemble: Score
    alone: Mapping[str, Score]
    naive: Score
    oracle_wape: float | None
    chance_wape: float | None
    coverage_by_hour: tuple[float | None, ...]
    """Of the ensemble's p90 of the peak, by hour since the trace's start modulo 24."""

    @property
    def five_percent_possible(self) -> bool | None:
        """Whether the traffic allows an error under 5 %: the oracle says so, or the ensemble shows it."""
        if self.ensemble.wape_mean is not None and self.ensemble.wape_mean < 0.05:
            return True
        return None if self.oracle_wape is None else self.oracle_wape <= ALLOWED_BY_TRAFFIC


def truth_of(blocks: Blocks) -> Truth:
    """What came, and the last ten minutes' mean beside it."""
    origins = np.concatenate((blocks.before(CONFORMAL_DAYS * 86_400), blocks.origins))
    said = ten_minute_mean(blocks, origins)
    mean, peak = blocks.came(origins)
    tested = slice(len(origins) - len(blocks.origins), None)
    naive = Said(
        mean=said[tested],
        mean_quantiles=rolling_conformal(said, mean, QUANTILES, blocks)[:, tested],
        peak_quantiles=rolling_conformal(said, peak, QUANTILES, blocks)[:, tested],
    )
    return Truth(mean[tested], peak[tested], naive)


def score(played: Played) -> Scores:
    """Score the ensemble and each expert alone."""
    blocks, truth = played.blocks, truth_of(played.blocks)
    since = blocks_since_jump(blocks, truth)
    return Scores(
        ensemble=score_of(played.ensemble, truth, since),
        alone={name: score_of(said, truth, since) for name, said in played.alone.items()},
        naive=score_of(truth.naive, truth, since),
        oracle_wape=wape(between_neighbours(blocks), truth.mean),
        chance_wape=None if np.isnan(found := chance(blocks)) else found,
        coverage_by_hour=by_hour(played.ensemble.peak_quantiles[QUANTILES.index(0.9)], truth.peak, blocks),
    )


def score_of(said: Said, truth: Truth, since: Floats) -> Score:
    """One forecaster's score; `since` is how many blocks ago the last large jump was, at each origin (NaN: before the first)."""

    def each(quantiles: Floats, came: Floats, how: object) -> dict[float, float | None]:
        if how == "pinball":
            return {q: pinball(row, came, q) for q, row in zip(QUANTILES, quantiles, strict=True)}
        return {q: coverage(row, came) for q, row in zip(QUANTILES, quantiles, strict=True)}

    answered: Bools = np.asarray(np.isfinite(said.mean) & np.isfinite(truth.mean))
    median_peak = said.peak_quantiles[QUANTILES.index(0.5)]
    naive_peak = truth.naive.peak_quantiles[QUANTILES.index(0.5)]
    # losses are compared over the origins where both have a quantile
    both = [np.isfinite(mine) & np.isfinite(theirs) for mine, theirs in zip(said.peak_quantiles, truth.naive.peak_quantiles, strict=True)]
    return Score(
        origins=int(np.isfinite(truth.mean).sum()),
        answered=int(answered.sum()),
        wape_mean=wape(said.mean, truth.mean),
        wape_peak=wape(median_peak, truth.peak),
        mean_ratio=_ratio(wape(said.mean, truth.mean), wape(np.where(answered, truth.naive.mean, np.nan), truth.mean)),
        peak_ratio=_ratio(
            wape(np.where(np.isfinite(naive_peak), median_peak, np.nan), truth.peak),
            wape(np.where(np.isfinite(median_peak), naive_peak, np.nan), truth.peak),
        ),
        pinball_mean=each(said.mean_quantiles, truth.mean, "pinball"),
        pinball_peak=each(said.peak_quantiles, truth.peak, "pinball"),
        peak_pinball_ratio={
            q: _ratio(
                pinball(np.where(known, mine, np.nan), truth.peak, q),
                pinball(np.where(known, theirs, np.nan), truth.peak, q),
            )
            for q, known, mine, theirs in zip(QUANTILES, both, said.peak_quantiles, truth.naive.peak_quantiles, strict=True)
        },
        coverage_mean=each(said.mean_quantiles, truth.mean, "coverage"),
        coverage_peak=each(said.peak_quantiles, truth.peak, "coverage"),
        after_jumps=after_jumps(said, truth, since),
    )


def blocks_since_jump(blocks: Blocks, truth: Truth) -> Floats:
    """For each block: how many blocks ago the newest of the largest jumps came (0: it is the jump's own block), NaN before the first.

    A jump is the change of the logarithm of the block's mean from the block before; the ten largest that lie six hours apart count.
    """
    floor = 0.02 * float(np.nanmean(truth.mean)) if np.isfinite(truth.mean).any() else 1e-12
    logs = np.log(truth.mean + max(floor, 1e-12))
    sizes = np.concatenate(([np.nan], np.abs(np.diff(logs))))
    apart = max(1, round(APART_HOURS * 3_600 / blocks.horizon_seconds))
    chosen: list[int] = []
    for place in np.argsort(-np.where(np.isfinite(sizes), sizes, -1.0)):
        if len(chosen) == JUMPS or not np.isfinite(sizes[place]):
            break
        if all(abs(int(place) - other) >= apart for other in chosen):
            chosen.append(int(place))
    since = np.full(len(truth.mean), np.nan)
    for place in sorted(chosen):
        since[place:] = np.arange(len(since) - place)
    return since


def after_jumps(said: Said, truth: Truth, since: Floats) -> dict[str, tuple[float | None, float | None]]:
    """WAPE of the mean and its ratio to the last ten minutes' mean, by time since the last large jump."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for name, (start, end) in AFTER.items():
        here = (since >= start) & (since < end) & np.isfinite(said.mean)
        came = np.where(here, truth.mean, np.nan)
        own = wape(said.mean, came)
        found[name] = (own, _ratio(own, wape(truth.naive.mean, came)))
    return found


def by_hour(quantile: Floats, came: Floats, blocks: Blocks) -> tuple[float | None, ...]:
    """Coverage by hour of the day, hour 0 being the trace's first: 24 shares, None where nothing was forecast."""
    hours = (blocks.origins * blocks.step_seconds // 3_600) % 24
    return tuple(coverage(np.where(hours == hour, quantile, np.nan), came) for hour in range(24))


def _ratio(own: float | None, other: float | None) -> float | None:
    return own / other if own is not None and other is not None and other > 0 else None
