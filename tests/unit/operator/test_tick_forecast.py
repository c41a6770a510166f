"""The whole tick on fakes: good and bad forecasts, and the modes.

A node does 10 requests per second, comes up after 20 s and loads for 5 s; a replica finishes within 4 s and its proxy drains for 6 s.
"""

from __future__ import annotations

from typing import Any

import pytest
from fake_fleet import PREDICTIVE, running

BAD_FORECASTS: dict[str, tuple[Any, str]] = {
    "down": (lambda f: setattr(f, "problem", "the forecaster cannot be reached: refused"), "the forecaster cannot be reached: refused"),
    "the series is not known": (lambda f: f.peaks.clear(), "the forecaster does not know this series"),
    "on probation": (lambda f: f.other.update(on_probation=True), "on probation"),
    "121 s old with a step of 60": (lambda f: setattr(f, "age_seconds", 121), "the forecast is 121 s old; at most 120 s is used"),
    "from 121 s ahead": (lambda f: setattr(f, "age_seconds", -121), "the forecast is -121 s old; at most 120 s is used"),
    "599 s ahead only": (lambda f: f.other.update(horizon_seconds=599), "the forecast looks 599 s ahead; 600 s is needed"),
    "without the percentile": (lambda f: f.other.update(peaks={0.5: 60.0, 0.9: 60.0}), "quantile must be between 0.5 and 0.9"),
}


@pytest.mark.parametrize(("happens", "message"), BAD_FORECASTS.values(), ids=BAD_FORECASTS.keys())
async def test_a_forecaster_that_fails_leaves_the_reactive_floor_and_a_condition(fleet: Any, happens: Any, message: str) -> None:
    """A peak of 60 had brought 8 nodes; without it the present 20 req/s need 3, after the window; and adding goes on as in mode Reactive."""
    fleet.forecaster.peaks["default.chat"] = 60
    await running(fleet, 8, 20, scaling=PREDICTIVE)
    assert fleet.condition("ForecastAvailable") == ("True", "ForecastUsed")
    happens(fleet.forecaster)
    await fleet.live(15)
    assert fleet.condition("ForecastAvailable") == ("False", "ForecastUnavailable")
    assert message in fleet.message("ForecastAvailable")
    assert fleet.message("ForecastAvailable").endswith("; following the present demand")
    assert fleet.decision()[0] == 8
    await fleet.live(240)
    assert fleet.decision() == (3, "Steady")
    fleet.load(48)
    await fleet.tick()
    assert fleet.decision() == (6, "ScaleUp")


async def test_a_forecast_that_comes_back_is_used_again(fleet: Any) -> None:
    """In the very next tick."""
    fleet.forecaster.problem = "down"
    await running(fleet, 3, 20, scaling=PREDICTIVE)
    fleet.forecaster.problem = ""
    fleet.forecaster.peaks["default.chat"] = 60
    await fleet.tick()
    assert fleet.decision() == (8, "ScaleUp")
    assert fleet.status()["forecast"]["peakRequestsPerSecond"] == "60"


async def test_the_horizon_covers_the_measured_cold_start(fleet: Any) -> None:
    """Nodes that took 800 s: from then on the forecast is asked for 800 + 15 (tick) + 60 (step) s and more, though the spec says 600."""
    await running(fleet, 1, 5, scaling=PREDICTIVE)
    assert fleet.forecaster.calls[-1][0].horizon_seconds == 600
    fleet.kuberay.start_seconds = 800
    fleet.load(15)
    await fleet.live(900)
    assert 875 <= fleet.forecaster.calls[-1][0].horizon_seconds <= 910


async def test_a_cold_start_of_days_does_not_stop_the_fleet(fleet: Any) -> None:
    """A pod that waited eight days for a GPU is more than a forecast request may ask for; the others' tick goes on."""
    fleet.settings = fleet.operator.settings
    fleet.apply("slow", scaling=PREDICTIVE)
    fleet.load(5, "slow")
    await fleet.live(60)
    pod = next(b for b in fleet.cluster.bodies("pods") if b["metadata"]["name"].startswith("slow"))
    pod["metadata"]["creationTimestamp"] = "2026-09-13T00:00:00Z"
    fleet.cluster.put("pods", pod)
    fleet.restart()
    fleet.apply("chat", scaling=PREDICTIVE)
    fleet.load(48)
    await fleet.tick()
    assert fleet.decision() == (6, "ScaleUp")


async def test_shadow_acts_as_reactive_and_records_what_predictive_would_have_run(fleet: Any) -> None:
    """The present 15 req/s: 2 nodes run; the foreseen 60: 8 are recorded, none is asked for."""
    fleet.forecaster.peaks["default.chat"] = 60
    await running(fleet, 2, 15, scaling=PREDICTIVE | {"mode": "Shadow"})
    assert fleet.status()["decision"] | {"message": "", "at": ""} == {
        "nodes": 2,
        "recommended": 2,
        "reason": "Steady",
        "message": "",
        "at": "",
        "shadowNodes": 8,
    }
    assert fleet.condition("ForecastAvailable") == ("True", "ForecastUsed")


async def test_reactive_asks_for_no_forecast(fleet: Any) -> None:
    """Not even once."""
    await running(fleet, 2, 15)
    assert fleet.forecaster.calls == []
    assert fleet.condition("ForecastAvailable") == ("Unknown", "NotUsed")


async def test_manual_runs_what_kubectl_scale_wrote(fleet: Any) -> None:
    """4, then 2 at once and in the safe order, whatever the load."""
    await running(fleet, 4, 100, scaling={"mode": "Manual"}, nodes={"count": 4})
    fleet.apply(scaling={"mode": "Manual"}, nodes={"count": 2})
    await fleet.tick()
    assert fleet.decision() == (2, "Manual")
    await fleet.live(60)
    assert (len(fleet.pods()), fleet.kuberay.cut) == (2, [])


async def test_the_ledger_beside_the_maximum_and_reactive(fleet: Any) -> None:
    """An hour at 3 of 10 nodes."""
    await running(fleet, 3, 20)
    began = fleet.metric("node_seconds", namespace="default", name="chat", policy="actual")
    await fleet.live(3600)
    hour = {
        policy: (fleet.metric("node_seconds", namespace="default", name="chat", policy=policy) or 0)
        for policy in ("actual", "maximum", "reactive")
    }
    assert hour["actual"] - (began or 0) == pytest.approx(3 * 3600)
    assert hour["maximum"] == pytest.approx(10 * (3600 + 180 - 15))
    assert hour["reactive"] == pytest.approx(hour["actual"])
