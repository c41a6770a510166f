"""The whole tick on fakes: what is written, said and asked, and what is not.

A node does 10 requests per second, comes up after 20 s and loads for 5 s; a replica finishes within 4 s and its proxy drains for 6 s.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
from fake_fleet import PREDICTIVE, running


async def test_a_converged_fleet_makes_no_writes(fleet: Any) -> None:
    """Ten ticks of the same load: no write at all; the forecast's and the ledger's figures move meanwhile."""
    await running(fleet, 3, 20, scaling={"mode": "Predictive", "capacity": {"requestsPerSecondPerNode": "10"}})
    fleet.forecaster.peaks["default.chat"] = 22
    await fleet.live(60)
    fleet.cluster.writes.clear()
    scaled = len(fleet.serve.scaled)
    for _ in range(10):
        fleet.forecaster.peaks["default.chat"] += 0.05
        await fleet.live(15)
    assert fleet.cluster.writes == []
    assert len(fleet.serve.scaled) == scaled


async def test_figures_that_moved_are_written_every_ten_minutes(fleet: Any) -> None:
    """An idle hour: at most 6 writes, all of the status."""
    await running(fleet, 3, 20)
    fleet.cluster.writes.clear()
    await fleet.live(3600)
    assert set(fleet.cluster.writes) == {("patch", "status", "chat")}
    assert 5 <= len(fleet.cluster.writes) <= 6


async def test_ray_serve_is_asked_every_30_seconds_while_nothing_is_under_way(fleet: Any) -> None:
    """A head that came back with the count of its config is told the true one."""
    await running(fleet, 4, 30)
    key = next(iter(fleet.serve.applications))
    reads = len(fleet.serve.reads)
    await fleet.live(600)
    assert 18 <= len(fleet.serve.reads) - reads <= 21
    fleet.serve.applications[key].target = 1
    await fleet.live(45)
    assert fleet.serve.applications[key].target == 4


async def test_one_event_for_each_change_and_none_for_a_hold(fleet: Any) -> None:
    """1 → 6 → 1: two Normal events in so many minutes; one Warning for the loss of metrics, however long it lasts."""
    await running(fleet, 1, 5)
    fleet.cluster.events.clear()
    fleet.load(48)
    await fleet.live(120)
    fleet.load(5)
    await fleet.live(300)
    assert [(kind, reason) for _, kind, reason, _ in fleet.cluster.events] == [("Normal", "ScaleUp"), ("Normal", "ScaleDown")]
    assert fleet.cluster.events[0][3].startswith("scaled from 1 to 6 nodes: demand 48 req/s needs 6")
    fleet.prometheus.problem = "Prometheus: ConnectionError: refused"
    await fleet.live(300)
    assert [event[1:3] for event in fleet.cluster.events[2:]] == [("Warning", "DemandUnknown")]
    fleet.prometheus.problem = ""
    await fleet.live(30)
    fleet.prometheus.problem = "Prometheus: ConnectionError: refused"
    await fleet.live(30)
    assert len(fleet.cluster.events) == 4


async def test_a_change_is_logged_once_with_both_sides(fleet: Any, caplog: pytest.LogCaptureFixture) -> None:
    """`scaled default/chat from 1 to 6: …`"""
    caplog.set_level(logging.INFO)
    await running(fleet, 1, 5)
    caplog.clear()
    fleet.load(48)
    await fleet.live(60)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("scaled ")]
    assert said == ["scaled default/chat from 1 to 6: ScaleUp: demand 48 req/s needs 6 (10 req/s per node × 80 %)"]


async def test_the_figures_as_metrics(fleet: Any) -> None:
    """What the dashboards read; NaN where nothing is known."""
    fleet.forecaster.peaks["default.chat"] = 22
    await running(fleet, 3, 20, scaling=PREDICTIVE)

    def is_(name: str, expected: float, **labels: str) -> bool:
        labels = {"namespace": "default", "name": "chat"} | labels
        return fleet.telemetry.registry.get_sample_value(f"deepseek_operator_{name}", labels) == pytest.approx(expected)

    assert is_("nodes_desired", 3)
    assert is_("nodes_ready", 3)
    assert is_("nodes_recommended", 3)
    assert is_("demand_requests_per_second", 20)
    assert is_("forecast_peak_requests_per_second", 22, percentile="95")
    assert is_("predicted_utilization_ratio", 22 / 30)
    assert is_("utilization_ratio", 20 / 30)
    assert is_("condition", 1, type="Ready", status="True")
    assert is_("condition", 0, type="Ready", status="False")
    fleet.prometheus.problem = "down"
    await fleet.tick()
    labels = {"namespace": "default", "name": "chat"}
    assert math.isnan(fleet.telemetry.registry.get_sample_value("deepseek_operator_demand_requests_per_second", labels))
    assert fleet.metric("read_failures_total", source="prometheus") == 1
