"""When each expert of each series is fitted, and how a fit reaches its series: the parent's half of training.

Fitting has a budget, a share of one core. A few series use little of it. Of a large fleet, what is fitted first is what pays most for its
seconds: experts that carry weight and are cheap, the longer overdue the sooner. So a thousand series get their boosting anew each day, and the
LSTM as often as the rest of the budget allows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .models import TRAINABLE
from .registry import Registry, Watched
from .train import Job

log = logging.getLogger(__name__)

LEAST_KNOWN = {"arima": 60, "boosting": 160, "lstm": 240}
"""Fewer known steps than this teach an expert nothing, whatever the season."""
IDLE_SECONDS = 60.0
JOB_LIMIT_SECONDS = 600.0
RETRY_SECONDS = 900.0
"""An expert that could not be fitted is tried again after this, or when its history has grown by half."""
GROWTH = 1.5
"""A young series is fitted anew each time its history has grown by half, an old one when `train_every` has passed."""
FIRST_FIT_NICENESS = 5
"""A series that has no model yet is waiting for one: on a busy core this still gets about a quarter of it."""
REFIT_NICENESS = 19
"""A refit has all day."""


TRAIN_SHARE = 0.2
"""Of one core, over time, unless told otherwise (`--train-share`)."""
MOST_SAVED_SECONDS = 900.0
"""So much of the budget may be saved up while nothing is due: a new service has its first models at once."""
FIRST_GUESS_SECONDS = {"arima": 4.0, "boosting": 1.0, "lstm": 15.0}
"""What a fit is taken to cost until one was made."""
NEW_IS_WORTH = 3.0
"""A first fit is worth as much as a refit that is two periods overdue …"""
NEW_WEIGHT = 0.3
"""… of an expert with this weight; unfitted, it has none yet."""
LEAST_WEIGHT = 0.02
"""An expert that carries nothing now is still fitted anew, late: traffic changes."""


class Trainer:
    """Decides which fit is due, has the child do it, and hands the new expert to its series.

    `share` of one core is spent on fits, over time; `saved_seconds` is what may be spent now, below zero when the last fit cost more.
    """

    def __init__(
        self, registry: Registry, train_every_seconds: float, now: Callable[[], float] = time.time, share: float = TRAIN_SHARE
    ) -> None:
        self._registry = registry
        self._every = train_every_seconds
        self._now = now
        self._share = share
        self._child: asyncio.subprocess.Process | None = None
        self._niceness = REFIT_NICENESS
        self._failed: dict[tuple[str, str], tuple[float, int]] = {}
        self._cost = dict(FIRST_GUESS_SECONDS)
        self.saved_seconds = MOST_SAVED_SECONDS
        self._saved_at = time.monotonic()
        self.fits = dict.fromkeys(TRAINABLE, 0)
        self.failures = dict.fromkeys(TRAINABLE, 0)
        self.seconds = dict.fromkeys(TRAINABLE, 0.0)
        self.waiting = 0
        """Fits that are due."""

    async def run(self) -> None:
        """Train until cancelled; the child ends with it."""
        idle_since = time.monotonic()
        try:
            while True:
                due = self.next_due() if self._may_spend() else None
                if due is None:
                    if self._child is not None and time.monotonic() - idle_since > IDLE_SECONDS:
                        await self._end_child()
                    # looking through a large fleet costs milliseconds, too
                    await asyncio.sleep(max(0.5, 0.002 * len(self._registry)))
                    continue
                await self._train(*due)
                idle_since = time.monotonic()
        finally:
            await self._end_child()

    def _may_spend(self) -> bool:
        now = time.monotonic()
        self.saved_seconds = min(MOST_SAVED_SECONDS, self.saved_seconds + self._share * (now - self._saved_at))
        self._saved_at = now
        return self.saved_seconds > 0

    def next_due(self) -> tuple[Watched, str] | None:
        """The fit that pays most for its seconds; None when nothing is due."""
        now = self._now()
        best: tuple[float, Watched, str] | None = None
        self.waiting = 0
        for watched in self._registry:
            known = watched.known_steps
            for name in TRAINABLE:
                overdue = self._overdue(watched, name, now, known)
                if overdue is None:
                    continue
                self.waiting += 1
                pays = self._worth(watched, name, overdue) / max(0.01, self._cost.get(name, 1.0))
                if best is None or pays > best[0]:
                    best = (pays, watched, name)
        return None if best is None else (best[1], best[2])

    def _worth(self, watched: Watched, name: str, overdue: float) -> float:
        """The weight that the expert carries, times how much it needs the fit: 1 when it has just become due, 2 a period later."""
        if name not in watched.fits:
            return NEW_WEIGHT * NEW_IS_WORTH
        return max(LEAST_WEIGHT, watched.forecaster.weights.get(name, 0.0)) * (1.0 + overdue / self._every)

    def _overdue(self, watched: Watched, name: str, now: float, known: int) -> float | None:
        """Seconds since this fit became due (0 when growth made it due), None when it is not."""
        if known < LEAST_KNOWN[name]:
            return None
        failed_at, failed_known = self._failed.get((watched.series, name), (None, 0))
        if failed_at is not None and 0 <= now - failed_at < RETRY_SECONDS and known < GROWTH * failed_known:
            return None
        done = watched.fits.get(name)
        if done is None or done.steps < watched.forecaster.steps or known >= GROWTH * done.known_steps:
            return 0.0
        # ±10 % by the series' name: a fleet that was registered in one minute is not trained anew in one minute
        spread = 0.9 + 0.2 * (zlib.crc32(f"{watched.series} {name}".encode()) % 1000) / 1000
        overdue = now - (done.member.trained_at or 0.0) - self._every * spread
        return overdue if overdue >= 0 else None

    async def _train(self, watched: Watched, name: str) -> None:
        known, steps = watched.known_steps, watched.forecaster.steps
        job = Job(str(watched.directory), name, watched.forecaster.day, steps)
        started = time.monotonic()
        answer: dict[str, Any] = {}
        try:
            niceness = REFIT_NICENESS if name in watched.fits else FIRST_FIT_NICENESS
            answer = await asyncio.wait_for(self._ask_child(job, niceness), JOB_LIMIT_SECONDS)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
            await self._end_child()
            answer = {"ok": False, "reason": f"the training process failed: {type(error).__name__}: {error}"}
        # of a child that died nobody knows what it used
        spent = answer.get("seconds", time.monotonic() - started)
        self.seconds[name] += spent
        self.saved_seconds -= spent
        if not answer["ok"]:
            self.failures[name] += 1
            self._failed[watched.series, name] = (self._now(), known)
            log.warning("series %s: %s could not be fitted: %s", watched.series, name, answer["reason"])
            return
        self.fits[name] += 1
        self._cost[name] = spent if self.fits[name] == 1 else 0.8 * self._cost[name] + 0.2 * spent
        self._failed.pop((watched.series, name), None)
        log.info("series %s: %s fitted on %d steps in %.1f s", watched.series, name, known, answer["seconds"])
        await asyncio.to_thread(self._hand_over, watched, name)

    def _hand_over(self, watched: Watched, name: str) -> None:
        with watched.working:
            if watched in self._registry:
                # what the fit before has said stays said, also after a restart
                watched.keep_memory()
                watched.adopt(name)
                watched.observe()

    async def _ask_child(self, job: Job, niceness: int) -> dict[str, Any]:
        if niceness != self._niceness:
            await self._end_child()
        if self._child is None or self._child.returncode is not None:
            one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                f"from deepseek_forecaster.train import main; main({niceness})",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **one_thread},
            )
            self._niceness = niceness
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        await child.stdin.drain()
        line = await child.stdout.readline()
        if not line:
            raise ValueError(f"it ended with exit status {await child.wait()}")
        answer = json.loads(line)
        return dict(answer)

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            child.kill()
            await child.wait()
