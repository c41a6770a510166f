"""The whole tick on fakes: what is measured, remembered and accounted for: cold starts, capacity, savings, budgets, calendars, jumps.

A node does 10 requests per second, comes up after 20 s and loads for 5 s; the clock begins on 2026-09-21 at 14:13:20 UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from fake_fleet import PREDICTIVE, QUICK, Fleet, running

from deepseek_operator.edge.promql import OwnQueries
from deepseek_operator.savings import as_table

REACTIVE = {"mode": "Reactive", "capacity": {"requestsPerSecondPerNode": "10"}} | QUICK
DAY = 86_400


# -------------------------------------------------------------------------------------------------------------- cold starts


async def test_objects_of_one_kind_of_node_share_their_cold_starts(fleet: Fleet) -> None:
    """Two objects serve the same model on the same nodes: the 3 starts of one are the horizon of both. A third, on another pool, has none."""
    other = {"min": 1, "max": 10, "nodeSelector": {"pool": "b"}}
    for name, nodes in (("chat", {}), ("mail", {}), ("far", other)):
        fleet.apply(name, scaling=REACTIVE, nodes=nodes)
        fleet.load(5, name)
    await fleet.live(120)
    fleet.load(30)
    await fleet.live(720)
    assert fleet.status("chat")["coldStart"]["samples"] == fleet.status("mail")["coldStart"]["samples"] == 3
    assert "coldStart" not in fleet.status("far")


async def test_a_cold_start_is_remembered_by_its_kind_over_a_restart(fleet: Fleet) -> None:
    """Two statuses tell of the same 3 starts: after the restart they are 3, not 6; and a start that comes after it is the fourth."""
    for name in ("chat", "mail"):
        fleet.apply(name, scaling=REACTIVE)
        fleet.load(5, name)
    await fleet.live(120)
    fleet.load(30)
    await fleet.live(720)
    fleet.restart()
    await fleet.live(30)
    assert fleet.metric("cold_start_p90_seconds", namespace="default", name="mail") == fleet.status()["coldStart"]["p90Seconds"]
    fleet.load(40)
    await fleet.live(120)
    assert fleet.status("chat")["coldStart"]["samples"] == 4


async def test_a_start_tells_its_parts_where_kubernetes_tells_them(fleet: Fleet) -> None:
    """A machine is found 10 s after the pod was created and 15 after the node was asked for, the container runs 10 s later; Ray and the model
    take the rest."""
    await running(fleet, 1, 5)
    fleet.load(20)
    await fleet.live(120)
    start = fleet.status()["coldStart"]
    assert (start["samples"], start["schedulingSeconds"], start["startingSeconds"]) == (2, 15, 10)
    assert start["p90Seconds"] == 25 + start["loadingSeconds"]


# ----------------------------------------------------------------------------------------------------------------- capacity


async def test_capacity_is_learned_from_saturation_and_kept_below_it(fleet: Fleet) -> None:
    """A replica did 4 req/s per busy second while hardly busy, 10 for three saturated minutes, and 4 again: 10."""
    fleet.apply(scaling={"mode": "Reactive", "capacity": {}})

    def say(rate: float, busy: float, queued: float) -> None:
        fleet.load(5, reporting=1)
        for reading, value in (("capacity", rate), ("busy", busy), ("queued", queued)):
            fleet.prometheus.say("default.chat", reading, value)

    say(4, 0.2, 0)
    await fleet.live(60)
    assert fleet.status()["capacity"] == {"requestsPerSecondPerNode": "4", "source": "Learned", "saturatedReadings": 0}
    say(10, 0.97, 5)
    await fleet.live(195)
    say(4, 0.2, 0)
    await fleet.live(1200)
    assert fleet.status()["capacity"]["requestsPerSecondPerNode"] == "10"
    fleet.restart()
    await fleet.live(600)
    assert fleet.metric("node_capacity_requests_per_second", namespace="default", name="chat") == 10


# ---------------------------------------------------------------------------------------------------------------- fast path


async def test_a_jump_is_acted_on_before_the_minute_is_over(fleet: Fleet) -> None:
    """The minute's mean still says 20; the last half of it says 60, and 300 wait: nodes for more than 40 at once, above the forecast of 22."""
    fleet.forecaster.peaks["default.chat"] = 22
    await running(fleet, 3, 20, scaling=PREDICTIVE)
    fleet.prometheus.say("default.chat", "recent", 60)
    fleet.prometheus.say("default.chat", "waiting", 300)
    await fleet.tick()
    nodes, reason = fleet.decision()
    assert reason == "ReactiveFloor"
    assert nodes >= 6
    assert "(20 arrived, and rising, 300 requests wait)" in fleet.status()["decision"]["message"]
    assert fleet.status()["demand"]["waiting"] == 300


