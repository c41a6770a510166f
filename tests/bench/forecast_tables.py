"""The tables of docs/forecasting.md, made of what `make bench-forecast` measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]
"""Per trace: {"walks": [one document per seed], "step": …, "firstDays": …, "ablation": {…}, "variants": {…}}."""

LEARNED = ("lstm", "boosting")
"""Every other expert is a classical model."""


def geometric(values: Iterable[float | None]) -> float | None:
    """The geometric mean of what is known."""
    known = [value for value in values if value is not None and value > 0]
    return math.exp(statistics.fmean(math.log(value) for value in known)) if known else None


def tables(found: Found, fleet: Mapping[str, Any] | None) -> str:
    """Everything between the markers."""
    parts = [goals(found), by_trace(found), by_expert(found), ablation(found), recovery(found), five_percent(found), seeds(found)]
    if fleet:
        parts.append(of_fleet(fleet))
    return "\n\n".join(part for part in parts if part)


def goals(found: Found) -> str:
    """The figures the forecaster is judged by, beside what was asked of it."""

    def each(pick: Callable[[Mapping[str, Any]], float | None]) -> list[list[float | None]]:
        """Per seed, the figure of each trace."""
        number = max(len(trace["walks"]) for trace in found.values())
        return [[pick(trace["walks"][seed]) for trace in found.values() if len(trace["walks"]) > seed] for seed in range(number)]

    ratio = each(lambda walk: walk["ensemble"]["wapeMeanToTenMinuteMean"])
    lstm = each(lambda walk: walk["experts"].get("lstm", {}).get("wapeMeanToTenMinuteMean"))
    classical = each(lambda walk: _over(walk["ensemble"]["wapeMean"], best_classical(walk)[1]))
    loss = each(lambda walk: walk["ensemble"]["pinballPeakToTenMinuteMean"]["0.9"])
    covered = [trace["walks"][0]["ensemble"]["coveragePeak"]["0.9"] for trace in found.values()]
    step = [_over(trace["step"]["ensemble"], trace["step"]["naive"]) for trace in found.values() if trace.get("step")]
    before, after = (
        [_over(trace["firstDays"][part]["ensemble"], trace["firstDays"][part]["naive"]) for trace in found.values() if trace.get("firstDays")]
        for part in ("before24h", "after24h")
    )
    fits = [
        one["fitSeconds"]["most"]
        for trace in found.values()
        for name, one in trace["walks"][0]["experts"].items()
        if name == "lstm" and one["fits"]
    ]
    walls = [trace["walks"][0]["processorSeconds"] for trace in found.values() if 13 <= trace["walks"][0]["days"] <= 15]
    naive = "the last 10 minutes' mean"
    rows = [
        (f"WAPE of the horizon's mean ÷ {naive}, geometric mean", _mean(ratio), "≤ 0.72", _at_most(geometric(ratio[0]), 0.72)),
        ("the same ÷ the best classical expert in hindsight", _mean(classical), "≤ 0.86", _at_most(geometric(classical[0]), 0.86)),
        (f"worst trace, ÷ {naive}", _most(ratio), "≤ 1.02", _at_most(_max(ratio[0]), 1.02)),
        (f"p90-peak pinball ÷ {naive} with rolling conformal", _mean(loss), "≤ 0.70", _at_most(geometric(loss[0]), 0.70)),
        (
            "peaks within the p90, lowest and highest trace",
            f"{_percent(min(covered))} – {_percent(max(covered))}",
            "88–92 % everywhere",
            "yes" if min(covered) >= 0.88 and max(covered) <= 0.92 else "no",
        ),
        (f"minutes 10–30 after every count doubles, ÷ {naive}", _mean_and_worst(step), "≤ 1.25", _at_most(_max(step), 1.25)),
        (f"before 24 h of history, ÷ {naive}", _mean_and_worst(before), "≤ 1.03", _at_most(geometric(before), 1.03)),
        ("hours 24 to 48, the same", _mean_and_worst(after), "< 1", _at_most(geometric(after), 0.9999)),
        (f"LSTM alone ÷ {naive}, geometric mean", _mean(lstm), "≤ 0.74", _at_most(geometric(lstm[0]), 0.74)),
        ("LSTM alone, worst trace", _most(lstm), "≤ 1.05", _at_most(_max(lstm[0]), 1.05)),
        ("one fit of the LSTM, the longest", f"{max(fits):.0f} s" if fits else "–", "≤ 60 s", _at_most(_max(fits), 60)),
        ("backtest of a 14-day trace, the longest", f"{max(walls) / 60:.1f} min" if walls else "–", "≤ 6 min", _at_most(_max(walls), 360)),
    ]
    note = f"Over {len(found)} traces. Costs are processor time of one core."
    if len(ratio) > 1:
        note += f" Ranges are over {len(ratio)} seeds of what is drawn at random, those after the first on {len(ratio[1])} traces."
    return "### Against the goals\n\n" + _table(("figure", "measured", "goal", "met"), rows) + f"\n\n{note}"


def by_trace(found: Found) -> str:
    """One line per trace."""
    rows = []
    for name, trace in found.items():
        walk = trace["walks"][0]
        own, rival = walk["ensemble"], best_classical(walk)
        rows.append((
            name,
            f"{walk['stepSeconds'] // 60} min",
            f"{walk['days']:.0f}",
            _percent(walk["yardsticks"]["betweenNeighboursWape"]),
            _percent(walk["yardsticks"]["tenMinuteMean"]["wapeMean"]),
            _percent(own["wapeMean"]),
            _number(own["wapeMeanToTenMinuteMean"]),
            f"{_number(_over(own['wapeMean'], rival[1]))} ({rival[0].replace('_', ' ')})",
            *(_number(walk["experts"].get(expert, {}).get("wapeMeanToTenMinuteMean")) for expert in LEARNED),
            _number(own["pinballPeakToTenMinuteMean"]["0.9"]),
            _percent(own["coveragePeak"]["0.9"]),
            _percent(own["coveragePeak"]["0.95"]),
        ))  # fmt: skip
    head = (
        "trace", "step", "days", "between neighbours", "10-min mean", "ensemble", "÷ 10-min mean", "÷ best classical", "LSTM alone ÷",
        "boosting alone ÷", "p90 loss ÷", "≤ p90", "≤ p95",
    )  # fmt: skip
    rest = "WAPE of the horizon's mean. The horizon is 10 minutes, or one step where that is longer."
    return "### By trace\n\n" + _table(head, rows) + f"\n\n{rest}"


def by_expert(found: Found) -> str:
    """Each expert alone: its error, and what it costs."""
    names = sorted({name for trace in found.values() for name in trace["walks"][0]["experts"]})
    rows = []
    for name in names:
        here = [trace["walks"][0]["experts"][name] for trace in found.values() if name in trace["walks"][0]["experts"]]
        fits = [one["fitSeconds"] for one in here if one.get("fits")]
        fit = f"{statistics.median(one['median'] for one in fits):.2g} s, at most {max(one['most'] for one in fits):.2g} s" if fits else ""
        answer = f"{1000 * statistics.median(one['predictSeconds'] for one in here):.2g} ms"
        rows.append((name.replace("_", " "), *_summary(here), fit, answer, len(here)))
    rows.sort(key=lambda row: str(row[1]))
    for name, title in VARIANTS.items():
        here = [trace["variants"][name] for trace in found.values() if name in trace.get("variants", {})]
        if here:
            rows.append((title, *_summary(here), "", "", len(here)))
    ensemble = [trace["walks"][0]["ensemble"] for trace in found.values()]
    answer = f"{1000 * statistics.median(one['answerSeconds'] for one in ensemble):.2g} ms, samples taken in"
    rows.append(("**ensemble**", *_summary(ensemble), "", answer, len(ensemble)))
    head = ("expert alone", "WAPE ÷ 10-min mean", "worst trace", "p90 loss ÷", "one fit", "one answer", "traces")
    return "### Each expert alone\n\n" + _table(head, rows)


VARIANTS = {"lstm_without_recurrence": "LSTM without its recurrence", "ucm": "ucm (only where it is named)"}


def _summary(scores: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """WAPE ÷ that of the last 10 minutes' mean, geometric mean and worst, and the p90's loss."""
    ratios = [one["wapeMeanToTenMinuteMean"] for one in scores]
    return _number(geometric(ratios)), _number(_max(ratios)), _number(geometric(one["pinballPeakToTenMinuteMean"]["0.9"] for one in scores))


def ablation(found: Found) -> str:
    """The ensemble without each expert, ÷ the whole one on the same boundaries."""
    names = sorted({name for trace in found.values() for name in trace.get("ablation", {}) if name != "nobody"})
    rows = []
    for name in names:
        pairs = [(trace["ablation"][name], trace["ablation"]["nobody"]) for trace in found.values() if name in trace.get("ablation", {})]
        errors = [_over(one["wapeMean"], whole["wapeMean"]) for one, whole in pairs]
        losses = [_over(one["p90Peak"], whole["p90Peak"]) for one, whole in pairs]
        spread = f"{_number(_min(errors))} – {_number(_max(errors))}"
        label = f"with {name[1:]}" if name.startswith("+") else f"without {name}"
        rows.append((label.replace("_", " "), _number(geometric(errors)), spread, _number(geometric(losses)), len(pairs)))
    if not rows:
        return ""
    rows.sort(key=lambda row: str(row[1]), reverse=True)
    text = "Above 1: the ensemble is worse so. On at most 150 boundaries of each trace."
    head = ("the ensemble", "WAPE ÷ whole", "lowest – highest trace", "p90 loss ÷ whole", "traces")
    return "### The ensemble without each expert\n\n" + _table(head, rows) + f"\n\n{text}"


def recovery(found: Found) -> str:
    """After a step, and in a series' first days, by trace."""
    rows = []
    for name, trace in found.items():
        step, days = trace.get("step"), trace.get("firstDays")
        if not (step or days):
            continue
        days_after = (_pair(days[part]) if days else "–" for part in ("before24h", "after24h"))
        rows.append((name, _pair(step) if step else "–", *days_after))
    if not rows:
        return ""
    text = "WAPE of ensemble / last 10 minutes' mean = ratio; two beginnings, and twelve steps if a step of the trace is ≤ 10 min."
    head = ("trace", "minutes 10–30 after ×2", "first 24 h", "hours 24–48")
    return "### After a step, and a series' first days\n\n" + _table(head, rows) + f"\n\n{text}"


