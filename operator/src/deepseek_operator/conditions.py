"""The object's conditions: what holds, what does not, and why, in words a person can act on."""

from __future__ import annotations

from deepseek_operator.core.status import Aspect
from deepseek_operator.fleet import Verdict


def aspects(v: Verdict, now: float) -> tuple[Aspect, ...]:
    """Every condition as it is at `now` (Unix seconds), `Ready` first."""
    t, decision = v.tracked, v.decision
    assert decision is not None
    desired, ready = t.desired or 0, len(v.serving)
    t.short_since = None if ready >= desired else (t.short_since if t.short_since is not None else now)
    mode = v.wanted.policy.mode
    if v.demand is None:
        metrics = Aspect("MetricsAvailable", "False", "DemandUnknown", v.missing)
    elif not v.demand.complete:
        metrics = Aspect("MetricsAvailable", "True", "DemandIncomplete", "some ready replicas did not report; nothing is released meanwhile")
    else:
        metrics = Aspect("MetricsAvailable", "True", "DemandRead")
    if mode in ("Reactive", "Manual"):
        forecast = Aspect("ForecastAvailable", "Unknown", "NotUsed", f"mode {mode} uses no forecast")
    elif v.forecast is None:
        forecast = Aspect("ForecastAvailable", "False", "ForecastUnavailable", f"{v.no_forecast}; following the present demand")
    elif t.memory.trust.too_high:
        forecast = Aspect("ForecastAvailable", "False", "ForecastTooHigh", f"{t.memory.trust.too_high}; following the present demand")
    elif t.memory.trust.too_low:
        message = f"{t.memory.trust.too_low}; it may add nodes, and they are released as slowly as without a forecast"
        forecast = Aspect("ForecastAvailable", "True", "ForecastTooLow", message)
    else:
        forecast = Aspect("ForecastAvailable", "True", "ForecastUsed")
    limited = Aspect(
        "ScalingLimited",
        "True" if decision.limited else "False",
        decision.limited or "DesiredWithinRange",
        decision.message if decision.limited else "",
    )
    waiting_for = t.waiting_for or (f"{desired - ready} of {desired} nodes to become ready" if ready < desired else "")
    progressing = (
        Aspect("Progressing", "True", "Waiting", f"waiting for {waiting_for}") if waiting_for else Aspect("Progressing", "False", "Settled")
    )
    serving = (
        Aspect("Ready", "True", "Serving", f"{ready} of {desired} nodes answer")
        if ready
        else Aspect("Ready", "False", "NoNodeReady", "no node answers yet")
    )
    return serving, metrics, forecast, limited, progressing, _degraded(v, now)


def _degraded(v: Verdict, now: float) -> Aspect:
    t, budget = v.tracked, v.wanted.spec.scaling.startup_budget_seconds
    if v.observed.cluster is not None and v.observed.cluster.autoscaler_on:
        message = f"Ray's own autoscaler is on in RayCluster {v.observed.cluster.name}; set enableInTreeAutoscaling to false"
        return Aspect("Degraded", "True", "AnotherAutoscaler", message)
    if t.write_problem:
        return Aspect("Degraded", "True", "WriteFailed", t.write_problem)
    if t.short_since is not None and now - t.short_since > budget:
        message = f"{len(v.serving)} of {t.desired} nodes are ready after {now - t.short_since:.0f} s; startupBudgetSeconds is {budget}"
        return Aspect("Degraded", "True", "NodesUnavailable", message)
    if t.serve_problem and t.serve is None and any(pod.ready for pod in v.observed.pods):
        return Aspect("Degraded", "True", "RayServeUnreachable", t.serve_problem)
    return Aspect("Degraded", "False", "AsExpected")
