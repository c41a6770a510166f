"""Charts as inline SVG: a fan of quantiles around what came, weights over time, and bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from deepseek_forecaster.models.expert import Floats

WIDTH, HEIGHT = 1_040, 270
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 24, 30
INK, QUIET, GRID = "#1d2733", "#66717f", "#e3e7ec"
ACTUAL, MEDIAN, NEAR, FAR = "#16202c", "#d9480f", "#fbbf8d", "#fde3cc"
PALETTE = ("#2f6db5", "#d9480f", "#3d8f5f", "#8a5bb8", "#c79a1b", "#3aa0a8", "#b8496e", "#7c8794", "#80592f", "#5a6e2c", "#9fb8d8", "#e5a58a")
"""Distinct on white, and apart for the commonest colour blindness by lightness."""


@dataclass(frozen=True)
class Frame:
    """From data to the picture: x in seconds since the trace began, y in loads; y starts at 0."""

    x_from: float
    x_to: float
    y_to: float
    height: int = HEIGHT

    def x(self, seconds: float) -> float:
        """Pixels from the left."""
        return LEFT + (seconds - self.x_from) / max(1e-9, self.x_to - self.x_from) * (WIDTH - LEFT - RIGHT)

    def y(self, load: float) -> float:
        """Pixels from the top."""
        return TOP + (1.0 - load / max(1e-30, self.y_to)) * (self.height - TOP - BOTTOM)


def fan(times: Floats, actual: Floats, edges: Floats, quantiles: Mapping[float, Floats], unit: str, label: str) -> str:
    """What came (a line at `times`) over the fan of the peak's quantiles 0.5, 0.9 and 0.95, each a step between two `edges`.

    `edges` has one more value than each row of quantiles. NaN leaves a hole.
    """
    far, near, median = quantiles[0.95], quantiles[0.9], quantiles[0.5]
    shown = np.concatenate((actual[np.isfinite(actual)], near[np.isfinite(near)]))
    # the p95 may leave the picture: one wild hour must not flatten the rest
    frame = Frame(float(edges[0]), float(edges[-1]), 1.06 * float(shown.max()) if len(shown) else 1.0)
    parts = [
        _axes(frame, unit),
        f'<clipPath id="{_id(label)}"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
    ]
    parts.append(f'<g clip-path="url(#{_id(label)})">')
    parts.append(_band(frame, edges, near, far, FAR))
    parts.append(_band(frame, edges, median, near, NEAR))
    parts.append(_stairs(frame, edges, median, MEDIAN, 1.2))
    parts.append(_line(frame, times, actual, ACTUAL, 1.1))
    parts.append("</g>")
    return _svg("".join(parts), label)


def shares(edges: Floats, weights: Mapping[str, Floats], label: str) -> str:
    """Weights over time, stacked to 1, widest at the bottom; each value holds between two `edges`."""
    frame = Frame(float(edges[0]), float(edges[-1]), 1.0, 230)
    parts = [_axes(frame, "%", percent=True)]
    below = np.zeros(len(edges) - 1)
    for place, row in enumerate(weights.values()):
        above = below + np.where(np.isfinite(row), row, 0.0)
        parts.append(_band(frame, edges, below, above, PALETTE[place % len(PALETTE)]))
        below = above
    return _svg("".join(parts), label, 230)


def bars(values: Sequence[float | None], names: Sequence[str], target: float, near: float, low: float, high: float, label: str) -> str:
    """One bar per share between `low` and `high`, in orange further than `near` from the target, which is a line; None is left empty."""
    height = 190
    frame = Frame(0, len(values), high - low, height)
    parts = []
    for tick in np.linspace(low, high, 6):
        y = frame.y(tick - low)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{tick:.0%}", "end"))
    wide = (frame.x(1) - frame.x(0)) * 0.72
    for place, (value, name) in enumerate(zip(values, names, strict=True)):
        center = frame.x(place + 0.5)
        parts.append(_text(center, height - 10, name, "middle"))
        if value is not None:
            top = frame.y(max(0.0, min(value, high) - low))
            colour = PALETTE[0] if abs(value - target) <= near else MEDIAN
            parts.append(
                f'<rect x="{center - wide / 2:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{frame.y(0) - top:.1f}" fill="{colour}">'
                f"<title>{escape(name)}: {value:.1%}</title></rect>"
            )
    y = frame.y(target - low)
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{INK}" stroke-dasharray="5 4"/>')
    return _svg("".join(parts), label, height)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Coloured squares with their words: (colour, words)."""
    return (
        '<p class="legend">' + "".join(f'<span><i style="background:{colour}"></i>{escape(words)}</span>' for colour, words in entries) + "</p>"
    )


