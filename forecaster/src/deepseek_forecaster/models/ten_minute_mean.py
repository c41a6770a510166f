"""The load stays what it was on average over the last ten minutes: slower than the last value, and much less noisy."""

from __future__ import annotations

import numpy as np

from .expert import Floats, History, Ints, Untrained, trailing_mean


class TenMinuteMean(Untrained):
    """The mean of the last ten minutes of the day (`History.window` steps), repeated."""

    name = "ten_minute_mean"

    def minimum_history(self, day: float, steps: int) -> int:
        """Two steps: with one it is the last value."""
        return 2

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The mean of what is known of the window, or the last known value in a gap longer than it; shape (origins, steps)."""
        first = max(0, int(origins.min()) - history.window)
        level = trailing_mean(history.values[first : int(origins.max()) + 1], history.window)[origins - first]
        level = np.where(np.isfinite(level), np.maximum(level, 0.0), history.filled[origins])
        return np.repeat(level[:, None], steps, axis=1)
