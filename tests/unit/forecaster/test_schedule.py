"""Training: what is due when, what a fit leaves on disk, and that a fit that fails or a child that dies costs no answer."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from deepseek_forecaster.models import new_expert
from deepseek_forecaster.record import Member
from deepseek_forecaster.registry import Registry, Watched
from deepseek_forecaster.schedule import RETRY_SECONDS, Trainer
from deepseek_forecaster.train import Job, fit, held_out
from deepseek_forecaster.weights import Fit, load
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


def test_a_first_trial_learns_all_but_the_newest_fifth_at_most_two_days() -> None:
    assert held_out(500, DAY) == 100
    assert held_out(100_000, DAY) == 288


def test_a_first_fit_knows_everything_and_a_trial_without_the_newest_fifth_speaks_for_the_time_before(registry: Registry) -> None:
    watched = watch(registry, "a", 200)
    train_now(registry, watched, "arima")
    found = load(watched.directory, "arima", DAY)
    assert found is not None
    # the grid ends at NOW; 200 ÷ 5 = 40 steps are held out from the trial
    assert found.member.since == round(NOW / STEP)
    assert found.member.before is not None
    assert found.member.before.since == round(NOW / STEP) - 40
    assert found.member.trained_at == NOW
    assert "arima" in watched.forecaster.forecast("a", NOW, 600, (0.5,)).models


def test_a_second_fit_takes_over_from_the_first_one(registry: Registry) -> None:
    watched = watch(registry, "a", 100)
    train_now(registry, watched, "arima")
    grow(watched, 120)
    train_now(registry, watched, "arima", NOW + 60)
    found = load(watched.directory, "arima", DAY)
    assert found is not None
    assert found.known_steps == 120
    assert found.member.before is not None
    assert found.member.before.trained_at == NOW, "the first fit itself, not its trial"


def test_of_a_damaged_fit_the_one_before_goes_on_and_a_new_one_is_due_at_once(registry: Registry) -> None:
    watched = watch(registry, "a", 100)
    train_now(registry, watched, "arima")
    assert load(watched.directory, "arima", DAY * 2) is None, "made for a day of another length"
    path = watched.directory / "arima.npz"
    path.write_bytes(path.read_bytes()[:-40])
    found = load(watched.directory, "arima", DAY)
    assert found is not None
    assert found.member.since == round(NOW / STEP) - 20
    watched.adopt("arima")
    assert due(Trainer(registry, 86_400, now=lambda: NOW)) == ("a", "arima")
    (watched.directory / "arima.before.npz").unlink()
    assert load(watched.directory, "arima", DAY) is None


def test_too_little_history_is_an_answer_not_a_crash(registry: Registry) -> None:
    watched = watch(registry, "a", 30)
    answer = fit(Job(str(watched.directory), "arima", DAY, 10))
    assert not answer["ok"]
    assert "arima needs at least 60 known steps, had 24" in answer["reason"]


def due(trainer: Trainer) -> tuple[str, str] | None:
    found = trainer.next_due()
    return found and (found[0].series, found[1])


def pretend(watched: Watched, name: str, at: float = NOW) -> None:
    """As if this expert had been fitted at this time on all that is known."""
    watched.fits[name] = Fit(Member(new_expert("last_value"), round(NOW / STEP), at), watched.forecaster.steps, watched.known_steps)


def test_a_large_fleet_gets_its_cheap_experts_first_and_the_dear_one_of_every_series_last(registry: Registry) -> None:
    """Two series of 800 steps, nothing fitted yet: 1 s, then 4 s, then 15 s."""
    series = [watch(registry, name, 800) for name in "ab"]
    trainer = Trainer(registry, 86_400, now=lambda: NOW)
    order = []
    while (found := trainer.next_due()) is not None:
        order.append(found[1])
        pretend(*found)
    assert order == ["boosting"] * 2 + ["arima"] * 2 + ["lstm"] * 2
    assert [set(one.fits) for one in series] == [{"arima", "boosting", "lstm"}] * 2
    assert trainer.waiting == 0


def test_what_was_fitted_half_a_period_earlier_is_fitted_anew_earlier(registry: Registry) -> None:
    for name, age in (("a", 1.5), ("b", 2.0)):
        watched = watch(registry, name, 100)
        pretend(watched, "arima", NOW - age * 86_400)
    assert due(Trainer(registry, 86_400, now=lambda: NOW)) == ("b", "arima")


async def test_fitting_stops_when_its_budget_is_spent_and_goes_on_when_it_has_grown_again(registry: Registry) -> None:
    """A budget of one millionth of a core: the second fit has to wait, though it is due."""
    for name in "ab":
        watch(registry, name, 100)
    trainer = Trainer(registry, 86_400, now=lambda: NOW, share=1e-6)
    trainer.saved_seconds = 0.01
    waited: list[float] = []

    def second() -> bool:
        if sum(trainer.fits.values()) == 1:
            waited.append(trainer.saved_seconds)
        if len(waited) == 30:  # a second and a half later
            assert due(trainer) is not None
            trainer.saved_seconds = 100.0
        return sum(trainer.fits.values()) == 2

    await run_until(trainer, second)
    assert len(waited) >= 30
    assert max(waited[:29]) < 0


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
