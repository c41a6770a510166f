"""What was seen, moment by moment: one row per step, kept in memory and written as a CSV timeline."""

from __future__ import annotations

import bisect
import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepseek_demo.player import Answer

COLUMNS = ("t_seconds", "demand", "forecast_p50", "forecast_p95", "asked", "ready", "late")


@dataclass(frozen=True)
class Moment:
    """One look. Demand and forecast are requests per second, nodes are counts; None: not known."""

    t_seconds: float  # since the play began
    demand: float
    forecast_p50: float | None
    forecast_p95: float | None
    asked: int
    ready: int
    paid: int  # asked for or still there, whichever is more
    reason: str = ""
    message: str = ""


@dataclass
class Recording:
    """All moments, in order."""

    moments: list[Moment] = field(default_factory=list)

    def add(self, moment: Moment) -> None:
        self.moments.append(moment)

    @property
    def last(self) -> Moment | None:
        return self.moments[-1] if self.moments else None

    @property
    def node_hours(self) -> float:
        """Node-hours paid for: each count holds until the next look."""
        pairs = zip(self.moments, self.moments[1:], strict=False)
        return sum(now.paid * (later.t_seconds - now.t_seconds) for now, later in pairs) / 3600.0

    @property
    def hours(self) -> float:
        return (self.moments[-1].t_seconds - self.moments[0].t_seconds) / 3600.0 if self.moments else 0.0

    def write_csv(self, path: Path, answers: Sequence[Answer]) -> None:
        """Write the timeline; `late` counts the late requests that were sent since the row before."""
        late_at = sorted(answer.sent_at for answer in answers if answer.late)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            counted = 0
            for moment in self.moments:
                until = bisect.bisect_right(late_at, moment.t_seconds)
                forecast = (_number(moment.forecast_p50), _number(moment.forecast_p95))
                seen = (f"{moment.t_seconds:.1f}", f"{moment.demand:.3f}", *forecast)
                writer.writerow([*seen, moment.asked, moment.ready, until - counted])
                counted = until


def demand_at(sent_at: Sequence[float], now: float, window_seconds: float) -> float:
    """Requests per second sent in the window that ends at `now`; `sent_at` ascending, same clock."""
    return (bisect.bisect_right(sent_at, now) - bisect.bisect_right(sent_at, now - window_seconds)) / window_seconds


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
