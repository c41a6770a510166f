"""One picture of the run: demand and forecast above, nodes in the middle, waiting below."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from deepseek_demo.player import LATE_SECONDS, Answer
from deepseek_demo.record import Recording
from deepseek_demo.stage import Pacing


def draw(path: Path, recording: Recording, answers: list[Answer], pacing: Pacing, title: str) -> None:
    """Write a PNG of the recording."""
    moments = recording.moments
    t = [moment.t_seconds for moment in moments]
    figure, (load, nodes, waits) = plt.subplots(3, 1, figsize=(11, 8.2), sharex=True, height_ratios=(3, 1.5, 1.2), layout="constrained")
    figure.suptitle(title, fontsize=10)

    known = [m for m in moments if m.forecast_p50 is not None and m.forecast_p95 is not None]
    load.fill_between(
        [m.t_seconds for m in known],
        [m.forecast_p50 or 0.0 for m in known],
        [m.forecast_p95 or 0.0 for m in known],
        color="#f4a259", alpha=0.35, linewidth=0, label="forecast peak over the horizon, 50 to 95 %",
    )  # fmt: skip
    load.plot(t, [m.demand for m in moments], color="#1d4e89", linewidth=1.6, label="demand (requests sent)")
    carried = pacing.requests_per_second_per_node * pacing.scale_up_percent / 100.0
    for count in range(1, pacing.nodes + 1):
        load.axhline(carried * count, color="#999999", linewidth=0.6, linestyle=":")
        place, words = (1.003, carried * count), f"{count} node{'s' if count > 1 else ''}"
        load.annotate(words, place, xycoords=("axes fraction", "data"), fontsize=8, color="#777777", va="center")
    label = f"what the nodes asked for carry at {pacing.scale_up_percent} %"
    load.step(t, [m.asked * carried for m in moments], where="post", color="#c0392b", linewidth=1.1, label=label)
    load.set_ylabel("requests per second")
    load.set_ylim(bottom=0)
    load.legend(loc="upper left", fontsize=8, frameon=False)

    nodes.step(t, [m.asked for m in moments], where="post", color="#c0392b", linewidth=1.6, label="asked for")
    nodes.fill_between(t, [m.ready for m in moments], step="post", color="#5b8e7d", alpha=0.5, linewidth=0, label="ready")
    nodes.set_yticks(range(pacing.nodes + 1))
    nodes.set_ylabel("nodes")
    nodes.legend(loc="upper left", fontsize=8, frameon=False)

    for chosen, colour, label in (
        ([a for a in answers if a.answered and not a.late], "#1d4e89", "answered"),
        ([a for a in answers if a.late], "#e67e22", f"late (over {LATE_SECONDS:g} s)"),
        ([a for a in answers if not a.answered], "#c0392b", "failed"),
    ):
        if chosen:
            seconds = [max(a.first_token_seconds, 0.01) for a in chosen]
            waits.scatter([a.sent_at for a in chosen], seconds, s=5, color=colour, label=label, linewidths=0)
    waits.axhline(LATE_SECONDS, color="#e67e22", linewidth=0.6, linestyle=":")
    waits.set_yscale("log")
    waits.set_ylabel("first token (s)")
    waits.set_xlabel("seconds since the play began")
    waits.legend(loc="upper left", fontsize=8, frameon=False)
    for axis in (load, nodes, waits):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
