"""What `make bench-forecast` measures on one trace: the walk, what follows a step, a series' first two days, and the walk without an expert.

Fits are kept on disk by what they were made of, so that a run that was broken off goes on, and a change of the ensemble costs no fit.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import pkgutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import deepseek_forecaster
from deepseek_forecaster import models
from deepseek_forecaster.backtest.blocks import Blocks
from deepseek_forecaster.backtest.play import MOST_REFITS, QUANTILES, play, said_by
from deepseek_forecaster.backtest.score import score
from deepseek_forecaster.backtest.write import document
from deepseek_forecaster.backtest.yardsticks import ten_minute_mean
from deepseek_forecaster.evaluate import pinball
from deepseek_forecaster.models import lstm_training, new_expert
from deepseek_forecaster.models.expert import Expert, Floats, History
from deepseek_forecaster.walk import walk

SOURCE = Path(deepseek_forecaster.__file__).parent
NOT_THE_FORECAST = {
    "cli.py", "server.py", "collect.py", "prometheus.py", "registry.py", "schedule.py", "weights.py", "metrics.py", "wire.py", "history.py",
    "memory.py",
    "report.py", "charts.py", "source.py",
}  # fmt: skip
"""Files that no figure depends on: a change in them keeps what was measured."""
INJECTIONS = 12
BIRTHS = 2
BIRTH_HOURS = 48
ABLATION_ORIGINS = 150


def digest(*parts: Any) -> str:
    """A name for what these parts make together."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode())
    return found.hexdigest()[:20]


def source_digest(folder: str = "") -> str:
    """The state of the forecaster's source, or of one folder of it, as far as figures depend on it."""
    files = sorted(path for path in (SOURCE / folder).rglob("*.py") if path.name not in NOT_THE_FORECAST)
    return digest(*(part for path in files for part in (str(path.relative_to(SOURCE)), path.read_bytes())))


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Every expert that draws at random starts from another place within the block; seed 0 is the shipped one."""
    found = [importlib.import_module(f"{models.__name__}.{module.name}") for module in pkgutil.iter_modules(models.__path__)]
    drawing = [module for module in found if hasattr(module, "SEED")]
    shipped = [module.SEED for module in drawing]
    try:
        for module, start in zip(drawing, shipped, strict=True):
            module.SEED = start + 1_009 * seed  # type: ignore[attr-defined]
        yield
    finally:
        for module, start in zip(drawing, shipped, strict=True):
            module.SEED = start  # type: ignore[attr-defined]


@dataclass
class StoredFits:
    """A `Fitting` that looks on disk first. `seconds` is what each fit cost when it was made, `spent` what this run spent on them."""

    folder: Path
    seed: int
    make: Callable[[str], Expert] = new_expert
    variant: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    seen: dict[str, list[list[int]]] = field(default_factory=dict)
    """Per expert and fit: the steps it had seen, and those it learned to predict."""
    spent: float = 0.0

    def __call__(self, name: str, history: History, steps: int) -> Expert:
        """The fitted expert; what the expert's `fit` raises."""
        started = time.process_time()
        made_of = digest(source_digest("models"), self.seed, self.variant, name, history.values.tobytes(), history.first, history.day, steps)
        path = self.folder / f"{name}-{made_of}.npz"
        expert = self.make(name)
        try:
            if path.exists():
                with np.load(path, allow_pickle=False) as arrays:
                    cost = float(arrays["cost"])
                    expert.restore({key[6:]: arrays[key] for key in arrays.files if key.startswith("state_")})
            else:
                with drawn_from(self.seed):
                    expert.fit(history, steps)
                cost = time.process_time() - started
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(path.name + ".new.npz")
                np.savez(partial, cost=np.array(cost), **{f"state_{key}": array for key, array in expert.state().items()})
                partial.replace(path)
            self.seconds.setdefault(name, []).append(cost)
            self.seen.setdefault(name, []).append([len(history), steps])
        finally:
            self.spent += time.process_time() - started
        return expert


