"""Turns the measured figures into the tables of docs/serving.md, between its markers, and one picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

REFERENCE = "Hugging Face float32"
"""What the decoder's variants are compared with."""

PAGE = Path("docs") / "serving.md"
PICTURE = Path("docs") / "serving.png"


def _ratio(rounds: list[dict[str, float]], reference: str, variant: str, *, rate: bool = False) -> tuple[float, float, float]:
    each = [one[variant] / one[reference] if rate else one[reference] / one[variant] for one in rounds]
    return statistics.median(each), min(each), max(each)


def _told(ratio: tuple[float, float, float]) -> str:
    return f"**{ratio[0]:.2f}** ({ratio[1]:.2f} – {ratio[2]:.2f})"


def decode(figures: dict[str, Any]) -> list[str]:
    """One row for each way to compute the decoder."""
    rounds = figures["step"]
    rows = [
        f"Decoder of {figures['parameters'] / 1e6:.0f} M parameters, one thread, 64 tokens known; float32's time ÷ the variant's, median of "
        f"{len(rounds)} rounds (lowest – highest).",
        "",
        "| decoder | one token, ms | × faster | 8 rows, ms a step |",
        "|---|---|---|---|",
    ]
    for name in rounds[0]:
        step = 1e3 * statistics.median(one[name] for one in rounds)
        eight = f"{1e3 * statistics.median(one[name] for one in figures['eight']):.0f}" if name in figures["eight"][0] else "–"
        rows.append(f"| {name} | {step:.1f} | {'1' if name == REFERENCE else _told(_ratio(rounds, REFERENCE, name))} | {eight} |")
    return rows


def prefill(figures: dict[str, Any]) -> list[str]:
    """How fast a prompt is read."""
    rounds = figures["rounds"]
    rows = ["Reading a prompt of 128 tokens, the same decoder.", "", "| decoder | ms | × faster |", "|---|---|---|"]
    for name in rounds[0]:
        taken = 1e3 * statistics.median(one[name] for one in rounds)
        rows.append(f"| {name} | {taken:.0f} | {'1' if name == REFERENCE else _told(_ratio(rounds, REFERENCE, name))} |")
    return rows


def compiled(figures: dict[str, Any]) -> list[str]:
    """Steps in torch as they are and compiled."""
    rows = [
        f"A DeepSeek-V3 class decoder of {figures['parameters'] / 1e6:.0f} M parameters and {figures['layers']} layers, float32, one thread, "
        f"64 tokens known; median of {len(figures['1'])} rounds (lowest – highest). Compiling took {figures['compile_seconds']:.0f} s, "
        f"and {figures['again_seconds']:.0f} s where torch found its cache.",
        "",
        "| answers in a step | torch, ms | compiled, ms | × faster |",
        "|---|---|---|---|",
    ]
    for answers in ("1", "8"):
        rounds = figures[answers]
        taken = [f"{1e3 * statistics.median(one[name] for one in rounds):.1f}" for name in ("torch", "compiled")]
        rows.append(f"| {answers} | {taken[0]} | {taken[1]} | {_told(_ratio(rounds, 'torch', 'compiled'))} |")
    return rows


def memory(figures: dict[str, Any]) -> list[str]:
    """Bytes of the same decoder by precision."""
    rows = [
        "The same decoder with its embeddings. *Process*: growth of a fresh process' own memory until it can answer, keys and values included, "
        "after the weights it rounded were let go.",
        "",
        "| precision | weights, MB | smaller by | process, MB | smaller by |",
        "|---|---|---|---|---|",
    ]
    whole = figures["none"]
    for kind, own in figures.items():
        cells = [f"{own[what] / 1e6:.0f} | {1 - own[what] / whole[what]:.1%}" for what in ("weights", "process")]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return rows


def mode(figures: dict[str, Any]) -> list[str]:
    """What leaving the eyes unloaded saves."""
    rows = [
        f"A DeepSeek-VL of {figures['parameters'] / 1e6:.0f} M parameters, {figures['decoder'] / figures['parameters']:.0%} of them in its "
        "decoder, in int4 (the rest keeps its bfloat16). *Process*: its resident memory after every weight was used once.",
        "",
        "| mode | weights, MB | process, MB |",
        "|---|---|---|",
    ]
    return rows + [
        f"| {name} | {own['weights'] / 1e6:.0f} | {own['process'] / 1e6:.0f} |" for name, own in figures.items() if isinstance(own, dict)
    ]


