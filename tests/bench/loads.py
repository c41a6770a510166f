"""What is replayed: the traces of a folder by the benchmark's rules, copies of them, and generated traffic where there is no folder.

The test part is the last 30 % of a trace, at most four days; everything before it is history for whoever wants to learn. A node's capacity is
such that the 99.9th percentile of the whole trace needs ten nodes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from bench.traffic_sampling import perturbed, to_minutes

from deepseek_demo.traffic import generate
from deepseek_forecaster.trace import read_trace
from deepseek_operator.replay import benchmark_capacity

STEP_SECONDS = 60.0
TEST_SHARE = 0.3
LONGEST_TEST_MINUTES = 5760
SHORTEST_TEST_MINUTES = 180
"""A trace with less to test says nothing: one cold start is a sixtieth of this."""

TUNED_ON: frozenset[str] = frozenset({"servegen_m-mid_1min", "servegen_m-mid_c36_1min", "worldcup98_may"})
"""Traces by which a default or a hyperparameter of this project was chosen; the headline leaves them out."""

Rates = Sequence[float | None]


@dataclass(frozen=True)
class Load:
    """Requests per second in each minute; the policy sees `seen`. The test part begins at minute `start`. `sampled`: minutes were drawn from
    longer steps, by `seed`."""

    name: str
    rates: Rates = field(repr=False)
    seen: Rates = field(repr=False)
    start: int
    capacity: float
    sampled: bool = False
    seed: int = 0

    @property
    def tuned_on(self) -> bool:
        """A default of this project was chosen by it."""
        return self.name in TUNED_ON

    @property
    def minutes(self) -> int:
        """Length of the test part."""
        return len(self.rates) - self.start

    @cached_property
    def key(self) -> str:
        """Changes when any of it does."""
        told = json.dumps([list(self.rates), list(self.seen), self.start, self.capacity])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def first(self, minutes: int) -> Load:
        """The same, ended after so many minutes of the test part."""
        end = self.start + minutes
        return replace(self, rates=self.rates[:end], seen=self.seen[:end])


def of_folder(folder: Path, seed: int = 1) -> list[Load]:
    """Every trace of the folder that is long enough to test on, by name. Of a trace that is there by minutes too, the minutes."""
    names = {path.stem for path in folder.glob("*.csv")}
    found = []
    for path in sorted(folder.glob("*.csv")):
        if f"{path.stem}_1min" in names:
            continue
        load = of_file(path, seed)
        if load.minutes >= SHORTEST_TEST_MINUTES:
            found.append(load)
    return found


def of_file(path: Path, seed: int = 1) -> Load:
    """One recorded trace, brought to minutes by a conditional sample where its steps are longer."""
    trace = read_trace(path)
    minutes = max(1, round(trace.step_seconds / STEP_SECONDS))
    rates = per_second(to_minutes(trace.counts, minutes, seed))
    return of_rates(path.stem, rates, sampled=minutes > 1, seed=seed if minutes > 1 else 0)


def of_rates(name: str, rates: Rates, *, sampled: bool = False, seed: int = 0) -> Load:
    """Requests per second by minute, with the test part and the capacity of the rules."""
    tested = min(LONGEST_TEST_MINUTES, int(len(rates) * TEST_SHARE))
    return Load(name, list(rates), list(rates), len(rates) - tested, benchmark_capacity(rates), sampled, seed)


def generated(seeds: Iterable[int] = (7, 8, 9)) -> list[Load]:
    """Traffic for where there is no folder of traces: a fortnight each."""
    return [of_rates(f"generated_{seed}", [float(c) / 60 for c in generate(days=14, seed=seed).counts]) for seed in seeds]


def copies(load: Load, seed: int) -> Iterator[Load]:
    """The perturbed copies of a trace, nodes as large as in the original."""
    counts = [None if rate is None else rate * STEP_SECONDS for rate in load.rates]
    for copy in perturbed(counts, load.start, seed):
        yield Load(f"{load.name}: {copy.name}", per_second(copy.counts), per_second(copy.seen), copy.start, load.capacity, True, seed)


def per_second(counts: Sequence[float | None]) -> list[float | None]:
    """Counts per minute as rates."""
    return [None if count is None else count / STEP_SECONDS for count in counts]
