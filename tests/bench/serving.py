"""`make bench-serving`: measures the engine on this machine and writes the tables into docs/serving.md.

Every figure is a ratio within one run: the variants take turns, round by round, in one process, so that a busy machine slows all of them.
The parts can be run one by one (`serving.py decode`, `prefill`, `compile`, `memory`, `mode`, `batch`, `accuracy`, `start`, each under three
minutes); each keeps its figures in build/bench-serving/, and `serving.py write` makes the page and the picture of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import serving_accuracy
import serving_batch
import serving_compile
import serving_decode
import serving_start
import serving_tables

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "bench-serving"
PARTS = {
    "decode": serving_decode.measure,
    "prefill": serving_decode.measure_prefill,
    "compile": serving_compile.measure,
    "memory": serving_decode.measure_memory,
    "mode": serving_decode.measure_mode,
    "batch": serving_batch.measure,
    "accuracy": serving_accuracy.measure,
    "start": serving_start.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "write"], help="one part only (default: all of them, then write)")
    asked = parser.parse_args().part
    if asked in PARTS:
        RESULTS.mkdir(parents=True, exist_ok=True)
        figures: dict[str, Any] = PARTS[asked](ROOT)
        (RESULTS / f"{asked}.json").write_text(json.dumps(figures, indent=1) + "\n")
        print("\n".join(serving_tables.TABLES[asked](figures)))
        return 0
    if asked is None:
        # A process each: no part's memory or caches are another's.
        for part in PARTS:
            subprocess.run([sys.executable, __file__, part], check=True)
    serving_tables.write(
        ROOT, {part: json.loads((RESULTS / f"{part}.json").read_text()) for part in PARTS if (RESULTS / f"{part}.json").exists()}
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
