"""Training: what is due when, what a fit leaves on disk, and that a fit that fails or a child that dies costs no answer."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from deepseek_forecaster.registry import Registry, Watched
from deepseek_forecaster.schedule import RETRY_SECONDS, Trainer
from deepseek_forecaster.train import Job, fit, held_out
from deepseek_forecaster.weights import load
from deepseek_forecaster.wire import ForecastRequest

STEP = 60
DAY = 144.0
"""A day of 144 steps."""
NOW = 1_790_000_000.0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path, DAY * STEP) as opened:
        yield opened


def watch(registry: Registry, name: str, known: int) -> Watched:
    """A series with this many known steps of a daily wave up to NOW."""
    watched = registry.register(ForecastRequest(series=name, query="q", step_seconds=STEP, horizon_seconds=600), NOW)
    grow(watched, known)
    return watched


def grow(watched: Watched, known: int) -> None:
    at = np.arange(round(NOW / STEP) - known + 1, round(NOW / STEP) + 1)
    watched.open(10_000 * STEP).add(at, 100 + 50 * np.sin(2 * np.pi * at / DAY))
    watched.observe()


def train_now(registry: Registry, watched: Watched, name: str, at: float = NOW) -> None:
    assert fit(Job(str(watched.directory), name, DAY, watched.forecaster.steps), now=lambda: at)["ok"]
    watched.adopt(name)
    watched.observe()


def test_a_fit_learns_all_but_the_newest_fifth_at_most_two_days() -> None:
    assert held_out(500, DAY) == 100
    assert held_out(100_000, DAY) == 288


def test_a_fit_lies_on_disk_and_is_judged_only_by_what_it_has_not_seen(registry: Registry) -> None:
    watched = watch(registry, "a", 800)
    train_now(registry, watched, "arima")
    found = load(watched.directory, "arima", DAY)
    assert found is not None
    # the grid ends at NOW; 800 ÷ 5 = 160 steps are held out
    assert found.member.since == round(NOW / STEP) - 160
    assert found.member.trained_at == NOW
    assert "arima" in watched.forecaster.forecast("a", NOW, 600, (0.5,)).models


def test_a_fit_for_another_season_or_a_damaged_one_is_made_anew(registry: Registry) -> None:
    watched = watch(registry, "a", 300)
    train_now(registry, watched, "arima")
    assert load(watched.directory, "arima", DAY * 2) is None
    path = watched.directory / "arima.npz"
    path.write_bytes(path.read_bytes()[:-40])
    assert load(watched.directory, "arima", DAY) is None


def test_too_little_history_is_an_answer_not_a_crash(registry: Registry) -> None:
    watched = watch(registry, "a", 30)
    answer = fit(Job(str(watched.directory), "arima", DAY, 10))
    assert not answer["ok"]
    assert "arima needs at least 60 known steps, had 24" in answer["reason"]


def due(trainer: Trainer) -> tuple[str, str] | None:
    found = trainer.next_due()
    return found and (found[0].series, found[1])


def test_the_quick_expert_of_every_series_comes_before_the_slow_one_of_any(registry: Registry) -> None:
    first, second = watch(registry, "a", 800), watch(registry, "b", 800)
    trainer = Trainer(registry, 86_400, now=lambda: NOW)
    order = []
    for _ in range(2):
        found = trainer.next_due()
        assert found is not None
        order.append(found[1])
        train_now(registry, found[0], found[1])
    assert order == ["arima", "arima"]
    assert due(trainer) in {("a", "lstm"), ("b", "lstm")}
    assert {"arima"} == set(first.fits) == set(second.fits)


@pytest.mark.parametrize(
    ("known", "expected"),
    [(59, None), (60, ("a", "arima"))],
)
def test_nothing_is_due_before_there_is_something_to_learn_from(registry: Registry, known: int, expected: object) -> None:
    watch(registry, "a", known)
    assert due(Trainer(registry, 86_400, now=lambda: NOW)) == expected


def test_a_fitted_expert_is_due_again_when_history_grew_by_half_the_horizon_grew_or_a_day_passed(registry: Registry) -> None:
    watched = watch(registry, "a", 100)
    clock = [NOW]
    trainer = Trainer(registry, 10_000, now=lambda: clock[0])
    train_now(registry, watched, "arima")
    assert due(trainer) is None
    clock[0] = NOW + 8_900
    assert due(trainer) is None, "not before 90 % of the period"
    clock[0] = NOW + 11_100
    assert due(trainer) == ("a", "arima"), "after 110 % of it"
    clock[0] = NOW
    grow(watched, 150)
    assert due(trainer) == ("a", "arima"), "100 steps have become 150"
    train_now(registry, watched, "arima")
    assert due(trainer) is None
    watched.forecaster.wants(60)
    assert due(trainer) == ("a", "arima"), "a horizon of 60 steps was asked for"


async def run_until(trainer: Trainer, accept: Callable[[], object]) -> None:
    task = asyncio.create_task(trainer.run())
    try:
        async with asyncio.timeout(120):
            while not accept():  # noqa: ASYNC110 - what is waited for happens in another process
                await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_training_process_that_is_killed_is_reported_and_the_next_series_gets_a_new_one(registry: Registry) -> None:
    watched, other = watch(registry, "a", 100), watch(registry, "b", 100)
    trainer = Trainer(registry, 86_400, now=lambda: NOW)
    killed: list[int] = []

    def kill_once() -> bool:
        child = trainer._child
        if child is not None and not killed:
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)
        return trainer.failures["arima"] == 1 and trainer.fits["arima"] == 1

    await run_until(trainer, kill_once)
    assert len(watched.fits) + len(other.fits) == 1
    assert due(trainer) is None, "the failed one waits"
    trainer._now = lambda: NOW + RETRY_SECONDS + 1
    assert due(trainer) is not None
