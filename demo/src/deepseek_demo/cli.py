"""The command line: `deepseek-demo run`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from deepseek_demo.stage import Pacing, StageError
from deepseek_demo.traffic import TraceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 fine, 1 requests failed or nodes never moved ahead, 2 wrong input, 130 interrupted."""
    given = _parser().parse_args(arguments)
    # SIGTERM ends the run the way Ctrl-C does, so that everything started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    # Imported late: `--help` needs none of it.
    from deepseek_demo.programs import ProgramError
    from deepseek_demo.run import Options, run
    from deepseek_localcluster.build import BuildError
    from deepseek_localcluster.cluster import StartError

    options = Options(
        trace=given.trace,
        out=given.out,
        speed=given.speed,
        play_seconds=given.play_seconds,
        min_step_seconds=given.step_seconds,
        model_directory=given.model if given.engine == "transformers" else None,
        horizon_seconds=given.horizon_seconds,
        pacing=Pacing(nodes=given.nodes, requests_per_second_per_node=given.requests_per_second_per_node),
        seed=given.seed,
    )
    try:
        return run(options, say=_say)
    except KeyboardInterrupt:
        print("interrupted; everything that was started has ended", file=sys.stderr)
        return 130
    except (TraceError, StageError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except (ProgramError, StartError, BuildError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepseek-demo", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    play = commands.add_parser("run", help="play a day of traffic against a real cluster on this machine")
    play.add_argument("--trace", type=Path, help="CSV with the columns t_min,count; without it: traffic made by the demo's own generator")
    play.add_argument("--out", type=Path, default=Path("build/demo"), help="folder for picture, timeline and logs (default: %(default)s)")
    play.add_argument(
        "--speed", type=_positive, help="times as fast as the trace; by default the slowest that shows a whole rise and fall (see stage.py)"
    )
    play.add_argument("--play-seconds", type=_positive, default=255.0, help="how long requests are sent (default: %(default)g)")
    play.add_argument("--step-seconds", type=_positive, default=1.0, help="least length of the operator's step (default: %(default)g)")
    play.add_argument("--horizon-seconds", type=int, default=25, help="how far the forecast looks ahead (default: %(default)s)")
    play.add_argument("--engine", choices=("transformers", "echo"), default="transformers", help="echo needs no model (default: %(default)s)")
    play.add_argument("--model", type=Path, default=Path("build/tiny-model"), help="folder of the tiny model, made when missing")
    play.add_argument("--nodes", type=int, default=4, choices=range(2, 9), help="most nodes (default: %(default)s)")
    play.add_argument("--requests-per-second-per-node", type=_positive, default=2.0, help="capacity of a node (default: %(default)g)")
    play.add_argument("--seed", type=int, default=7, help="of traffic, pictures and arrival times (default: %(default)s)")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be greater than 0, was {text}")
    return value
