"""What deciding costs in time: one decision for one object, and one tick of the whole operator over 5,000 objects, its outside faked."""

from __future__ import annotations

import asyncio
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench import ours
from fake_fleet import Fleet

from deepseek_operator.core.types import PeakForecast
from deepseek_operator.replay import Decider, Observation

ROUNDS = 7
OBJECTS = 5000
LOADS = 8

Spread = tuple[float, float, float]
"""Minimum, median and maximum over rounds."""


def measured(objects: int = OBJECTS) -> dict[str, Spread]:
    """Microseconds of a decision (and of a yardstick, a JSON round trip of a small object, to compare machines by) and seconds of a tick."""
    return {"yardstick_us": yardstick(), "decision_us": decision(), "tick_s": asyncio.run(tick(objects))}


def yardstick() -> Spread:
    """A JSON round trip of a small object, in microseconds."""
    document = {"metadata": {"name": "chat"}, "spec": {"nodes": {"min": 1, "max": 10}}, "status": {"values": list(range(50))}}
    return each(lambda: json.loads(json.dumps(document)), 2000)


def decision() -> Spread:
    """One `decide` and `remember`, with a forecast, on traffic that moves, in microseconds."""
    now = 0.0

    def forecast(at: float) -> PeakForecast:
        return PeakForecast(peak=rate() * 1.3, mean=rate(), percentile=95, horizon_seconds=600, issued_at=at)

    def rate() -> float:
        return 20 + 15 * ((now / 15) % 40) / 40

    decider = Decider(replace(ours.policy(), mode="Predictive"), 8.0, forecast)

    def one() -> None:
        nonlocal now
        now += 15.0
        decider(now, Observation(now, rate(), 1, 0.0, 0.0, 6, 6, ()))
        decider.decisions.clear()

    return each(one, 2000)


async def tick(objects: int) -> Spread:
    """A tick of a converged fleet (it reads, decides, and writes nothing), in seconds; the fakes' own time is in it."""
    fleet = await multiplied(objects)
    times = []
    written = len(fleet.cluster.writes)
    for _ in range(ROUNDS):
        fleet.clock.now += 15
        fleet.watch()
        began = time.perf_counter()
        await fleet.tick(watch=False)
        times.append(time.perf_counter() - began)
    if len(fleet.cluster.writes) > written:
        raise RuntimeError(f"the fleet must have settled before its tick is timed; it wrote {fleet.cluster.writes[written:][:3]}")
    return min(times), statistics.median(times), max(times)


async def multiplied(objects: int) -> Fleet:
    """So many objects that have settled: eight of them settle under loads of 0 to 70 requests per second, and the rest are their copies."""
    fleet = Fleet()
    for number in range(LOADS):
        fleet.apply(_name(number), scaling={"mode": "Predictive"})
        fleet.load(number * 10, _name(number))
        fleet.forecaster.peaks[f"default.{_name(number)}"] = number * 10 + 1
    await fleet.live(240)
    readings = list(fleet.prometheus.vector)
    for number in range(LOADS, objects):
        _copy(fleet, readings, _name(number % LOADS), _name(number))
    for _ in range(3):
        fleet.clock.now += 15
        await fleet.tick()
    return fleet


def _name(number: int) -> str:
    return f"object-{number:05d}"  # as long as any other, and part of no other


def _copy(fleet: Fleet, readings: list[Any], template: str, name: str) -> None:
    """The object, all that it owns, what it is read by and what serves it, once more under another name."""

    def renamed(value: Any) -> Any:
        return json.loads(json.dumps(value).replace(template, name))

    for kind, bodies in fleet.cluster.store.items():
        for namespace, key in [place for place in bodies if template in place[1]]:
            body = renamed(bodies[namespace, key])
            body["metadata"]["uid"] += name
            fleet.cluster.store[kind][namespace, key.replace(template, name)] = body
    fleet.prometheus.vector += [renamed(reading) for reading in readings if template in json.dumps(reading)]
    fleet.forecaster.peaks[f"default.{name}"] = fleet.forecaster.peaks[f"default.{template}"]
    for namespace, cluster in [place for place in fleet.serve.applications if template in place[1]]:
        application = copy.deepcopy(fleet.serve.applications[namespace, cluster])
        for replica in application.replicas:
            replica.pod = replica.pod.replace(template, name)
        application.proxies = {pod.replace(template, name): until for pod, until in application.proxies.items()}
        fleet.serve.applications[namespace, cluster.replace(template, name)] = application


def each(work: Callable[[], object], repeats: int) -> Spread:
    """Microseconds one call takes, over rounds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        times.append((time.perf_counter() - began) / repeats * 1e6)
    return min(times), statistics.median(times), max(times)
