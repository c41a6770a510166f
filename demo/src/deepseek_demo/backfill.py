"""The days before the play as Prometheus would have recorded them: counters with the names the replicas export, in OpenMetrics.

The past is one label set (`replica="before"`) that ends when the live replicas begin, each with counters of their own: `rate()` never
sees a counter jump at the seam, one series ends and others start.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from deepseek_demo.traffic import Floats
from deepseek_serving.metric_names import REQUESTS_FINISHED, REQUESTS_OFFERED
from deepseek_serving.settings import DEPLOYMENT_NAME

REPLICA = "before"


def whole_requests(rates: Floats, step_seconds: float) -> Floats:
    """Requests in each step for a rate in requests per second: whole numbers whose sum never strays from the rate's by one or more.

    What a step cannot use is carried to the next: 0.4 req/s in steps of 1 s is 0, 0, 1, 0, 1, … Unknown steps (NaN) have none.
    """
    return np.diff(np.floor(np.cumsum(np.nan_to_num(rates)) * step_seconds + 1e-9), prepend=0.0)


def write_history(path: Path, application: str, rates: Floats, step_seconds: float, ends_at: float, image_share: float, seed: int) -> int:
    """Write counters whose `rate()` is `rates` (requests per second, one value per step, NaN = no sample), the last sample at `ends_at`.

    `ends_at` is Unix seconds. Gives the number of requests written. Existing files are replaced.
    """
    counts = whole_requests(rates, step_seconds)
    images = np.random.default_rng(seed).binomial(counts.astype(np.int64), image_share).astype(np.float64)
    times: Floats = ends_at - step_seconds * np.arange(len(rates) - 1, -1, -1, dtype=np.float64)
    known = ~np.isnan(rates)
    with path.open("w", encoding="utf-8") as file:
        file.write(f"# TYPE ray_{REQUESTS_OFFERED.name} counter\n")
        for kind, of_kind in (("image", images), ("text", counts - images)):
            file.writelines(_samples(REQUESTS_OFFERED.exported, _labels(application, kind=kind), of_kind, times, known))
        file.write(f"# TYPE ray_{REQUESTS_FINISHED.name} counter\n")
        file.writelines(_samples(REQUESTS_FINISHED.exported, _labels(application, outcome="ok"), counts, times, known))
        file.write("# EOF\n")
    return int(counts.sum())


def _samples(name: str, labels: str, counts: Floats, times: Floats, known: np.ndarray) -> Iterator[str]:
    for value, time, there in zip(np.cumsum(counts), times, known, strict=True):
        if there:
            yield f"{name}{labels} {value:.0f} {time:.3f}\n"


def _labels(application: str, **own: str) -> str:
    labels = {"application": application, "deployment": DEPLOYMENT_NAME, "replica": REPLICA, **own}
    return "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items()) + "}"
