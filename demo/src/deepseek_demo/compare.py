"""The same day in mode Reactive, by the operator's own replay: the same `decide()` over what was really sent, with the cold start measured."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepseek_demo.player import LATE_SECONDS
from deepseek_demo.record import Moment
from deepseek_operator.api.v1alpha1 import DeepSeekDeploymentSpec
from deepseek_operator.core.types import Policy
from deepseek_operator.replay import replay

UNMEASURED_COLD_START_SECONDS = 20.0


@dataclass(frozen=True)
class Reactive:
    """What mode Reactive would have paid, and how many requests would have waited longer than the objective."""

    node_hours: float
    late: int
    requests: int
    cold_start_seconds: float


def reactive(
    sent_at: Sequence[float], moments: Sequence[Moment], spec: DeepSeekDeploymentSpec, node_capacity: float, step_seconds: float
) -> Reactive | None:
    """Replay the requests sent (seconds since the play began) over the time that was looked at; None when nothing was."""
    if len(moments) < 2:
        return None
    begin, end = moments[0].t_seconds, moments[-1].t_seconds
    steps = max(1, math.ceil((end - begin) / step_seconds))
    counts, _ = np.histogram(sent_at, bins=steps, range=(begin, begin + steps * step_seconds))
    cold_start = cold_start_of(moments) or UNMEASURED_COLD_START_SECONDS
    outcome = replay(
        [float(count) / step_seconds for count in counts],
        step_seconds,
        dataclasses.replace(Policy.of(spec), mode="Reactive"),
        node_capacity,
        cold_start_seconds=cold_start,
        tick_seconds=step_seconds,
        start_nodes=max(spec.nodes.min, moments[0].asked),
        late_seconds=LATE_SECONDS,
    )
    return Reactive(outcome.node_hours, round(outcome.late), round(outcome.requests), cold_start)


def cold_start_of(moments: Sequence[Moment]) -> float | None:
    """The median of the times from asking for a node to having it ready, in seconds; None when no node was added."""
    seen = []
    for before, now in itertools.pairwise(moments):
        if now.asked > before.asked:
            ready = next((moment.t_seconds for moment in moments if moment.t_seconds > now.t_seconds and moment.ready >= now.asked), None)
            if ready is not None:
                seen.append(ready - now.t_seconds)
    return float(np.median(seen)) if seen else None
