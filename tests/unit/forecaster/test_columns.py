"""What the trained experts see: ratios that know no scale and nothing that comes later."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepseek_forecaster.models.columns import columns, teachable
from deepseek_forecaster.models.expert import History
from deepseek_forecaster.models.windows import shorter_horizons, windows_of

DAY = 144.0
loads = st.one_of(st.just(float("nan")), st.just(0.0), st.floats(0, 1e9))


def wave(days: float) -> np.ndarray:
    at = np.arange(round(days * DAY))
    return np.asarray((100 + 60 * np.sin(2 * np.pi * at / DAY)) * np.exp(0.05 * np.random.default_rng(2).standard_normal(len(at))))


@pytest.mark.parametrize("scale", [1e-6, 1e6], ids=["a millionth", "a million times"])
def test_the_same_traffic_at_another_scale_looks_the_same(scale: float) -> None:
    origins, steps = np.arange(1_200, 1_400), np.full(200, 6)
    seen = columns(History(wave(10), 0, DAY), origins, steps, (1, 7)).rows
    scaled = columns(History(scale * wave(10), 0, DAY), origins, steps, (1, 7)).rows
    assert scaled == pytest.approx(seen, rel=1e-6, abs=1e-6, nan_ok=True)


def test_nothing_after_the_origin_is_seen() -> None:
    """1,300 steps, then a hundred times the load: what is seen at step 1,299 stays."""
    values, other = wave(10), wave(10)
    other[1_300:] *= 100
    origin, steps = np.array([1_299]), np.array([12])
    floor = History(values, 0, DAY).floor
    seen = [columns(History(one, 0, DAY, floor), origin, steps, (1, 2, 7)).rows[0] for one in (values, other)]
    assert seen[0] == pytest.approx(seen[1], rel=1e-9, nan_ok=True)


def test_a_lag_is_shown_from_when_a_quarter_of_the_windows_reach_it() -> None:
    """Of ten days of windows, seven tenths of a day's lag … 30 % see last week; of nine days 22 % do."""
    ten, nine = (History(wave(days), 0, DAY) for days in (10, 9))
    assert teachable(ten, np.arange(len(ten))) == (1, 2, 3, 7)
    assert teachable(nine, np.arange(len(nine))) == (1, 2, 3)


def test_ten_steps_are_also_learned_as_two_four_six_and_eight() -> None:
    assert shorter_horizons(10).tolist() == [2, 4, 6, 8]
    windows = windows_of(History(wave(6), 0, DAY), 10, "boosting")
    assert windows is not None
    assert set(windows.horizons.tolist()) == {2, 4, 6, 8, 10}
    assert np.isfinite(windows.mean).all()
    assert (windows.peak >= windows.mean - 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.integers(1, 300), elements=loads), st.integers(1, 30), st.sampled_from([20.0, 144.0, 1440.0]))
def test_any_history_gives_the_same_number_of_columns_and_none_is_infinite(values: np.ndarray, steps: int, day: float) -> None:
    origins = np.arange(len(values))
    seen = columns(History(values, 3, day), origins, np.full(len(values), steps), (1,))
    assert seen.rows.shape == (len(values), columns(History(np.ones(5), 3, day), origins[:1], np.array([steps]), (1,)).rows.shape[1])
    assert not np.isinf(seen.rows).any()
