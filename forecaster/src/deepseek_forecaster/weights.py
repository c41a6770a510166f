"""Fitted experts on disk: plain arrays in one file per expert (`arima.npz`), never pickled objects."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .history import write_atomically
from .models import new_expert
from .models.expert import Expert
from .record import Member

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Fit:
    """An expert's fit and its circumstances: `since` is the grid index up to which it has seen the history, `known_steps` how much that was."""

    member: Member
    steps: int
    known_steps: int


def save(directory: Path, expert: Expert, *, day: float, steps: int, since: int, known_steps: int, trained_at: float) -> None:
    """Put a fitted expert beside its series' samples, in one step."""
    about = np.array([FORMAT, day, steps, since, known_steps, trained_at], dtype=np.float64)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, about=about, **{f"state_{name}": array for name, array in expert.state().items()})
    write_atomically(directory / f"{expert.name}.npz", content.getvalue())


def load(directory: Path, name: str, day: float) -> Fit | None:
    """The expert fitted last, None when there is none for this season or the file cannot be read (which is logged)."""
    path = directory / f"{name}.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            form, fitted_day, steps, since, known_steps, trained_at = arrays["about"].tolist()
            if form != FORMAT or fitted_day != day:
                return None
            expert = new_expert(name)
            expert.restore({key.removeprefix("state_"): arrays[key] for key in arrays.files if key.startswith("state_")})
    except Exception as error:  # a damaged file, an older form, a missing library: the expert is fitted anew
        log.warning("%s cannot be used and will be fitted anew: %s: %s", path, type(error).__name__, error)
        return None
    return Fit(Member(expert, int(since), trained_at), int(steps), int(known_steps))
