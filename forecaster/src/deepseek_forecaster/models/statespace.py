"""The expected path after any step of a past that a linear state-space model of statsmodels was filtered over."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .expert import Floats, Ints


def paths(model: Any, parameters: Floats, at: Ints, steps: int) -> Floats:
    """The expected observations of the `steps` steps after each place `at` of the model's observations, shape (places, steps)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filtered = model.filter(parameters, return_ssm=True)
    # predicted_state[:, t + 1] is the state expected one step after t: each further step is one more transition
    state = filtered.predicted_state[:, at + 1]  # (states, places)
    transition, design = filtered.transition[:, :, -1], filtered.design[:, :, -1]
    path = np.empty((len(at), steps))
    for step in range(steps):
        path[:, step] = (design @ state)[0]
        state = transition @ state
    return path
