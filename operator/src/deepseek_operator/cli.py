"""The command line: run, explain, report, replay, crds."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepseek_operator import __version__
from deepseek_operator.replay.command import add_parser as add_replay

PREFIX = "DEEPSEEK_OPERATOR_"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line. Every flag of `run` can also be given as an environment variable: `--tick-seconds` is
    `DEEPSEEK_OPERATOR_TICK_SECONDS`."""
    top = argparse.ArgumentParser(
        prog="deepseek-operator", description="Keeps DeepSeekDeployments on as many GPU nodes as the next minutes need."
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the operator", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run.set_defaults(command=_run)
    _flag(run, "--namespace", help="namespace to serve; may be given more than once, or separated by commas", action=_Several, default=None)
    _flag(run, "--all-namespaces", help="serve every namespace (the default without --namespace)", action="store_true")
    _flag(run, "--prometheus", help="URL of the Prometheus that scrapes the Ray pods", default="http://prometheus.monitoring.svc:9090")
    _flag(run, "--forecaster", help="URL of the forecaster; without it the operator follows the present demand", default="")
    _flag(run, "--http-proxy", help="proxy for calls to the Ray dashboards, where they cannot be reached directly", default="")
    _flag(run, "--cluster-domain", help="DNS domain of the cluster", default="cluster.local")
    _flag(run, "--kubeconfig", help="kubeconfig to use; by default the service account in a pod, KUBECONFIG elsewhere", default=None)
    _flag(run, "--tick-seconds", help="seconds between two looks at the whole fleet", type=_seconds, default=15.0)
    _flag(run, "--step-seconds", help="step of the demand series that is forecast", type=_whole_seconds, default=60)
    _flag(
        run,
        "--demand-window-seconds",
        help="span over which demand is averaged; at least four scrape intervals",
        type=_whole_seconds,
        default=60,
    )
    _flag(
        run,
        "--own-queries",
        help="users' own queries (scaling.demand.query), which Prometheus answers with this operator's rights: Allow, Forbid, or Enforce that "
        "each of their selectors holds --own-queries-label to the namespace of their object",
        type=_one_of("Allow", "Enforce", "Forbid"),
        default="Allow",
    )
    _flag(run, "--own-queries-label", help="label that Enforce wants in each selector", type=_label, default="namespace")
    _flag(run, "--ray-metrics-interval-seconds", help="how often the Ray pods export their metrics", type=_seconds, default=10.0)
    _flag(run, "--metrics-listen", help="address of /metrics", type=_address, default="0.0.0.0:9090")
    _flag(run, "--health-listen", help="address of /healthz and /readyz", type=_address, default="0.0.0.0:8080")
    _flag(run, "--log-format", help="how the log is written: text or json", type=_one_of("text", "json"), default="text")
    levels = _one_of("debug", "info", "warning", "error")
    _flag(run, "--log-level", help="least level that is logged: debug, info, warning or error", type=levels, default="info")

    explain = commands.add_parser("explain", help="say why an object runs as many nodes as it does")
    explain.set_defaults(command=_explain)
    explain.add_argument("name", help="name of the DeepSeekDeployment")
    explain.add_argument("-n", "--namespace", default="default", help="its namespace (default: default)")
    explain.add_argument("-o", "--output", choices=("text", "line", "json"), default="text", help="in full, in one line, or as JSON")
    explain.add_argument("--kubeconfig", default=None, help="kubeconfig to use (default: KUBECONFIG)")

    add_replay(commands, _seconds)

    report = commands.add_parser("report", help="say what was saved, day by day, beside mode Reactive on the same demand")
    report.set_defaults(command=_report)
    report.add_argument("name", nargs="?", help="name of the DeepSeekDeployment (default: all of the namespace)")
    report.add_argument("-n", "--namespace", default="default", help="the namespace (default: default)")
    report.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    report.add_argument("--json", action="store_true", help="print it as JSON")
    report.add_argument("--kubeconfig", default=None, help="kubeconfig to use (default: KUBECONFIG)")

    crds = commands.add_parser("crds", help="write the CustomResourceDefinition, the chart's copy and the reference page")
    crds.set_defaults(command=_crds)
    crds.add_argument("--root", type=Path, default=Path(), help="root of the source tree (default: this folder)")
    crds.add_argument("--check", action="store_true", help="write nothing; fail when a file differs")
    return top


def _flag(to: argparse.ArgumentParser, name: str, **kwargs: Any) -> None:
    """A flag whose default can be set by its environment variable."""
    variable = PREFIX + name.removeprefix("--").replace("-", "_").upper()
    given = os.environ.get(variable)
    if given is not None:
        if kwargs.get("action") == "store_true":
            kwargs["default"] = given.lower() in ("1", "true", "yes")
        else:
            kwargs["default"] = [given] if kwargs.get("action") is _Several else given
    kwargs["help"] = f"{kwargs['help']} [{variable}]"
    to.add_argument(name, **kwargs)


class _Several(argparse.Action):
    """A flag that may be given more than once; its variable counts only where the flag is absent."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        """One more."""
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), values])


def _one_of(*allowed: str) -> Callable[[str], str]:
    """A type rather than `choices`, which argparse does not hold a variable's value to."""

    def check(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(allowed)}, was {text!r}")
        return text

    return check


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and below 1000000, was {text!r}")
    return value


def _whole_seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 86_400:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 86400, was {text!r}")
    return int(text)


def _label(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", text):
        raise argparse.ArgumentTypeError(f"must be the name of a label such as namespace, was {text!r}")
    return text


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, was {text!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - an empty host means every address


def _run(options: argparse.Namespace) -> int:
    from deepseek_operator.controller import Options, run
    from deepseek_operator.edge.kube import KubeError
    from deepseek_operator.edge.promql import OwnQueries
    from deepseek_operator.edge.rayservice import CompileOptions
    from deepseek_operator.edge.telemetry import set_up_logging
    from deepseek_operator.tick import Settings

    set_up_logging(options.log_format, options.log_level)
    namespaces = [name for given in options.namespace or () for name in given.split(",") if name]
    if options.all_namespaces and namespaces:
        print("give either --namespace or --all-namespaces", file=sys.stderr)
        return 2
    chosen = Options(
        prometheus=options.prometheus,
        forecaster=options.forecaster,
        namespaces=namespaces,
        http_proxy=options.http_proxy,
        cluster_domain=options.cluster_domain,
        kubeconfig=options.kubeconfig,
        metrics_listen=options.metrics_listen,
        health_listen=options.health_listen,
        settings=Settings(
            tick_seconds=options.tick_seconds,
            step_seconds=options.step_seconds,
            demand_window_seconds=options.demand_window_seconds,
            compile=CompileOptions(ray_metrics_interval_seconds=options.ray_metrics_interval_seconds),
            own_queries=OwnQueries(options.own_queries, options.own_queries_label),
        ),
    )
    try:
        asyncio.run(run(chosen))
    except KubeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _explain(options: argparse.Namespace) -> int:
    from deepseek_operator.edge.kube import Kube, KubeError
    from deepseek_operator.explain import in_full, one_line

    async def fetch() -> dict[str, Any]:
        kube = Kube()
        try:
            await kube.connect(options.kubeconfig)
            return await kube.get_object(options.namespace, options.name)
        finally:
            await kube.close()

    try:
        body = asyncio.run(fetch())
    except KubeError as error:
        found = "there is no such DeepSeekDeployment" if error.status == 404 else str(error)
        print(f"{options.namespace}/{options.name}: {found}", file=sys.stderr)
        return 1
    if options.output == "json":
        print(json.dumps(body.get("status") or {}, indent=2))
    elif options.output == "line":
        print(one_line(body))
    else:
        print("\n".join(in_full(body)))
    return 0


def _report(options: argparse.Namespace) -> int:
    from deepseek_operator.edge.kube import Kube, KubeError
    from deepseek_operator.savings import as_json, as_table

    async def fetch() -> list[dict[str, Any]]:
        kube = Kube(() if options.all_namespaces else (options.namespace,))
        try:
            await kube.connect(options.kubeconfig)
            return [await kube.get_object(options.namespace, options.name)] if options.name else await kube.list_objects()
        finally:
            await kube.close()

    if options.name and options.all_namespaces:
        print("give either a name or --all-namespaces", file=sys.stderr)
        return 2
    try:
        bodies = asyncio.run(fetch())
    except KubeError as error:
        missing = options.name and error.status == 404
        print(f"{options.namespace}/{options.name}: there is no such DeepSeekDeployment" if missing else str(error), file=sys.stderr)
        return 1
    print(json.dumps(as_json(bodies), indent=2) if options.json else "\n".join(as_table(bodies)))
    return 0


def _crds(options: argparse.Namespace) -> int:
    from deepseek_operator.api.crd import main as write

    root: Path = options.root
    return write(root / "crds", root / "helm" / "deepseek-operator", root / "docs" / "api.md", check=options.check)


if __name__ == "__main__":
    sys.exit(main())
