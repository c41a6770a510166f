"""The report: one HTML page that needs nothing else, for a person who wants to know whether to trust the forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from deepseek_forecaster.models.expert import Floats

from .charts import FAR, INK, MEDIAN, NEAR, PALETTE, bars, clock, fan, legend, shares
from .play import QUANTILES, Played
from .score import AFTER, Score, Scores, blocks_since_jump, truth_of
from .write import duration

CLOSE_UP_HOURS = 24.0
MOST_POINTS = 1_400
"""A line of more points than the picture has columns says no more."""

STYLE = """
:root{color-scheme:light}
body{margin:0;background:#f4f6f8;color:#1d2733;font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1100px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:34px 0 6px}p{margin:4px 0 10px}.quiet{color:#66717f}
section{background:#fff;border:1px solid #e3e7ec;border-radius:10px;padding:14px 18px;margin-top:10px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:10px;margin-top:16px}
.tile{background:#fff;border:1px solid #e3e7ec;border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:25px;line-height:1.25}.tile span{color:#66717f;font-size:13px}
.good b{color:#23744a}.poor b{color:#b93a0c}
svg{width:100%;height:auto;display:block}
.legend{font-size:13px;color:#66717f;margin:2px 0 8px}.legend span{margin-right:16px;white-space:nowrap}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:5px;vertical-align:-1px}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:5px 6px;text-align:right;border-bottom:1px solid #e3e7ec;white-space:nowrap}
th{font-weight:600;font-size:13px;color:#66717f}th:first-child,td:first-child{text-align:left}tr.own td{font-weight:650;background:#fdf1e8}
"""


def page(played: Played, scores: Scores) -> str:
    """The whole page."""
    blocks = played.blocks
    tested = len(blocks.origins) * blocks.horizon_seconds
    body = [
        f"<h1>How good the forecasts of {escape(blocks.name)} would have been</h1>",
        f'<p class="quiet">{blocks.seconds / 86_400:.1f} days in steps of {duration(blocks.step_seconds)};'
        f" the last {duration(tested)} forecast {duration(blocks.horizon_seconds)} ahead at {len(blocks.origins):,} boundaries,"
        " each forecast knowing only what lay before it.</p>",
        _tiles(scores),
        _fans(played),
        _table(played, scores),
        _jumps(scores),
        _weights(played),
        _hours(played, scores),
        _words(played, scores),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Backtest of {escape(blocks.name)}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _tiles(scores: Scores) -> str:
    own, covered = scores.ensemble, scores.ensemble.coverage_peak[0.9]
    tiles = [
        (_percent(own.wape_mean), f"error of the mean (WAPE); the last 10 minutes' mean errs by {_percent(scores.naive.wape_mean)}", None),
        (_number(own.mean_ratio), "× the error of the last 10 minutes' mean", None if own.mean_ratio is None else own.mean_ratio <= 1.0),
        (_percent(covered), "of the peaks stayed within the p90", None if covered is None else 0.88 <= covered <= 0.92),
        (
            _number(own.peak_pinball_ratio[0.9]),
            "× the p90's loss of the 10-minute mean with conformal quantiles",
            None if own.peak_pinball_ratio[0.9] is None else own.peak_pinball_ratio[0.9] <= 1.0,
        ),
        (_percent(scores.oracle_wape), "error of an oracle that sees the block before and the one after: what the traffic itself allows", None),
    ]
    return '<div class="tiles">' + "".join(_tile(*tile) for tile in tiles) + "</div>"


def _tile(value: str, words: str, good: bool | None) -> str:
    kind = "tile" if good is None else "tile good" if good else "tile poor"
    return f'<div class="{kind}"><b>{value}</b><span>{escape(words)}</span></div>'


def _fans(played: Played) -> str:
    blocks, truth = played.blocks, truth_of(played.blocks)
    times = blocks.origins * float(blocks.step_seconds)
    unit, scale = _unit(truth.mean)
    edges = np.append(times, times[-1] + blocks.horizon_seconds)
    peak = played.ensemble.peak_quantiles * scale
    said = dict(zip(QUANTILES, peak, strict=True))
    parts = [
        "<h2>What was said and what came</h2><section>",
        legend([(INK, "what came"), (MEDIAN, "median of the peak"), (NEAR, "up to its p90"), (FAR, "up to its p95")]),
        "<p>All of the tested part; the line is the peak of each block.</p>",
        _overview(edges, truth.peak * scale, said, unit),
    ]
    for title, first, last in _close_ups(played, truth.mean):
        # the line shows each step, so one can see the peaks the quantiles speak of
        start, end = int(blocks.origins[first]), min(len(blocks.loads), int(blocks.origins[last - 1]) + blocks.steps)
        at = np.arange(start, end)
        parts.append(f"<p>{title}: from {clock(times[first])}; the line is each step of {duration(blocks.step_seconds)}.</p>")
        window = {q: row[first:last] for q, row in said.items()}
        parts.append(fan(np.asarray((at + 0.5) * blocks.step_seconds), blocks.loads[at] * scale, edges[first : last + 1], window, unit, title))
    return "".join(parts) + "</section>"


def _overview(edges: Floats, peak: Floats, said: dict[float, Floats], unit: str) -> str:
    """The whole tested part; of neighbouring blocks the highest is shown where there are more than the picture has columns."""
    every = max(1, -(-len(peak) // MOST_POINTS))

    def highest(row: Floats) -> Floats:
        padded = np.append(row, np.full(-len(row) % every, np.nan)).reshape(-1, every)
        known = np.isfinite(padded)
        return np.where(known.any(axis=1), np.where(known, padded, -np.inf).max(axis=1), np.nan)

    coarse = np.append(edges[:-1][::every], edges[-1])
    middle: Floats = np.asarray((coarse[:-1] + coarse[1:]) / 2, dtype=np.float64)
    return fan(middle, highest(peak), coarse, {q: highest(row) for q, row in said.items()}, unit, "all of the tested part")


def _close_ups(played: Played, came: Floats) -> list[tuple[str, int, int]]:
    """A usual day, the worst one, and the largest jump: (title, first block, one past the last)."""
    blocks = played.blocks
    day = max(2, min(len(came), round(CLOSE_UP_HOURS * 3_600 / blocks.horizon_seconds)))
    starts = np.arange(0, len(came) - day + 1, day)
    errors = np.abs(played.ensemble.mean - came)
    losses = []
    for start in starts:
        window = slice(start, start + day)
        known = np.isfinite(errors[window])
        total = float(came[window][known].sum())
        losses.append(float(errors[window][known].sum()) / total if total > 0 and 2 * known.sum() >= day else np.nan)
    found: list[tuple[str, int, int]] = []
    known_days = np.flatnonzero(np.isfinite(losses))
    if len(known_days):
        ranked = known_days[np.argsort(np.asarray(losses)[known_days])]
        usual, worst = int(starts[ranked[(len(ranked) - 1) // 2]]), int(starts[ranked[-1]])
        found.append((f"A usual day (WAPE {losses[usual // day]:.1%})", usual, usual + day))
        if worst != usual:
            found.append((f"The worst day (WAPE {losses[worst // day]:.1%})", worst, worst + day))
    jumps = np.flatnonzero(blocks_since_jump(blocks, truth_of(blocks)) == 0)
    if len(jumps):
        floor = 0.02 * float(np.nanmean(came))
        sizes = [abs(np.log((came[at] + floor) / (came[at - 1] + floor))) for at in jumps]
        at = int(jumps[int(np.argmax(sizes))])
        first = max(0, at - day // 8)
        found.append(("The largest jump from one block to the next", first, min(len(came), first + max(2, day // 3))))
    return found


def _table(played: Played, scores: Scores) -> str:
    head = (
        "forecaster", "WAPE mean", "÷ 10 min", "WAPE peak", "÷ 10 min", "p90 loss ÷ 10 min", "≤ p90", "≤ p95",
        "answered", "fit", "answer",
    )  # fmt: skip
    rows = [("ensemble", scores.ensemble, "", _seconds(played.answer_seconds), True)]
    rows += [
        (name, one, _fit_cost(played.fit_seconds.get(name, ())), _seconds(played.predict_seconds[name]), False)
        for name, one in sorted(scores.alone.items(), key=lambda item: item[1].wape_mean if item[1].wape_mean is not None else np.inf)
    ]
    rows.append(("last 10 minutes' mean", scores.naive, "", "", False))
    lines = "".join(_row(*row) for row in rows)
    failed = "".join(f"<p>{escape(name)} could not be fitted at the end: {escape(reason)}</p>" for name, reason in played.failures.items())
    return (
        '<h2>Ensemble and experts</h2><section><div class="wide"><table><tr>'
        + "".join(f"<th>{escape(cell)}</th>" for cell in head)
        + f"</tr>{lines}</table></div>{failed}"
        '<p class="quiet">÷ 10 min: the ratio to the last 10 minutes\' mean on the blocks both answered; below 1 is better. p90 loss: the'
        " pinball loss of the peak's p90. ≤ p90: the share of peaks within it. An expert alone has rolling"
        " conformal quantiles of three days around it; the ensemble has its own.</p></section>"
    )


def _row(name: str, one: Score, fit: str, answer: str, own: bool) -> str:
    cells = [
        _percent(one.wape_mean), _number(one.mean_ratio), _percent(one.wape_peak), _number(one.peak_ratio),
        _number(one.peak_pinball_ratio[0.9]), _percent(one.coverage_peak[0.9]), _percent(one.coverage_peak[0.95]),
        f"{one.answered / max(1, one.origins):.0%}", fit, answer,
    ]  # fmt: skip
    return (
        f"<tr{' class=own' if own else ''}><td>{escape(name.replace('_', ' '))}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    )


def _jumps(scores: Scores) -> str:
    lines = "".join(
        f"<tr><td>{name}</td><td>{_percent(scores.ensemble.after_jumps[name][0])}</td><td>{_percent(scores.naive.after_jumps[name][0])}</td>"
        f"<td>{_number(scores.ensemble.after_jumps[name][1])}</td></tr>"
        for name in AFTER
    )
    return (
        '<h2>After the largest jumps</h2><section><div class="wide"><table><tr><th>block</th><th>ensemble WAPE</th>'
        f"<th>last 10 minutes' mean</th><th>ratio</th></tr>{lines}</table></div>"
        '<p class="quiet">The ten largest changes from one block to the next, at least six hours apart.'
        " Nobody foresees the jump itself.</p></section>"
    )


def _weights(played: Played) -> str:
    names = sorted({name for one in played.forecasts if one is not None for name in one.models})
    if not names:
        return ""
    rows = {name: np.array([np.nan if one is None else one.models.get(name, 0.0) for one in played.forecasts]) for name in names}
    rows = dict(sorted(rows.items(), key=lambda item: -float(np.nan_to_num(item[1]).mean())))
    every = max(1, len(played.forecasts) // 400)
    times = played.blocks.origins[::every] * float(played.blocks.step_seconds)
    edges = np.append(times, times[-1] + every * played.blocks.horizon_seconds)
    entries = [
        (PALETTE[place % len(PALETTE)], f"{name.replace('_', ' ')} {np.nan_to_num(row).mean():.0%}")
        for place, (name, row) in enumerate(rows.items())
    ]
    chart = shares(edges, {name: row[::every] for name, row in rows.items()}, "weights over time")
    return f"<h2>Who was listened to</h2><section>{legend(entries)}{chart}</section>"


def _hours(played: Played, scores: Scores) -> str:
    names = [f"{hour}" for hour in range(24)]
    known = [value for value in scores.coverage_by_hour if value is not None]
    low = 0.5 if not known or min(known) >= 0.5 else 0.0
    # two standard deviations of a share of 0.9 out of so many: 25 in an hour of the day → ± 12 points
    near = 2.0 * float(np.sqrt(0.9 * 0.1 / max(1.0, len(played.blocks.origins) / 24)))
    chart = bars(scores.coverage_by_hour, names, 0.9, near, low, 1.0, "share of peaks within the p90 by hour")
    return (
        "<h2>Is the p90 a p90 at every hour?</h2><section>"
        f'{chart}<p class="quiet">Share of the peaks that stayed within the p90, by hour of the day since the trace began; the line is 90 %.'
        f" Orange: further from it than chance explains (± {100 * near:.0f} points here).</p></section>"
    )


def _words(played: Played, scores: Scores) -> str:
    within = {True: "is within reach here", False: "is hardly within reach here", None: "cannot be judged here"}[scores.five_percent_possible]
    return (
        "<h2>In words</h2><section><p>WAPE: sum of absolute errors ÷ sum of what came. Peak: the largest step within a horizon."
        " p90: the load the peak should stay within nine times of ten. Pinball loss: what a quantile pays for being too low or too high.</p>"
        f"<p>An error under 5 % {within}: an oracle that averages the block before and the block after errs by"
        f" {_percent(scores.oracle_wape)}, and chance alone (Poisson) by {_percent(scores.chance_wape)}.</p>"
        f'<p class="quiet">Computed in {played.processor_seconds:.0f} s of one core.</p></section>'
    )


def _unit(loads: Floats) -> tuple[str, float]:
    """A unit in which the loads are readable numbers, and how many of it a load of 1 per second is."""
    usual = float(np.nanmean(loads)) if np.isfinite(loads).any() else 1.0
    for unit, scale in (("requests/s", 1.0), ("requests/min", 60.0)):
        if usual * scale >= 2:
            return unit, scale
    return "requests/h", 3_600.0


def _fit_cost(seconds: Sequence[float]) -> str:
    return f"{len(seconds)} × {_seconds(float(np.median(seconds)))}" if seconds else ""


def _seconds(seconds: float) -> str:
    if seconds >= 0.1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.1f} ms" if seconds >= 1e-4 else f"{1e6 * seconds:.0f} µs" if seconds >= 1e-6 else "< 1 µs"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
