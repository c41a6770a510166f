"""A policy on a trace, and on the same stretch what else one could have done: everything the summary, the JSON and the page are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from deepseek_operator.api.v1alpha1 import DeepSeekDeploymentSpec, Mode
from deepseek_operator.core.foresight import Question
from deepseek_operator.core.types import Decision, Policy, capacity_in_spec
from deepseek_operator.replay.clairvoyant import VIEW_SECONDS, clairvoyant_node_hours, static, static_nodes, with_view
from deepseek_operator.replay.decider import Decider, Forecaster, replay
from deepseek_operator.replay.foresee import Foresight
from deepseek_operator.replay.simulate import Outcome, Rates, benchmark_capacity, simulate

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is replayed: requests per second in each step; steps before `start` are history. `began_at` is the Unix time of the first step,
    None for a trace that is at home nowhere in time."""

    name: str
    rates: Rates
    step_seconds: int
    start: int
    began_at: float | None = None

    @property
    def scored_seconds(self) -> float:
        """How long the part that counts is."""
        return (len(self.rates) - self.start) * self.step_seconds


@dataclass(frozen=True, slots=True)
class Line:
    """One way to run the stretch. `decisions` holds one verdict per tick where our own rules decided; `outcome` is None for the bound."""

    name: str
    node_hours: float
    outcome: Outcome | None = None
    decisions: tuple[Decision, ...] = ()
    gaps: tuple[tuple[str, int], ...] = ()
    """Why there was no forecast to act on, and at how many ticks."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A policy and its alternatives on a stretch. `node_capacity` in requests per second."""

    stretch: Stretch
    spec: DeepSeekDeploymentSpec
    node_capacity: float
    capacity_given: bool
    cold_start_seconds: float
    tick_seconds: float
    chosen: Line
    others: tuple[Line, ...]
    least: Line

    @property
    def lines(self) -> tuple[Line, ...]:
        """All of them, the chosen one first and the bound last."""
        return (self.chosen, *self.others, self.least)


def run(
    stretch: Stretch,
    spec: DeepSeekDeploymentSpec,
    *,
    capacity: float | None = None,
    cold_start_seconds: float = 180.0,
    tick_seconds: float = 15.0,
    progress: Progress | None = None,
) -> Replayed:
    """Replay the policy of `spec` and, on the same stretch, mode Reactive, as many nodes as the peak needs, and who knows the future.

    Raises ValueError where the trace cannot be replayed, and `NoModelsError` where the mode needs models that are not installed.
    """
    given = capacity or capacity_in_spec(spec)
    node_capacity = given or benchmark_capacity(stretch.rates)
    policy = Policy.of(spec)

    def ours(name: str, mode: Mode, forecaster: Foresight | None = None) -> Line:
        forecast: Forecaster | None = forecaster
        lead = cold_start_seconds + tick_seconds
        decider = Decider(replace(policy, mode=mode), node_capacity, forecast, lead_seconds=lead, began_at=stretch.began_at)
        outcome = replay(
            stretch.rates,
            stretch.step_seconds,
            decider,
            node_capacity,
            cold_start_seconds=cold_start_seconds,
            tick_seconds=tick_seconds,
            start=stretch.start,
        )
        gaps = tuple(sorted(forecaster.missing.items())) if forecaster else ()
        return Line(name, outcome.node_hours, outcome, tuple(decider.decisions), gaps)

    def world(name: str, decide: Callable[..., int]) -> Line:
        # Hindsight buys as many nodes as it takes; nodes.max binds the policy alone.
        outcome = simulate(
            stretch.rates,
            stretch.step_seconds,
            node_capacity,
            decide,
            cold_start_seconds=cold_start_seconds,
            tick_seconds=tick_seconds,
            start=stretch.start,
            start_nodes=peak if name.startswith("static") else None,
            max_nodes=max(peak, policy.max_nodes),
        )
        return Line(name, outcome.node_hours, outcome)

    def foresight() -> Foresight:
        question = Question.of(spec.scaling, node_capacity, cold_start_seconds, tick_seconds, stretch.step_seconds)
        return Foresight(stretch.rates, stretch.step_seconds, question, start=max(1, stretch.start), progress=progress)

    peak = static_nodes(stretch.rates, node_capacity, start=stretch.start)
    mode = policy.mode
    chosen = ours(mode, mode, foresight() if mode == "Predictive" else None)
    others = []
    if mode == "Shadow":
        others.append(ours("Predictive, in the shadow", "Predictive", foresight()))
    if mode not in ("Reactive", "Shadow"):  # mode Shadow acts as Reactive does
        others.append(ours("Reactive", "Reactive"))
    others.append(world(f"static at the peak ({peak})", static(peak)))
    others.append(world(f"knowing {VIEW_SECONDS:g} s ahead", with_view(stretch.rates, stretch.step_seconds, node_capacity)))
    least = clairvoyant_node_hours(stretch.rates, stretch.step_seconds, node_capacity, cold_start_seconds, start=stretch.start)
    return Replayed(
        stretch=stretch,
        spec=spec,
        node_capacity=node_capacity,
        capacity_given=given is not None,
        cold_start_seconds=cold_start_seconds,
        tick_seconds=tick_seconds,
        chosen=chosen,
        others=tuple(others),
        least=Line("knowing all (the least)", least),
    )
