"""`deepseek-forecaster serve` and `backtest`. Each flag of `serve` is also an environment variable, `--data` is `DEEPSEEK_FORECASTER_DATA`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 7 * 86_400.0}


def duration(text: str) -> float:
    """Seconds in `90`, `90s`, `15m`, `6h`, `14d` or `2w`; ArgumentTypeError says what is allowed."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip())
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0 with s, m, h, d, w or nothing (seconds) after it, like 14d; was {text!r}")
    return float(found[1]) * UNITS[found[2]]


def address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8099`, `:8099` (all interfaces) or `[::1]:8099`; port 0 is a free one."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT with a port of 0 to 65535, like 127.0.0.1:8099; was {text!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - `:8099` asks for all interfaces


def count(text: str) -> int:
    """A whole number above 0; ArgumentTypeError says what is allowed."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 to 999999999; was {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="deepseek-forecaster", description="Predicts load, with quantiles of its peak.")
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="answer POST /v1/forecasts", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    _flag(serve, "--prometheus", "URL", str, None, "where the series are read, like http://127.0.0.1:9090")
    _flag(serve, "--listen", "HOST:PORT", address, "127.0.0.1:8099", "where to answer; port 0 takes a free one and prints it")
    _flag(serve, "--data", "DIR", Path, None, "folder for histories and fitted models; one forecaster at a time")
    _flag(serve, "--season", "DURATION", duration, "86400", "the length of a day in the traffic; a week is seven of them")
    _flag(serve, "--history", "DURATION", duration, "14d", "how far back to read and keep; at most 50,000 steps")
    _flag(serve, "--train-every", "DURATION", duration, "", "how often the models of a series are fitted anew; empty: once a season")
    _flag(serve, "--train-share", "SHARE", share, "0.2", "how much of one core fitting may take, over time; what pays most is fitted first")
    _flag(serve, "--forget-after", "DURATION", duration, "14d", "delete a series nobody has asked about for so long")
    _flag(serve, "--max-series", "N", count, "10000", "watch at most so many series; a further one is answered with an error")
    _flag(serve, "--read-timeout", "DURATION", duration, "30s", "how long one read from Prometheus may take")
    _flag(serve, "--log-level", "LEVEL", str, "INFO", "DEBUG, INFO, WARNING or ERROR")
    _backtest(commands.add_parser("backtest", help="how good the forecasts would have been on a recorded series"))
    return top


def _backtest(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Walks over the last 30 % of a series as the live forecaster would have, and scores the ensemble and each of its experts. "
        "The trace is a CSV with the columns t_min (minutes since its start) and count (requests in the step; empty = unknown)."
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", metavar="FILE.csv", type=Path, help="recorded counts; the step is read from the file")
    source.add_argument("--prometheus", metavar="URL", help="read the series from there, like http://127.0.0.1:9090; needs --query")
    command.add_argument("--query", metavar="PROMQL", help="gives ONE series in units of work per second")
    command.add_argument("--days", metavar="N", type=positive, default=14.0, help="how far back to read from Prometheus (default 14)")
    command.add_argument("--step", metavar="DURATION", type=duration, default=60.0, help="the step to read Prometheus in (default 60s)")
    command.add_argument(
        "--horizon", metavar="DURATION", type=duration, default=600.0, help="how far ahead; at least one step, in whole steps (default 600)"
    )
    command.add_argument("--experts", metavar="A,B", type=_experts, help="only these (default: all that answer live; ucm is one more)")
    command.add_argument("--json", metavar="OUT.json", type=Path, help="write every figure there")
    command.add_argument(
        "--forecasts",
        metavar="OUT.csv",
        type=Path,
        help="write one row per forecast there, in requests per step: origin_seconds,mean,peak_p50,peak_p90,peak_p95",
    )
    command.add_argument("--report", metavar="OUT.html", type=Path, help="write a page with charts there")


def _experts(text: str) -> tuple[str, ...]:
    try:
        from .backtest.cli import experts
    except ImportError as error:
        raise OSError(f"`backtest` needs the extras of deepseek-forecaster[models,server]: {error}") from error
    return experts(text)


def share(text: str) -> float:
    """A share of one core; ArgumentTypeError says what is allowed."""
    if not re.fullmatch(r"[01](\.\d+)?", text) or not 0.0 < float(text) <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 1, like 0.2; was {text!r}")
    return float(text)


def positive(text: str) -> float:
    """A number above 0; ArgumentTypeError says what is allowed."""
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) <= 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0; was {text!r}")
    return float(text)


def _flag(to: argparse.ArgumentParser, name: str, metavar: str, kind: object, default: str | None, text: str) -> None:
    variable = "DEEPSEEK_FORECASTER_" + name.removeprefix("--").replace("-", "_").upper()
    value = os.environ.get(variable) or default or None
    to.add_argument(name, metavar=metavar, type=kind, default=value, required=value is None and default is None, help=f"{text} (or {variable})")  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    # small matrices in many threads cost more than they save, and the answers need the cores; libraries look once, when they are loaded
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    command_line = parser()
    given = command_line.parse_args(arguments)
    if given.command == "backtest":
        if (given.prometheus is None) != (given.query is None):
            command_line.error("backtest: --prometheus and --query go together")
        given.log_level = "ERROR"
    logging.basicConfig(level=given.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for loud in ("urllib3", "prometheus_api_client"):
        logging.getLogger(loud).setLevel(logging.WARNING)
    try:
        if given.command == "backtest":
            return _run_backtest(given)
        asyncio.run(_serve(given))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from .registry import DirectoryInUseError

        if not isinstance(error, OSError | DirectoryInUseError):
            raise
        print(f"deepseek-forecaster: {error}", file=sys.stderr)
        return 1
    return 0


def _run_backtest(given: argparse.Namespace) -> int:
    try:
        from .backtest.cli import run
    except ImportError as error:
        raise OSError(f"`backtest` needs the extras of deepseek-forecaster[models,server]: {error}") from error
    return run(given)


def _keep_memory_together() -> None:
    """Ask the C library for two areas of memory at most: with one for each thread, the large arrays of a thousand series leave holes in each.

    glibc alone knows the question (mallopt, M_ARENA_MAX = −8); elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(-8, 2)


async def _serve(given: argparse.Namespace) -> None:
    _keep_memory_together()
    try:
        from .server import Settings, serving
    except ImportError as error:
        raise OSError(f"`serve` needs the extras of deepseek-forecaster[models,server]: {error}") from error
    settings = Settings(
        prometheus=given.prometheus,
        data=given.data,
        season_seconds=given.season,
        history_seconds=given.history,
        train_every_seconds=given.train_every,
        train_share=given.train_share,
        forget_after_seconds=given.forget_after,
        read_timeout_seconds=given.read_timeout,
        max_series=given.max_series,
    )
    host, port = given.listen
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(settings, host, port) as (_, bound):
        print(f"listening on http://{host}:{bound}", flush=True)
        await stop.wait()
