"""`make bench-forecast`: backtests every multi-day trace of a folder and writes the tables of docs/forecasting.md.

Each part of each trace is kept under build/ by the state of the forecaster's source: a run that was broken off goes on where it was, and a
second run measures only what has changed. Without the folder the demo's generated traffic is measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forecast_parts as parts
import forecast_tables
import numpy as np

from deepseek_demo.traffic import generate
from deepseek_forecaster.backtest.blocks import Blocks, cut
from deepseek_forecaster.models import OPTIONAL, TRAINABLE, UNTRAINED
from deepseek_forecaster.trace import Trace, read_trace

ROOT = Path(__file__).resolve().parent.parent.parent
LEAST_DAYS = 2.0
HORIZON_SECONDS = 600.0
SEEDED_DAYS = 22.5
"""Further seeds are drawn, and experts left out, on traces up to this long; the longer ones would take most of the time."""
BEGIN, END = "<!-- made by `make bench-forecast`: begin -->", "<!-- made by `make bench-forecast`: end -->"


def traces_of(folder: Path | None) -> list[Trace]:
    """The multi-day traces of a folder, those with modelled minutes (`_1min`) left out; generated ones where there is no folder."""
    if folder is None or not folder.is_dir():
        print(f"{folder}: no such folder; measuring generated traffic", flush=True)
        made = [generate(days=14, seed=seed) for seed in (7, 8, 9)]
        return [Trace(one.name, 60, tuple(float(count) for count in one.counts)) for one in made]
    read = [read_trace(path) for path in sorted(folder.glob("*.csv")) if not path.stem.endswith("_1min")]
    return sorted((one for one in read if one.seconds >= LEAST_DAYS * 86_400), key=lambda one: len(one.counts))


class Kept:
    """What was measured before, on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._source = parts.digest(parts.source_digest(), Path(parts.__file__).read_bytes())

    def get(self, blocks: Blocks, part: str, measure: Callable[[], Any]) -> Any:
        """The part of this trace: measured now, unless it was already."""
        path = self._folder / "parts" / f"{blocks.name}-{part}-{parts.digest(self._source, blocks.loads.tobytes(), blocks.steps)}.json"
        if path.exists():
            return json.loads(path.read_text())
        started = time.monotonic()
        print(f"  {blocks.name}: {part} …", end="", flush=True)
        found = json.loads(json.dumps(measure(), allow_nan=False))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(found))
        partial.replace(path)
        print(f" {time.monotonic() - started:.0f} s", flush=True)
        return found


def measure(blocks: Blocks, kept: Kept, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All parts of one trace."""

    def stored(seed: int = 0) -> parts.StoredFits:
        return parts.StoredFits(folder / "fits", seed)

    days = len(blocks.loads) * blocks.step_seconds / 86_400
    seeds = range(given.seeds if days <= SEEDED_DAYS else 1)
    found: dict[str, Any] = {
        "walks": [kept.get(blocks, f"walk-seed{seed}", lambda seed=seed: parts.walked(blocks, stored(seed))) for seed in seeds]
    }
    if "step" in given.parts and blocks.step_seconds <= HORIZON_SECONDS:
        found["step"] = kept.get(blocks, "step", lambda: parts.after_a_step(blocks, stored(), found["walks"][0]["seen"]))
    if "first-days" in given.parts:
        found["firstDays"] = kept.get(blocks, "first-days", lambda: parts.first_days(blocks, stored()))
    if "recurrence" in given.parts:
        silent = kept.get(blocks, "without-recurrence", lambda: parts.lstm_without_recurrence(blocks, folder / "fits"))
        found["variants"] = {"lstm_without_recurrence": silent}
        for name in OPTIONAL:
            found["variants"][name] = kept.get(blocks, name, lambda name=name: parts.alone(blocks, stored(), name))
    if "ablation" in given.parts and days <= SEEDED_DAYS:
        everybody = UNTRAINED + TRAINABLE
        found["ablation"] = {}
        for gone in ("nobody", *everybody):
            left = tuple(name for name in everybody if name != gone)
            found["ablation"][gone] = kept.get(blocks, f"without-{gone}", lambda left=left: parts.without(blocks, stored(), left))
        for more in OPTIONAL:
            all_and = (*everybody, more)
            found["ablation"][f"+{more}"] = kept.get(blocks, f"with-{more}", lambda all_and=all_and: parts.without(blocks, stored(), all_and))
    return found


def write_docs(path: Path, text: str, about: str) -> None:
    """Put the tables between the markers of the page."""
    page = path.read_text()
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{path}: expected the lines {BEGIN!r} and {END!r}")
    before, rest = page.split(BEGIN, 1)
    path.write_text(f"{before}{BEGIN}\n\n{about}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    reader.add_argument("--traces", type=Path, help="folder of CSVs with the columns t_min,count")
    reader.add_argument("--only", default="", help="only traces whose name contains this")
    reader.add_argument("--out", type=Path, default=ROOT / "build" / "bench-forecast")
    reader.add_argument("--docs", type=Path, help="write the tables into this page")
    reader.add_argument("--seeds", type=int, default=2, help="seeds on traces of up to 22 days (default 2)")
    reader.add_argument("--parts", default="step,first-days,recurrence,ablation,fleet", help="besides the walk (default: all)")
    given = reader.parse_args()
    given.parts = given.parts.split(",")
    started = time.monotonic()
    kept = Kept(given.out)
    blocks = [cut(trace, HORIZON_SECONDS) for trace in traces_of(given.traces) if given.only in trace.name]
    found = {}
    for number, one in enumerate(blocks, start=1):
        print(f"[{number}/{len(blocks)}, {time.monotonic() - started:.0f} s] {one.name}", flush=True)
        found[one.name] = measure(one, kept, given.out, given)
    fleet = None
    if "fleet" in given.parts:
        import forecast_fleet

        print("fleet", flush=True)
        fleet = forecast_fleet.measure()
    text = forecast_tables.tables(found, fleet)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.json").write_text(json.dumps({"traces": found, "fleet": fleet}, indent=1))
    print(f"\n{text}\n\n{time.monotonic() - started:.0f} s; every figure is in {given.out / 'results.json'}")
    if given.docs is not None:
        folder = "generated traffic" if given.traces is None or not given.traces.is_dir() else f"the multi-day traces of `{given.traces.name}/`"
        write_docs(
            given.docs,
            text,
            f"Measured on {folder}, each at its native step, one core, experts fitted daily, or at most five times over a tested part.",
        )


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
