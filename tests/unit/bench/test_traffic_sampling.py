"""Minutes out of longer steps: totals kept, the truth's own scatter, and no look into the future; and perturbed copies, each as described."""

from __future__ import annotations

import numpy as np
import pytest
from bench.traffic_sampling import Walk, estimate, perturbed, to_minutes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray


def traffic(minutes: int, step_variance: float, fano: float, seed: int) -> NDArray[np.float64]:
    """Counts per minute around a random walk whose ends meet, 400 a minute in the middle."""
    random = np.random.default_rng(seed)
    walk = np.cumsum(random.normal(0, step_variance**0.5, minutes))
    walk -= np.linspace(0, walk[-1], minutes)
    rate = 400 * np.exp(0.3 * (walk - walk.mean()) / walk.std())
    return random.poisson(random.gamma(rate / (fano - 1), fano - 1)).astype(float)


@pytest.mark.parametrize("minutes", [5, 10, 30])
def test_a_sample_scatters_as_the_truth_and_tells_no_more_of_the_future(minutes: int) -> None:
    """A known walk is summed up to totals and brought back to minutes. The last minute of a step (against the step's mean) says about the next
    total what it says in the truth, within 0.1 of correlation; a straight line between the totals says 0.3 more or worse."""
    truth = traffic(36_000, 0.002, 3.0, seed=5)
    totals = truth.reshape(-1, minutes).sum(axis=1)
    sampled = np.array(to_minutes(totals.tolist(), minutes, seed=1))
    centres = np.arange(len(totals)) * minutes + (minutes - 1) / 2
    smooth = np.interp(np.arange(len(truth)), centres, totals / minutes)

    def tells(counts: NDArray[np.float64]) -> float:
        last = np.log(counts.reshape(-1, minutes)[:-1, -1] + 0.5) - np.log(totals[:-1] / minutes)
        return float(np.corrcoef(last, np.diff(np.log(totals)))[0, 1])

    def moves(counts: NDArray[np.float64]) -> float:
        return float(np.diff(np.log(counts + 0.5)).std())

    assert abs(tells(sampled) - tells(truth)) < 0.1
    assert tells(smooth) > tells(truth) + 0.3
    assert moves(sampled) == pytest.approx(moves(truth), rel=0.25)
    assert moves(smooth) < 0.5 * moves(truth)


def test_the_walk_behind_totals_is_recovered() -> None:
    """Step variance and Fano factor of a made walk, from its 10-minute totals: within a third and a half."""
    random = np.random.default_rng(2)
    n = 40_000
    walk = np.cumsum(random.normal(0, 0.03, n))
    walk -= np.linspace(0, walk[-1], n)
    rate = 2000 * np.exp(walk - walk.mean())
    totals = random.poisson(random.gamma(rate / 7, 7)).reshape(-1, 10).sum(axis=1)
    found = estimate(totals.astype(float).tolist(), 10)
    assert found.step_variance == pytest.approx(0.0009, rel=0.33)
    assert found.fano == pytest.approx(8, rel=0.5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(0, 5000)), min_size=2, max_size=30),
    st.sampled_from([2, 5, 10, 30]),
    st.sampled_from([1.0, 4.0, 20.0]),
    st.integers(0, 99),
)
def test_every_total_is_kept_to_the_request(totals: list[float | None], minutes: int, fano: float, seed: int) -> None:
    """Whatever the totals, unknown ones stay unknown, and the same seed gives the same minutes."""
    sampled = to_minutes(totals, minutes, seed, Walk(0.01, fano))
    assert sampled == to_minutes(totals, minutes, seed, Walk(0.01, fano))
    for number, total in enumerate(totals):
        part = sampled[number * minutes : (number + 1) * minutes]
        assert part == [None] * minutes if total is None else sum(count or 0 for count in part) == total


def test_seeds_differ_and_minutes_stay_as_they_are() -> None:
    """Two seeds, two samples; a trace by minutes is given back."""
    totals = [100.0, 300.0, 200.0, 250.0, 90.0]
    assert to_minutes(totals, 5, 1) != to_minutes(totals, 5, 2)
    assert to_minutes([1.0, None], 1, 1) == [1.0, None]


def test_too_little_to_estimate_a_walk_is_said() -> None:
    """One change has no neighbour."""
    with pytest.raises(ValueError, match="at least three known steps in a row"):
        to_minutes([5.0, 6.0], 5, 1)


COUNTS = [float(count) for count in traffic(6000, 0.002, 3.0, seed=9)]
START = 4200


def copies(seed: int = 11) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64], int]]:
    return {
        copy.name: (np.array(copy.counts, dtype=float), np.array(copy.seen, dtype=float), copy.start) for copy in perturbed(COUNTS, START, seed)
    }


def test_each_copy_is_what_its_name_says() -> None:
    """Against the original: shares, lengths, levels before and after."""
    base, made = np.array(COUNTS), copies()
    assert 0.5 < made["thinned"][0].sum() / base.sum() < 0.9
    shifted, _, begins = made["shifted"]
    assert (shifted == base[START - begins :]).all()
    assert 60 <= START - begins <= 1440
    warp = made["warped"][0]
    assert len(warp) == len(base)
    assert 0.9 < warp.sum() / base.sum() < 1.1
    assert np.mean(warp == base) < 0.2
    for name, factor in (("level ×2", 2.0), ("level ×0.5", 0.5)):
        level = made[name][0]
        at = int(np.flatnonzero(level != base)[0])
        assert START < at < START + 0.62 * 1800
        assert level[at:].sum() / base[at:].sum() == pytest.approx(factor, rel=0.02)
    crowded = made["flash crowds"][0]
    more = np.flatnonzero(crowded != base)
    assert more[0] >= START
    assert 4 * 25 <= len(more) <= 4 * 30
    counts, seen, _ = made["outages"]
    assert (counts == base).all()
    assert np.isnan(seen).sum() == 4 * 120
    assert not np.isnan(seen[:START]).any()


def test_history_stays_the_same_where_only_the_test_part_is_struck() -> None:
    """Level shifts and flash crowds strike after the start."""
    for name in ("level ×2", "level ×0.5", "flash crowds"):
        assert (copies()[name][0][:START] == np.array(COUNTS[:START])).all()


def test_copies_come_from_their_seed() -> None:
    """The same seed twice, and another."""
    first, again, other = copies(1), copies(1), copies(2)
    assert all((first[name][0] == again[name][0]).all() for name in first)
    assert not (first["thinned"][0] == other["thinned"][0]).all()


def test_a_gap_stays_a_gap_in_every_copy_that_keeps_time() -> None:
    """An unknown minute is unknown afterwards."""
    gappy: list[float | None] = [*COUNTS[:5000], None, *COUNTS[5001:]]
    for copy in perturbed(gappy, START, 3):
        if copy.name not in ("shifted", "warped"):
            assert copy.counts[5000] is None
        assert len(copy.counts) == len(copy.seen)
