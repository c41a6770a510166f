"""Chooses what is played: which rise and fall of the trace, how fast, and how large; everything before it becomes history.

The rule, the same for every trace:
1. Only the last 30 % of the trace is played; what lies before the stretch is history.
2. The trace runs `speed` times faster than it was recorded; one step of the operator is one trace minute, but never under a second.
3. In a stretch of `play_seconds` the smoothed demand has one highest point, and it lies between 35 % and 75 % of the stretch.
   Its *span* is that peak ÷ the higher of the two lowest points before and after it: how far it surely rises and falls.
4. A stretch is *gentle* when demand changes by no more than a third of the peak within ten seconds: an outage that ends is no rise that
   anybody can see coming.
5. A gentle stretch with a span of `NEEDED_SPAN` goes from less than one node's worth to more than three. The first one is played, at the
   slowest speed that has one: a service whose day is one long wave needs its whole day played, one with short waves does not. Failing
   that, the gentle stretch with the largest span of at least 2 (of nearly equal ones the slowest); failing that, the largest span.
6. Requests are scaled so that the peak needs 3.3 nodes at the utilization the operator scales up at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepseek_demo.traffic import Floats, Trace

SPEEDS = (30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0)
PLAYED_SHARE = 0.3
PEAK_NODES = 3.3
NEEDED_SPAN = 3.5
SMOOTHING_SECONDS = 10.0
HISTORY_DAYS = 14.0


class StageError(ValueError):
    """The trace has no stretch that can be played; the message says what is needed."""


@dataclass(frozen=True)
class Pacing:
    """What the nodes of the demo can do: `nodes` at most, each `requests_per_second_per_node`, full at `scale_up_percent`."""

    nodes: int = 4
    requests_per_second_per_node: float = 2.0
    scale_up_percent: int = 80

    @property
    def peak_requests_per_second(self) -> float:
        """Demand that needs `PEAK_NODES` nodes: 3.3 nodes × 2 req/s × 0.8 = 5.28 req/s."""
        return min(PEAK_NODES, self.nodes - 0.7) * self.requests_per_second_per_node * self.scale_up_percent / 100.0


@dataclass(frozen=True)
class Stage:
    """What is played and what lies before it, both in requests per second of wall time, one value per step."""

    trace_name: str
    speed: float
    step_seconds: float
    minutes_per_step: float
    start_minute: float
    span: float
    gentle: bool
    history: Floats  # shape (history_steps,), NaN = unknown; its last step ends where the play begins
    play: Floats  # shape (play_steps,), no NaN

    @property
    def play_seconds(self) -> float:
        return len(self.play) * self.step_seconds

    @property
    def known_rates(self) -> Floats:
        """History and play together, requests per second, shape (history_steps + play_steps,); unknown steps bridged."""
        return _filled(np.concatenate((self.history, self.play)))

    @property
    def season_seconds(self) -> float:
        """How long a day of the trace takes on the wall clock."""
        return 86_400.0 / self.speed

    def in_words(self) -> str:
        hours = len(self.play) * self.minutes_per_step / 60.0
        day, minute = divmod(self.start_minute, 1440.0)
        days_before = len(self.history) * self.minutes_per_step / 1440.0
        peak = smooth(self.play, self.step_seconds).max()
        return (
            f"{self.trace_name}: {hours:.1f} h from day {day + 1:.0f}, {minute // 60:02.0f}:{minute % 60:02.0f}, played {self.speed:g} times "
            f"as fast in {self.play_seconds:.0f} s (a step of {self.step_seconds:g} s is {self.minutes_per_step:g} min of the trace); demand "
            f"rises and falls {self.span:.1f}-fold to a peak of {peak:.1f} req/s; the {days_before:.1f} days before are its history"
        )


def choose(
    trace: Trace,
    pacing: Pacing,
    play_seconds: float = 255.0,
    speed: float | None = None,
    min_step: float = 1.0,
) -> Stage:
    """Choose by the rule at the head of this file. Raises `StageError` when the trace is too short."""
    speeds = [speed] if speed is not None else [s for s in SPEEDS if play_seconds * s / 60.0 <= trace.minutes * PLAYED_SHARE]
    if not speeds or play_seconds * speeds[0] / 60.0 > trace.minutes * PLAYED_SHARE:
        least = speed if speed is not None else SPEEDS[0]
        asked = least * play_seconds / 60.0
        raise StageError(
            f"{trace.name} covers {trace.minutes:g} minutes; {play_seconds:g} s at speed {least:g} play {asked:g} minutes, which may be "
            f"at most {PLAYED_SHARE:.0%} of the trace: give a trace of at least {asked / PLAYED_SHARE:.0f} minutes, a lower speed or a "
            f"shorter play"
        )
    stages = [_at_speed(trace, pacing, play_seconds, candidate, min_step) for candidate in speeds]
    for stage in stages:
        if stage.gentle and stage.span >= NEEDED_SPAN:
            return stage
    candidates = [stage for stage in stages if stage.gentle and stage.span >= 2.0] or stages
    widest = max(stage.span for stage in candidates)
    best = next(stage for stage in candidates if stage.span >= 0.95 * widest)
    if best.span <= 1.0:
        raise StageError(f"{trace.name} has no rise and fall within {play_seconds:g} s at speed {', '.join(f'{s:g}' for s in speeds)}")
    return best


def smooth(rates: Floats, step_seconds: float) -> Floats:
    """The moving mean over `SMOOTHING_SECONDS`, same shape."""
    width = max(1, round(SMOOTHING_SECONDS / step_seconds)) | 1  # odd, so that the mean stays where it is
    padded = np.pad(rates, width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _at_speed(trace: Trace, pacing: Pacing, play_seconds: float, speed: float, min_step: float) -> Stage:
    step_seconds = max(min_step, 60.0 / speed)
    minutes_per_step = speed * step_seconds / 60.0
    rates = trace.requests_per_minute(minutes_per_step)
    whole = _filled(rates)
    steps = round(play_seconds / step_seconds)
    first_played = len(whole) - int(len(whole) * PLAYED_SHARE)
    start, span, gentle = _rise_and_fall(smooth(whole, step_seconds), steps, first_played, step_seconds)
    peak = smooth(whole[start : start + steps], step_seconds).max()
    scale = pacing.peak_requests_per_second / peak if peak > 0 else 0.0
    first = max(0, start - round(HISTORY_DAYS * 1440.0 / minutes_per_step))
    return Stage(
        trace_name=trace.name,
        speed=speed,
        step_seconds=step_seconds,
        minutes_per_step=minutes_per_step,
        start_minute=start * minutes_per_step,
        span=span,
        gentle=gentle,
        history=rates[first:start] * scale,
        play=whole[start : start + steps] * scale,
    )


def _rise_and_fall(smoothed: Floats, steps: int, first: int, step_seconds: float) -> tuple[int, float, bool]:
    """First step, span and gentleness of the stretch to play; the span is 1 when no stretch has its peak in the middle."""
    width = max(1, round(SMOOTHING_SECONDS / step_seconds))
    jumps = np.abs(smoothed[width:] - smoothed[:-width])
    best = (first, 1.0, False)
    for start in range(first, len(smoothed) - steps + 1, max(1, steps // 60)):
        stretch = smoothed[start : start + steps]
        top = int(stretch.argmax())
        peak = float(stretch[top])
        if not 0.35 * steps <= top <= 0.75 * steps or peak <= 0.0:
            continue
        lowest = max(float(stretch[: top + 1].min()), float(stretch[top:].min()))
        span = peak / max(lowest, 0.01 * peak)
        gentle = bool(jumps[start : start + steps - width].max() <= peak / 3.0)
        if gentle and span >= NEEDED_SPAN:
            return start, span, gentle
        if (gentle and span >= 2.0, span) > (best[2] and best[1] >= 2.0, best[1]):
            best = (start, span, gentle)
    return best


def _filled(rates: Floats) -> Floats:
    """Unknown steps bridged in a straight line: requests that were sent but not recorded."""
    known = np.flatnonzero(~np.isnan(rates))
    return np.interp(np.arange(len(rates)), known, rates[known])
