"""The curves: GPU-hours ÷ clairvoyant minimum against the share of late requests. A sheet with a panel per trace, and the medians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.curves import Table
from bench.policies import CONTENDERS

STYLES: dict[str, tuple[str, str, float]] = {
    "predictive": ("#d62728", "-", 2.4),
    "reactive": ("#7f7f7f", "-", 1.4),
    "hpa": ("#1f77b4", "-", 1.2),
    "keda": ("#17becf", "-", 1.2),
    "kpa": ("#9467bd", "-", 1.2),
    "ray": ("#2ca02c", "-", 1.2),
    "dynamo-constant": ("#bcbd22", ":", 1.2),
    "dynamo-arima": ("#8c564b", "--", 1.2),
    "dynamo-kalman": ("#bcbd22", "--", 1.2),
    "dynamo-prophet": ("#8c564b", ":", 1.2),
    "phpa": ("#e377c2", "-", 1.2),
}
LEAST_LATE, MOST_LATE = 1e-5, 0.2
MOST_COST = 2.6
LEVELS = tuple(10 ** (-4.5 + 0.25 * step) for step in range(15))


def draw(table: Table, judged: Sequence[str], folder: Path) -> None:
    """Both pictures as PNG into the folder."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    loads = table.loads
    columns = min(4, len(loads))
    rows = math.ceil(len(loads) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    for place, axis in enumerate(axes.flat):
        if place >= len(loads):
            axis.axis("off")
            continue
        load = loads[place]
        for policy in STYLES:
            points = sorted(table.points(load, policy), key=lambda point: point.knob)
            line(axis, policy, [max(p.late, LEAST_LATE) for p in points], [p.cost for p in points])
        for policy, marker in (("view", "*"), ("static", "s")):
            for point in table.points(load, policy):
                axis.plot([max(point.late, LEAST_LATE)], [min(point.cost, MOST_COST)], marker, color="black", label=CONTENDERS[policy].title)
        dress(axis, load + ("" if load in judged else " (tuned on)"))
    named = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(folder / "traces.png", dpi=80)
    plt.close(figure)

    figure, axis = plt.subplots(figsize=(8.5, 5.2))
    for policy in STYLES:
        known = [(late, cost) for late in LEVELS if (cost := table.median_cost(judged, policy, late)) is not None]
        line(axis, policy, [late for late, _ in known], [cost for _, cost in known])
    dress(axis, f"median of {len(judged)} traces")
    axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(folder / "median.png", dpi=90)
    plt.close(figure)


def line(axis: Any, policy: str, lates: Sequence[float], costs: Sequence[float]) -> None:
    """One policy's curve."""
    if lates:
        colour, dash, width = STYLES[policy]
        title = CONTENDERS[policy].title.replace("**", "")
        axis.plot(lates, costs, dash, color=colour, linewidth=width, marker=".", markersize=3, label=title)


def dress(axis: Any, title: str) -> None:
    """Axes, and the two latenesses of the report."""
    axis.set_xscale("log")
    axis.set_xlim(LEAST_LATE * 0.8, MOST_LATE)
    axis.set_ylim(0.95, MOST_COST)
    for late in (0.001, 0.005):
        axis.axvline(late, color="#cccccc", linewidth=0.8)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("share of late requests (leftmost: none)", fontsize=8)
    axis.set_ylabel("GPU-hours ÷ clairvoyant minimum", fontsize=8)
    axis.tick_params(labelsize=7)
