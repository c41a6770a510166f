"""What the decision is made of: what is known, what is wanted, what was decided. Not knowing is a value: `None`, never 0."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from deepseek_operator.api.v1alpha1 import BetweenThresholds, DeepSeekDeploymentSpec, Mode, quantity_value

RECOMMENDATIONS_KEPT_SECONDS = 3600
"""How long recommendations are remembered: the safe level after a loss of metrics is the highest of the last hour."""


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
    scale_down_stabilization_seconds: float = 300
    max_scale_up_nodes: int | None = None
    max_scale_down_nodes: int | None = None
    unknown_demand_grace_seconds: float = 600

    @classmethod
    def of(cls, spec: DeepSeekDeploymentSpec) -> Policy:
        """The policy a custom resource asks for."""
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
        )


def capacity_in_spec(spec: DeepSeekDeploymentSpec) -> float | None:
    """Requests per second of one node as the spec gives it, or None: then it is learned."""
    given = spec.scaling.capacity.requests_per_second_per_node
    return None if given is None else quantity_value(given)


@dataclass(frozen=True, slots=True)
class Demand:
    """Offered load in requests per second, rejected requests included. `complete` is False when some ready replicas did not report:
    then the true load is at least `rate`, so it may raise the node count and never lower it."""

    rate: float
    complete: bool = True


@dataclass(frozen=True, slots=True)
class PeakForecast:
    """The predicted peak over the horizon at the policy's percentile, and the mean, both in requests per second."""

    peak: float
    mean: float
    percentile: int
    horizon_seconds: float
    issued_at: float


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
    """The bound that cut the recommendation (TooManyReplicas, TooFewReplicas), as the HPA names it; empty: none did."""

    def but(self, nodes: int, reason: str, message: str, *, limited: str = "") -> Decision:
        """The same decision with another count and the reason for it."""
        return replace(self, nodes=nodes, reason=reason, message=message, limited=limited or self.limited)
