"""The track record: what each expert said after each of the recent origins, so that it can be held against what came.

It is a pure function of the history and the fitted experts (an expert is only judged on what it was not trained on), so a restart rebuilds the
same record and forecasts the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .models.expert import Bools, Expert, Floats, History, Ints

log = logging.getLogger(__name__)

DAYS_KEPT = 2.0
ORIGINS_KEPT = 1_500
CELLS_KEPT = 150_000
"""Origins × steps per expert: 0.6 MB in single precision."""
LAG_STEPS = 3
"""Room in each path for samples that are not in yet: a forecast issued now may stand on a value three steps old and keep its calibration."""


@dataclass(frozen=True)
class Member:
    """An expert at work. `since` is the first grid index it may be judged from: what lies before it was learned from (0: nothing was)."""

    expert: Expert
    since: int = 0
    trained_at: float | None = None


class TrackRecord:
    """What was said: for each member an array (origins, steps) of loads; `origins` are grid indices, `stride` apart, oldest first."""

    def __init__(self, day: float, steps: int) -> None:
        self.steps = steps
        kept = max(64, min(ORIGINS_KEPT, CELLS_KEPT // steps))
        # a stride of up to a quarter of the path loses little: neighbouring windows overlap and say nearly the same
        self.stride = max(1, min(math.ceil(DAYS_KEPT * day / kept), steps // 4))
        self.kept = min(kept, math.ceil(DAYS_KEPT * day / self.stride))
        self.origins: Ints = np.zeros(0, dtype=np.int64)
        self.said: dict[str, NDArray[np.float32]] = {}
        self.failures: dict[str, str] = {}

    def extend(self, history: History, members: Sequence[Member]) -> None:
        """Let every member speak after each origin the record does not have yet, up to the end of the history."""
        last = history.first + len(history) - 1
        newest = int(self.origins[-1]) if len(self.origins) else history.first - 1
        oldest = max(newest + 1, history.first, last - self.kept * self.stride + 1)
        added = np.arange(-(-oldest // self.stride) * self.stride, last + 1, self.stride, dtype=np.int64)
        if not len(added):
            return
        origins = np.concatenate((self.origins, added))[-self.kept :]
        for member in members:
            name = member.expert.name
            rows = self._speak(member, history, added)
            before = self.said.get(name, np.full((len(self.origins), self.steps), np.nan, dtype=np.float32))
            self.said[name] = np.concatenate((before, rows))[-self.kept :]
        self.origins = origins

    def replace(self, history: History, member: Member) -> None:
        """Let a newly fitted member speak after every origin of the record."""
        self.said[member.expert.name] = self._speak(member, history, self.origins)

    def head(self, history: History, members: Sequence[Member]) -> dict[str, Floats]:
        """What each member says now, after the end of the history: shape (steps,) each; those without an opinion are left out."""
        origin = np.array([history.first + len(history) - 1])
        spoken = {member.expert.name: self._speak(member, history, origin, judged=False)[0] for member in members}
        return {name: path.astype(np.float64) for name, path in spoken.items() if np.isfinite(path).all()}

    def _speak(self, member: Member, history: History, origins: Ints, judged: bool = True) -> NDArray[np.float32]:
        """What a member says after the origins; rows it may not be judged by, or that are not finite, are NaN. Shape (origins, steps)."""
        name = member.expert.name
        rows = np.full((len(origins), self.steps), np.nan, dtype=np.float32)
        open_to_judgement = (origins >= member.since) & (origins >= history.first) if judged else np.ones(len(origins), dtype=bool)
        if not open_to_judgement.any():
            return rows
        try:
            with np.errstate(all="ignore"):
                said = member.expert.predict_many(history, origins[open_to_judgement] - history.first, self.steps)
            if said.shape != (int(open_to_judgement.sum()), self.steps):
                raise ValueError(f"a path must have the shape {(int(open_to_judgement.sum()), self.steps)}, had {said.shape}")
        except Exception as error:  # an expert may fail in any way; the others answer
            self._failed(name, f"{type(error).__name__}: {error}")
            return rows
        silent: Bools = np.asarray(np.isnan(said).all(axis=1))
        broken: Bools = ~silent & ~(np.isfinite(said) & (said >= 0.0) & (said <= np.finfo(np.float32).max)).all(axis=1)
        if broken.any():
            self._failed(name, f"{int(broken.sum())} of {len(said)} paths were negative or not finite")
            said = np.where(broken[:, None], np.nan, said)
        else:
            self.failures.pop(name, None)
        rows[open_to_judgement] = said
        return rows

    def _failed(self, name: str, reason: str) -> None:
        if self.failures.get(name) != reason:
            log.warning("expert %s is left out: %s", name, reason)
        self.failures[name] = reason
