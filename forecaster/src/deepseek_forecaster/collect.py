"""Collecting: each step, the newest samples of every watched series are read, kept and shown to its forecaster, in worker threads.

Series of one step are read together, up to fifty in one query; a series that is new or has fallen behind reads its own history, in chunks.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from .models.expert import Floats, Ints
from .prometheus import PrometheusReader, ReadError
from .registry import Registry, Watched

log = logging.getLogger(__name__)

READERS = 4
REREAD_STEPS = 3
"""The newest steps are read again, since a sample may have come in late."""
TOGETHER = 50
"""Series in one query. Prometheus works through them one after the other; more in one gains nothing and makes one bad query dearer."""
RECENT_STEPS = 30
"""Who lacks more than this reads its history by itself."""
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
        # waiting for Prometheus is done by four, computing by one: answers must get the interpreter, too
        self._computing = threading.Lock()
        self._busy: set[str] = set()
        self._woken = asyncio.Event()
        self._turned_at = time.monotonic()
        self.read_errors = 0
        self.samples_read = 0
        self.queries = 0

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
                for part in batches(self._due(now), now):
                    self._busy |= {watched.series for watched in part}
                    task = loop.run_in_executor(self._pool, self._collect, part)
                    task.add_done_callback(partial(self._finished, [watched.series for watched in part]))
                waiting = [watched.due_at for watched in self._registry if watched.series not in self._busy]
                self._woken.clear()
                try:
                    await asyncio.wait_for(self._woken.wait(), max(0.01, min([5.0, *(at - self._now() for at in waiting)])))
                except TimeoutError:
                    continue
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _due(self, now: float) -> list[Watched]:
        """What is to be read now; a due time more than a step away means that the clock was set back."""
        return [
            watched
            for watched in self._registry
            if watched.series not in self._busy and not now < watched.due_at <= now + 2 * watched.request.step_seconds
        ]

    def _forget(self, asked_before: float) -> None:
        for series in self._registry.forget(asked_before):
            log.info("series %s is forgotten: nobody has asked about it for %.0f s", series, self._forget_after)

    def _finished(self, names: Iterable[str], _: object) -> None:
        self._busy.difference_update(names)
        self._woken.set()

    def _collect(self, part: Sequence[Watched]) -> None:
        """Read a batch and take it in. Blocking; raises nothing."""
        try:
            if len(part) == 1:
                self._guarded(part[0], partial(self.collect_one, part[0]))
            else:
                self._collect_together(part)
        finally:
            for watched in part:
                watched.due_at = next_due(self._now(), watched.request.step_seconds)

    def _collect_together(self, part: Sequence[Watched]) -> None:
        step = part[0].request.step_seconds
        newest = math.floor(self._now() / step)
        firsts = [_behind(watched, newest) for watched in part]
        self.queries += 1
        try:
            found = self._reader.together({one.series: one.request.query for one in part}, step, newest - max(firsts) + 1, newest)
        except Exception as error:  # whatever it is, each series says so and is read again at its next step
            found = {
                watched.series: error if isinstance(error, ReadError) else ReadError(f"{type(error).__name__}: {error}") for watched in part
            }
        for watched in part:
            self._guarded(watched, partial(self._take_in, watched, found[watched.series]))

    def _guarded(self, watched: Watched, work: Callable[[], None]) -> None:
        """Do the work for one series; its misfortune is noted, and must not end the collecting of the others."""
        try:
            work()
        except ReadError as error:
            self.read_errors += 1
            if watched.trouble != str(error):
                log.warning("series %s: %s", watched.series, error)
            watched.trouble = str(error)
        except Exception as error:
            self.read_errors += 1
            watched.trouble = f"the history could not be kept: {type(error).__name__}: {error}"
            log.exception("series %s could not be collected", watched.series)

    def _take_in(self, watched: Watched, found: tuple[Ints, Floats] | ReadError) -> None:
        with watched.working:
            if watched not in self._registry:
                return
            watched.save()
            if isinstance(found, ReadError):
                raise found
            self._keep(watched, [found])

    def collect_one(self, watched: Watched) -> None:
        """Read what is missing of one series up to now, oldest first, and bring its forecaster up to date. Blocking."""
        step = watched.request.step_seconds
        newest = math.floor(self._now() / step)
        oldest = newest - round(self._history / step)
        with watched.working:
            if watched not in self._registry:
                return
            with self._computing:
                samples = watched.open(self._history)
            watched.save()
            if samples.last is not None and samples.last > newest + REREAD_STEPS:
                # the clock was set back: what is said to be from the future is not known yet, and will be read when its time comes
                log.warning("series %s: the clock was set back; %d samples from later are dropped", watched.series, watched.drop_after(newest))
            before = samples.last
            first = oldest if before is None else max(oldest, before - REREAD_STEPS)
            self.queries += 1
            self._keep(watched, self._reader.chunks(watched.request.query, step, first, newest))

    def _keep(self, watched: Watched, parts: Iterable[tuple[Ints, Floats]]) -> None:
        """Keep what was read as far as it goes, then show it to the forecaster. Hold `working`."""
        assert watched.samples is not None
        changed = 0
        try:
            for indices, loads in parts:
                changed += watched.samples.add(indices, loads)
                self.samples_read += len(indices)
            watched.read_at = self._now()
            watched.trouble = None
        finally:
            if changed:
                with self._computing:
                    watched.observe()


def batches(due: Iterable[Watched], now: float) -> list[list[Watched]]:
    """What is read together: up to fifty series of one step that lack only the newest steps; everyone else alone."""
    parts: list[list[Watched]] = []
    open_parts: dict[int, list[Watched]] = {}
    for watched in due:
        step = watched.request.step_seconds
        behind = _behind(watched, math.floor(now / step))
        if not REREAD_STEPS < behind <= RECENT_STEPS:
            parts.append([watched])
            continue
        part = open_parts.get(step)
        if part is None or len(part) == TOGETHER:
            part = open_parts[step] = []
            parts.append(part)
        part.append(watched)
    return parts


def _behind(watched: Watched, newest: int) -> int:
    """How many steps up to `newest` are to be read, those that are read again included; a large number for a series without samples."""
    last = watched.samples.last if watched.samples is not None else None
    return newest + 1 if last is None else newest - last + REREAD_STEPS + 1


def next_due(now: float, step_seconds: float) -> float:
    """When a series is to be read next: shortly after the next step ends."""
    settle = min(1.0, 0.1 * step_seconds)
    return (math.floor((now - settle) / step_seconds) + 1) * step_seconds + settle