def batch(figures: dict[str, Any]) -> list[str]:
    """The batched engine against generate()."""
    rounds = figures["rounds"]
    rows = [
        f"Tiny DeepSeek-VL, 16 clients, each request a picture and an answer of about 20 tokens; median of {len(rounds)} rounds (lowest – "
        f"highest). {figures['right_of_160']} of 160 captions of the last round were exact.",
        "",
        "| way | requests/s | ÷ generate() one by one |",
        "|---|---|---|",
        f"| generate(), one request after the other | {statistics.median(one['generate()'] for one in rounds):.1f} | 1 |",
    ]
    for kind in ("none", "int8", "int4"):
        rate = statistics.median(one[kind] for one in rounds)
        rows.append(f"| engine, 16 slots, {kind} | {rate:.1f} | {_told(_ratio(rounds, 'generate()', kind, rate=True))} |")
    cancelled = figures["cancel_seconds"]
    return [
        *rows,
        "",
        f"1,000 requests cancelled in mid-answer: slot free after {1e3 * cancelled['p50']:.0f} ms (median), {1e3 * cancelled['p99']:.0f} ms "
        f"(p99), {1e3 * cancelled['most']:.0f} ms (most).",
    ]


def accuracy(figures: dict[str, Any]) -> list[str]:
    """Captions and divergence by precision."""
    rows = [
        f"{figures['trained']['pictures']} fresh pictures. *Right*: every token of the exact caption is the likeliest. *Divergence*: "
        "Kullback-Leibler from float32, nats per token of the caption, mean over the pictures (of the worst picture).",
        "",
        "| precision | trained: right | log-prob. per token | divergence | training broken off: right | log-prob. per token | divergence |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in figures["trained"]["precisions"]:
        cells = []
        for model in ("trained", "short"):
            one = figures[model]["precisions"][kind]
            cells.append(f"{one['right']:.1%} | {one['logprob']:.4f} | {one['divergence']:.5f} ({one['worst']:.3f})")
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return rows


def start(figures: dict[str, Any]) -> list[str]:
    """Parts of a replica's start."""
    from serving_start import medians

    parts = list(figures["int4"][0])
    rows = [
        f"Seconds, median of {len(figures['int4'])} fresh processes with the tiny model (its weights load in no time: what is left is the "
        "start of any replica; add reading and rounding your own weights). Fastest – slowest in brackets.",
        "",
        "| quantization | " + " | ".join(parts) + " |",
        "|---|" + "---|" * len(parts),
    ]
    for kind, runs in figures.items():
        middle = medians(runs)
        totals = [run["total"] for run in runs]
        cells = [
            f"**{middle[part]:.1f}** ({min(totals):.1f} – {max(totals):.1f})" if part == "total" else f"{middle[part]:.2f}" for part in parts
        ]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return rows


def classes() -> list[str]:
    """The declared table of model classes."""
    from deepseek_serving.routes import CLASSES

    rows = ["| `model_type` | models | pictures | engines | rests on |", "|---|---|---|---|---|"]
    return rows + [
        f"| `{row.model_type}` | {row.name} | {'yes' if row.pictures else 'no'} | {', '.join(row.engines)} | {row.evidence} |"
        for row in CLASSES
    ]


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "decode": decode,
    "prefill": prefill,
    "compile": compiled,
    "memory": memory,
    "mode": mode,
    "batch": batch,
    "accuracy": accuracy,
    "start": start,
}


def put(page: str, name: str, lines: list[str]) -> str:
    """The page with what stands between `<!-- name: … -->` and `<!-- end of name -->` replaced. Raises ValueError without such markers."""
    begin, end = f"<!-- {name}: written by make bench-serving -->", f"<!-- end of {name} -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{PAGE} needs the lines {begin} and {end}")
    return "\n".join([head + begin, "", *lines, "", end]) + tail


def write(root: Path, figures: dict[str, dict[str, Any]]) -> None:
    """Write the tables of the parts that were measured, and the picture."""
    page = put((root / PAGE).read_text(encoding="utf-8"), "classes", classes())
    for part, own in figures.items():
        page = put(page, part, TABLES[part](own))
    (root / PAGE).write_text(page, encoding="utf-8")
    if "decode" in figures and "memory" in figures:
        draw(figures["decode"], figures["memory"], root / PICTURE)
    print(f"wrote {', '.join(figures)} into {PAGE}")


def draw(figures: dict[str, Any], bytes_held: dict[str, Any], file: Path) -> None:
    """Speed against memory of each precision."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = {"none": "none (float32)", "bf16": "bf16", "int8": "int8", "int4": "int4"}
    speeds = [_ratio(figures["step"], REFERENCE, name) for name in names.values()]
    shares = [bytes_held[kind]["weights"] / bytes_held["none"]["weights"] for kind in names]
    drawing, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3), layout="constrained")
    errors = [[speed[0] - speed[1] for speed in speeds], [speed[2] - speed[0] for speed in speeds]]
    left.barh(list(names), [speed[0] for speed in speeds], xerr=errors, color="#3a6ea5", capsize=3)
    left.set_xlabel("one token: times as fast as Hugging Face in float32")
    right.barh(list(names), [100 * share for share in shares], color="#7a9e5f")
    right.set_xlabel("weights: % of float32")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    pyplot.savefig(file, dpi=110)
    pyplot.close(drawing)
