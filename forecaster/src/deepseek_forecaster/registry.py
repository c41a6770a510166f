"""The series that are watched: what was asked about each, kept on disk, with its samples and its forecaster."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from numpy.typing import NDArray
from pydantic import ValidationError

from . import memory
from .history import SampleFile, write_atomically
from .models import TRAINABLE
from .models.expert import History
from .series import SeriesForecaster
from .types import Message
from .weights import Fit, load
from .wire import ForecastRequest

log = logging.getLogger(__name__)

ABOUT = "series.json"
SAVE_ASKED_EVERY_SECONDS = 3_600.0
REMEMBER_EVERY_SECONDS = 3_600.0
MAX_SERIES = 10_000
"""Series under watch unless told otherwise: as many as one batch may ask about."""


class About(Message):
    """What is kept of a series besides its samples and fits: the last question, and when it was asked."""

    request: ForecastRequest
    asked_at: float


@dataclass(eq=False)
class Watched:
    """A series under watch. Its files and its forecaster's background work belong to whoever holds `working`."""

    request: ForecastRequest
    asked_at: float
    directory: Path
    forecaster: SeriesForecaster
    saved: About | None = None
    samples: SampleFile | None = None
    fits: dict[str, Fit] = field(default_factory=dict)
    working: threading.Lock = field(default_factory=threading.Lock)
    remembered_at: float = 0.0
    due_at: float = 0.0
    read_at: float | None = None
    trouble: str | None = None

    @property
    def series(self) -> str:
        """The series id."""
        return self.request.series

    @property
    def known_steps(self) -> int:
        """How many steps of the newest view are known."""
        return round(self.forecaster.known_seconds / self.request.step_seconds)

    def open(self, history_seconds: float) -> SampleFile:
        """The series' samples; at the first call its files are opened and its fits taken on. Background work: hold `working`."""
        if self.samples is None:
            self.samples = SampleFile(self.directory, round(history_seconds / self.request.step_seconds))
            remembered = memory.load(self.directory)
            if not remembered:
                # what the quick experts said is soon said again, and they answer while the libraries of the others are being loaded
                self.observe()
            self._begin_anew(remembered)
        return self.samples

    def observe(self) -> None:
        """Bring the forecaster up to date with the samples. Background work: hold `working`."""
        if self.samples is not None and self.samples.last is not None:
            first, values = self.samples.grid()
            self.forecaster.observe(History(values, first, self.forecaster.day))

    def adopt(self, name: str) -> None:
        """Take on the fit of this expert that lies on disk, if there is one. Background work: hold `working`."""
        fit = load(self.directory, name, self.forecaster.day)
        if fit is not None:
            self.fits[name] = fit
            self.forecaster.adopt(fit.member)

    def drop_after(self, index: int) -> int:
        """Forget the samples after this grid index and forecast anew from the rest; gives how many there were. Hold `working`. OSError."""
        dropped = self.samples.drop_after(index) if self.samples is not None else 0
        if dropped:
            self._begin_anew({})
        return dropped

    def _begin_anew(self, remembered: dict[str, dict[str, NDArray[Any]]]) -> None:
        """Put a new forecaster in the present one's place, with the fits on disk and what is remembered."""
        forecaster = SeriesForecaster(self.request.step_seconds, self.forecaster.day * self.request.step_seconds)
        prepare(forecaster, self.request)
        for name in TRAINABLE:
            fit = load(self.directory, name, forecaster.day)
            if fit is not None:
                self.fits[name] = fit
                forecaster.adopt(fit.member)
        forecaster.recall(remembered)
        if self.samples is not None and self.samples.last is not None:
            first, values = self.samples.grid()
            forecaster.observe(History(values, first, forecaster.day))
        # it answers from here on
        self.forecaster = forecaster

    def save(self) -> None:
        """Put the last question on disk when it has changed or an hour has passed. Background work: hold `working`. OSError."""
        about = About(request=self.request, asked_at=self.asked_at)
        saved = self.saved
        if saved is None or saved.request != about.request or about.asked_at - saved.asked_at > SAVE_ASKED_EVERY_SECONDS:
            write_atomically(self.directory / ABOUT, about.model_dump_json().encode())
            self.saved = about
        if not 0.0 <= self.asked_at - self.remembered_at <= REMEMBER_EVERY_SECONDS:
            self.keep_memory()

    def keep_memory(self) -> None:
        """Put on disk what the forecaster remembers. Background work: hold `working`. OSError."""
        remembered = self.forecaster.remember()
        if remembered:
            memory.save(self.directory, remembered)
            self.remembered_at = self.asked_at


class DirectoryInUseError(RuntimeError):
    """Another forecaster works on this data directory."""


class TooManySeriesError(RuntimeError):
    """As many series are watched as may be; the text says how many that is."""


