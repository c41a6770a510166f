"""What a replay says in plain text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from deepseek_operator.replay.run import Line, Replayed, Stretch


def in_words(replayed: Replayed, cost_per_node_hour: float | None = None) -> list[str]:
    """The lines to print."""
    stretch, policy = replayed.stretch, replayed.spec.nodes
    capacity = f"{replayed.node_capacity:.4g} req/s per node"
    if not replayed.capacity_given:
        capacity += " (none given: the 99.9th percentile of the trace then needs ten nodes)"
    return [
        f"trace   {stretch.name}: {_span(len(stretch.rates) * stretch.step_seconds)} in steps of {stretch.step_seconds} s, of which the last "
        f"{_span(stretch.scored_seconds)} count, from {when(stretch, stretch.start * stretch.step_seconds)} on; before is history",
        f"nodes   {policy.min} to {policy.max}, {capacity}, ready {replayed.cold_start_seconds:g} s after they are asked for",
        "",
        *_table(replayed, cost_per_node_hour),
        "",
        *savings(replayed, cost_per_node_hour),
        *_why(replayed.chosen),
    ]


def _table(replayed: Replayed, cost: float | None) -> Iterator[str]:
    money = f"{'cost':>12}" if cost is not None else ""
    yield f"{'':<28}{'node-hours':>12}{money}{'÷ least':>9}{'late %':>9}{'longest wait':>14}{'turns a day':>13}"
    for line in replayed.lines:
        money = f"{line.node_hours * cost:>12,.2f}" if cost is not None else ""
        ratio = f"{line.node_hours / replayed.least.node_hours:>9.3f}"
        outcome = line.outcome
        rest = f"{'0':>9}{'0 s':>14}{'–':>13}"
        if outcome is not None:
            rest = f"{100 * outcome.late_share:>9.3f}{outcome.longest_wait_seconds:>12.0f} s{outcome.flaps_per_day:>13.1f}"
        yield f"{line.name:<28}{line.node_hours:>12,.1f}{money}{ratio}{rest}"


def savings(replayed: Replayed, cost: float | None) -> Iterator[str]:
    """What the policy would have saved, or cost more, against each alternative a person could really have."""
    chosen, days = replayed.chosen, replayed.stretch.scored_seconds / 86_400
    for line in replayed.others:
        if line.name.startswith("knowing"):
            continue
        saved = line.node_hours - chosen.node_hours
        money = f", {abs(saved) * cost / days:,.2f}" if cost is not None else ""
        what = f"{abs(saved) / days:,.1f} node-hours a day ({100 * abs(saved) / line.node_hours:.0f} %{money})"
        verb, more = ("saves", "") if saved >= 0 else ("takes", " more")
        yield f"{chosen.name} {verb} {what}{more} against {line.name}{_later(chosen, line)}"


def _later(chosen: Line, other: Line) -> str:
    assert chosen.outcome is not None
    assert other.outcome is not None
    difference = 100 * (chosen.outcome.late_share - other.outcome.late_share)
    if abs(difference) < 0.0005:
        return ", with as many late"
    return f", with {abs(difference):.3f} % of the requests {'more' if difference > 0 else 'fewer'} late"


def _why(line: Line) -> Iterator[str]:
    counted = Counter(decision.reason for decision in line.decisions)
    if counted:
        shares = (f"{reason} {100 * number / len(line.decisions):.1f} %" for reason, number in counted.most_common())
        yield "reasons " + ", ".join(shares)
    for why, ticks in line.gaps:
        yield f"no forecast at {ticks} of {len(line.decisions)} ticks: {why}"


def figures(replayed: Replayed, cost_per_node_hour: float | None = None) -> dict[str, Any]:
    """The same as JSON: durations in seconds, rates in requests per second, late and saved as percentages."""
    stretch = replayed.stretch
    return {
        "trace": stretch.name,
        "stepSeconds": stretch.step_seconds,
        "scoredFromSeconds": stretch.start * stretch.step_seconds,
        "scoredSeconds": stretch.scored_seconds,
        "mode": replayed.chosen.name,
        "nodes": {"min": replayed.spec.nodes.min, "max": replayed.spec.nodes.max},
        "requestsPerSecondPerNode": replayed.node_capacity,
        "capacityGiven": replayed.capacity_given,
        "coldStartSeconds": replayed.cold_start_seconds,
        "tickSeconds": replayed.tick_seconds,
        "leastNodeHours": replayed.least.node_hours,
        "policies": [_line(line, replayed, cost_per_node_hour) for line in replayed.lines],
    }


def _line(line: Line, replayed: Replayed, cost: float | None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": line.name,
        "nodeHours": line.node_hours,
        "timesLeast": line.node_hours / replayed.least.node_hours,
        "savedPercent": 100 * (1 - replayed.chosen.node_hours / line.node_hours),
    }
    if cost is not None:
        said["cost"] = line.node_hours * cost
    outcome = line.outcome
    if outcome is not None:
        said |= {
            "requests": outcome.requests,
            "late": outcome.late,
            "latePercent": 100 * outcome.late_share,
            "longestWaitSeconds": min(outcome.longest_wait_seconds, 1e12),
            "changes": outcome.changes,
            "flapsPerDay": outcome.flaps_per_day,
            "decisionMicroseconds": 1e6 * outcome.decision_seconds_mean,
        }
    if line.decisions:
        said["reasons"] = dict(Counter(decision.reason for decision in line.decisions).most_common())
    if line.gaps:
        said["withoutForecast"] = dict(line.gaps)
    return said


def when(stretch: Stretch, seconds: float) -> str:
    """An instant of the trace for people: `day 10, 08:15`, or the date where it is known."""
    if stretch.began_at is not None:
        return datetime.fromtimestamp(stretch.began_at + seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    day, rest = divmod(int(seconds), 86_400)
    return f"day {day + 1}, {rest // 3600:02d}:{rest % 3600 // 60:02d}"


def _span(seconds: float) -> str:
    if seconds >= 86_400:
        return f"{seconds / 86_400:.1f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
