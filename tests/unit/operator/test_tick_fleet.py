"""The whole tick on fakes: many objects, and none.

A node does 10 requests per second, comes up after 20 s and loads for 5 s; a replica finishes within 4 s and its proxy drains for 6 s.
"""

from __future__ import annotations

import math
import time
from typing import Any

from fake_fleet import PREDICTIVE
from fakes import FakeForecaster, deployment


async def test_three_hundred_objects_are_one_query_one_request_and_no_long_tick(fleet: Any) -> None:
    """And each gets what it needs: object n has n % 8 × 10 req/s."""
    for number in range(300):
        name = f"chat-{number}"
        fleet.cluster.put("objects", deployment(name, scaling=PREDICTIVE))
        fleet.load(number % 8 * 10, name)
    await fleet.tick()
    fleet.prometheus.calls.clear()
    fleet.forecaster.calls.clear()
    fleet.watch()
    began = time.process_time()
    await fleet.tick(watch=False)
    took = time.process_time() - began
    assert len(fleet.prometheus.calls) == 1
    assert [len(batch) for batch in fleet.forecaster.calls] == [300]
    assert took < 5
    for number in (0, 1, 7, 299):
        assert fleet.mirrored(f"chat-{number}") == max(1, math.ceil(number % 8 / 0.8))


async def test_an_empty_fleet_asks_nobody(fleet: Any) -> None:
    """No object, no query."""
    await fleet.tick()
    assert (fleet.prometheus.calls, fleet.forecaster.calls, fleet.cluster.writes) == ([], [], [])
    assert isinstance(fleet.forecaster, FakeForecaster)