class Registry:
    """All watched series, by id. One process at a time works on a data directory: `with Registry(…)` holds its lock.

    Looking up, registering and noting a question touch no disk; the background work does.
    `max_series` bounds what is registered anew: series that lie on disk are taken up even where it is lower than before.
    """

    def __init__(self, directory: Path, season_seconds: float, max_series: int = MAX_SERIES) -> None:
        self._directory = directory
        self._season = season_seconds
        self._max_series = max_series
        self._watched: dict[str, Watched] = {}
        self._changing = threading.Lock()
        self._locked: IO[str] | None = None

    def __enter__(self) -> Self:
        """Lock the directory and take up every series that lies in it; DirectoryInUseError when it is locked."""
        folder = self._directory / "series"
        folder.mkdir(parents=True, exist_ok=True)
        self._locked = (self._directory / "lock").open("w")
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._locked.close()
            raise DirectoryInUseError(f"a data directory serves one forecaster at a time; {self._directory} is in use") from None
        for path in sorted(folder.iterdir()):
            if path.name.startswith(_GONE):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir():
                self._take_up(path)
        return self

    def __exit__(self, *_: object) -> None:
        if self._locked is not None:
            self._locked.close()

    def __len__(self) -> int:
        return len(self._watched)

    def __iter__(self) -> Iterator[Watched]:
        return iter(list(self._watched.values()))

    def __contains__(self, watched: object) -> bool:
        return isinstance(watched, Watched) and self._watched.get(watched.series) is watched

    def get(self, request: ForecastRequest) -> Watched | None:
        """The series asked for, None if it is unknown or known under another query or step only."""
        found = self._watched.get(request.series)
        same = found is not None and (found.request.query, found.request.step_seconds) == (request.query, request.step_seconds)
        return found if same else None

    def register(self, request: ForecastRequest, now: float) -> Watched:
        """Watch a series from now on; one of the same id with another query or step is no longer watched. TooManySeriesError."""
        with self._changing:
            replaced = self._watched.get(request.series)
            if replaced is None and len(self._watched) >= self._max_series:
                raise TooManySeriesError(
                    f"at most {self._max_series} series are watched (--max-series), and {len(self._watched)} are;"
                    " one nobody asks about makes room after --forget-after"
                )
            watched = self._new(request, now, self._directory / "series" / _folder(request))
            self._watched[request.series] = watched
        if replaced is not None:
            log.info("series %s has a new query or step; its history starts anew", request.series)
        return watched

    def asked(self, watched: Watched, request: ForecastRequest, now: float) -> None:
        """Note the newest question about a series."""
        watched.request, watched.asked_at = request, now
        watched.forecaster.wants(request.steps)

    def forget(self, asked_before: float) -> list[str]:
        """Stop watching what nobody has asked about since, and delete it; gives the ids. Touches the disk."""
        gone = []
        for watched in self:
            if watched.asked_at >= asked_before or not watched.working.acquire(blocking=False):
                continue
            aside = watched.directory.with_name(f"{_GONE}{uuid.uuid4().hex}")
            try:
                with self._changing:
                    if watched in self:
                        del self._watched[watched.series]
                        if watched.directory.exists():
                            watched.directory.rename(aside)
                        gone.append(watched.series)
            finally:
                watched.working.release()
            shutil.rmtree(aside, ignore_errors=True)
        return gone

    def _take_up(self, directory: Path) -> None:
        try:
            about = About.model_validate_json((directory / ABOUT).read_bytes())
        except (OSError, ValidationError) as error:
            log.warning("%s holds no series and is left alone: %s", directory, str(error).splitlines()[0])
            return
        known = self._watched.get(about.request.series)
        if known is not None and known.asked_at >= about.asked_at:
            return
        watched = self._new(about.request, about.asked_at, directory)
        watched.saved = about
        self._watched[about.request.series] = watched

    def _new(self, request: ForecastRequest, asked_at: float, directory: Path) -> Watched:
        forecaster = SeriesForecaster(request.step_seconds, self._season)
        prepare(forecaster, request)
        return Watched(request=request, asked_at=asked_at, directory=directory, forecaster=forecaster)


def prepare(forecaster: SeriesForecaster, request: ForecastRequest) -> None:
    """Tell a new forecaster what it will be asked."""
    forecaster.wants(request.steps)
    forecaster.expect(request.horizon_seconds, request.lead_seconds, request.slack_seconds)


_GONE = "gone-"


def _folder(request: ForecastRequest) -> str:
    """A folder name of its own for each id, query and step: readable at its start, exact by its digest."""
    identity = json.dumps([request.series, request.query, request.step_seconds]).encode()
    readable = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in request.series)[:40]
    return f"s-{readable}-{hashlib.sha256(identity).hexdigest()[:16]}"