async def test_what_waits_counts_beside_a_users_own_query_too(fleet: Fleet) -> None:
    """The gateway says 20; 600 wait at the replicas: 30 req/s need 4 nodes."""
    query = "sum(rate(gateway_requests_total[1m]))"
    fleet.prometheus.own[query] = [{"metric": {}, "value": [0, "20"]}]
    fleet.prometheus.say("default.chat", "waiting", 600)
    fleet.apply(scaling=REACTIVE | {"demand": {"query": query}})
    await fleet.tick()
    assert fleet.decision() == (4, "ScaleUp")


# ------------------------------------------------------------------------------------------------------ users' own queries


@pytest.mark.parametrize(
    ("rule", "words"),
    [("Forbid", "is not allowed by this operator"), ("Enforce", 'must contain namespace="default"')],
    ids=["forbidden", "not held to its namespace"],
)
async def test_a_query_that_is_not_allowed_is_asked_of_nobody(rule: Any, words: str) -> None:
    """Neither of Prometheus nor of the forecaster; the nodes are held and the condition says what is allowed."""
    fleet = Fleet(own_queries=OwnQueries(rule))
    fleet.apply(scaling=PREDICTIVE | {"demand": {"query": "sum(rate(secrets_total[1m]))"}})
    await fleet.live(60)
    assert all(call == frozenset() for call in fleet.prometheus.calls)
    assert fleet.forecaster.calls == []
    assert fleet.decision() == (1, "DemandUnknown")
    assert words in fleet.message("MetricsAvailable")


# ------------------------------------------------------------------------------------------------------- calendar and money


async def test_a_scheduled_floor_has_its_nodes_ready_when_it_begins(fleet: Fleet) -> None:
    """Nodes take about 30 s here. Five minutes ahead nothing is asked for; when the floor of 4 begins, 4 answer; after it they go."""
    await running(fleet, 1, 5)
    fleet.load(15)
    await fleet.live(60)
    fleet.load(5)
    await fleet.live(300)
    begins, ends = (datetime.fromtimestamp(fleet.clock.now + after, UTC).isoformat() for after in (300, 600))
    fleet.apply(scaling=REACTIVE | {"schedule": [{"name": "launch", "minNodes": 4, "startsAt": begins, "endsAt": ends}]})
    await fleet.live(225)
    assert fleet.decision()[0] == 1
    await fleet.live(90)
    assert fleet.decision() == (4, "ScheduledFloor")
    assert fleet.status()["nodes"]["ready"] == 4
    await fleet.live(240)
    assert fleet.decision()[0] == 4
    await fleet.live(180)
    assert fleet.decision()[0] == 1


async def test_a_calendar_that_cannot_be_read_is_degraded_and_said(fleet: Fleet) -> None:
    """Only the operator can know that there is no such zone."""
    floor = {"name": "office", "minNodes": 4, "cron": "0 8 * * MON-FRI", "durationSeconds": 60, "timeZone": "Europe/Atlantis"}
    fleet.apply(scaling=REACTIVE | {"schedule": [floor]})
    await fleet.tick()
    assert fleet.condition("Degraded") == ("True", "InvalidSpec")
    assert "timeZone must be a name of the IANA database" in fleet.message("Degraded")


