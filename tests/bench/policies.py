"""Every policy of the benchmark: whose code runs, its knob, the values it is swept over, and what it ships with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench import ours
from bench.loads import Load
from bench.rivals import dynamo_planner, holt_winters, knative, kubernetes, ray_serve

from deepseek_operator.replay import NodePolicy, static, static_nodes, with_view

UTILIZATIONS = (1.0, 0.9, 0.8, 0.7, 0.55, 0.4, 0.25)
"""Target utilization of a node, from daring to careful: the knob of everybody who scales on a target."""


@dataclass(frozen=True)
class Place:
    """Where a policy is put: the load, how long a node takes to start, and where dear intermediate results are kept."""

    load: Load
    cold_start_seconds: float
    cache: Path


class Ends(Protocol):
    """A policy that has something to end."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Contender:
    """One policy. `make(knob, place)` gives a `NodePolicy`; one with a `close` is closed after the run. `default`: the knob as shipped."""

    name: str
    title: str
    code: str
    knob: str
    knobs: tuple[float, ...]
    default: float | None
    tick_seconds: float
    make: Callable[[float, Place], NodePolicy]
    ours: bool = False


def _forecasts(place: Place) -> ours.Forecasts:
    from bench.prepare import forecasts_path

    return ours.Forecasts.read(forecasts_path(place), place.cold_start_seconds)


def _dynamo(kind: str) -> Contender:
    return Contender(
        f"dynamo-{kind}",
        f"NVIDIA Dynamo planner, {kind}",
        f"its own: predictors and throughput rule of ai-dynamo {dynamo_planner.VERSION}, in its own environment",
        "share of an engine's capacity",
        UTILIZATIONS,
        1.0,
        60.0,
        lambda knob, place: dynamo_planner.Dynamo(knob, place.load, dynamo_planner.kept_predictions(kind, place.load, place.cache)),
    )


def _faulty(name: str, title: str, factor: float | None) -> Contender:
    return Contender(
        f"predictive-{name}",
        f"DeepSeek operator, {title}",
        "this project's",
        "–",
        (ours.DEFAULT,),
        ours.DEFAULT,
        ours.TICK_SECONDS,
        lambda _, place: ours.faulty(factor, place.load, _forecasts(place)),
        ours=True,
    )


CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(
            "predictive",
            "**DeepSeek operator, Predictive**",
            "this project's",
            "care: scaleUpPercent and percentile",
            ours.CARE,
            ours.DEFAULT,
            ours.TICK_SECONDS,
            lambda knob, place: ours.predictive(knob, place.load, _forecasts(place)),
            ours=True,
        ),
        _faulty("down", "the forecaster down", None),
        _faulty("tripled", "forecasts three times too high", 3.0),
        _faulty("thirded", "forecasts three times too low", 1 / 3),
        Contender(
            "reactive",
            "last value with 80/30 (our mode Reactive)",
            "this project's",
            "scaleUpPercent",
            (100, 90, 80, 70, 55, 40, 25),
            80.0,
            ours.TICK_SECONDS,
            lambda knob, place: ours.reactive(knob, place.load),
        ),
        Contender(
            "hpa",
            "Kubernetes HPA",
            "its own: HorizontalController of k8s.io/kubernetes 1.36.3, whole, on a fake clock",
            "target utilization",
            UTILIZATIONS,
            0.8,
            kubernetes.HPA_SYNC_SECONDS,
            lambda knob, place: kubernetes.Hpa(knob, place.load.capacity),
        ),
        Contender(
            "keda",
            "KEDA on Prometheus",
            "the same HorizontalController on an external metric, polled every 30 s",
            "target",
            UTILIZATIONS,
            0.8,
            kubernetes.HPA_SYNC_SECONDS,
            lambda knob, place: kubernetes.Keda(knob, place.load.capacity),
        ),
        Contender(
            "kpa",
            "Knative KPA",
            "its own: autoscaler and metric windows of knative.dev/serving 0.42.2",
            "target concurrency",
            UTILIZATIONS,
            0.7,
            knative.TICK_SECONDS,
            lambda knob, place: knative.Kpa(knob, place.load.capacity),
        ),
        Contender(
            "ray",
            "Ray Serve",
            "its own: ray.serve.autoscaling_policy of ray 2.60, with its delays",
            "target_ongoing_requests",
            UTILIZATIONS,
            0.4,
            ray_serve.TICK_SECONDS,
            lambda knob, place: ray_serve.RayServe(knob, place.load.capacity),
        ),
        *(_dynamo(kind) for kind in dynamo_planner.PREDICTORS),
        Contender(
            "phpa",
            "predictive-horizontal-pod-autoscaler",
            "by formula: Holt-Winters on replica counts",
            "target utilization",
            UTILIZATIONS,
            0.8,
            holt_winters.TICK_SECONDS,
            lambda knob, place: holt_winters.Phpa(knob, place.load),
        ),
        Contender(
            "static",
            "static at the peak",
            "–",
            "–",
            (1.0,),
            None,
            60.0,
            lambda knob, place: static(static_nodes(place.load.rates, place.load.capacity, start=place.load.start)),
        ),
        Contender(
            "view",
            "clairvoyant with a view of 240 s",
            "–",
            "–",
            (1.0,),
            None,
            15.0,
            lambda knob, place: with_view(place.load.rates, 60.0, place.load.capacity),
        ),
    )
}

RIVALS = tuple(name for name, contender in CONTENDERS.items() if not contender.ours and name not in ("static", "view"))
"""Everybody the headline is held against; last value with 80/30 among them."""
