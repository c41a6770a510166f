"""The experts, one file per idea, all behind the protocol of `expert.py`; none of them reads a clock, a disk or a network."""

from __future__ import annotations

from .expert import Expert
from .last_value import LastValue
from .seasonal_naive import SeasonalNaive
from .smoothing import Holt, Ses
from .ten_minute_mean import TenMinuteMean

UNTRAINED = ("last_value", "ten_minute_mean", "ses", "holt", "seasonal_naive")
"""The experts that learn nothing and speak from the first samples on."""

TRAINABLE = ("arima", "boosting", "lstm")
"""The experts that have to be fitted before they can speak, in the order in which they are fitted."""

OPTIONAL = ("ucm",)
"""Fitted experts that speak only where they are named: what they add does not pay for their time (docs/forecasting.md)."""

ALL = UNTRAINED + TRAINABLE + OPTIONAL
"""Every expert there is."""


def new_expert(name: str) -> Expert:
    """An unfitted expert by its name; ValueError names the allowed ones. Their libraries are imported only here, when first needed."""
    if name == "last_value":
        return LastValue()
    if name == "ten_minute_mean":
        return TenMinuteMean()
    if name == "ses":
        return Ses()
    if name == "holt":
        return Holt()
    if name == "seasonal_naive":
        return SeasonalNaive()
    if name == "arima":
        from .arima import Arima

        return Arima()
    if name == "boosting":
        from .boosting import Boosting

        return Boosting()
    if name == "lstm":
        from .lstm import Lstm

        return Lstm()
    if name == "ucm":
        from .ucm import Ucm

        return Ucm()
    raise ValueError(f"expert must be one of {', '.join(ALL)}, was {name!r}")
