"""The experts, one file per idea, all behind the protocol of `expert.py`; none of them reads a clock, a disk or a network."""

from __future__ import annotations

from .expert import Expert

TRAINABLE = ("arima", "lstm")
"""The experts that have to be fitted before they can speak, in the order in which they are fitted."""


def new_expert(name: str) -> Expert:
    """An unfitted expert by its name; ValueError names the allowed ones. Their libraries are imported only here, when first needed."""
    if name == "arima":
        from .arima import Arima

        return Arima()
    if name == "lstm":
        from .lstm import Lstm

        return Lstm()
    raise ValueError(f"expert must be one of {', '.join(TRAINABLE)}, was {name!r}")
