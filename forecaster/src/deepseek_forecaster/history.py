"""The history of one series on disk: an append-only file of checked records, so that a kill at any moment loses at most one step.

It reaches beyond what Prometheus keeps. Each record is a grid index, a load and a check; a later record for the same index replaces the earlier
one (a late sample). What is torn or damaged fails its check and is left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .models.expert import Floats, Ints

RECORD = np.dtype([("index", "<i8"), ("load", "<f8"), ("check", "<u8")])
FILE_NAME = "samples.bin"
MOST_STEPS = 50_000
"""No history is longer than this: five weeks at one minute, a bit more than one day at two seconds."""


class SampleFile:
    """The samples of one series, in memory as a regular grid and on disk as records. Not for use by two writers at once."""

    def __init__(self, directory: Path, keep_steps: int) -> None:
        self._path = directory / FILE_NAME
        self._keep = max(1, min(keep_steps, MOST_STEPS))
        directory.mkdir(parents=True, exist_ok=True)
        records, intact = read_records(self._path)
        self._first, self._values = _grid(records["index"].astype(np.int64), records["load"].astype(np.float64), self._keep)
        self._stored = len(records)
        if not intact:
            self._rewrite()

    @property
    def last(self) -> int | None:
        """The grid index of the newest sample, None without any."""
        return self._first + len(self._values) - 1 if len(self._values) else None

    def grid(self) -> tuple[int, Floats]:
        """The grid index of the first value, and the values (NaN where unknown). The array is never changed afterwards."""
        return self._first, self._values

    def add(self, indices: Ints, loads: Floats) -> int:
        """Keep samples (rising indices, finite loads ≥ 0), on disk when this returns; gives how many were new or changed.

        OSError if the disk fails; nothing is kept then.
        """
        at = indices - self._first
        inside = (at >= 0) & (at < len(self._values))
        known = np.full(len(indices), np.nan)
        known[inside] = self._values[at[inside]]
        changed = known != loads
        if self.last is not None:
            changed &= indices > self.last - self._keep
        indices, loads = indices[changed], loads[changed]
        if not len(indices):
            return 0
        records = _records(indices, loads)
        try:
            with self._path.open("ab") as file:
                file.write(records.tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # half a record (a full disk) would shift every later one
            if self._path.exists():
                os.truncate(self._path, self._stored * RECORD.itemsize)
            raise
        self._stored += len(records)
        positions = np.flatnonzero(np.isfinite(self._values))
        self._first, self._values = _grid(
            np.concatenate((self._first + positions, indices)), np.concatenate((self._values[positions], loads)), self._keep
        )
        if self._stored > 2 * self._keep + 1_000:
            self._rewrite()
        return len(indices)

    def drop_after(self, index: int) -> int:
        """Forget every sample after this grid index, on disk when this returns; gives how many there were. OSError if the disk fails."""
        positions = np.flatnonzero(np.isfinite(self._values))
        kept = positions[self._first + positions <= index]
        if len(kept) == len(positions):
            return 0
        self._first, self._values = _grid(self._first + kept, self._values[kept], self._keep)
        self._rewrite()
        return len(positions) - len(kept)

    def _rewrite(self) -> None:
        """Write what is kept to a new file and put it in the old one's place in one step."""
        positions = np.flatnonzero(np.isfinite(self._values))
        write_atomically(self._path, _records(self._first + positions, self._values[positions]).tobytes())
        self._stored = len(positions)


def read_grid(directory: Path) -> tuple[int, Floats]:
    """What `SampleFile.grid` gives, read without a right to write: for another process, also while the file grows."""
    records, _ = read_records(directory / FILE_NAME)
    return _grid(records["index"].astype(np.int64), records["load"].astype(np.float64), MOST_STEPS)


def read_records(path: Path) -> tuple[NDArray[np.void], bool]:
    """The sound records of a file in the order they were written, and whether the file held nothing else."""
    content = path.read_bytes() if path.exists() else b""
    whole = len(content) // RECORD.itemsize
    records = np.frombuffer(content[: whole * RECORD.itemsize], dtype=RECORD)
    sound = (records["check"] == _check(records["index"], records["load"])) & np.isfinite(records["load"]) & (records["load"] >= 0)
    return records[sound], bool(sound.all()) and len(content) == whole * RECORD.itemsize


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by this content: after a crash there is either the old file or the new one."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _records(indices: Ints, loads: Floats) -> NDArray[np.void]:
    records = np.zeros(len(indices), dtype=RECORD)
    records["index"], records["load"] = indices, loads
    records["check"] = _check(records["index"], records["load"])
    return records


def _check(indices: Ints, loads: Floats) -> NDArray[np.uint64]:
    """A mix of both numbers' bits; a block of zeros, as a crashed disk leaves behind, does not pass."""
    bits = np.ascontiguousarray(indices).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ np.ascontiguousarray(loads).view(np.uint64)) * np.uint64(0xC2B2AE3D27D4EB4F)
    return np.asarray(bits ^ (bits >> np.uint64(29)) ^ np.uint64(0x5DEECE66D))


def _grid(indices: Ints, loads: Floats, keep: int) -> tuple[int, Floats]:
    """The dense grid of the newest `keep` steps; of several loads for one index the last counts. Starts at a known value."""
    if not len(indices):
        return 0, np.zeros(0)
    recent = indices > indices.max() - keep
    indices, loads = indices[recent], loads[recent]
    first = int(indices.min())
    values = np.full(int(indices.max()) - first + 1, np.nan)
    values[indices - first] = loads
    return first, values
