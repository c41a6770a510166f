"""The curves of the page as inline SVG: demand beside capacity, late requests, and which rule decided. Pure text, no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from deepseek_operator.core.types import Decision
from deepseek_operator.replay.simulate import Row

WIDTH, LEFT, RIGHT = 1120, 64, 56
COLUMNS = WIDTH - LEFT - RIGHT
"""One column per unit of the drawing; where there are more ticks, a column shows their highest, so no peak and no late request is lost."""

CURVES, LATE, STRIP, GAP, AXIS = 300, 90, 26, 26, 26
HEIGHT = CURVES + LATE + STRIP + 2 * GAP + AXIS + 14

TONES = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#eeca3b", "#9d755d", "#bab0ac", "#ff9da6")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the drawing: the highest of the ticks in it, and the reason most of them had."""

    demand: float
    asked: int
    ready: int
    late: float
    arrived: float
    reason: str


def columns(rows: Sequence[Row], decisions: Sequence[Decision], tick_seconds: float) -> list[Column]:
    """The ticks, put together into at most `COLUMNS` columns."""
    per = max(1, math.ceil(len(rows) / COLUMNS))
    made = []
    for begin in range(0, len(rows), per):
        part = rows[begin : begin + per]
        reasons = [decision.reason for decision in decisions[begin : begin + per]]
        made.append(
            Column(
                demand=max(row.demand for row in part),
                asked=max(row.asked for row in part),
                ready=min(row.ready for row in part),
                late=sum(row.late for row in part),
                arrived=sum(row.demand for row in part) * tick_seconds,
                reason=max(set(reasons), key=reasons.count) if reasons else "",
            )
        )
    return made


def tones(decisions: Sequence[Decision]) -> dict[str, str]:
    """A colour for each reason, the commonest first."""
    reasons = [decision.reason for decision in decisions]
    ordered = sorted(set(reasons), key=lambda reason: (-reasons.count(reason), reason))
    return {reason: TONES[place % len(TONES)] for place, reason in enumerate(ordered)}


def draw(made: Sequence[Column], node_capacity: float, colours: dict[str, str], label: Callable[[float], str]) -> str:
    """The whole picture; `label(share)` names an instant of the stretch by its share."""
    step = COLUMNS / len(made)
    top = max(max(max(c.demand, c.asked * node_capacity) for c in made) * 1.05, 1e-9)
    late_top = max(max(c.late for c in made), 1e-9)

    def x(place: float) -> float:
        return LEFT + place * step

    def y(value: float) -> float:
        return 10 + CURVES - CURVES * value / top

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Demand, capacity, late requests and reasons over time">']
    for value in _ticks(top):
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{y(value) + 4:.1f}">{value:,.7g}</text>')
    whole = (count for count in _ticks(top / node_capacity) if count == int(count))
    parts.extend(f'<text x="{WIDTH - RIGHT + 8}" y="{y(nodes * node_capacity) + 4:.1f}">{nodes:g}</text>' for nodes in whole)
    parts.append(f'<text class="end" x="{LEFT - 8}" y="{10 + CURVES + 18}">req/s</text>')
    parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{10 + CURVES + 18}">nodes</text>')
    floor = 10 + CURVES
    area = "".join(f"L{x(at):.1f} {y(c.demand):.1f}" for at, c in enumerate(made))
    parts.append(
        f'<path class="demand" d="M{LEFT} {floor}{area}L{WIDTH - RIGHT} {y(made[-1].demand):.1f}V{floor}Z"><title>demand</title></path>'
    )
    for name, nodes in (("asked", [c.asked for c in made]), ("ready", [c.ready for c in made])):
        line = _steps([y(count * node_capacity) for count in nodes], x)
        parts.append(f'<path class="{name}" d="{line}"><title>capacity of the nodes {name}</title></path>')
    base = floor + GAP + LATE
    parts.append(f'<path class="grid" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>')
    parts.append(f'<text class="end" x="{LEFT - 8}" y="{base - LATE + 12}">{late_top if late_top >= 1 else 0:,.0f}</text>')
    parts.append(f'<text class="end" x="{LEFT - 8}" y="{base}">late</text>')
    for at, column in enumerate(made):
        if column.late > 0:
            high = LATE * column.late / late_top
            share = 100 * column.late / column.arrived if column.arrived else 0
            told = f"{label(at / len(made))}: {column.late:.0f} requests late ({share:.2g} %)"
            parts.append(
                f'<rect class="late" x="{x(at):.1f}" y="{base - high:.1f}" width="{max(step, 1):.1f}" height="{high:.1f}">'
                f"<title>{escape(told)}</title></rect>"
            )
    strip = base + GAP
    for begin, end, reason in _runs([column.reason for column in made]):
        if reason:
            told = f"{label(begin / len(made))}: {reason}"
            parts.append(
                f'<rect x="{x(begin):.1f}" y="{strip}" width="{(end - begin) * step:.1f}" height="{STRIP}" fill="{colours[reason]}">'
                f"<title>{escape(told)}</title></rect>"
            )
    parts.append(f'<text class="end" x="{LEFT - 8}" y="{strip + 17}">why</text>')
    for part in range(7):
        anchor = "start" if part == 0 else "end" if part == 6 else "middle"
        parts.append(f'<text style="text-anchor:{anchor}" x="{x(part / 6 * len(made)):.0f}" y="{HEIGHT - 6}">{escape(label(part / 6))}</text>')
    parts.append("</svg>")
    return "\n".join(parts)


def _steps(heights: Sequence[float], x: Callable[[float], float]) -> str:
    """A step line; a height is written where it changes."""
    moves = (f"H{x(at):.1f}V{heights[at]:.1f}" for at in range(1, len(heights)) if heights[at] != heights[at - 1])
    return "".join([f"M{x(0):.1f} {heights[0]:.1f}", *moves, f"H{x(len(heights)):.1f}"])


def _runs(reasons: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    begin = 0
    for at in range(1, len(reasons) + 1):
        if at == len(reasons) or reasons[at] != reasons[begin]:
            yield begin, at, reasons[begin]
            begin = at


def _ticks(top: float) -> list[float]:
    """Four to ten round numbers from 0 up to `top`."""
    power = 10.0 ** math.floor(math.log10(top))
    step = next(power * part for part in (0.1, 0.2, 0.25, 0.5, 1.0) if top / (power * part) <= 10)
    return [round(number * step, 12) for number in range(math.floor(top / step) + 1)]
