"""Fitted experts on disk: plain arrays, no pickles, in one file per fit: `arima.npz`, and `arima.before.npz` that it took over from."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
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


def save(
    directory: Path, expert: Expert, *, day: float, steps: int, since: int, known_steps: int, trained_at: float, before: bool = False
) -> None:
    """Put a fitted expert beside its series' samples, in one step; `before` keeps it as the one the present fit took over from."""
    about = np.array([FORMAT, day, steps, since, known_steps, trained_at], dtype=np.float64)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, about=about, **{f"state_{name}": array for name, array in expert.state().items()})
    write_atomically(_path(directory, expert.name, before), content.getvalue())


def put_aside(directory: Path, name: str) -> bool:
    """Make the present fit the one before, for a new one to take over; False when there is none."""
    path = _path(directory, name, False)
    if not path.exists():
        return False
    path.replace(_path(directory, name, True))
    return True


def load(directory: Path, name: str, day: float) -> Fit | None:
    """The expert fitted last, with the fit it took over from; None when there is none for this season or the files cannot be read (logged)."""
    earlier = _load(_path(directory, name, True), name, day)
    fit = _load(_path(directory, name, False), name, day)
    if fit is None:
        # a kill between two fits, or damage, leaves only the earlier one: it goes on until a new one is made, which is due at once
        return earlier and replace(earlier, steps=0)
    if earlier is None or earlier.member.since > fit.member.since:
        return fit
    return replace(fit, member=replace(fit.member, before=earlier.member))


def _load(path: Path, name: str, day: float) -> Fit | None:
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


def _path(directory: Path, name: str, before: bool) -> Path:
    return directory / (f"{name}.before.npz" if before else f"{name}.npz")
