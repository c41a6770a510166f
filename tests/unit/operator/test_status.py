"""What the status says, and when it is worth a write: a converged object is silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deepseek_operator.core.coldstart import Start, Starts
from deepseek_operator.core.ledger import Day, Ledger
from deepseek_operator.core.status import (
    REFRESH_SECONDS,
    Aspect,
    Picture,
    as_body,
    build,
    day_of,
    gist,
    starts_of,
    timestamp,
    worth_building,
    worth_writing,
)
from deepseek_operator.core.types import Decision, Demand, PeakForecast

NOW = 1_790_000_000.0
READY = Aspect("Ready", "True", "Serving", "3 of 3 nodes answer")
DECISION = Decision(3, "Steady", "demand 20 req/s needs 3", 3, utilization=0.667, predicted_utilization=0.7)
PICTURE = Picture(
    now=NOW,
    generation=2,
    aspects=(READY,),
    desired=3,
    current=3,
    ready=3,
    replicas_ready=3,
    decision=DECISION,
    demand=Demand(20.0),
    forecast=PeakForecast(21.5, 18.25, 95, 600.0, NOW - 10),
    models={"arima": 0.614, "lstm": 0.386},
    capacity=10.0,
    starts=Starts((Start("a", 90.4, 30, 20.2, 40.2),)),
    ledger=Ledger(NOW - 3600, NOW, 3 * 3600, 10 * 3600, 4.5 * 3600, (Day(20_717, 3 * 3600, 0, 4.5 * 3600, 30, 0, 0, 1.5 * 3600, -0.25),)),
    has_gpus=True,
    scaled_at=NOW - 60,
)


def test_the_whole_status() -> None:
    """As the API stores it."""
    body = as_body(build(PICTURE, None))
    at = timestamp(NOW)
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "Serving",
        "message": "3 of 3 nodes answer",
        "lastTransitionTime": at,
        "observedGeneration": 2,
    }
    assert body == {
        "observedGeneration": 2,
        "conditions": [condition],
        "nodes": {"desired": 3, "current": 3, "ready": 3},
        "replicas": {"desired": 3, "ready": 3},
        "demand": {"requestsPerSecond": "20", "observedAt": at},
        "utilization": {"currentPercent": 67, "predictedPercent": 70},
        "forecast": {
            "issuedAt": timestamp(NOW - 10),
            "horizonSeconds": 600,
            "percentile": 95,
            "peakRequestsPerSecond": "21.5",
            "meanRequestsPerSecond": "18.25",
            "models": {"arima": 61, "lstm": 39},
            "onProbation": "False",
        },
        "capacity": {"requestsPerSecondPerNode": "10", "source": "Spec"},
        "coldStart": {"p90Seconds": 90, "samples": 1, "schedulingSeconds": 30, "startingSeconds": 20, "loadingSeconds": 40},
        "decision": {"nodes": 3, "recommended": 3, "reason": "Steady", "message": "demand 20 req/s needs 3", "at": at},
        "lastScaleAt": timestamp(NOW - 60),
        "ledger": {"since": timestamp(NOW - 3600), "nodeHours": "3", "atMaximumNodeHours": "10", "reactiveNodeHours": "4.5"},
        "savings": [
            {
                "date": "2026-09-21",
                "nodeHours": "3",
                "reactiveNodeHours": "4.5",
                "savedGpuHours": "1.5",
                "savedCost": "-0.25",
                "overloadedSeconds": 0,
                "reactiveOverloadedSeconds": 30,
            }
        ],
    }


def test_what_the_status_tells_an_operator_that_starts_anew() -> None:
    """The starts as one that counts as often, and the days as they were."""
    status = build(PICTURE, None)
    assert status.cold_start is not None
    assert starts_of(status.cold_start) == Starts((Start("earlier", 90, 30, 20, 40),))
    assert PICTURE.ledger is not None
    assert tuple(day_of(day) for day in status.savings) == PICTURE.ledger.days
    shadow = replace(PICTURE.ledger, days=(Day(20_717, 7200, 15, 3600, 0, 5400, 45, 0, 0),))
    assert tuple(day_of(day) for day in build(replace(PICTURE, ledger=shadow), None).savings) == shadow.days


def test_what_is_not_known_is_absent() -> None:
    """Not 0, not NaN, not an empty text."""
    unknown = replace(PICTURE, demand=None, forecast=None, capacity=None, starts=Starts(), scaled_at=None, decision=None, ledger=None)
    body = as_body(build(unknown, None))
    assert body.keys() == {"observedGeneration", "conditions", "nodes", "replicas"}


def changed(**change: Any) -> Picture:
    return replace(PICTURE, now=NOW + 15, **change)


UNIMPORTANT = {
    "nothing": changed(),
    "demand moved from 20 to 21": changed(demand=Demand(21.0)),
    "predicted utilization moved from 70 to 75 %": changed(decision=replace(DECISION, predicted_utilization=0.75)),
    "the sentence of the same decision has other figures": changed(decision=replace(DECISION, message="demand 21 req/s needs 3")),
    "the ledger counted on": changed(ledger=Ledger(NOW - 3600, NOW + 15, 4e4, 5e4, 6e4)),
    "a newer forecast": changed(forecast=PeakForecast(22, 19, 95, 600, NOW)),
    "the words of a condition": changed(aspects=(replace(READY, message="other words"),)),
    "a capacity learned a little further": changed(capacity=10.3),
}
IMPORTANT = {
    "the count": changed(desired=4),
    "a node became ready": changed(ready=2),
    "a replica became ready": changed(replicas_ready=2),
    "the reason": changed(decision=replace(DECISION, reason="ScaleDownStabilized")),
    "the generation": changed(generation=3),
    "a condition's status": changed(aspects=(replace(READY, status="False"),)),
    "a condition's reason": changed(aspects=(replace(READY, reason="Other"),)),
    "a new condition": changed(aspects=(READY, Aspect("Degraded", "False", "AsExpected"))),
    "demand is not known any more": changed(demand=None),
    "capacity is not known any more": changed(capacity=None),
    "predicted utilization moved from 70 to 80 %": changed(decision=replace(DECISION, predicted_utilization=0.8)),
    "what Predictive would have run": changed(shadow_nodes=5),
    "the endpoint": changed(endpoint="http://elsewhere/v1"),
}


@pytest.mark.parametrize("picture", UNIMPORTANT.values(), ids=UNIMPORTANT.keys())
def test_not_worth_a_write_until_ten_minutes_have_passed(picture: Picture) -> None:
    """Silent for 599 s; then once, if a figure moved."""
    written = build(PICTURE, None)
    new = build(picture, written)
    assert not worth_writing(new, written, NOW, NOW + REFRESH_SECONDS - 1)
    assert worth_writing(new, written, NOW, NOW + REFRESH_SECONDS) == (new != written)


@pytest.mark.parametrize("picture", IMPORTANT.values(), ids=IMPORTANT.keys())
def test_worth_a_write_at_once(picture: Picture) -> None:
    """Somebody may act on it; the status is made to see it, though nothing else is due."""
    written = build(PICTURE, None)
    assert worth_building(picture, gist(PICTURE), NOW)
    assert worth_writing(build(picture, written), written, NOW, NOW + 15)


def test_no_status_is_made_of_a_picture_that_says_nothing_new() -> None:
    """Until the figures are due, or when none was made yet."""
    assert not worth_building(changed(demand=Demand(21.0)), gist(PICTURE), NOW)
    assert worth_building(replace(PICTURE, now=NOW + REFRESH_SECONDS), gist(PICTURE), NOW)
    assert worth_building(PICTURE, None, NOW)


def test_the_first_status_is_always_written() -> None:
    """There is nothing it could equal."""
    assert worth_writing(build(PICTURE, None), None, -1e18, NOW)


def test_a_condition_keeps_the_instant_of_its_status() -> None:
    """True → True with other words keeps it, True → False renews it."""
    first = build(PICTURE, None)
    same = build(changed(aspects=(replace(READY, reason="Other", message="x"),)), first)
    turned = build(changed(aspects=(replace(READY, status="False"),)), first)
    assert same.conditions[0].last_transition_time == timestamp(NOW)
    assert turned.conditions[0].last_transition_time == timestamp(NOW + 15)


def test_a_decision_keeps_the_instant_it_was_first_made() -> None:
    """The same count for the same reason; another reason is another decision."""
    first = build(PICTURE, None)
    assert build(changed(), first).decision.at == timestamp(NOW)  # type: ignore[union-attr]
    assert build(changed(decision=replace(DECISION, reason="X")), first).decision.at == timestamp(NOW + 15)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("share", "percent"),
    [(0.0, 0), (0.674, 65), (0.676, 70), (12.0, 1000), (float("inf"), 1000), (None, None)],
    ids=["0", "67.4 → 65", "67.6 → 70", "1200 → 1000", "any load on no node → 1000", "not known"],
)
def test_predicted_utilization_is_rounded_to_five(share: float | None, percent: int | None) -> None:
    """So that a quiet object's status does not change with every forecast."""
    status = build(changed(decision=replace(DECISION, predicted_utilization=share)), None)
    assert status.utilization is not None
    assert status.utilization.predicted_percent == percent


def test_times_are_whole_seconds_in_utc() -> None:
    """RFC 3339."""
    assert timestamp(1_790_000_000.9) == "2026-09-21T14:13:20Z"
