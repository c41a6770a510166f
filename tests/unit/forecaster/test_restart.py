"""A restart forecasts the same: also after fits that took over from others, and whatever moment it was killed at."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from deepseek_forecaster import memory
from deepseek_forecaster.registry import Registry, Watched
from deepseek_forecaster.train import Job, fit
from deepseek_forecaster.types import Forecast
from deepseek_forecaster.wire import ForecastRequest

STEP = 600
DAY = 144.0
FIRST = 2_983_000
HISTORY_SECONDS = 3_000 * STEP
REQUEST = ForecastRequest(series="default.chat", query="q", step_seconds=STEP, horizon_seconds=STEP)


def load_at(index: int) -> float:
    """100 ± 60 over the day, rough, and twice as rough from step 260 on."""
    rough = np.sin(12.9898 * index) * 43758.5453 % 1.0 - 0.5
    return float((100 + 60 * np.sin(2 * np.pi * index / DAY)) * (1 + (0.2 if index < FIRST + 260 else 0.4) * rough))


def live(watched: Watched, until: int) -> None:
    """Take in step by step, as it comes."""
    samples = watched.open(HISTORY_SECONDS)
    start = FIRST if samples.last is None else samples.last + 1
    if samples.last is None:
        samples.add(np.arange(FIRST, FIRST + 100), np.array([load_at(at) for at in range(FIRST, FIRST + 100)]))
        start = FIRST + 100
    for index in range(start, FIRST + until):
        samples.add(np.array([index]), np.array([load_at(index)]))
        watched.observe()


def refit(watched: Watched) -> None:
    """As the trainer does it."""
    assert fit(Job(str(watched.directory), "arima", DAY, watched.forecaster.steps))["ok"]
    watched.keep_memory()
    watched.adopt("arima")
    watched.observe()


def said(watched: Watched) -> Forecast:
    assert watched.samples is not None
    assert watched.samples.last is not None
    return watched.forecaster.forecast("default.chat", watched.samples.last * STEP + 1.0, STEP, (0.5, 0.9, 0.95))


def after_a_kill(data: Path, folder: Path) -> Forecast:
    """What another process says that finds the directory as it lies there now."""
    shutil.copytree(data / "series", folder / "series")
    with Registry(folder, DAY * STEP) as registry:
        (watched,) = registry
        watched.open(HISTORY_SECONDS)
        return said(watched)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Forecast]:
    """Three fits 60 steps apart, then 25 steps more: what lies on disk then, and what is said."""
    data = tmp_path_factory.mktemp("data")
    with Registry(data, DAY * STEP) as registry:
        watched = registry.register(REQUEST, 0.0)
        for until in (200, 260, 320):
            live(watched, until)
            watched.save()
            refit(watched)
        live(watched, 345)
        return data, said(watched)


def same(one: Forecast, other: Forecast) -> bool:
    """Equal to a thousandth, weights to half a hundredth: what was said since the last fit is said again with all samples at hand."""
    loads = [[forecast.mean, *(load for _, load in sorted(forecast.peak.items()))] for forecast in (one, other)]
    return loads[0] == pytest.approx(loads[1], rel=1e-3) and dict(one.models) == pytest.approx(dict(other.models), abs=5e-3)


def test_25_steps_after_the_third_fit_a_killed_forecaster_says_what_it_would_have_said(killed: tuple[Path, Forecast], tmp_path: Path) -> None:
    data, before = killed
    assert "arima" in before.models
    after = after_a_kill(data, tmp_path)
    assert same(before, after), (before, after)
    assert after.recent_wape == pytest.approx(before.recent_wape, rel=1e-3)
    assert after.coverage90 == before.coverage90


def test_without_the_memory_it_would_have_said_something_else(killed: tuple[Path, Forecast], tmp_path: Path) -> None:
    """So the memory is needed; what is left still answers, from the two newest fits."""
    data, before = killed
    forgetful = tmp_path / "forgetful"
    shutil.copytree(data, forgetful)
    for path in forgetful.rglob(memory.FILE_NAME):
        path.unlink()
    after = after_a_kill(forgetful, tmp_path)
    assert not same(before, after)
    assert after.mean == pytest.approx(before.mean, rel=0.1)


@pytest.mark.parametrize("damage", ["cut", "zeros", "another version"])
def test_a_damaged_memory_is_left_out_and_there_is_an_answer(killed: tuple[Path, Forecast], tmp_path: Path, damage: str) -> None:
    data, before = killed
    damaged = tmp_path / "damaged"
    shutil.copytree(data, damaged)
    (path,) = damaged.rglob(memory.FILE_NAME)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "zeros":
        path.write_bytes(bytes(len(content)))
    else:
        tracks = memory.load(path.parent)
        for track in tracks.values():
            track["issued"] = track["issued"][:, :2]
        memory.save(path.parent, tracks)
    assert after_a_kill(damaged, tmp_path).mean == pytest.approx(before.mean, rel=0.1)
