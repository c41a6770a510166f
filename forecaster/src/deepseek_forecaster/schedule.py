"""When each expert of each series is fitted, and how a fit reaches its series: the parent's half of training."""

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

LEAST_KNOWN = {"arima": 60, "lstm": 240}
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


class Trainer:
    """Decides which fit is due, has the child do it, and hands the new expert to its series."""

    def __init__(self, registry: Registry, train_every_seconds: float, now: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._every = train_every_seconds
        self._now = now
        self._child: asyncio.subprocess.Process | None = None
        self._niceness = REFIT_NICENESS
        self._failed: dict[tuple[str, str], tuple[float, int]] = {}
        self.fits = dict.fromkeys(TRAINABLE, 0)
        self.failures = dict.fromkeys(TRAINABLE, 0)
        self.seconds = dict.fromkeys(TRAINABLE, 0.0)

    async def run(self) -> None:
        """Train until cancelled; the child ends with it."""
        idle_since = time.monotonic()
        try:
            while True:
                due = self.next_due()
                if due is None:
                    if self._child is not None and time.monotonic() - idle_since > IDLE_SECONDS:
                        await self._end_child()
                    await asyncio.sleep(0.5)
                    continue
                await self._train(*due)
                idle_since = time.monotonic()
        finally:
            await self._end_child()

    def next_due(self) -> tuple[Watched, str] | None:
        """The fit that is most overdue: never fitted ones first, the quick expert before the slow one; None when nothing is due."""
        now = self._now()
        best: tuple[tuple[bool, int, float], Watched, str] | None = None
        for watched in self._registry:
            for place, name in enumerate(TRAINABLE):
                overdue = self._overdue(watched, name, now)
                if overdue is None:
                    continue
                fitted = name in watched.fits
                rank = (not fitted, -place, overdue)
                if best is None or rank > best[0]:
                    best = (rank, watched, name)
        return None if best is None else (best[1], best[2])

    def _overdue(self, watched: Watched, name: str, now: float) -> float | None:
        """Seconds since this fit became due (0 when growth made it due), None when it is not."""
        known = watched.known_steps
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
        try:
            niceness = REFIT_NICENESS if name in watched.fits else FIRST_FIT_NICENESS
            answer = await asyncio.wait_for(self._ask_child(job, niceness), JOB_LIMIT_SECONDS)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
            await self._end_child()
            answer = {"ok": False, "reason": f"the training process failed: {type(error).__name__}: {error}"}
        self.seconds[name] += time.monotonic() - started
        if not answer["ok"]:
            self.failures[name] += 1
            self._failed[watched.series, name] = (self._now(), known)
            log.warning("series %s: %s could not be fitted: %s", watched.series, name, answer["reason"])
            return
        self.fits[name] += 1
        self._failed.pop((watched.series, name), None)
        log.info("series %s: %s fitted on %d steps in %.1f s", watched.series, name, known, answer["seconds"])
        await asyncio.to_thread(self._hand_over, watched, name)

    def _hand_over(self, watched: Watched, name: str) -> None:
        with watched.working:
            if watched in self._registry:
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