def _pair(both: Mapping[str, float | None]) -> str:
    return f"{_percent(both['ensemble'])} / {_percent(both['naive'])} = {_number(_over(both['ensemble'], both['naive']))}"


def five_percent(found: Found) -> str:
    """Error under 5 %: where the traffic allows it."""
    walks = [trace["walks"][0] for trace in found.values()]
    allowed = [walk for walk in walks if walk["yardsticks"]["trafficAllowsFivePercent"]]
    reached = [walk for walk in walks if walk["ensemble"]["wapeMean"] < 0.05]
    return (
        "### Error under 5 %\n\n"
        f"{len(allowed)} of {len(walks)} traces allow it: an oracle between both neighbouring blocks errs by at most 3.6 % there, or the"
        f" ensemble by less than 5 % ({_names(allowed)}). The ensemble's error is under 5 % on {len(reached)} ({_names(reached)})."
    )


def seeds(found: Found) -> str:
    """What another seed changes."""
    several = {name: trace["walks"] for name, trace in found.items() if len(trace["walks"]) > 1}
    if not several:
        return ""
    rows = [
        (
            name,
            _range([walk["ensemble"]["wapeMeanToTenMinuteMean"] for walk in walks]),
            _range([walk["ensemble"]["pinballPeakToTenMinuteMean"]["0.9"] for walk in walks]),
            *(_range([walk["experts"].get(expert, {}).get("wapeMeanToTenMinuteMean") for walk in walks]) for expert in LEARNED),
            len(walks),
        )
        for name, walks in several.items()
    ]
    head = ("trace", "ensemble ÷ 10-min mean", "p90 loss ÷", "LSTM alone ÷", "boosting alone ÷", "seeds")
    return "### Spread over seeds\n\n" + _table(head, rows)