async def test_a_budget_limits_what_is_added_and_survives_a_restart(fleet: Fleet) -> None:
    """14:13 to midnight: 9.8 hours. Of 12 node-hours 9.8 are the minimum's; 2.2 pay for 2 more nodes now, and later for none."""
    fleet.apply(scaling=REACTIVE | {"budget": {"nodeHoursPerDay": "12"}})
    fleet.load(48)
    await fleet.live(60)
    assert fleet.decision() == (3, "BudgetLimited")
    assert fleet.condition("ScalingLimited") == ("True", "BudgetLimited")
    await fleet.live(5400)
    assert fleet.decision() == (1, "BudgetLimited")
    fleet.restart()
    await fleet.live(60)
    used = float(re.search(r"([0-9.]+) of 12 node-hours of this day are used", fleet.status()["decision"]["message"])[1])  # type: ignore[index]
    assert 2.5 < used < 3
    fleet.clock.now += 8.5 * 3600  # midnight has passed
    await fleet.live(60)
    assert fleet.decision() == (1, "BudgetLimited"), "24 hours of the minimum are more than 12"
    fleet.apply(scaling=REACTIVE | {"budget": {"nodeHoursPerDay": "240"}})
    await fleet.tick()
    assert fleet.decision() == (6, "ScaleUp")


async def test_the_percentile_that_is_asked_for_follows_from_costs(fleet: Fleet) -> None:
    """2.50 a node-hour, 10 req/s, 0.001 a late request: 1 − 2.5 ÷ 36 = 93 %."""
    fleet.apply(scaling=PREDICTIVE | {"costPerNodeHour": "2.5", "costOfLateRequest": "0.001"})
    fleet.load(5)
    await fleet.tick()
    assert 0.93 in fleet.forecaster.calls[-1][0].quantiles


# ------------------------------------------------------------------------------------------------------------------ savings


async def test_savings_are_kept_by_the_day_and_over_restarts(fleet: Fleet) -> None:
    """An hour before midnight to an hour after it: Predictive runs 5 nodes for a peak of 40, Reactive would have run 3 for the present 20.
    Two more nodes with a GPU each at 2.50 an hour cost 2 GPU-hours and 5 in an hour."""
    fleet.clock.now += 9.75 * 3600 - 600
    fleet.forecaster.peaks["default.chat"] = 40
    gpus = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    fleet.apply(scaling=PREDICTIVE | {"costPerNodeHour": "2.5"}, nodes=gpus)
    fleet.load(20)
    await fleet.live(1800)
    fleet.restart()
    await fleet.live(5400)
    before, after = fleet.status()["savings"]
    assert (before["date"], after["date"]) == ("2026-09-21", "2026-09-22")
    for day in (before, after):
        nodes, reactive = float(day["nodeHours"]), float(day["reactiveNodeHours"])
        assert reactive < nodes
        assert float(day["savedGpuHours"]) == pytest.approx(reactive - nodes, abs=0.01)
        assert float(day["savedCost"]) == pytest.approx(2.5 * (reactive - nodes), abs=0.02)
    assert sum(float(day["nodeHours"]) for day in (before, after)) == pytest.approx(float(fleet.status()["ledger"]["nodeHours"]), abs=0.01)
    table = list(as_table([fleet.cluster.get("objects", "chat")]))
    assert [line.split()[1] for line in table] == ["DAY", "2026-09-21", "2026-09-22", "total"]


async def test_shadow_keeps_a_ledger_of_what_predictive_would_have_done(fleet: Fleet) -> None:
    """An hour at 2 nodes for the present 15 req/s; Predictive would have run 4 for the foreseen 28."""
    fleet.forecaster.peaks["default.chat"] = 28
    await running(fleet, 2, 15, scaling=PREDICTIVE | {"mode": "Shadow"})
    await fleet.live(3600 + 600)
    (day,) = fleet.status()["savings"]
    assert float(day["nodeHours"]) == pytest.approx(2.3, abs=0.3)
    assert float(day["predictiveNodeHours"]) == pytest.approx(4.7, abs=0.6)
    assert day["predictiveOverloadedSeconds"] <= 60, "more than its start"
    assert "predictiveNodeHours" not in (await _reactive_day())


