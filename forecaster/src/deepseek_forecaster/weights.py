"""Fitted experts on disk: plain arrays, no pickles, in one file per fit: `arima.npz`, and `arima.before.npz` that it took over from."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .history import write_atomically
from .models import new_expert
from .models.expert import Expert, Floats, History, Ints, Outlook, Untrained, outlook_of
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
    fit = _load(_path(directory, name, False), name, day)
    before = _about(_path(directory, name, True), day)
    if fit is None:
        # a kill between two fits, or damage, leaves only the earlier one: it goes on until a new one is made, which is due at once
        earlier = _load(_path(directory, name, True), name, day)
        return earlier and replace(earlier, steps=0)
    if before is None or before.since > fit.member.since:
        return fit
    stored = Stored(_path(directory, name, True), name, day, before.since)
    return replace(fit, member=replace(fit.member, before=Member(stored, before.since, before.trained_at)))


class Stored(Untrained):
    """A fit that stays on disk until it is asked, and is forgotten afterwards: it is only asked when a record is built anew."""

    def __init__(self, path: Path, name: str, day: float, since: int) -> None:
        """`since` tells the fit that was there from one that has taken its place."""
        self.name = name
        self._path, self._day, self._since = path, day, since

    def minimum_history(self, day: float, steps: int) -> int:
        """None: it is fitted."""
        return 0

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        """The stored expert's answer; NaN when it is no longer there. Shape (origins, steps)."""
        expert = self._expert()
        return np.full((len(origins), steps), np.nan) if expert is None else expert.predict_many(history, origins, steps)

    def outlook_many(self, history: History, origins: Ints, steps: int) -> Outlook:
        """The stored expert's answer; NaN when it is no longer there."""
        expert = self._expert()
        return Outlook(np.full(len(origins), np.nan)) if expert is None else outlook_of(expert, history, origins, steps)

    def _expert(self) -> Expert | None:
        fit = _load(self._path, self.name, self._day)
        return fit.member.expert if fit is not None and fit.member.since == self._since else None


@dataclass(frozen=True)
class _About:
    since: int
    trained_at: float


def _about(path: Path, day: float) -> _About | None:
    """What a fit's file says of it, without reading the rest; None as for `_load`."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            form, fitted_day, _, since, _, trained_at = arrays["about"].tolist()
    except Exception as error:  # damaged, or of an older form
        log.warning("%s cannot be used: %s: %s", path, type(error).__name__, error)
        return None
    return _About(int(since), trained_at) if form == FORMAT and fitted_day == day else None


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
