"""The operator's own decision as a policy of the replay: the `decide()` that runs live, with its memory, never a copy of it."""

from __future__ import annotations

from collections.abc import Callable

from deepseek_operator.core.decide import decide, remember
from deepseek_operator.core.demand import offered
from deepseek_operator.core.types import Decision, Memory, PeakForecast, Policy, Situation
from deepseek_operator.replay.simulate import Observation, Outcome, Rates, simulate
from deepseek_operator.replay.world import LATE_SECONDS

Forecaster = Callable[[float], PeakForecast | None]
"""The forecast that was there at an instant (seconds since the trace began), or None."""


class Decider:
    """Asks `decide()` at each tick and remembers, as the operator's tick does. `decisions` holds its verdicts, one per tick.

    `lead_seconds` is how long before it begins a scheduled floor is asked for; `began_at` the Unix time of the trace's begin, by which the
    calendar is read.
    """

    def __init__(
        self,
        policy: Policy,
        node_capacity: float,
        forecaster: Forecaster | None = None,
        *,
        lead_seconds: float = 0.0,
        began_at: float | None = None,
    ) -> None:
        self.policy, self.node_capacity = policy, node_capacity
        self.decisions: list[Decision] = []
        self._forecaster, self._lead_seconds, self._began_at = forecaster, lead_seconds, began_at
        self._memory: Memory | None = None

    def __call__(self, now: float, seen: Observation) -> int:
        """How many nodes there shall be."""
        if self._memory is None:
            self._memory = Memory.begin(now, seen.asked)
        situation = Situation(
            now=now,
            policy=self.policy,
            nodes=seen.asked,
            demand=None if seen.rate is None else offered(seen.rate, waiting=seen.waiting),
            node_capacity=self.node_capacity,
            forecast=self._forecaster(now) if self._forecaster else None,
            memory=self._memory,
            lead_seconds=self._lead_seconds,
            wall=None if self._began_at is None else self._began_at + now,
        )
        decision = decide(situation)
        self._memory = remember(situation, decision)
        self.decisions.append(decision)
        return decision.nodes


def replay(
    rates: Rates,
    step_seconds: float,
    policy: Policy | Decider,
    node_capacity: float,
    *,
    forecaster: Forecaster | None = None,
    cold_start_seconds: float = 180.0,
    tick_seconds: float = 15.0,
    start: int = 0,
    seen: Rates | None = None,
    start_nodes: int | None = None,
    late_seconds: float = LATE_SECONDS,
) -> Outcome:
    """`simulate` with the operator's own decision, between the policy's bounds. Give a `Decider` to read its reasons afterwards."""
    decider = policy if isinstance(policy, Decider) else Decider(policy, node_capacity, forecaster)
    return simulate(
        rates,
        step_seconds,
        node_capacity,
        decider,
        cold_start_seconds=cold_start_seconds,
        tick_seconds=tick_seconds,
        start=start,
        seen=seen,
        start_nodes=start_nodes,
        min_nodes=decider.policy.min_nodes,
        max_nodes=decider.policy.max_nodes,
        late_seconds=late_seconds,
    )
