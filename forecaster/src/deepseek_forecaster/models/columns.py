"""What the trained experts see at an origin: how the load stands against its past, all as log-ratios to the present level, and the calendar.

Being ratios, the columns are the same for 0.4 requests a minute and for 10⁶; what is learned at one level holds at another. A place that the
history does not reach is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .expert import Floats, History, Ints

DAYS_BACK = (1, 2, 3, 4, 5, 6, 7, 14)
LAGS = (1, 2, 3, 7, 14)
"""Days whose continuation the experts see one by one; all of DAYS_BACK up to 7 make the profile."""
LEAST_TAUGHT = 0.25
"""A lag is shown only when at least a quarter of the training windows could see it: what cannot be learned from is noise."""
WEEKDAY_DAYS = 21
"""With fewer days than three weeks the weekday is another name for the date."""
BLOCKS = 36
"""Ten-minute blocks (six hours) that the volatility is taken over."""
SHOWN_BLOCKS = 6
HOURS = 5


@dataclass(frozen=True)
class Seen:
    """`rows` (origins, columns) beside `level` (origins,): log(mean of the last ten minutes + floor), NaN after an hour without any sample."""

    rows: Floats
    level: Floats


def teachable(history: History, origins: Ints) -> tuple[int, ...]:
    """The lags in days that windows after these origins can learn from."""
    lags = tuple(days for days in LAGS if float(np.mean(origins >= days * history.day + history.window)) >= LEAST_TAUGHT)
    return tuple(days for days in lags if days < 14 or len(history) >= WEEKDAY_DAYS * history.day)


def columns(history: History, origins: Ints, steps: Ints, lags: tuple[int, ...]) -> Seen:
    """The columns after each origin for a horizon of `steps` (origins,) steps. The set of columns depends on the lags, day and window alone."""
    window, day = history.window, history.day
    after = origins + 1
    parts_of_window = {1, 2, 3, 5, max(1, window // 5), max(1, window // 2)}
    spans = sorted((parts_of_window | {windows * window for windows in (2, 3, 6, 12, 36)} | {round(day)}) - {window})
    near = [(-span, 0) for span in spans]
    near += [(-(block + 1) * window, -block * window) for block in range(1, BLOCKS + 1)]
    near += [(-(hour + 1) * 6 * window, -hour * 6 * window) for hour in range(1, HOURS + 1)]
    near += [(-window, 0), (-6 * window, 0), (-3 * window, 0), (-round(7 * day), 0)]
    starts, ends = np.array(near).T
    logs = _logs(history, after[:, None] + starts, after[:, None] + ends)
    present, hour_ago, half_hour, week = logs[:, -4], logs[:, -3], logs[:, -2], logs[:, -1]
    level = np.where(np.isfinite(present), present, hour_ago)
    blocks = np.concatenate((level[:, None], logs[:, len(spans) : len(spans) + BLOCKS]), axis=1)
    changes = np.abs(np.diff(blocks, axis=1))
    shown = logs[:, : len(spans)], blocks[:, 1 : SHOWN_BLOCKS + 1], logs[:, len(spans) + BLOCKS : -4]
    parts = [np.concatenate(shown, axis=1) - level[:, None]]

    # how the load went on from here on the days before: over the horizon, and over half an hour, which is less noisy
    back = np.array([round(days * day) for days in DAYS_BACK])
    then = after[:, None] - back
    reached = then - window >= 0
    wide = np.maximum(steps, 3 * window)[:, None]
    gone_on = np.where(reached, _logs(history, then, then + steps[:, None]), np.nan)
    gone_on_wide = np.where(reached, _logs(history, then, then + wide), np.nan)
    stood = _logs(history, then - window, then)
    stood_wide = _logs(history, then - 3 * window, then)
    moves, moves_wide = gone_on - stood, gone_on_wide - stood_wide
    chosen = [DAYS_BACK.index(days) for days in lags]
    parts += [moves[:, chosen], gone_on[:, chosen] - level[:, None], moves_wide[:, chosen], half_hour[:, None] - stood_wide[:, chosen]]
    profile, spread = _mean_and_spread(moves[:, :7])
    profile_wide, _ = _mean_and_spread(moves_wide[:, :7])
    parts += [np.stack([profile, profile_wide, _median(moves[:, :7]), spread], axis=1)]

    phase = history.phase(after)
    calendar = [phase, np.sin(2 * np.pi * phase), np.cos(2 * np.pi * phase)]
    if 14 in lags:
        calendar.append(np.floor((history.first + after) / day) % 7.0)
    volatility = [_mean_and_spread(changes[:, :6])[0], _mean_and_spread(changes)[0], level - week]
    peaks = [np.log(history.peak_between(after - length, length) + history.floor) - level for length in (window, 6 * window)]
    parts.append(np.stack([*calendar, *volatility, *peaks, steps.astype(np.float64)], axis=1))
    return Seen(np.concatenate(parts, axis=1), level)


def _logs(history: History, starts: Ints, ends: Ints) -> Floats:
    return np.asarray(np.log(history.mean_between(starts, ends) + history.floor))


def _mean_and_spread(rows: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each row's known numbers; NaN where there are none."""
    known = np.isfinite(rows)
    number = known.sum(axis=1)
    mean = np.where(known, rows, 0.0).sum(axis=1) / np.maximum(number, 1)
    square = np.where(known, np.square(rows - mean[:, None]), 0.0).sum(axis=1) / np.maximum(number, 1)
    none = number == 0
    return np.where(none, np.nan, mean), np.where(none, np.nan, np.sqrt(square))


def _median(rows: Floats) -> Floats:
    """The median of each row's known numbers; NaN where there are none."""
    known = np.isfinite(rows)
    number = known.sum(axis=1)
    ordered = np.sort(np.where(known, rows, np.inf), axis=1)
    at = np.arange(len(rows))
    middle = (ordered[at, np.maximum(number - 1, 0) // 2] + ordered[at, np.minimum(number // 2, rows.shape[1] - 1)]) / 2
    return np.asarray(np.where(number > 0, middle, np.nan))