def of_fleet(fleet: Mapping[str, Any]) -> str:
    """What a fleet costs."""
    rows = [(row["figure"], row["measured"], row["goal"], "yes" if row["met"] else "no") for row in fleet["rows"]]
    title = f"### A fleet of {fleet['series']:,} series of {fleet['days']:g} days at one minute"
    return f"{title}\n\n{_table(('figure', 'measured', 'goal', 'met'), rows)}\n\n{fleet['note']}"


def best_classical(walk: Mapping[str, Any]) -> tuple[str, float | None]:
    """The classical expert with the lowest error on this trace, known only afterwards."""
    rivals = {name: one["wapeMean"] for name, one in walk["experts"].items() if name not in LEARNED and one["wapeMean"] is not None}
    # one that answers only part of the time is no rival
    rivals = {name: error for name, error in rivals.items() if walk["experts"][name]["answered"] >= 0.9 * walk["ensemble"]["answered"]}
    return min(rivals.items(), key=lambda item: item[1]) if rivals else ("none", None)


def _mean(by_seed: Sequence[Sequence[float | None]]) -> str:
    means = [geometric(values) for values in by_seed]
    return _number(means[0]) + _spread(means)


def _most(by_seed: Sequence[Sequence[float | None]]) -> str:
    most = [_max(values) for values in by_seed]
    return _number(most[0]) + _spread(most)


def _mean_and_worst(values: Sequence[float | None]) -> str:
    return f"{_number(geometric(values))}, worst {_number(_max(values))}"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f" ({min(known):.3f} – {max(known):.3f})" if len(known) > 1 else ""


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.3f} – {max(known):.3f}" if known else "–"


def _max(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _min(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _over(own: float | None, other: float | None) -> float | None:
    return own / other if own is not None and other else None


def _at_most(value: float | None, limit: float) -> str:
    return "–" if value is None else "yes" if value <= limit else "no"


def _names(walks: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{walk['trace']} {_percent(walk['ensemble']['wapeMean'])}" for walk in walks) or "none"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}".replace("%", " %")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])
