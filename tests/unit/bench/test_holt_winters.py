"""PHPA's formula: Holt-Winters as in the library that its own code calls, and the HPA's documented formula."""

from __future__ import annotations

import numpy as np
import pytest
from bench.rivals.holt_winters import HoltWinters, replicas
from statsmodels.tsa.holtwinters import ExponentialSmoothing

SEASON = 12
SERIES = [30.0 + 10 * np.sin(2 * np.pi * month / SEASON) + 0.1 * month + (month * 7919 % 13) / 4 for month in range(6 * SEASON)]


def test_it_forecasts_what_the_library_of_the_original_forecasts() -> None:
    """The same start and the same smoothing: statsmodels' additive ExponentialSmoothing foresees the same eleven months, to a millionth."""
    ours = HoltWinters(SERIES, SEASON, alpha=0.3, beta=0.05, gamma=0.4)
    begun = HoltWinters.begun(SERIES, SEASON)
    model = ExponentialSmoothing(
        SERIES[1:],
        trend="add",
        seasonal="add",
        seasonal_periods=SEASON,
        initialization_method="known",
        initial_level=begun.level,
        initial_trend=begun.trend,
        initial_seasonal=[*begun.seasonal[1:], begun.seasonal[0]],
    )
    theirs = model.fit(smoothing_level=0.3, smoothing_trend=0.05, smoothing_seasonal=0.4, optimized=False)
    assert [ours.forecast(ahead) for ahead in range(1, 12)] == pytest.approx(list(theirs.forecast(11)), rel=1e-6)


def test_less_than_two_seasons_teach_it_nothing() -> None:
    """It says how many values it needs."""
    with pytest.raises(ValueError, match=r"two seasons \(24 values\), had 23"):
        HoltWinters(SERIES[:23], SEASON, 0.3, 0.05, 0.4)


@pytest.mark.parametrize(
    ("demand", "current", "target", "expected"),
    [
        pytest.param(2.0, 1, 1.0, 2, id="200m at a target of 100m doubles, as Kubernetes' documentation has it"),
        pytest.param(2.0, 4, 1.0, 2, id="50m at a target of 100m halves"),
        pytest.param(4.2, 4, 1.0, 4, id="5 % above the target is within the tolerance of 10 %"),
        pytest.param(4.5, 4, 1.0, 5, id="12.5 % above it is not"),
    ],
)
def test_the_hpa_formula(demand: float, current: int, target: float, expected: int) -> None:
    """ceil(current × metric ÷ target), held within a tenth."""
    assert replicas(demand, current, target) == expected
