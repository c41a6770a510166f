"""The command: read, play, score, write; with a line of progress on the terminal."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from deepseek_forecaster.models import ALL
from deepseek_forecaster.trace import Trace, TraceError, read_trace

from .blocks import TooShortError, cut
from .play import play
from .report import page
from .score import Scores, score
from .source import from_prometheus
from .write import document, duration, forecasts_csv

LEAST_DRAWN_SECONDS = 0.5


def run(given: argparse.Namespace) -> int:
    """Do what the command line asks; gives the exit status. Errors of the input are one line on standard error."""
    try:
        trace = _trace(given)
        blocks = cut(trace, given.horizon)
    except (TraceError, TooShortError) as error:
        print(f"deepseek-forecaster backtest: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # Prometheus could not be read
        print(f"deepseek-forecaster backtest: {error}", file=sys.stderr)
        return 1
    if blocks.horizon_seconds != given.horizon:
        why = "the step is longer than the horizon" if blocks.steps == 1 else "a horizon is a whole number of steps"
        print(f"{trace.name}: {why}, so it is forecast {duration(blocks.horizon_seconds)} ahead", file=sys.stderr)
    progress = Progress(trace.name)
    played = play(blocks, given.experts, progress.show)
    progress.end()
    scores = score(played)
    texts: dict[Path | None, str] = {
        given.json: json.dumps(document(played, scores), indent=2) + "\n",
        given.forecasts: forecasts_csv(played),
        given.report: page(played, scores),
    }
    for path, text in texts.items():
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    print(table(scores))
    return 0


def _trace(given: argparse.Namespace) -> Trace:
    if given.trace is not None:
        return read_trace(given.trace)
    return from_prometheus(given.prometheus, given.query, given.days, max(1, round(given.step)), time.time())


def experts(text: str) -> tuple[str, ...]:
    """Names of experts with commas between them; ArgumentTypeError says which there are."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    wrong = [name for name in names if name not in ALL]
    if wrong or not names:
        raise argparse.ArgumentTypeError(f"must be names out of {', '.join(ALL)} with commas between; was {text!r}")
    return names


def table(scores: Scores) -> str:
    """The figures of the ensemble and of each expert, one line each."""

    def cell(value: float | None, form: str) -> str:
        return f"{'–' if value is None else format(value, form):>9}"

    lines = [f"{'':22}{'WAPE':>9}{'÷ 10min':>9}{'peak':>9}{'p90 loss':>9}{'≤ p90':>9}{'≤ p95':>9}"]
    rows = [("ensemble", scores.ensemble), *scores.alone.items(), ("10 minutes' mean", scores.naive)]
    for name, one in rows:
        cells = (cell(one.wape_mean, ".1%"), cell(one.mean_ratio, ".3f"), cell(one.wape_peak, ".1%"), cell(one.peak_pinball_ratio[0.9], ".3f"))
        covers = (cell(one.coverage_peak[0.9], ".1%"), cell(one.coverage_peak[0.95], ".1%"))
        lines.append(f"{name:22}{''.join(cells)}{''.join(covers)}")
    lines.append(f"between two neighbours{cell(scores.oracle_wape, '.1%')}   (an oracle: what the traffic allows)")
    return "\n".join(lines)


class Progress:
    """One line on a terminal, drawn anew; a line at each tenth where standard error is a file."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = time.monotonic()
        self._drawn_at = -1.0
        self._tenth = -1

    def show(self, share: float) -> None:
        """Show how far it is."""
        now = time.monotonic()
        spent = now - self._started
        left = f", about {duration(round(spent / share - spent))} left" if share > 0.02 else ""
        words = f"{self._name}: {share:4.0%} in {duration(round(spent))}{left}"
        if sys.stderr.isatty():
            if now - self._drawn_at >= LEAST_DRAWN_SECONDS:
                self._drawn_at = now
                print(f"\r\x1b[2K{words}", end="", file=sys.stderr, flush=True)
        elif int(10 * share) > self._tenth:
            self._tenth = int(10 * share)
            print(words, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave an empty line behind."""
        if sys.stderr.isatty():
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
