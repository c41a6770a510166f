"""What follows from the states of a linear model that was filtered over the past: the expected path after any of its steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from .expert import Floats, Ints


def paths(filtered: Any, at: Ints, steps: int) -> Floats:
    """The expected observations of the `steps` steps after each place `at`, shape (places, steps).

    `filtered` is what statsmodels' `filter` gives with `return_ssm=True`.
    """
    # predicted_state[:, t + 1] is the state expected one step after t: each further step is one more transition
    state = filtered.predicted_state[:, at + 1]  # (states, places)
    transition, design = filtered.transition[:, :, -1], filtered.design[:, :, -1]
    path = np.empty((len(at), steps))
    for step in range(steps):
        path[:, step] = (design @ state)[0]
        state = transition @ state
    return path
