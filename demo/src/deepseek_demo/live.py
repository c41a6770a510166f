"""What is happening, while it happens: a panel in a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deepseek_demo.player import Tally
from deepseek_demo.record import Moment, Recording
from deepseek_demo.stage import Pacing, Stage
from deepseek_demo.summary import quantile

PLAIN_EVERY_SECONDS = 5.0
LATENCY_WINDOW_SECONDS = 20.0
BARS = "▁▂▃▄▅▆▇█"

_BOX = {  # (asked for, ready)
    (True, True): (" ready ", "black on green"),
    (True, False): (" start ", "black on yellow"),
    (False, True): (" drain ", "black on cyan"),
    (False, False): ("   ·   ", "dim"),
}


@dataclass
class View:
    """Draws the state of the play; `refresh` at every look."""

    stage: Stage
    pacing: Pacing
    recording: Recording
    tally: Tally
    seconds: float

    def __post_init__(self) -> None:
        self.console = Console()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._said_at = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def refresh(self) -> None:
        """Show the last moment of the recording."""
        moment = self.recording.last
        if moment is None:
            return
        if self._live:
            self._live.update(self._panel(moment), refresh=True)
        elif time.monotonic() - self._said_at >= PLAIN_EVERY_SECONDS:
            self._said_at = time.monotonic()
            sys.stdout.write(self.line(moment) + "\n")
            sys.stdout.flush()

    def line(self, moment: Moment) -> str:
        """The moment on one line."""
        median, high = self._latency(moment.t_seconds)
        tally, nodes = self.tally, f"{moment.asked} asked {moment.ready} ready"
        return (
            f"{moment.t_seconds:5.0f} s  demand {moment.demand:4.1f}/s  forecast {_band(moment)}  nodes {nodes}  "
            f"latency {median}/{high}  sent {tally.sent} answered {tally.answered} late {tally.late} failed {tally.failed}  "
            f"{moment.reason}: {moment.message}"
        )

    def _panel(self, moment: Moment) -> Panel:
        median, high = self._latency(moment.t_seconds)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", justify="right")
        table.add_column()
        table.add_row("demand", f"{moment.demand:.1f} requests/s")
        table.add_row("", Text(self._sparkline(), style="blue"))
        table.add_row("forecast", f"peak of the next horizon {_band(moment)} requests/s (50 to 95 %)")
        table.add_row("nodes", self._boxes(moment))
        table.add_row("latency", f"{median} median · {high} 95 %, over the last {LATENCY_WINDOW_SECONDS:g} s")
        failed = Text(f"{self.tally.failed} failed", style="red bold" if self.tally.failed else "")
        counts = Text(f"{self.tally.sent} sent · {self.tally.answered} answered · {self.tally.late} late · ").append_text(failed)
        table.add_row("requests", counts)
        table.add_row("decision", Text(f"{moment.reason}: {moment.message}", overflow="fold"))
        title = f"{self.stage.trace_name} × {self.stage.speed:g} · {moment.t_seconds:.0f} of {self.seconds:.0f} s"
        return Panel(Group(table), title=title, width=min(110, self.console.width))

    def _boxes(self, moment: Moment) -> Text:
        boxes = Text()
        for node in range(1, self.pacing.nodes + 1):
            asked, ready = node <= moment.asked, node <= moment.ready
            word, style = _BOX[asked, ready]
            boxes.append(word, style).append(" ")
        return boxes.append(f" {moment.asked} asked for, {moment.ready} ready")

    def _sparkline(self, width: int = 72) -> str:
        demands = [moment.demand for moment in self.recording.moments[-width * 3 :]][-1::-3][::-1]
        top = max([*demands, self.pacing.peak_requests_per_second])
        return "".join(BARS[min(len(BARS) - 1, int(demand / top * len(BARS)))] for demand in demands)

    def _latency(self, now: float) -> tuple[str, str]:
        latencies = self.tally.latencies(now - LATENCY_WINDOW_SECONDS)
        median, high = quantile(latencies, 0.5), quantile(latencies, 0.95)
        return ("–" if median is None else f"{median:.2f} s"), ("–" if high is None else f"{high:.2f} s")


def _band(moment: Moment) -> str:
    if moment.forecast_p50 is None or moment.forecast_p95 is None:
        return "not yet"
    return f"{moment.forecast_p50:.1f}–{moment.forecast_p95:.1f}"