def clock(seconds: float) -> str:
    """An instant of the trace in words: `day 3, 06:00`."""
    day, rest = divmod(int(seconds), 86_400)
    return f"day {day + 1}, {rest // 3600:02d}:{rest % 3600 // 60:02d}"


def _axes(frame: Frame, unit: str, percent: bool = False) -> str:
    parts = []
    step = 0.25 if percent else _nice(frame.y_to / 4)
    for number in range(int(frame.y_to / step + 1e-9) + 1):
        y = frame.y(number * step)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{number * step:.0%}" if percent else f"{number * step:,.6g}", "end"))
    if not percent:
        parts.append(f'<text x="0" y="{TOP - 10}" fill="{QUIET}">{escape(unit)}</text>')
    every = next((seconds for seconds in _TICKS if (frame.x_to - frame.x_from) / seconds <= 12), 30 * 86_400)
    tick = math.ceil(frame.x_from / every) * every
    while tick <= frame.x_to:
        x = frame.x(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{frame.height - BOTTOM}" stroke="{GRID}"/>')
        words = clock(tick) if every < 86_400 and tick % 86_400 == 0 else (clock(tick).split(", ")[1 if every < 86_400 else 0])
        parts.append(_text(min(x, WIDTH - 40), frame.height - 10, words, "middle"))
        tick += every
    return "".join(parts)


_TICKS = (300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 2 * 86_400, 5 * 86_400, 10 * 86_400)


def _band(frame: Frame, edges: Floats, low: Floats, high: Floats, colour: str) -> str:
    """The area between two rows of steps; a hole where either is unknown."""
    parts = []
    for start, end in _runs(np.isfinite(low) & np.isfinite(high)):
        forth = "".join(
            f"{'M' if at == start else 'L'}{frame.x(edges[at]):.1f} {frame.y(high[at]):.1f}H{frame.x(edges[at + 1]):.1f}"
            for at in range(start, end)
        )
        back = "".join(f"L{frame.x(edges[at + 1]):.1f} {frame.y(low[at]):.1f}H{frame.x(edges[at]):.1f}" for at in range(end - 1, start - 1, -1))
        parts.append(f'<path d="{forth}{back}Z" fill="{colour}"/>')
    return "".join(parts)


def _stairs(frame: Frame, edges: Floats, row: Floats, colour: str, width: float) -> str:
    parts = []
    for start, end in _runs(np.isfinite(row)):
        path = "".join(
            f"{'M' if at == start else 'L'}{frame.x(edges[at]):.1f} {frame.y(row[at]):.1f}H{frame.x(edges[at + 1]):.1f}"
            for at in range(start, end)
        )
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
    return "".join(parts)


def _line(frame: Frame, times: Floats, values: Floats, colour: str, width: float) -> str:
    parts = []
    for start, end in _runs(np.isfinite(values)):
        points = " ".join(f"{frame.x(times[at]):.1f},{frame.y(values[at]):.1f}" for at in range(start, end))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"/>')
    return "".join(parts)


def _runs(known: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """The stretches without a hole, as [start, end)."""
    changes = np.flatnonzero(np.diff(np.concatenate(([False], known, [False])).astype(int)))
    return [(int(start), int(end)) for start, end in zip(changes[::2], changes[1::2], strict=True)]


def _nice(step: float) -> float:
    """The next of 1, 2, 2.5, 5 × a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(step, 1e-12)))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step - 1e-12)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{QUIET}">{escape(words)}</text>'


def _svg(inside: str, label: str, height: int = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}"'
        f' font-family="system-ui, sans-serif" font-size="11.5">{inside}</svg>'
    )


def _id(label: str) -> str:
    return "c" + "".join(letter if letter.isalnum() else "-" for letter in label.lower())
