"""The figures at the end, the verdict, and the words they are told in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek_demo.compare import Reactive
from deepseek_demo.player import LATE_SECONDS, Tally
from deepseek_demo.record import Moment, Recording
from deepseek_demo.stage import Pacing


@dataclass(frozen=True)
class Lead:
    """One more node on the way up: when it was asked for, and when demand passed what the nodes before it carry at `scaleUpPercent`.

    Seconds since the play began. A policy that looks at present demand only cannot ask before `needed_at`.
    """

    node: int
    asked_at: float
    needed_at: float
    ready_at: float | None

    @property
    def seconds(self) -> float:
        return self.needed_at - self.asked_at


@dataclass(frozen=True)
class Figures:
    """What the run comes to."""

    sent: int
    answered: int
    late: int
    failed: int
    failures: dict[str, int]
    captions_right: int
    captions_checked: int
    median_seconds: float | None
    p95_seconds: float | None
    node_hours: float
    maximum_node_hours: float
    reactive: Reactive | None
    leads: tuple[Lead, ...]
    given_back: bool
    peak: Moment | None

    @property
    def ahead(self) -> tuple[Lead, ...]:
        return tuple(lead for lead in self.leads if lead.seconds > 0)

    @property
    def faults(self) -> list[str]:
        """Why the run is not a success; empty: it is one."""
        faults = []
        if not self.sent:
            faults.append("no request was sent")
        if self.failed:
            kinds = ", ".join(f"{count} × {kind}" for kind, count in self.failures.items())
            faults.append(f"{self.failed} of {self.sent} requests failed ({kinds})")
        if not self.ahead:
            faults.append("nodes were never asked for before demand passed what the nodes before carry")
        if not self.given_back:
            faults.append("no node was given back after the peak")
        return faults


def figures(recording: Recording, tally: Tally, pacing: Pacing, reactive: Reactive | None) -> Figures:
    """Work the figures out."""
    moments = recording.moments
    latencies = tally.latencies(0.0)
    carried = pacing.requests_per_second_per_node * pacing.scale_up_percent / 100.0
    leads = tuple(lead for node in range(2, pacing.nodes + 1) if (lead := lead_of(moments, node, carried * (node - 1))))
    top = max((moment.asked for moment in moments), default=0)
    return Figures(
        sent=tally.sent,
        answered=tally.answered,
        late=tally.late,
        failed=tally.failed,
        failures=dict(tally.failures.most_common()),
        captions_right=tally.right,
        captions_checked=tally.checked,
        median_seconds=quantile(latencies, 0.5),
        p95_seconds=quantile(latencies, 0.95),
        node_hours=recording.node_hours,
        maximum_node_hours=recording.hours * pacing.nodes,
        reactive=reactive,
        leads=leads,
        given_back=bool(moments) and moments[-1].asked < top,
        peak=max(moments, key=lambda moment: (moment.asked, moment.demand), default=None),
    )


def lead_of(moments: Sequence[Moment], node: int, carried: float) -> Lead | None:
    """When `node` was asked for before (or after) demand first passed `carried` req/s and stayed above it for three looks.

    None when demand never passed it, when the node was there from the first look, or when it was never asked for.
    """
    above = [moment.demand > carried for moment in moments]
    crossing = next((i for i in range(len(moments) - 2) if all(above[i : i + 3])), None)
    if crossing is None:
        return None
    asked = crossing
    if moments[crossing].asked >= node:
        while asked > 0 and moments[asked - 1].asked >= node:
            asked -= 1
        if asked == 0:
            return None
    else:
        asked = next((i for i in range(crossing, len(moments)) if moments[i].asked >= node), -1)
        if asked < 0:
            return None
    ready = next((moment.t_seconds for moment in moments[asked:] if moment.ready >= node), None)
    return Lead(node, moments[asked].t_seconds, moments[crossing].t_seconds, ready)


def quantile(ascending: Sequence[float], q: float) -> float | None:
    """The nearest-rank quantile of sorted values; None without values."""
    return ascending[min(len(ascending) - 1, int(q * len(ascending)))] if ascending else None


def in_words(result: Figures) -> list[str]:
    """The summary, line by line."""
    lines = [
        f"requests   {result.sent} sent · {result.answered} answered · {result.late} late (first token after more than {LATE_SECONDS:g} s) · "
        f"{result.failed} failed" + "".join(f" · {count} × {kind}" for kind, count in result.failures.items()),
    ]
    if result.median_seconds is not None and result.p95_seconds is not None:
        lines.append(f"answers    in {result.median_seconds:.2f} s (median), {result.p95_seconds:.2f} s (95 %)" + _captions(result))
    lines.append(f"nodes      {result.node_hours:.3f} node-hours; {_compared(result)}")
    for lead in result.leads:
        ready = f", ready {lead.ready_at - lead.asked_at:.0f} s later" if lead.ready_at is not None else ""
        when = "before" if lead.seconds > 0 else "after"
        lines.append(f"lead       node {lead.node} asked for {abs(lead.seconds):.0f} s {when} demand passed what {lead.node - 1} carry{ready}")
    if result.peak:
        lines.append(f"why        at the peak, {result.peak.asked} nodes: {result.peak.message or result.peak.reason}")
    lines.extend(f"FAILED     {fault}" for fault in result.faults)
    return lines


def _captions(result: Figures) -> str:
    if not result.captions_checked:
        return ""
    return f"; {result.captions_right / result.captions_checked:.1%} of {result.captions_checked} captions exactly right"


def _compared(result: Figures) -> str:
    words = f"staying at the maximum {result.maximum_node_hours:.3f}"
    if result.maximum_node_hours > 0:
        words += f" ({1 - result.node_hours / result.maximum_node_hours:.0%} saved)"
    if result.reactive:
        words += f"; the same day in Reactive mode {result.reactive.node_hours:.3f}, "
        words += f"with {result.reactive.late} of {result.reactive.requests} requests late "
        words += f"(a replay of the same requests with the cold start measured, {result.reactive.cold_start_seconds:.0f} s)"
    return words
