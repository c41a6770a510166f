"""Collecting: each step, the newest samples of every watched series are read, kept and shown to its forecaster, in worker threads.

One range query per series and step. `collect_one` is the seam where series of one fleet query can be read together.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from .prometheus import PrometheusReader, ReadError
from .registry import Registry, Watched

log = logging.getLogger(__name__)

READERS = 4
REREAD_STEPS = 3
"""The newest steps are read again, since a sample may have come in late."""
FORGET_EVERY_SECONDS = 600.0


class Collector:
    """Reads what is due, never two reads of one series at once. `now` is the wall clock, in seconds since the epoch."""

    def __init__(
        self,
        registry: Registry,
        reader: PrometheusReader,
        history_seconds: float,
        forget_after_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._reader = reader
        self._history = history_seconds
        self._forget_after = forget_after_seconds
        self._now = now
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="collect")
        self._busy: set[str] = set()
        self._woken = asyncio.Event()
        self._turned_at = time.monotonic()
        self.read_errors = 0
        self.samples_read = 0

    @property
    def age_seconds(self) -> float:
        """Seconds since the collecting loop last turned; it turns at least every five seconds while it lives."""
        return time.monotonic() - self._turned_at

    def wake(self) -> None:
        """Something may be due at once: a new series."""
        self._woken.set()

    async def run(self) -> None:
        """Collect until cancelled."""
        loop = asyncio.get_running_loop()
        forget_at = 0.0
        try:
            while True:
                self._turned_at = time.monotonic()
                now = self._now()
                if now >= forget_at or forget_at - now > FORGET_EVERY_SECONDS:
                    loop.run_in_executor(self._pool, self._forget, now - self._forget_after)
                    forget_at = now + FORGET_EVERY_SECONDS
                for watched in self._registry:
                    # a due time more than a step away means that the clock was set back
                    if watched.series not in self._busy and (watched.due_at <= now or watched.due_at > now + 2 * watched.request.step_seconds):
                        self._busy.add(watched.series)
                        task = loop.run_in_executor(self._pool, self._collect, watched)
                        task.add_done_callback(partial(self._finished, watched.series))
                waiting = [watched.due_at for watched in self._registry if watched.series not in self._busy]
                self._woken.clear()
                try:
                    await asyncio.wait_for(self._woken.wait(), max(0.01, min([5.0, *(at - self._now() for at in waiting)])))
                except TimeoutError:
                    continue
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _forget(self, asked_before: float) -> None:
        for series in self._registry.forget(asked_before):
            log.info("series %s is forgotten: nobody has asked about it for %.0f s", series, self._forget_after)

    def _finished(self, series: str, _: object) -> None:
        self._busy.discard(series)
        self._woken.set()

    def _collect(self, watched: Watched) -> None:
        try:
            self.collect_one(watched)
        except ReadError as error:
            self.read_errors += 1
            if watched.trouble != str(error):
                log.warning("series %s: %s", watched.series, error)
            watched.trouble = str(error)
        except Exception as error:  # one series' misfortune must not end the collecting of the others
            self.read_errors += 1
            watched.trouble = f"the history could not be kept: {type(error).__name__}: {error}"
            log.exception("series %s could not be collected", watched.series)
        finally:
            watched.due_at = next_due(self._now(), watched.request.step_seconds, watched.series)

    def collect_one(self, watched: Watched) -> None:
        """Read what is missing of one series up to now, oldest first, and bring its forecaster up to date. Blocking."""
        step = watched.request.step_seconds
        newest = math.floor(self._now() / step)
        oldest = newest - round(self._history / step)
        with watched.working:
            if watched not in self._registry:
                return
            samples = watched.open(self._history)
            watched.save()
            before = samples.last
            first = oldest if before is None else max(oldest, before - REREAD_STEPS)
            changed = 0
            try:
                for indices, loads in self._reader.chunks(watched.request.query, step, first, newest):
                    changed += samples.add(indices, loads)
                    self.samples_read += len(indices)
                watched.read_at = self._now()
                watched.trouble = None
            finally:
                if changed:
                    watched.observe()


def next_due(now: float, step_seconds: float, series: str) -> float:
    """When a series is to be read next: shortly after the next step ends, series of one step spread over a tenth of it (at most 5 s)."""
    settle = min(1.0, 0.1 * step_seconds)
    spread = min(5.0, 0.1 * step_seconds) * (zlib.crc32(series.encode()) % 1000) / 1000
    ended = math.floor((now - settle - spread) / step_seconds) + 1
    return ended * step_seconds + settle + spread