def walked(blocks: Blocks, stored: StoredFits, experts: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The whole backtest of a trace, as `deepseek-forecaster backtest --json` writes it; costs are those of the fits when they were made."""
    spent = stored.spent
    played = play(blocks, experts, fitting=stored)
    own = played.processor_seconds - (stored.spent - spent) + sum(sum(seconds) for seconds in stored.seconds.values())
    told = replace(played, fit_seconds=dict(stored.seconds), processor_seconds=own)
    return document(told, score(told)) | {"seen": stored.seen}


def lstm_without_recurrence(blocks: Blocks, folder: Path) -> dict[str, Any]:
    """The LSTM alone, fitted anew with both of its recurrences saying nothing: what is left are the columns at the side."""

    class Silent(torch.nn.LSTM):
        """Weights of zero, kept at zero: its answers are computed from them, too, and are zero."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            for weights in self.parameters():
                torch.nn.init.zeros_(weights)
                weights.requires_grad_(False)

        def forward(self, sequence: torch.Tensor) -> Any:
            return None, (sequence.new_zeros(1, len(sequence), self.hidden_size), None)

    class Still(lstm_training.Net):
        def __init__(self, seen: int) -> None:
            super().__init__(seen)
            self.steps, self.blocks = (Silent(one.input_size, one.hidden_size, batch_first=True) for one in (self.steps, self.blocks))

    whole, lstm_training.Net = lstm_training.Net, Still  # type: ignore[misc]
    try:
        return dict(walked(blocks, StoredFits(folder, 0, variant="without recurrence"), ("lstm",))["experts"]["lstm"])
    finally:
        lstm_training.Net = whole  # type: ignore[misc]


def after_a_step(blocks: Blocks, stored: StoredFits, seen: dict[str, list[list[int]]]) -> dict[str, Any]:
    """Every load doubled from one of twelve boundaries on: the error of minutes 10–20 and 20–30 after it, and the last 10 minutes' mean's.

    The experts are the walk's own (`seen`), fitted before the step. `ensemble` and `naive` are WAPEs over all of the steps.
    """
    last = len(blocks.loads) - 4 * blocks.steps
    places = np.linspace(blocks.start + blocks.steps, last, INJECTIONS).astype(int) // blocks.steps * blocks.steps
    keep = KeptFits(stored, blocks, seen)
    errors, naive_errors, total = 0.0, 0.0, 0.0
    for place in places:
        loads = blocks.loads.copy()
        loads[place:] *= 2.0
        stepped = replace(blocks, loads=loads[: place + 4 * blocks.steps], start=int(place) + blocks.steps)
        keep.before = int(place)
        issued = list(walk_of(stepped, keep))[:2]
        origins = np.array([round(one.issued_at / blocks.step_seconds) for one in issued], dtype=np.int64)
        if not len(origins):
            continue
        came, _ = stepped.came(origins)
        said, naive = np.array([one.mean for one in issued]), ten_minute_mean(stepped, origins)
        known = np.isfinite(came) & np.isfinite(naive)
        errors += float(np.abs(said - came)[known].sum())
        naive_errors += float(np.abs(naive - came)[known].sum())
        total += float(came[known].sum())
    return {"ensemble": errors / total if total else None, "naive": naive_errors / total if total else None, "steps": len(places)}


class KeptFits:
    """A `Fitting` that fits nothing: it gives the newest of the walk's experts that had seen nothing from `before` on."""

    def __init__(self, stored: StoredFits, blocks: Blocks, seen: dict[str, list[list[int]]]) -> None:
        self.before = 0
        self._stored, self._blocks, self._seen = stored, blocks, seen
        self._known: dict[tuple[str, int], Expert] = {}

    def __call__(self, name: str, history: History, steps: int) -> Expert:
        """The expert that spoke last before the step; ValueError when there was none yet."""
        number, learned = max(((number, learned) for number, learned in self._seen.get(name, []) if number <= self.before), default=(0, 0))
        if not number:
            raise ValueError(f"{name} was not fitted before the step")
        if (name, number) not in self._known:
            taught = History(self._blocks.loads[:number], history.first, history.day)
            self._known[name, number] = self._stored(name, taught, learned)
        return self._known[name, number]


def walk_of(blocks: Blocks, fitting: Any, experts: tuple[str, ...] | None = None, refit_seconds: float = 1e9) -> Any:
    """The forecasts at the boundaries of the blocks."""
    return walk(
        blocks.loads, blocks.step_seconds, start=blocks.start, horizon_seconds=blocks.horizon_seconds, quantiles=QUANTILES, every=blocks.steps,
        refit_seconds=refit_seconds, experts=experts, fitting=fitting,
    )  # fmt: skip


def first_days(blocks: Blocks, stored: StoredFits) -> dict[str, Any]:
    """A series that begins at one of a few places of the tested part: WAPE before and after its first 24 hours, beside the 10-minute mean's."""
    length = min(len(blocks.loads) - blocks.start, round(BIRTH_HOURS * 3_600 / blocks.step_seconds))
    places = np.linspace(blocks.start, len(blocks.loads) - length, BIRTHS).astype(int)
    sums = np.zeros((2, 3))  # before and after × ensemble, naive, load
    day = round(86_400 / blocks.step_seconds)
    for place in sorted(set(places.tolist())):
        # a series begins with its first sample
        place += int(np.flatnonzero(np.isfinite(blocks.loads[place:]))[0])
        born = replace(blocks, loads=blocks.loads[place : place + length], start=blocks.steps)
        issued = list(walk_of(born, stored, refit_seconds=86_400))
        origins = np.array([round(one.issued_at / blocks.step_seconds) for one in issued], dtype=np.int64)
        came, _ = born.came(origins)
        said, naive = np.array([one.mean for one in issued]), ten_minute_mean(born, origins)
        known = np.isfinite(came) & np.isfinite(naive)
        for row, part in enumerate((origins < day, origins >= day)):
            here = known & part
            sums[row] += np.abs(said - came)[here].sum(), np.abs(naive - came)[here].sum(), came[here].sum()

    def shares(row: Floats) -> dict[str, float | None]:
        return {"ensemble": row[0] / row[2] if row[2] else None, "naive": row[1] / row[2] if row[2] else None}

    return {"before24h": shares(sums[0]), "after24h": shares(sums[1])}


def alone(blocks: Blocks, stored: StoredFits, name: str) -> dict[str, Any]:
    """An expert that is not among the ensemble's, scored like those that are."""
    return dict(walked(blocks, stored, (name,))["experts"][name])


def without(blocks: Blocks, stored: StoredFits, experts: tuple[str, ...]) -> dict[str, Any]:
    """The ensemble of these experts on at most 150 of the boundaries: WAPE of the mean, and the p90's pinball loss of the peak."""
    tested = (len(blocks.loads) - blocks.start) * blocks.step_seconds
    refit_seconds = max(86_400.0, tested / MOST_REFITS)
    # where a whole number of the sparse boundaries makes a refit's period, the walk's own fits serve again
    least = max(1, -(-len(blocks.origins) // ABLATION_ORIGINS))
    period = -(-round(refit_seconds / blocks.step_seconds) // blocks.steps)
    sparse = next((number for number in range(least, 3 * least) if period % number == 0), least)
    forecasts = walk(
        blocks.loads, blocks.step_seconds, start=blocks.start, horizon_seconds=blocks.horizon_seconds, quantiles=QUANTILES,
        every=blocks.steps * sparse, refit_seconds=refit_seconds, experts=experts, fitting=stored,
    )  # fmt: skip
    issued = [one for one in forecasts if round(one.issued_at / blocks.step_seconds) + blocks.steps <= len(blocks.loads)]
    origins = np.array([round(one.issued_at / blocks.step_seconds) for one in issued], dtype=np.int64)
    mean, peak = blocks.came(origins)
    said = said_by(issued)
    known = np.isfinite(mean)
    return {
        "origins": int(known.sum()),
        "wapeMean": float(np.abs(said.mean - mean)[known].sum() / mean[known].sum()) if known.any() else None,
        "p90Peak": pinball(said.peak_quantiles[QUANTILES.index(0.9)], peak, 0.9),
    }
