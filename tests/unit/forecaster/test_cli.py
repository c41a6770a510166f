"""The command line: flags, their environment variables, and refusals that say what is allowed."""

import argparse
from pathlib import Path

import pytest

from deepseek_forecaster.cli import address, count, duration, main, parser


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("6h", 21_600), ("14d", 1_209_600), ("2w", 1_209_600)])
def test_durations_are_numbers_with_a_unit(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1s", "1y", "d", "nan", "1 day"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="like 14d"):
        duration(text)


@pytest.mark.parametrize(("text", "expected"), [("127.0.0.1:8099", ("127.0.0.1", 8099)), (":8099", ("0.0.0.0", 8099)), ("[::1]:0", ("::1", 0))])
def test_addresses_are_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["8099", "localhost", "localhost:http", "localhost:65536"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be HOST:PORT"):
        address(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1e4", "", "many", "1_000"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number of 1 to 999999999"):
        count(text)


def test_every_flag_has_an_environment_variable_and_the_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_FORECASTER_PROMETHEUS", "http://p:9090")
    monkeypatch.setenv("DEEPSEEK_FORECASTER_DATA", "/data")
    monkeypatch.setenv("DEEPSEEK_FORECASTER_SEASON", "48m")
    monkeypatch.setenv("DEEPSEEK_FORECASTER_TRAIN_EVERY", "6h")
    monkeypatch.setenv("DEEPSEEK_FORECASTER_MAX_SERIES", "250")
    given = parser().parse_args(["serve", "--season", "1d"])
    assert (given.prometheus, given.data, given.season, given.train_every) == ("http://p:9090", Path("/data"), 86_400, 21_600)
    assert given.listen == ("127.0.0.1", 8099)
    assert given.history == 14 * 86_400
    assert given.max_series == 250
    monkeypatch.delenv("DEEPSEEK_FORECASTER_MAX_SERIES")
    assert parser().parse_args(["serve"]).max_series == 10_000
    monkeypatch.delenv("DEEPSEEK_FORECASTER_TRAIN_EVERY")
    assert parser().parse_args(["serve"]).train_every is None, "once a season"


def test_without_prometheus_and_data_the_command_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve"])
    assert "--prometheus" in (said := capsys.readouterr().err)
    assert "--data" in said


def test_a_data_directory_that_cannot_be_made_is_status_1_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["serve", "--prometheus", "http://127.0.0.1:9", "--data", str(tmp_path / "file" / "x"), "--listen", "127.0.0.1:0"]) == 1
    assert capsys.readouterr().err.startswith("deepseek-forecaster: ")
