"""What a forecaster remembers beyond samples and fits, as plain arrays: what each expert said, and how the quantiles' levels have moved.

It lies on disk beside the samples as it was at the last fit or up to an hour ago. What was said since then is said again, by the same fits from
the same samples, so that a restart forecasts as before.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .calibrate import Calibration
from .history import write_atomically
from .record import TrackRecord

log = logging.getLogger(__name__)

FILE_NAME = "record.npz"
FORMAT = 2
Arrays = Mapping[str, NDArray[Any]]


def pack(record: TrackRecord, calibration: Calibration) -> dict[str, NDArray[Any]]:
    """The state of one track."""
    packed: dict[str, NDArray[Any]] = {"origins": record.origins, "about": np.array([FORMAT, record.steps, record.stride])}
    for kind, rows in (("means", record.means), ("bends", record.bends), ("peaks", record.peaks)):
        packed |= {f"{kind}.{name}": array for name, array in rows.items()}
    return packed | {
        "moved": calibration.moved,
        "judged": np.array([calibration.judged]),
        "issued_origins": calibration.origins,
        "issued": calibration.issued,
    }


def unpack(arrays: Arrays, record: TrackRecord, calibration: Calibration, names: Collection[str]) -> None:
    """Put the state of one track into a new record and calibration, as far as these experts are concerned; ValueError when it does not fit."""
    try:
        if arrays["about"].tolist() != [FORMAT, record.steps, record.stride]:
            raise ValueError(f"it is of {arrays['about'].tolist()}, wanted is {[FORMAT, record.steps, record.stride]}")
        origins = arrays["origins"].astype(np.int64)
        rows: dict[str, dict[str, NDArray[np.float32]]] = {
            kind: {name: arrays[f"{kind}.{name}"].astype(np.float32) for name in names if f"{kind}.{name}" in arrays}
            for kind in ("means", "bends", "peaks")
        }
        moved, judged = arrays["moved"].astype(np.float64), int(arrays["judged"][0])
        issued_origins, issued = arrays["issued_origins"].astype(np.int64), arrays["issued"].astype(np.float32)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"an array is missing: {error}") from error
    if any(len(array) != len(origins) for kind in rows.values() for array in kind.values()):
        raise ValueError(f"each expert must have a row for each of the {len(origins)} origins")
    if moved.shape != calibration.moved.shape or issued.shape != (len(issued_origins), *calibration.issued.shape[1:]):
        raise ValueError(f"levels of the shape {moved.shape} and quantiles of the shape {issued.shape} are not of this version")
    if not np.isfinite(moved).all():
        raise ValueError("a level is not finite")
    record.origins, record.means, record.bends, record.peaks = origins, rows["means"], rows["bends"], rows["peaks"]
    calibration.moved, calibration.judged, calibration.origins, calibration.issued = moved, judged, issued_origins, issued


def save(directory: Path, tracks: Mapping[str, Arrays]) -> None:
    """Put the tracks on disk in one step; OSError."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{f"{key}/{name}": array for key, track in tracks.items() for name, array in track.items()})
    write_atomically(directory / FILE_NAME, content.getvalue())


def load(directory: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """The tracks on disk; none where there is no file, or one that cannot be read (logged)."""
    path = directory / FILE_NAME
    tracks: dict[str, dict[str, NDArray[Any]]] = {}
    if not path.exists():
        return tracks
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for full in arrays.files:
                key, _, name = full.partition("/")
                tracks.setdefault(key, {})[name] = arrays[full]
    except Exception as error:  # damaged, or of another version: the record is built anew
        log.warning("%s cannot be used, the record is built anew: %s: %s", path, type(error).__name__, error)
        return {}
    return tracks
