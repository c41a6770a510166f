"""What has to be there before the runs: forecasts and predictions, dear and independent of the knobs. Kept by what they are made of."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from bench import ours
from bench.policies import Place

ROOT = Path(__file__).resolve().parents[2]
FORECASTER = ROOT / "forecaster" / "src" / "deepseek_forecaster"
NOT_WALKED = ("cli", "server", "registry", "prometheus", "collect", "metrics", "wire", "schedule", "backtest")
"""Parts of the forecaster that no forecast passes through in a walk."""


def source_hash(*paths: Path) -> str:
    """Eight hex digits that change when any Python file in these paths does."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:8]


@cache
def forecaster_hash() -> str:
    """Changes when a walk may give other forecasts. Taken once: what is edited during a run counts for the next."""
    paths = [path for path in sorted(FORECASTER.iterdir()) if path.stem not in NOT_WALKED and path.name != "__pycache__"]
    return source_hash(*paths)


def forecasts_path(place: Place) -> Path:
    """Where the walk over this load with this cold start is kept, by all of the question that a forecast depends on."""
    question = ours.question(place.cold_start_seconds)
    told = (question.whole_seconds, question.whole_lead_seconds, question.slack_seconds, question.quantiles, question.cold_start_seconds)
    asked = hashlib.sha256(repr(told).encode()).hexdigest()[:8]
    return place.cache / f"walk-{place.load.key}-{asked}-{forecaster_hash()}.npz"


def walk(place: Place) -> None:
    """Make the forecasts where they are missing."""
    path = forecasts_path(place)
    if not path.exists():
        ours.Forecasts.walked(place.load, place.cold_start_seconds).save(path)
