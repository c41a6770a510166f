"""The rivals' own code answers as its documentation and tests say. Those that must be built first run where they are already built."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from bench.rivals import dynamo_planner, knative, kubernetes, programs
from bench.rivals.process import RivalError, RivalProcess
from bench.rivals.ray_serve import RayServe

from deepseek_localcluster.programs import cache_root
from deepseek_operator.replay import Observation


def seen(now: float, load: float, asked: int, ready: int | None = None) -> Observation:
    """A load in nodes of 10 requests per second, without a queue."""
    return Observation(now, load * 10, 1, 0.0, 0.0, asked, asked if ready is None else ready, ())


@pytest.fixture
def hpa() -> Iterator[Callable[[float], kubernetes.Hpa]]:
    """The controller with a target, where it is built."""
    if not programs.HPA.path.exists():
        pytest.skip("not built yet: `make bench` builds it")
    made: list[kubernetes.Hpa] = []
    yield lambda target: made.append(kubernetes.Hpa(target, 10.0)) or made[-1]
    for each in made:
        each.close()


def test_the_hpa_scales_as_its_documentation_says(hpa: Callable[[float], kubernetes.Hpa]) -> None:
    """At a target of 50 %: 200 % of a node doubles twice over (4 = ceil(1 × 2 ÷ 0.5)); 5 % above the target is tolerated; a release waits for
    the 300 s of stabilization, then comes at once."""
    controller = hpa(0.5)
    assert controller(0, seen(0, 2.0, 1)) == 4
    assert controller(15, seen(15, 2.1, 4)) == 4
    held = [controller(30 + 15 * tick, seen(30 + 15 * tick, 0.5, 4)) for tick in range(22)]
    assert held[:18] == [4] * 18
    assert held[-1] == 1


def test_the_hpa_lets_starting_pods_count_as_idle(hpa: Callable[[float], kubernetes.Hpa]) -> None:
    """2 of 4 nodes ready under a load of 3 at a target of 90 %: the ready ones are over it, all four are not, so nothing is added."""
    assert hpa(0.9)(0, seen(0, 3.0, 4, ready=2)) == 4


def test_the_hpa_forgets_the_pods_that_are_gone(hpa: Callable[[float], kubernetes.Hpa]) -> None:
    """After 20 pods became 5, a load of 5 at a target of 50 % asks for 10: nothing of the 15 counts as idle any more."""
    controller = hpa(0.5)
    assert controller(0, seen(0, 10.0, 20)) == 20
    assert controller(15, seen(15, 5.0, 5)) == 10


def test_the_hpa_never_more_than_doubles_or_adds_four(hpa: Callable[[float], kubernetes.Hpa]) -> None:
    """Its default limit: max(2 × replicas, 4) in one step."""
    assert hpa(0.5)(0, seen(0, 10.0, 3)) == 6


def test_the_hpa_holds_while_the_metric_is_silent_and_then_goes_on(hpa: Callable[[float], kubernetes.Hpa]) -> None:
    """An error of the metrics API changes nothing; when there is a metric again, 200 % of three nodes at a target of 50 % are six at once."""
    silent = Observation(0, None, 1, 0.0, 0.0, 3, 3, ())
    controller = hpa(0.5)
    assert [controller(tick * 15, silent) for tick in range(30)] == [3] * 30
    assert controller(30 * 15, seen(30 * 15, 6.0, 3)) == 6


def test_the_kpa_panics_and_does_not_release_while_it_does() -> None:
    """At 70 %: a load of 7 nodes on one is twice the threshold, so the six-second window rules (10 = ceil(7 ÷ 0.7)); a minute later the load is
    gone and it stays; after another the panic is over and it halves at most."""
    if not programs.KPA.path.exists():
        pytest.skip("not built yet: `make bench` builds it")
    scaler = knative.Kpa(0.7, 10.0)
    try:
        busy = Observation(0, 70.0, 1, 600.0, 0.0, 1, 1, ())  # one busy node and 600 ÷ (10 × 10 s) = 6 more in flight
        assert scaler(0, busy) == 10
        later = [scaler(5.0 * tick, seen(5.0 * tick, 0.7, 10)) for tick in range(1, 30)]
        assert later[:10] == [10] * 10
        assert later[-1] == 5
    finally:
        scaler.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the installed Ray, about its own fields
def test_ray_waits_30_s_before_it_adds_and_600_s_before_it_releases() -> None:
    """target_ongoing_requests 2 of 5: a load of 2 nodes is 10 requests in flight, so five replicas, after 30 s; then one, after 600 s."""
    ray = RayServe(0.4, 10.0)
    up = [ray(now, seen(now, 2.0, 2)) for now in range(0, 50, 10)]
    assert up == [2, 2, 2, 5, 2]  # asked for once; the world remembers, the test does not
    ray = RayServe(0.4, 10.0)
    down = [ray(now, seen(now, 0.3, 5)) for now in range(0, 610, 10)]
    assert set(down[:-1]) == {5}
    assert down[-1] == 1


def test_dynamos_rule_divides_and_waits_for_what_starts() -> None:
    """40 req/s on engines of 8: five; while two are starting it adds nothing (null); 10 req/s: two."""
    if not any(cache_root().glob("bench-dynamo-*/complete")):
        pytest.skip("its environment is not there yet: `make bench` makes it")
    with RivalProcess([str(dynamo_planner.python()), "-P", str(dynamo_planner.WORKER)]) as worker:
        asked = {"demand": 40.0, "engine": 8.0, "ready": 3, "pending": 0}
        assert worker.ask(asked)["nodes"] == 5
        assert worker.ask({**asked, "pending": 2})["nodes"] is None
        assert worker.ask({**asked, "demand": 10.0})["nodes"] == 2


def test_a_rival_that_ends_says_its_last_words() -> None:
    """Not an empty answer, but what it wrote before it ended."""
    with RivalProcess(["sh", "-c", "echo the disk is full >&2; exit 3"]) as ended, pytest.raises(RivalError, match="the disk is full"):
        ended.ask({"t": 0})
