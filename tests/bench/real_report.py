"""The page of `make bench-real`: real figures beside the simulator's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = """\
# One stretch on real Ray nodes

Written by `make bench-real`. The same stretch of traffic, sent once under each policy as real requests (the same ones, at the same moments)
to real Ray Serve on real Ray nodes under the real KubeRay, in the local cluster: under this operator in mode Predictive, in mode Reactive,
and under Ray Serve's own autoscaler. Beside each stands what the [simulator](replay.md) says of the requests that were really sent, with the
cold start that was measured in that run.

{stretch}.

- A node answers two requests a second ({engine}). All times are divided by 15: a node starts in
  seconds instead of 180, the object's windows and horizon and Ray Serve's delays (30 s up, 600 s down, as shipped; target 2 requests in
  flight) are shorter in the same measure.
- Ray Serve's autoscaler decides in its own controller; each replica it asks for is given a node at once, and a node goes as soon as its
  replica and its proxy have gone. Ray's node autoscaler would hold it for another minute.
- Late: the first token came later than that, or the request failed. In the simulator: the request waited longer than that in one queue for
  all nodes. The real ones wait in a queue per replica, and a node that joins takes over none of what waits at the others.
- Node-hours are asked for or still there, whichever is more; the simulator's are asked for. A real node that is released is paid until it
  has drained.

| policy | | node-hours | ÷ least | late > 10 s | late > 3 s | 95 % first token | failed | changes |
|---|---|---|---|---|---|---|---|---|
"""


def write_page(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Write the page from the figures of each run."""
    engine = "the tiny model's tokens, paced" if runs[0]["engine"] == "transformers" else "an engine that gives out tokens at that pace"
    lines = [HEAD.format(stretch=runs[0]["stretch"], engine=engine).rstrip("\n")]
    lines += [row(run, what) for run in runs for what in ("real", "simulated")]
    starts = ", ".join(f"{run['policy']} {run['cold_start_seconds']:.0f} s" for run in runs)
    lines += [
        "",
        f"Cold starts measured (median): {starts}. They differ with what else the machine did during a run, and a",
        "policy whose nodes took longer has more late requests for it. One run of each; other arrivals come from another `--seed`.",
        *agreement(runs),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def row(run: dict[str, Any], what: str) -> str:
    """One line of the table."""
    found = run[what]
    late = " | ".join(f"{100 * share:.2f} %" for share in found["late"])
    first = f"{found['p95_wait_seconds']:.2f} s | {found['failed']}" if what == "real" else "– | –"
    ratio = f"{found['node_hours']:.3f} | {found['node_hours'] / run['least_node_hours']:.2f}"
    return f"| {run['policy']} | {what} | {ratio} | {late} | {first} | {found['changes']} |"


def agreement(runs: Sequence[dict[str, Any]]) -> list[str]:
    """How far simulator and reality are apart."""
    apart = [100 * (run["simulated"]["node_hours"] / run["real"]["node_hours"] - 1) for run in runs]
    said = ", ".join(f"{run['policy']} {share:+.0f} %" for run, share in zip(runs, apart, strict=True))
    return ["", f"The simulator's node-hours against the real ones: {said}."]
