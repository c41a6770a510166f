"""A replay on one page of HTML that needs nothing else: the bill beside its alternatives, the curves, and why each count was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape
from importlib.resources import files

from deepseek_operator import __version__
from deepseek_operator.replay import curves
from deepseek_operator.replay.run import Line, Replayed
from deepseek_operator.replay.summary import savings, when

WORST_STRETCHES = 5
TOGETHER_SECONDS = 600.0
"""Late requests with no more than this between them are one incident."""


def page(replayed: Replayed, cost_per_node_hour: float | None = None) -> str:
    """The page."""
    stretch, chosen = replayed.stretch, replayed.chosen
    assert chosen.outcome is not None
    begin = stretch.start * stretch.step_seconds
    title = f"Replay of {stretch.name}"
    made = curves.columns(chosen.outcome.rows, chosen.decisions, replayed.tick_seconds)
    colours = curves.tones(chosen.decisions)
    drawing = curves.draw(made, replayed.node_capacity, colours, lambda share: when(stretch, begin + share * stretch.scored_seconds))
    style = files("deepseek_operator.replay").joinpath("page.css").read_text(encoding="utf-8")
    capacity = "as given" if replayed.capacity_given else "so that the 99.9th percentile of the trace needs ten nodes"
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f'<meta name="viewport" content="width=device-width"><style>{style}</style></head><body>',
            f"<h1>{escape(title)}</h1>",
            f'<p class="faint">Mode {escape(chosen.name)} · {replayed.spec.nodes.min} to {replayed.spec.nodes.max} nodes of '
            f"{replayed.node_capacity:.4g} req/s ({capacity}) · a node answers {replayed.cold_start_seconds:g} s after it is asked for · "
            f"counted: {stretch.scored_seconds / 3600:,.1f} hours from {escape(when(stretch, begin))} on, all before it is history</p>",
            *_cards(replayed, cost_per_node_hour),
            "<h2>The bill, and what else one could have done on the same stretch</h2>",
            *_bill(replayed, cost_per_node_hour),
            *(f"<p>{escape(line)}.</p>" for line in savings(replayed, cost_per_node_hour)),
            "<h2>Demand and capacity</h2>",
            '<p><span class="key" style="background:var(--demand)"></span>demand'
            '<span class="key" style="background:var(--asked)"></span>capacity asked for (paid)'
            '<span class="key" style="background:var(--ready)"></span>capacity ready</p>',
            drawing,
            '<p class="faint">A column shows the highest demand and the fewest ready nodes of its ticks. Late: requests that waited longer '
            "than 10 s, by when they arrived.</p>",
            "<h2>Why</h2>",
            *_reasons(chosen, colours),
            *_worst(replayed),
            f'<p class="faint">deepseek-operator {escape(__version__)} replay; the decisions are those of the code that runs live, the world '
            "is a fluid queue, first in, first out (docs/replay.md).</p>",
            "</body></html>",
            "",
        ]
    )


def _cards(replayed: Replayed, cost: float | None) -> Iterator[str]:
    chosen, least = replayed.chosen, replayed.least
    assert chosen.outcome is not None
    cards = [
        (f"{chosen.node_hours:,.1f}", "node-hours paid"),
        (f"{chosen.node_hours / least.node_hours:.3f} ×", "the least possible"),
        (f"{100 * chosen.outcome.late_share:.3f} %", f"of {chosen.outcome.requests:,.0f} requests late"),
        (f"{chosen.outcome.longest_wait_seconds:.0f} s", "longest wait"),
    ]
    if cost is not None:
        cards.insert(1, (f"{chosen.node_hours * cost:,.2f}", f"at {cost:g} a node-hour"))
    yield '<div class="cards">'
    for figure, words in cards:
        yield f'<div class="card"><b>{escape(figure)}</b>{escape(words)}</div>'
    yield "</div>"


def _bill(replayed: Replayed, cost: float | None) -> Iterator[str]:
    money = "<th>cost</th>" if cost is not None else ""
    yield f"<table><tr><th></th><th>node-hours</th>{money}<th>÷ least</th><th>late</th><th>longest wait</th><th>turns a day</th></tr>"
    for line in replayed.lines:
        money = f"<td>{line.node_hours * cost:,.2f}</td>" if cost is not None else ""
        late, wait, turns = "0 %", "0 s", "–"
        if line.outcome is not None:
            late = f"{100 * line.outcome.late_share:.3f} %"
            wait = f"{line.outcome.longest_wait_seconds:.0f} s"
            turns = f"{line.outcome.flaps_per_day:.1f}"
        mark = ' class="chosen"' if line is replayed.chosen else ""
        yield (
            f"<tr{mark}><td>{escape(line.name)}</td><td>{line.node_hours:,.1f}</td>{money}"
            f"<td>{line.node_hours / replayed.least.node_hours:.3f}</td><td>{late}</td><td>{wait}</td><td>{turns}</td></tr>"
        )
    yield "</table>"


def _reasons(line: Line, colours: dict[str, str]) -> Iterator[str]:
    """Each reason with how often it decided and one example in the operator's own words."""
    counted = Counter(decision.reason for decision in line.decisions)
    example = {decision.reason: decision.message for decision in reversed(line.decisions)}
    yield '<table><tr><th>reason</th><th>ticks</th><th class="text">for example</th></tr>'
    for reason, number in counted.most_common():
        key = f'<span class="key" style="background:{colours[reason]}"></span>'
        share = 100 * number / len(line.decisions)
        yield f'<tr><td>{key}{escape(reason)}</td><td>{share:.1f} %</td><td class="text">{escape(example[reason])}</td></tr>'
    yield "</table>"
    for why, ticks in line.gaps:
        yield f'<p class="faint">No forecast at {ticks} of {len(line.decisions)} ticks: {escape(why)}.</p>'


def _worst(replayed: Replayed) -> Iterator[str]:
    """The incidents with the most late requests, and what was decided when each began."""
    chosen, stretch = replayed.chosen, replayed.stretch
    assert chosen.outcome is not None
    incidents: list[list[int]] = []
    rows = chosen.outcome.rows
    for place, row in enumerate(rows):
        if row.late > 0:
            if incidents and row.t_seconds - rows[incidents[-1][-1]].t_seconds <= TOGETHER_SECONDS:
                incidents[-1].append(place)
            else:
                incidents.append([place])
    if not incidents:
        yield "<p>No request was late.</p>"
        return
    worst = sorted(incidents, key=lambda places: -sum(rows[place].late for place in places))[:WORST_STRETCHES]
    yield f"<h2>Where requests were late ({len(incidents)} {'incident' if len(incidents) == 1 else 'incidents'}, the worst first)</h2>"
    heads = "".join(f"<th>{head}</th>" for head in ("from", "late requests", "demand", "ready", "asked"))
    yield f'<table><tr>{heads}<th class="text">decided when it began</th></tr>'
    for places in worst:
        first = rows[places[0]]
        late = sum(rows[place].late for place in places)
        peak = max(rows[place].demand for place in places)
        said = chosen.decisions[places[0]].message if chosen.decisions else ""
        yield (
            f"<tr><td>{escape(when(stretch, first.t_seconds))}</td><td>{late:,.0f}</td><td>{peak:.4g} req/s</td><td>{first.ready}</td>"
            f'<td>{first.asked}</td><td class="text">{escape(said)}</td></tr>'
        )
    yield "</table>"