async def _reactive_day() -> dict[str, Any]:
    fleet = Fleet()
    await running(fleet, 2, 15)
    await fleet.live(660)
    (day,) = fleet.status()["savings"]
    return dict(day)


async def test_overload_is_counted_for_both_with_the_measured_cold_start(fleet: Fleet) -> None:
    """A jump from 5 to 50 req/s on 1 node that Predictive has seen coming: it is never overloaded, Reactive for about a cold start."""
    fleet.forecaster.peaks["default.chat"] = 5
    await running(fleet, 1, 5, scaling=PREDICTIVE)
    fleet.load(15)
    await fleet.live(300)
    fleet.load(5)
    fleet.forecaster.peaks["default.chat"] = 50
    await fleet.live(300)
    fleet.load(50)
    await fleet.live(900)
    (day,) = fleet.status()["savings"]
    assert day["reactiveOverloadedSeconds"] - day["overloadedSeconds"] >= 25


async def test_forecasts_that_run_three_times_too_high_are_found_out_and_followed_no_more(fleet: Fleet) -> None:
    """45 req/s foreseen and 15 there: 6 nodes until 20 forecasts of 10 minutes have failed, then 2; the condition and the decision say why."""
    fleet.forecaster.peaks["default.chat"] = 45
    await running(fleet, 6, 15, scaling=PREDICTIVE)
    await fleet.live(900)
    assert fleet.decision()[0] == 6
    assert fleet.condition("ForecastAvailable") == ("True", "ForecastUsed")
    await fleet.live(1800)
    assert fleet.condition("ForecastAvailable") == ("False", "ForecastTooHigh")
    assert "not half of the load they expect came in" in fleet.message("ForecastAvailable")
    assert fleet.message("ForecastAvailable").endswith("; following the present demand")
    assert fleet.decision()[0] == 2
    assert "the forecasts run too high" in fleet.status()["decision"]["message"]
    fleet.forecaster.peaks["default.chat"] = 20
    await fleet.live(7200)
    assert fleet.condition("ForecastAvailable") == ("True", "ForecastUsed")
    assert fleet.decision()[0] == 3


async def test_forecasts_that_run_three_times_too_low_may_add_nodes_but_not_hasten_a_release(fleet: Fleet) -> None:
    """5 req/s foreseen and 15 there, for half an hour; when the load then halves, the second node goes after the window of 5 minutes."""
    fleet.forecaster.peaks["default.chat"] = 5
    await running(fleet, 2, 15, scaling={name: given for name, given in PREDICTIVE.items() if name != "scaleDownStabilizationSeconds"})
    await fleet.live(1800)
    assert fleet.condition("ForecastAvailable") == ("True", "ForecastTooLow")
    assert "passed by a quarter" in fleet.message("ForecastAvailable")
    fleet.load(7)
    await fleet.live(240)
    assert fleet.decision() == (2, "ScaleDownStabilized")
    assert "the window is 5 min, for the forecasts run too low" in fleet.status()["decision"]["message"]
    await fleet.live(180)
    assert fleet.decision()[0] == 1


async def test_a_forecaster_on_probation_is_left_out_in_shadow_too(fleet: Fleet) -> None:
    """What Predictive would have run is then what Reactive runs."""
    fleet.forecaster.peaks["default.chat"] = 60
    fleet.forecaster.other["on_probation"] = True
    await running(fleet, 2, 15, scaling=PREDICTIVE | {"mode": "Shadow"})
    assert fleet.condition("ForecastAvailable") == ("False", "ForecastUnavailable")
    assert fleet.status()["decision"]["shadowNodes"] == 2
