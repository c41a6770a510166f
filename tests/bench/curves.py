"""From runs to the figures of the report: cost at a given lateness, read off each policy's curve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from bench.runs import Result

STATIC = "static"


def reached_at(late: float, points: Sequence[Result]) -> tuple[float, float] | None:
    """Where the curve gets to this share of late requests: (GPU-hours ÷ clairvoyant minimum, flaps a day); None when it never does.

    The curve runs through the points in the order of the knob, straight between neighbours. Where it crosses more than once (a knob need not
    act evenly), the cheapest place counts: whoever sweeps his knob would find it.
    """
    ordered = sorted(points, key=lambda point: point.knob)
    found = [(point.cost, point.flaps_per_day) for point in ordered if point.late <= late]
    for one, other in pairwise(ordered):
        low, high = (one, other) if one.late <= other.late else (other, one)
        if low.late <= late < high.late:
            share = (late - low.late) / (high.late - low.late)
            flaps = low.flaps_per_day + share * (high.flaps_per_day - low.flaps_per_day)
            found.append((low.cost + share * (high.cost - low.cost), flaps))
    return min(found, default=None)


def cost_at(late: float, points: Sequence[Result]) -> float | None:
    """The cost alone."""
    found = reached_at(late, points)
    return found[0] if found else None


class Table:
    """All results of one cold start, by load and policy."""

    def __init__(self, results: Iterable[Result], cold_start_seconds: float) -> None:
        self._points: dict[tuple[str, str], list[Result]] = {}
        for result in results:
            if result.cold_start_seconds == cold_start_seconds:
                self._points.setdefault((result.load, result.policy), []).append(result)

    @property
    def loads(self) -> list[str]:
        """Loads by name."""
        return sorted({load for load, _ in self._points})

    def points(self, load: str, policy: str) -> list[Result]:
        """A policy's runs on a load, by knob."""
        return sorted(self._points.get((load, policy), []), key=lambda point: point.knob)

    def cost(self, load: str, policy: str, late: float) -> float | None:
        """Cost at this lateness; a policy that never gets there counts as static at the peak. None where it was not run."""
        points = self.points(load, policy)
        if not points:
            return None
        reached = cost_at(late, points)
        return reached if reached is not None else self.points(load, STATIC)[0].cost

    def reached(self, load: str, policy: str, late: float) -> bool:
        """Whether the policy gets there at all."""
        return cost_at(late, self.points(load, policy)) is not None

    def flaps(self, load: str, policy: str, late: float) -> float | None:
        """Flaps a day where the policy's curve gets to this lateness; None where it never does."""
        found = reached_at(late, self.points(load, policy))
        return found[1] if found else None

    def best(self, load: str, policies: Iterable[str], late: float) -> tuple[str, float] | None:
        """The cheapest of these policies on this load at this lateness."""
        costs = [(cost, policy) for policy in policies if (cost := self.cost(load, policy, late)) is not None]
        return (min(costs)[1], min(costs)[0]) if costs else None

    def median_cost(self, loads: Iterable[str], policy: str, late: float) -> float | None:
        """Median over the loads it was run on."""
        costs = [cost for load in loads if (cost := self.cost(load, policy, late)) is not None]
        return median(costs) if costs else None
