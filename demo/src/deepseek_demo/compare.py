"""The same day in Reactive mode, by the operator's own replay: the same decisions over what was really sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek_demo.record import Recording
from deepseek_demo.stage import Stage
from deepseek_demo.subject import Subject


@dataclass(frozen=True)
class Reactive:
    """What mode Reactive would have paid and how many requests would have come late."""

    node_hours: float
    late: int
    offered: int


def reactive(sent_at: Sequence[float], chosen: Stage, subject: Subject, recording: Recording) -> Reactive | None:
    return None
