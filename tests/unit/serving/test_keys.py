"""Who may ask."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from deepseek_serving.keys import MOST_FAILURES, Budget, Gate, GuessingError, OverBudgetError, UnknownKeyError, digest, new_key


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def bearer(key: str) -> str:
    return f"Bearer {key}"


def write(path: Path, text: str, *, at: int) -> None:
    path.write_text(text)
    os.utime(path, (at, at))


def test_a_key_is_random_and_kept_as_its_hash() -> None:
    key, line = new_key()
    assert len(key) == 46  # "sk-" and 32 bytes in base64
    assert line == f"sha256:{digest(key)}"
    assert new_key()[0] != key


def test_keys_are_rotated_without_a_restart(tmp_path: Path) -> None:
    """Old; then old and new; then new alone. A removed key is refused at the next look."""
    (old, old_line), (new, new_line) = new_key(), new_key()
    write(tmp_path / "alice", old_line, at=1)
    gate = Gate(tmp_path)
    assert gate.admit(bearer(old), "10.0.0.1").name == "alice"
    write(tmp_path / "alice", f"{old_line}\n{new_line}\n", at=2)
    gate.refresh()
    assert [gate.admit(bearer(key), "10.0.0.1").name for key in (old, new)] == ["alice", "alice"]
    write(tmp_path / "alice", f"{new_line}\n", at=3)
    gate.refresh()
    with pytest.raises(UnknownKeyError):
        gate.admit(bearer(old), "10.0.0.1")
    assert gate.admit(bearer(new), "10.0.0.1").name == "alice"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic KEY", "KEY", "Bearer wrong", "Bearer KEYx", "Bearer " + "x" * 10_000, "Bearer ключ", "bearer\tKEY"],
)
def test_anything_but_a_valid_key_is_refused(tmp_path: Path, header: str | None) -> None:
    key, line = new_key()
    (tmp_path / "alice").write_text(line)
    with pytest.raises(UnknownKeyError) as refusal:
        Gate(tmp_path).admit(header.replace("KEY", key) if header else header, "10.0.0.1")
    assert key not in str(refusal.value)


def test_options_belong_to_the_client(tmp_path: Path) -> None:
    key, line = new_key()
    (tmp_path / "jobs").write_text(f"# nightly\ntokens-per-minute: 600\nhighest-priority: -1\n{line}  # since May\n")
    client = Gate(tmp_path).admit(bearer(key), "10.0.0.1")
    assert (client.name, client.tokens_per_minute, client.highest_priority) == ("jobs", 600, -1)


def test_a_line_that_is_no_hash_is_left_out_and_not_repeated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody put the key itself there: the log names the file and the line, not the key."""
    (good, line), (bare, _) = new_key(), new_key()
    (tmp_path / "alice").write_text(f"{bare}\n{line}\n")
    with caplog.at_level(logging.INFO):
        gate = Gate(tmp_path)
    assert gate.admit(bearer(good), "10.0.0.1").name == "alice"
    with pytest.raises(UnknownKeyError):
        gate.admit(bearer(bare), "10.0.0.1")
    assert "line 1 of alice" in caplog.text
    assert bare not in caplog.text


def test_a_folder_that_cannot_be_read_opens_nothing(tmp_path: Path) -> None:
    key, line = new_key()
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "alice").write_text(line)
    gate = Gate(folder)
    assert gate.admit(bearer(key), "10.0.0.1").name == "alice"
    (folder / "alice").unlink()
    folder.rmdir()
    gate.refresh()
    with pytest.raises(UnknownKeyError):
        gate.admit(bearer(key), "10.0.0.1")


def test_ten_wrong_keys_close_an_address_for_a_minute_but_not_to_its_good_keys(tmp_path: Path) -> None:
    """After 10 failures even a valid key that was never used from there is not looked at; one that was goes on; other addresses, too."""
    (known, known_line), (other, other_line) = new_key(), new_key()
    (tmp_path / "a").write_text(known_line)
    (tmp_path / "b").write_text(other_line)
    clock = Clock()
    gate = Gate(tmp_path, clock=clock)
    gate.admit(bearer(known), "10.0.0.1")
    for _ in range(MOST_FAILURES):
        with pytest.raises(UnknownKeyError):
            gate.admit(bearer("wrong"), "10.0.0.1")
    with pytest.raises(GuessingError) as refusal:
        gate.admit(bearer(other), "10.0.0.1")
    assert (refusal.value.status, refusal.value.retry_after_seconds) == (429, 60)
    assert gate.admit(bearer(known), "10.0.0.1").name == "a"
    assert gate.admit(bearer(other), "10.0.0.2").name == "b"
    clock.now += 61
    assert gate.admit(bearer(other), "10.0.0.1").name == "b"


def test_addresses_are_forgotten_rather_than_kept_without_bound(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    for index in range(10_000):
        with pytest.raises(UnknownKeyError):
            gate.admit(bearer("wrong"), f"10.0.{index // 256}.{index % 256}")
    assert len(gate._addresses) <= 4096


def test_a_budget_is_a_minute_s_worth_and_comes_back_with_time() -> None:
    """600 tokens a minute are 10 a second: 700 spent → 100 below 0 → positive again after 10.1 s."""
    clock = Clock()
    budget = Budget(600, clock=clock)
    budget.check()
    budget.spend(700)
    with pytest.raises(OverBudgetError) as refusal:
        budget.check()
    assert refusal.value.retry_after_seconds == 10
    clock.now += 10.2
    budget.check()
    clock.now += 3600
    budget.spend(600)
    with pytest.raises(OverBudgetError):
        budget.check()
