"""`deepseek-operator replay`: what would a policy have cost on recorded traffic, and who would have waited?"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_operator.replay.simulate import Rates

if TYPE_CHECKING:
    from deepseek_operator.api.v1alpha1 import DeepSeekDeploymentSpec
    from deepseek_operator.replay.run import Progress, Replayed, Stretch

DEFAULT_MAX_NODES = 40
"""nodes.max where no policy is given: the trace's 99.9th percentile needs ten nodes, and no bound shall bind by accident."""

DESCRIPTION = """\
Runs the operator's own decision over recorded traffic: the last part of a trace (--from) is decided on tick by tick with what was known
then, and all that lies before it is history for the forecaster. Prints what the policy would have cost, beside mode Reactive, as many nodes as
the peak needs, and perfect foresight."""

EPILOG = """\
examples:
  deepseek-operator replay --trace day.csv
  deepseek-operator replay --trace day.csv --policy chat.yaml --cost-per-node-hour 2.5 --report replay.html
  deepseek-operator replay --prometheus http://localhost:9090 --query 'sum(rate(http_requests_total[1m]))' --days 14"""


class UsageError(ValueError):
    """What was asked for cannot be done; the text says what is allowed."""


def add_parser(commands: Any, seconds: Callable[[str], float]) -> None:
    """Add the subcommand; `seconds` reads a duration above 0."""
    parser = commands.add_parser(
        "replay",
        help="run a policy over recorded traffic",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    source = parser.add_argument_group("traffic (one of --trace and --prometheus)")
    source.add_argument("--trace", type=Path, help="CSV with the columns t_min,count; an empty count is unknown")
    source.add_argument("--prometheus", metavar="URL", help="a Prometheus to read the traffic from, by the minute")
    source.add_argument(
        "--query", help="PromQL that gives one series, requests per second (default: the policy's demand query, else its serving metrics)"
    )
    source.add_argument("--days", type=_days, default=14.0, help="how many days to read from Prometheus (default: 14)")
    what = parser.add_argument_group("policy and world")
    what.add_argument(
        "--policy", type=Path, help="yaml of a DeepSeekDeployment whose scaling is replayed (default: the defaults, 1 to 40 nodes)"
    )
    what.add_argument("--mode", choices=("Predictive", "Reactive", "Shadow", "Manual"), help="replay this mode instead of the policy's")
    what.add_argument(
        "--from",
        dest="begin",
        type=_share_or_seconds,
        default=0.7,
        metavar="SHARE|SECONDS",
        help="what comes before is history and does not count: a share of the trace below 1, or seconds since its start (default: 0.7)",
    )
    what.add_argument("--cold-start", type=seconds, default=180.0, help="seconds from asking for a node to its first answer (default: 180)")
    what.add_argument(
        "--capacity",
        type=seconds,
        metavar="REQUESTS_PER_SECOND",
        help="requests per second of a node (default: the policy's, else a tenth of the trace's 99.9th percentile)",
    )
    what.add_argument("--tick-seconds", type=seconds, default=15.0, help="seconds between two decisions (default: 15)")
    what.add_argument("--cost-per-node-hour", type=seconds, metavar="MONEY", help="price of a node for an hour (default: the policy's, if any)")
    out = parser.add_argument_group("output, beside the summary")
    out.add_argument("--json", type=Path, metavar="OUT", help="write the figures as JSON; - is standard output, without the summary")
    out.add_argument("--timeline", type=Path, metavar="OUT.csv", help="write one row per tick: t_seconds,demand,asked,ready,late")
    out.add_argument("--report", type=Path, metavar="OUT.html", help="write a page with the curves, the reasons and the bill")


def command(options: argparse.Namespace) -> int:
    """Replay, print and write; the exit status."""
    from deepseek_operator.replay.foresee import NoModelsError
    from deepseek_operator.replay.page import page
    from deepseek_operator.replay.prometheus import ReadError
    from deepseek_operator.replay.summary import figures, in_words
    from deepseek_operator.replay.timeline import write_timeline

    to_stdout = str(options.json) == "-"
    try:
        replayed = _replay(options)
        cost = _cost(options, replayed.spec)
        text = json.dumps(figures(replayed, cost), indent=2)
        if options.json is not None and not to_stdout:
            options.json.write_text(text + "\n", encoding="utf-8")
        if options.timeline is not None:
            assert replayed.chosen.outcome is not None
            write_timeline(options.timeline, replayed.chosen.outcome.rows)
        if options.report is not None:
            options.report.write_text(page(replayed, cost), encoding="utf-8")
    except (OSError, ValueError, NoModelsError, ReadError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    print(text if to_stdout else "\n".join(in_words(replayed, cost)))
    return 0


def _replay(options: argparse.Namespace) -> Replayed:
    from deepseek_operator.replay.run import run

    name, spec = _policy(options)
    stretch = _stretch(options, name, spec)
    return run(
        stretch,
        spec,
        capacity=options.capacity,
        cold_start_seconds=options.cold_start,
        tick_seconds=options.tick_seconds,
        progress=_progress(),
    )


def _policy(options: argparse.Namespace) -> tuple[str, DeepSeekDeploymentSpec]:
    """The application's name (empty where no policy is given) and the spec."""
    import yaml
    from pydantic import ValidationError

    from deepseek_operator.api.v1alpha1 import DeepSeekDeployment

    path: Path | None = options.policy
    name = ""
    body: dict[str, Any] = {"model": {"source": "file:///none"}, "nodes": {"max": DEFAULT_MAX_NODES}}
    try:
        if path is not None:
            documents = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if isinstance(one, dict)]
            found = [one for one in documents if one.get("kind") == "DeepSeekDeployment"] or [one for one in documents if "spec" in one]
            if not found:
                raise UsageError(f"{path}: expected the yaml of a DeepSeekDeployment, found none")
            body = found[0].get("spec") or {}
            metadata = found[0].get("metadata") or {}
            name = f"{metadata.get('namespace', 'default')}.{metadata['name']}" if metadata.get("name") else ""
        if options.mode is not None:
            body = {**body, "scaling": {**(body.get("scaling") or {}), "mode": options.mode}}
        return name, DeepSeekDeployment.model_validate({"spec": body}).spec
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {error}") from None
    except ValidationError as error:
        lines = (f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors(include_url=False))
        raise UsageError(f"{path or 'the defaults'}: " + "; ".join(lines)) from None


def _stretch(options: argparse.Namespace, name: str, spec: DeepSeekDeploymentSpec) -> Stretch:
    from deepseek_operator.replay.run import Stretch

    if (options.trace is None) == (options.prometheus is None):
        raise UsageError("give one of --trace FILE.csv and --prometheus URL")
    rates: Rates
    began_at: float | None = None
    if options.trace is not None:
        from deepseek_forecaster.trace import read_trace

        trace = read_trace(options.trace)
        title, rates, step_seconds = trace.name, trace.loads(), trace.step_seconds
    else:
        from deepseek_operator.replay import prometheus

        title, step_seconds = _query(options, name, spec), prometheus.STEP_SECONDS
        rates, began_at = prometheus.read(options.prometheus, title, options.days, time.time())
    begin: float = options.begin
    start = int(begin * len(rates)) if begin < 1 else int(begin // step_seconds)
    if not start < len(rates):
        raise UsageError(f"--from must lie before the end of the trace ({len(rates) * step_seconds} s), was {begin:g}")
    return Stretch(title, rates, step_seconds, start, began_at)


def _query(options: argparse.Namespace, name: str, spec: DeepSeekDeploymentSpec) -> str:
    from deepseek_serving import metric_names

    query = options.query or spec.scaling.demand.query
    if not query and not name:
        raise UsageError("--prometheus needs a --query, or a --policy with a name or a scaling.demand.query")
    return str(query or metric_names.demand_query(name, 60))


def _cost(options: argparse.Namespace, spec: DeepSeekDeploymentSpec) -> float | None:
    from deepseek_operator.api.v1alpha1 import quantity_value

    if options.cost_per_node_hour is not None:
        return float(options.cost_per_node_hour)
    return None if spec.scaling.cost_per_node_hour is None else quantity_value(spec.scaling.cost_per_node_hour)


def _progress() -> Progress | None:
    """A line that is overwritten, where somebody looks."""
    if not sys.stderr.isatty():
        return None
    shown = -1

    def show(share: float) -> None:
        nonlocal shown
        percent = int(100 * share)
        if percent != shown:
            shown = percent
            print(f"\rforecasting … {percent} %" if percent < 99 else "\r" + " " * 24 + "\r", end="", file=sys.stderr, flush=True)

    return show


def _days(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 400:
        raise argparse.ArgumentTypeError(f"must be days from 0.05 to 400, was {text!r}")
    return value


def _share_or_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e10:
        raise argparse.ArgumentTypeError(f"must be a share below 1 or seconds since the start of the trace, was {text!r}")
    return value
