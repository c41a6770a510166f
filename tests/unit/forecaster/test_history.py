"""The samples on disk: nothing that was kept is lost by a kill, and nothing that is damaged comes back as a load."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_forecaster.history import FILE_NAME, RECORD, SampleFile, read_grid, write_atomically


def add(file: SampleFile, samples: dict[int, float]) -> int:
    return file.add(np.array(list(samples), dtype=np.int64), np.array(list(samples.values())))


def kept(file: SampleFile) -> dict[int, float]:
    first, values = file.grid()
    return {first + at: float(load) for at, load in enumerate(values) if np.isfinite(load)}


def test_what_was_added_is_there_after_opening_again_with_gaps_as_nan(tmp_path: Path) -> None:
    file = SampleFile(tmp_path, 100)
    assert add(file, {1000: 1.0, 1001: 2.0, 1004: 5.0}) == 3
    first, values = SampleFile(tmp_path, 100).grid()
    assert first == 1000
    assert values.tolist() == pytest.approx([1.0, 2.0, np.nan, np.nan, 5.0], nan_ok=True)
    assert read_grid(tmp_path)[1].tolist() == pytest.approx(values.tolist(), nan_ok=True)


def test_a_late_sample_fills_its_gap_and_a_corrected_one_replaces_the_old(tmp_path: Path) -> None:
    file = SampleFile(tmp_path, 100)
    add(file, {10: 1.0, 12: 3.0})
    assert add(file, {10: 1.0, 11: 2.0, 12: 3.5}) == 2, "the one that is the same is not written again"
    assert kept(SampleFile(tmp_path, 100)) == {10: 1.0, 11: 2.0, 12: 3.5}


def test_samples_from_before_the_first_are_put_in_front(tmp_path: Path) -> None:
    file = SampleFile(tmp_path, 100)
    add(file, {10: 1.0})
    add(file, {8: 7.0})
    assert kept(file) == {8: 7.0, 10: 1.0}


def test_a_grid_handed_out_never_changes(tmp_path: Path) -> None:
    file = SampleFile(tmp_path, 100)
    add(file, {10: 1.0})
    _, before = file.grid()
    add(file, {10: 9.0, 11: 2.0})
    assert before.tolist() == [1.0]


def test_only_the_newest_100_steps_are_kept_and_the_file_stays_bounded(tmp_path: Path) -> None:
    file = SampleFile(tmp_path, 100)
    for step in range(1_500):
        add(file, {step: float(step)})
    assert list(kept(file)) == list(range(1_400, 1_500))
    assert (tmp_path / FILE_NAME).stat().st_size <= (2 * 100 + 1_000 + 1) * RECORD.itemsize
    assert kept(SampleFile(tmp_path, 100)) == kept(file)


@pytest.mark.parametrize("cut", range(1, RECORD.itemsize))
def test_a_record_torn_at_any_byte_is_left_out_and_the_next_one_is_kept(tmp_path: Path, cut: int) -> None:
    add(SampleFile(tmp_path, 100), {1: 1.0, 2: 2.0, 3: 3.0})
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-cut])
    file = SampleFile(tmp_path, 100)
    assert kept(file) == {1: 1.0, 2: 2.0}
    add(file, {3: 4.0})
    assert kept(SampleFile(tmp_path, 100)) == {1: 1.0, 2: 2.0, 3: 4.0}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 30 * RECORD.itemsize - 1), st.integers(1, 255), st.booleans())
def test_damage_costs_the_record_it_hits_and_never_makes_a_load_up(place: int, flip: int, zeroed: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        truth = {step: 10.0 + step for step in range(30)}
        add(SampleFile(directory, 100), truth)
        content = bytearray((directory / FILE_NAME).read_bytes())
        if zeroed:
            content[place:] = bytes(len(content) - place)
        else:
            content[place] ^= flip
        (directory / FILE_NAME).write_bytes(content)
        found = kept(SampleFile(directory, 100))
        assert found.items() <= truth.items()
        assert len(found) >= (place // RECORD.itemsize if zeroed else 29)


def test_a_full_disk_keeps_nothing_of_the_step_and_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = SampleFile(tmp_path, 100)
    add(file, {1: 1.0})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            add(file, {2: 2.0})
    assert kept(file) == {1: 1.0}
    add(file, {3: 3.0})
    assert kept(SampleFile(tmp_path, 100)) == {1: 1.0, 3: 3.0}


WRITER = """
import sys
from pathlib import Path
import numpy as np
from deepseek_forecaster.history import SampleFile
file = SampleFile(Path(sys.argv[1]), 50)
start = 0 if file.last is None else file.last + 1
for step in range(start, 10**9):
    file.add(np.array([step]), np.array([float(step % 97)]))
    print(step, flush=True)
"""


def test_after_each_of_four_kills_at_any_moment_at_most_the_step_in_hand_is_missing(tmp_path: Path) -> None:
    said = -1
    for number in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(30 + 300 * number):  # kept 50 steps: the later kills fall among compactions
            said = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout:
            if line.endswith("\n"):
                said = int(line)
        writer.wait()
        file = SampleFile(tmp_path, 50)
        assert file.last in (said, said + 1)
        assert file.last is not None
        assert kept(file) == {step: float(step % 97) for step in range(max(0, file.last - 49), file.last + 1)}


def test_an_atomic_write_leaves_the_old_file_when_it_cannot_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
