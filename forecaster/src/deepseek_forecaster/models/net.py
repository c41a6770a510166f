"""The LSTM's net as plain arrays: what answers for a thousand series has no half gigabyte to spare for the library that trained it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .expert import PEAK_QUANTILES

HIDDEN = 32
CHANNELS = 7
OUTPUTS = 1 + len(PEAK_QUANTILES)

Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Net:
    """(rows, steps, 1), (rows, blocks, CHANNELS) and (rows, columns) → (rows, OUTPUTS), in spreads of the training targets.

    `weights` are named and shaped as the net of `lstm_training.py` has them.
    """

    weights: Mapping[str, Singles]

    @classmethod
    def restored(cls, weights: Mapping[str, NDArray[Any]], columns: int) -> Net:
        """The net with these weights, for rows of so many columns; ValueError when they are not its own."""
        wanted = _shapes(columns)
        had = {name: array.shape for name, array in weights.items()}
        if had != wanted:
            raise ValueError(f"the net needs arrays of the shapes {wanted}, had {had}")
        return cls({name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()})

    def __call__(self, newest: Singles, blocks: Singles, seen: Singles) -> Singles:
        """The log-ratios to the present level of the mean's median and of the peak's quantiles, in spreads."""
        together = np.concatenate((self._last("steps", newest), self._last("blocks", blocks), seen), axis=1)
        mixed = together @ self.weights["mix.weight"].T + self.weights["mix.bias"]
        mixed = mixed * _sigmoid(mixed)  # SiLU
        out = mixed @ self.weights["out.weight"].T + self.weights["out.bias"]
        return np.asarray(out + seen @ self.weights["skip.weight"].T + self.weights["skip.bias"], dtype=np.float32)

    def _last(self, name: str, sequence: Singles) -> Singles:
        """The hidden state of an LSTM after the last element of each row's sequence: shape (rows, hidden)."""
        from_input, from_hidden = (self.weights[f"{name}.weight_{kind}_l0"].T for kind in ("ih", "hh"))
        bias = self.weights[f"{name}.bias_ih_l0"] + self.weights[f"{name}.bias_hh_l0"]
        size = from_hidden.shape[0]
        hidden = cell = np.zeros((len(sequence), size), dtype=np.float32)
        driven = sequence @ from_input + bias  # (rows, elements, 4 × hidden), the four in torch's order: input, forget, candidate, output
        for place in range(sequence.shape[1]):
            gates = driven[:, place] + hidden @ from_hidden
            opened = _sigmoid(gates)
            cell = opened[:, size : 2 * size] * cell + opened[:, :size] * np.tanh(gates[:, 2 * size : 3 * size])
            hidden = opened[:, 3 * size :] * np.tanh(cell)
        return np.asarray(hidden, dtype=np.float32)


def _shapes(columns: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, inputs, hidden in (("steps", 1, HIDDEN // 2), ("blocks", CHANNELS, HIDDEN)):
        shapes |= {f"{name}.weight_ih_l0": (4 * hidden, inputs), f"{name}.weight_hh_l0": (4 * hidden, hidden)}
        shapes |= {f"{name}.bias_ih_l0": (4 * hidden,), f"{name}.bias_hh_l0": (4 * hidden,)}
    for name, inputs, outputs in (
        ("mix", HIDDEN // 2 + HIDDEN + columns, 2 * HIDDEN),
        ("out", 2 * HIDDEN, OUTPUTS),
        ("skip", columns, OUTPUTS),
    ):
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    return shapes


def _sigmoid(values: Singles) -> Singles:
    # through tanh: exp(-x) would overflow for large negative values
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float32)
