"""The whole tick on fakes: good and bad measurements of demand and capacity.

A node does 10 requests per second, comes up after 20 s and loads for 5 s; a replica finishes within 4 s and its proxy drains for 6 s.
"""

from __future__ import annotations

from typing import Any

import pytest
from fake_fleet import running

BAD: dict[str, Any] = {
    "Prometheus is down": lambda fleet: setattr(fleet.prometheus, "problem", "Prometheus: ConnectionError: refused"),
    "no series": lambda fleet: fleet.prometheus.forget("default.chat"),
    "NaN": lambda fleet: fleet.load("NaN"),
    "infinite": lambda fleet: fleet.load("+Inf"),
    "negative": lambda fleet: fleet.load("-5"),
    "a word": lambda fleet: fleet.load("none"),
    "two series": lambda fleet: (fleet.load(0), fleet.prometheus.say("default.chat", "demand", 0)),
    "only two of six replicas reported": lambda fleet: fleet.load(0, reporting=2),
    "the number of reporting replicas is not known": lambda fleet: fleet.load(0, reporting="NaN"),
}


@pytest.mark.parametrize("happens", BAD.values(), ids=BAD.keys())
async def test_twenty_minutes_of_bad_measurements_release_nothing(fleet: Any, happens: Any) -> None:
    """6 nodes stay 6; the condition says so within two ticks; with the load back at 5 req/s the window begins anew."""
    await running(fleet, 6, 48)
    happens(fleet)
    await fleet.live(30)
    incomplete = fleet.condition("MetricsAvailable") == ("True", "DemandIncomplete")
    assert incomplete or fleet.condition("MetricsAvailable") == ("False", "DemandUnknown")
    await fleet.live(1200)
    assert (fleet.group()["replicas"], fleet.decision()[0]) == (6, 6)
    fleet.prometheus.problem = ""
    fleet.load(5)
    await fleet.live(30)
    assert fleet.condition("MetricsAvailable") == ("True", "DemandRead")
    assert fleet.group()["replicas"] == 6
    await fleet.live(180)
    assert (fleet.group()["replicas"], fleet.kuberay.cut) == (1, [])


async def test_blind_growth_after_the_grace_to_the_highest_of_the_last_hour(fleet: Any) -> None:
    """6 nodes at noon, 1 at half past, then no metrics: after 600 s 6 again."""
    await running(fleet, 6, 48)
    fleet.load(5)
    await fleet.live(300)
    assert fleet.decision()[0] == 1
    fleet.prometheus.problem = "Prometheus: ConnectionError: refused"
    await fleet.live(585)
    assert fleet.decision() == (1, "DemandUnknown")
    await fleet.live(60)
    assert fleet.decision() == (6, "DemandUnknown")


async def test_an_incomplete_reading_may_add(fleet: Any) -> None:
    """At least 48 req/s need 6 nodes, whoever else has not reported."""
    await running(fleet, 2, 15)
    fleet.load(48, reporting=1)
    await fleet.tick()
    assert fleet.decision() == (6, "ScaleUp")


async def test_a_users_own_query_is_asked_and_used(fleet: Any) -> None:
    """30 req/s at a gateway need 4 nodes; two series are refused with a hint."""
    query = "sum(rate(gateway_requests_total[1m]))"
    fleet.prometheus.own[query] = [{"metric": {}, "value": [0, "30"]}]
    fleet.apply(scaling={"mode": "Reactive", "capacity": {"requestsPerSecondPerNode": "10"}, "demand": {"query": query}})
    await fleet.tick()
    assert fleet.decision() == (4, "ScaleUp")
    fleet.prometheus.own[query] *= 2
    await fleet.tick()
    assert fleet.decision() == (4, "DemandUnknown")
    assert fleet.message("MetricsAvailable") == "the query must give one series, gave 2; wrap it in sum()"


async def test_capacity_is_learned_where_the_spec_gives_none(fleet: Any) -> None:
    """Unknown: held. A replica that does 12 req/s: 2 replicas do 24 on a node, and 40 req/s need ceil(40 ÷ 19.2) = 3."""
    fleet.apply(scaling={"mode": "Reactive", "capacity": {}}, nodes={"replicasPerNode": 2})
    fleet.load(40)
    await fleet.tick()
    assert fleet.decision() == (1, "CapacityUnknown")
    fleet.prometheus.say("default.chat", "capacity", 12)
    await fleet.tick()
    assert fleet.decision() == (3, "ScaleUp")
    assert fleet.status()["capacity"] == {"requestsPerSecondPerNode": "24", "source": "Learned", "saturatedReadings": 0}


async def test_a_learned_capacity_survives_a_restart_as_it_was(fleet: Any) -> None:
    """24 req/s per node of two replicas is 24 after the restart, not 48."""
    fleet.apply(scaling={"mode": "Reactive", "capacity": {}}, nodes={"replicasPerNode": 2})
    fleet.load(40)
    fleet.prometheus.say("default.chat", "capacity", 12)
    await fleet.live(60)
    fleet.load(40)  # Prometheus lost the capacity
    fleet.restart()
    await fleet.live(30)
    assert fleet.metric("node_capacity_requests_per_second", namespace="default", name="chat") == 24
