"""The load stays what it last was: the naive forecast that every other expert must beat."""

from __future__ import annotations

import numpy as np

from .expert import Floats, History, Ints, Untrained


class LastValue(Untrained):
    """The last known value, repeated."""

    name = "last_value"

    def minimum_history(self, day: float, steps: int) -> int:
        """One step."""
        return 1

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The last known value at each origin; shape (origins, steps)."""
        return np.repeat(history.filled[origins, None], steps, axis=1)
