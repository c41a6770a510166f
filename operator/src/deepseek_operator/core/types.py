"""What the decision is made of: what is known, what is wanted, what was decided. Not knowing is a value: `None`, never 0."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from deepseek_operator.api.v1alpha1 import BetweenThresholds, DeepSeekDeploymentSpec, Mode, ScalingSpec, WhenSpent, quantity_value
from deepseek_operator.core.schedule import ScheduledFloor
from deepseek_operator.core.trust import Trust

if TYPE_CHECKING:
    from deepseek_operator.core.budget import Spent

RECOMMENDATIONS_KEPT_SECONDS = 3600
"""How long recommendations are remembered: the safe level after a loss of metrics is the highest of the last hour."""


REACTIVE_STABILIZATION_SECONDS = 300.0
"""The window before a release while the present demand decides, as the HPA's: what went up a minute ago may well come back. A forecast says
whether it will, so where one decides there is no window, and a margin keeps the count from wavering (`core.recommend`)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user wants of scaling, in plain numbers. Nodes are counts, percentages whole numbers, durations seconds."""

    mode: Mode = "Predictive"
    min_nodes: int = 1
    max_nodes: int = 10
    manual_nodes: int | None = None
    scale_up_percent: int = 80
    scale_down_percent: int = 30
    between_thresholds: BetweenThresholds = "Consolidate"
    scale_up_cooldown_seconds: float = 0
    scale_down_cooldown_seconds: float = 60
    scale_down_stabilization_seconds: float | None = None
    """None: 300 while the present demand decides, 0 while a forecast does."""
    max_scale_up_nodes: int | None = None
    max_scale_down_nodes: int | None = None
    unknown_demand_grace_seconds: float = 600
    schedule: tuple[ScheduledFloor, ...] = ()
    budget_node_hours: float | None = None
    """Node-hours a day (UTC) may take; None: as many as it takes."""
    when_spent: WhenSpent = "Release"

    @classmethod
    def of(cls, spec: DeepSeekDeploymentSpec) -> Policy:
        """The policy a custom resource asks for. Raises `ValueError` saying what is allowed where its calendar cannot be read."""
        nodes, scaling = spec.nodes, spec.scaling
        return cls(
            mode=scaling.mode,
            min_nodes=nodes.min,
            max_nodes=nodes.max,
            manual_nodes=nodes.count,
            scale_up_percent=scaling.scale_up_percent,
            scale_down_percent=scaling.scale_down_percent,
            between_thresholds=scaling.between_thresholds,
            scale_up_cooldown_seconds=scaling.scale_up_cooldown_seconds,
            scale_down_cooldown_seconds=scaling.scale_down_cooldown_seconds,
            scale_down_stabilization_seconds=scaling.scale_down_stabilization_seconds,
            max_scale_up_nodes=scaling.max_scale_up_nodes,
            max_scale_down_nodes=scaling.max_scale_down_nodes,
            unknown_demand_grace_seconds=scaling.unknown_demand_grace_seconds,
            schedule=tuple(ScheduledFloor.of(floor) for floor in scaling.schedule),
            budget_node_hours=_node_hours_a_day(scaling),
            when_spent=scaling.budget.when_spent if scaling.budget else "Release",
        )


def _node_hours_a_day(scaling: ScalingSpec) -> float | None:
    """The lower of the budget in node-hours and the budget in money: 300 a day at 2.50 an hour are 120 node-hours."""
    if scaling.budget is None:
        return None
    limits = []
    if scaling.budget.node_hours_per_day is not None:
        limits.append(quantity_value(scaling.budget.node_hours_per_day))
    if scaling.budget.cost_per_day is not None and scaling.cost_per_node_hour is not None:
        limits.append(quantity_value(scaling.budget.cost_per_day) / quantity_value(scaling.cost_per_node_hour))
    return min(limits, default=None)


def capacity_in_spec(spec: DeepSeekDeploymentSpec) -> float | None:
    """Requests per second of one node as the spec gives it, or None: then it is learned."""
    given = spec.scaling.capacity.requests_per_second_per_node
    return None if given is None else quantity_value(given)


@dataclass(frozen=True, slots=True)
class Demand:
    """Offered load in requests per second, rejected requests included and what waits too: `core.demand.offered` makes it of the readings.
    `complete` is False when some ready replicas did not report: then the true load is at least `rate`, so it may raise the node count and
    never lower it."""

    rate: float
    complete: bool = True
    arrivals: float | None = None
    """Requests per second that arrived over the whole window; None where `rate` is all that is known."""
    risen: bool = False
    """The end of the window shows for sure that more arrive lately."""
    waiting: float = 0.0
    """Requests that wait."""

    @property
    def pressing(self) -> bool:
        """More than the nodes can do, or about to be: a request waits, or more surely arrive lately."""
        return self.risen or self.waiting >= 1

    @property
    def made_of(self) -> str:
        """Where `rate` is more than the arrivals of the window: what it is made of, in brackets."""
        if self.arrivals is None or self.rate <= self.arrivals:
            return ""
        more = [*(["and rising"] if self.risen else []), *([f"{self.waiting:.0f} requests wait"] if self.waiting else [])]
        return f" ({self.arrivals:.3g} arrived{', ' if more else ''}{', '.join(more)})"


@dataclass(frozen=True, slots=True)
class PeakForecast:
    """What is foreseen, in requests per second: the peak over the horizon at the policy's percentile, the mean, and what the decision stands
    on, the load that has to be carried until a node asked for now could be there."""

    peak: float
    mean: float
    percentile: int
    horizon_seconds: float
    issued_at: float
    loads: tuple[tuple[float, float], ...] = ()
    """(quantile, load) of what has to be carried, both rising, from the median on; empty: only `peak` is known, and stands for all of it."""
    quantile: float = 0.0
    """The quantile to provide for (`core.risk`); 0: `percentile` says it."""
    later: float = 1.0
    """The share of that load which is still expected once a node asked for now is there: below 1 when the load is about to fall."""
    lead_seconds: float = 0.0
    """How far ahead `loads` reach; 0: over the whole horizon."""
    slack_seconds: float = 10.0
    """How long work may wait within `loads`."""

    @property
    def middle(self) -> float:
        """The load that is as likely passed as not: predicted utilization is taken of it."""
        return self.loads[0][1] if self.loads else self.peak

    @property
    def provided(self) -> float:
        """The quantile to provide for."""
        return self.quantile or self.percentile / 100


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A node count that was recommended at a moment, before windows, cooldowns and bounds."""

    at: float
    nodes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What the decision has to remember between ticks. Times are Unix seconds; None: never."""

    recommendations: tuple[Recommendation, ...] = ()
    scaled_at: float | None = None
    scaled_up_at: float | None = None
    demand_known_at: float | None = None
    spent: Spent | None = None
    """What the nodes of this day took so far."""
    trust: Trust = field(default_factory=Trust)
    """How the forecasts did so far."""

    @classmethod
    def begin(cls, now: float, nodes: int, scaled_at: float | None = None) -> Memory:
        """Memory of an operator that just started: the nodes it finds count as recommended now, so a restart releases nothing early."""
        return cls(recommendations=(Recommendation(now, nodes),), scaled_at=scaled_at, demand_known_at=now)

    def highest(self, since: float) -> int | None:
        """The highest node count recommended at or after `since`, or None when nothing is remembered from then."""
        return max((r.nodes for r in self.recommendations if r.at >= since), default=None)


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything one decision looks at. `nodes` is the count asked for now, starting nodes included; `node_capacity` is requests per
    second of one node; `missing` says in words why demand or forecast is None."""

    now: float
    policy: Policy
    nodes: int
    demand: Demand | None
    node_capacity: float | None
    forecast: PeakForecast | None = None
    memory: Memory = field(default_factory=Memory)
    missing: str = ""
    release_barred: str = ""
    """Why no node may be released now (an upgrade is under way, say); empty: nothing speaks against it."""
    lead_seconds: float = 0.0
    """How long a node takes from being asked for to answering: a scheduled floor is asked for so long before it begins."""
    wall: float | None = None
    """This moment on the wall's clock (Unix seconds), for what stands in the calendar; None: `now` is that too."""

    @property
    def foreseen(self) -> PeakForecast | None:
        """The forecast that decides; None where the present demand does: no forecast, one that is not trusted, or a mode that follows none."""
        return self.forecast if self.policy.mode == "Predictive" and not self.memory.trust.lost_high else None

    @property
    def distrusted(self) -> str:
        """Why the forecast there is does not decide alone, in words; empty: it does, or there is none."""
        if self.forecast is None or self.policy.mode != "Predictive":
            return ""
        return self.memory.trust.too_high or self.memory.trust.too_low

    @property
    def window(self) -> float:
        """The stabilization window, in seconds."""
        given = self.policy.scale_down_stabilization_seconds
        if given is not None:
            return given
        return 0.0 if self.foreseen and not self.memory.trust.lost_low else REACTIVE_STABILIZATION_SECONDS

    @property
    def date(self) -> float:
        """This moment in the calendar (Unix seconds)."""
        return self.now if self.wall is None else self.wall


@dataclass(frozen=True, slots=True)
class Decision:
    """How many nodes, and why. `recommended` is the count before windows, cooldowns and bounds; utilizations are fractions of the capacity
    of `Situation.nodes`, None where not known."""

    nodes: int
    reason: str
    message: str
    recommended: int
    utilization: float | None = None
    predicted_utilization: float | None = None
    limited: str = ""
    """What cut the recommendation: TooManyReplicas or TooFewReplicas, as the HPA names the bounds, or BudgetLimited; empty: nothing did."""

    def but(self, nodes: int, reason: str, message: str, *, limited: str = "") -> Decision:
        """The same decision with another count and the reason for it."""
        return replace(self, nodes=nodes, reason=reason, message=message, limited=limited or self.limited)
