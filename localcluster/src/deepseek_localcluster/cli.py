"""``deepseek-localcluster``: the cluster by hand.

deepseek-localcluster up --kuberay --ray-nodes 4 --prometheus --detach
eval "$(deepseek-localcluster env)"
kubectl get nodes
deepseek-localcluster down
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from deepseek_localcluster.access import Cluster, CommandError
from deepseek_localcluster.build import BuildError, ensure
from deepseek_localcluster.cluster import LocalCluster, StartError
from deepseek_localcluster.programs import PROGRAMS
from deepseek_localcluster.running import RunningCluster, running_clusters


class UsageError(RuntimeError):
    """Something the user can put right; the message says how."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 1 with a sentence on standard error when it fails."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (UsageError, BuildError, StartError, CommandError, OSError, ValueError, RuntimeError) as error:
        sys.exit(f"deepseek-localcluster: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def up(options: argparse.Namespace) -> None:
    """Start a cluster and stay until Ctrl-C, SIGTERM or ``down``."""
    if options.kubeconfig:
        print(Cluster(options.kubeconfig).kubectl("version"), end="")
        print(f"{options.kubeconfig} answers: there is nothing to start")
        return
    if options.detach:
        _detach(options)
        return
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    began = time.monotonic()
    cluster = LocalCluster(
        options.dir,
        kwok_nodes=options.kwok_nodes,
        ray_nodes=options.ray_nodes,
        gpus_per_ray_node=options.gpus_per_ray_node,
        kuberay=options.kuberay,
        prometheus=options.prometheus,
        pythonpath=[path.resolve() for path in options.pythonpath],
    )
    with cluster:
        print(f"up in {time.monotonic() - began:.1f} s: {cluster.server}, folder {cluster.directory}")
        print(f'in another shell: eval "$(deepseek-localcluster env --dir {shlex.quote(str(cluster.directory))})"', flush=True)
        while cluster.alive:
            time.sleep(0.2)


def down(options: argparse.Namespace) -> None:
    """End exactly one cluster."""
    cluster = _chosen(options.dir)
    cluster.end()
    print(f"ended the cluster of {cluster.directory}")


def status(options: argparse.Namespace) -> None:
    """A table of the clusters of this user."""
    if options.kubeconfig:
        print(Cluster(options.kubeconfig).kubectl("get", "nodes", "-o", "wide"), end="")
        return
    clusters = [each for each in running_clusters() if options.dir is None or each.directory == options.dir.resolve()]
    if not clusters:
        print("no cluster runs")
        return
    rows = [("FOLDER", "STATE", "SERVER", "PROXY", "PROMETHEUS", "PROCESSES", "AGE")]
    for each in clusters:
        note = each.note or {"server": "-", "env": {}}
        env: dict[str, str] = note["env"]
        state = "up" if each.note else "starting"
        addresses = (str(note["server"]), env.get("DEEPSEEK_PROXY", "-"), env.get("DEEPSEEK_PROMETHEUS", "-"))
        rows.append((str(each.directory), state, *addresses, str(each.processes), f"{each.seconds:.0f}s"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def env(options: argparse.Namespace) -> None:
    """Lines for ``eval`` in a shell."""
    if options.kubeconfig:
        values = LocalCluster.existing(options.kubeconfig.resolve()).env()
    else:
        cluster = _chosen(options.dir)
        if cluster.note is None:
            raise UsageError(f"the cluster of {cluster.directory} is still starting")
        values = {**cluster.note["env"], "PATH": f"{cluster.directory / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")


def build(options: argparse.Namespace) -> None:
    """Build programs into the cache."""
    for name, path in ensure(options.programs or list(PROGRAMS)).items():
        print(f"{name}\t{path}")


def _chosen(directory: Path | None) -> RunningCluster:
    clusters = running_clusters()
    if directory is not None:
        clusters = [each for each in clusters if each.directory == directory.resolve()]
    if not clusters:
        raise UsageError(f"no cluster runs in {directory}" if directory else "no cluster runs; `deepseek-localcluster up` starts one")
    if len(clusters) > 1:
        raise UsageError(f"{len(clusters)} clusters run; choose one with --dir: {', '.join(str(each.directory) for each in clusters)}")
    return clusters[0]


def _detach(options: argparse.Namespace) -> None:
    """Run the same command without --detach in a session of its own; show what it says until the cluster is up."""
    directory = options.dir.resolve() if options.dir else Path(tempfile.mkdtemp(prefix="dslc-"))
    command = [sys.executable, "-m", "deepseek_localcluster", "up", "--dir", str(directory)]
    for name in ("ray_nodes", "kwok_nodes", "gpus_per_ray_node"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += [f"--{name}" for name in ("kuberay", "prometheus") if getattr(options, name)]
    for path in options.pythonpath:
        command += ["--pythonpath", str(path.resolve())]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        place = 0
        try:
            while process.poll() is None and not (directory / "cluster.json").exists():
                time.sleep(0.1)
                place = _show(said.fileno(), place)
        except KeyboardInterrupt:
            process.terminate()
            raise
        if process.poll() is not None:
            _show(said.fileno(), place)
            raise UsageError("the cluster did not start; see above")
    print(f"up in {directory}; end it with: deepseek-localcluster down --dir {shlex.quote(str(directory))}")


def _show(descriptor: int, place: int) -> int:
    """Copy what is new in a file to standard error; the place up to where it was copied."""
    new = os.pread(descriptor, 1 << 16, place)
    sys.stderr.write(new.decode(errors="replace"))
    sys.stderr.flush()
    return place + len(new)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepseek-localcluster", description="A real Kubernetes control plane on one machine, without Docker."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--dir", type=Path, help="folder of the cluster (up: absent or empty, default a temporary one; else: default the only cluster)"
    )
    foreign = argparse.ArgumentParser(add_help=False)
    foreign.add_argument("--kubeconfig", type=Path, help="use this existing cluster instead of a local one")

    starting = commands.add_parser("up", parents=[where, foreign], help="start a cluster; stays in the foreground until Ctrl-C")
    starting.add_argument("--detach", action="store_true", help="return when the cluster is up; `down` ends it")
    starting.add_argument("--ray-nodes", type=_count, default=0, metavar="N", help="nodes that run Ray pods as processes of this machine")
    starting.add_argument("--gpus-per-ray-node", type=_count, default=1, metavar="N", help="nvidia.com/gpu of each (default 1)")
    starting.add_argument("--kwok-nodes", type=_count, default=0, metavar="N", help="fake nodes of 8 GPUs whose pods only seem to run")
    starting.add_argument("--kuberay", action="store_true", help="install KubeRay's CRDs and run its operator")
    starting.add_argument("--prometheus", action="store_true", help="run Prometheus on the pods' metrics ports")
    starting.add_argument(
        "--pythonpath", type=Path, action="append", default=[], metavar="DIR", help="folder Ray pods can import from (repeatable)"
    )
    starting.set_defaults(command=up)

    ending = commands.add_parser("down", parents=[where], help="end a cluster: its processes, ports and folder")
    ending.set_defaults(command=down)
    table = commands.add_parser("status", parents=[where, foreign], help="list the clusters that run")
    table.set_defaults(command=status)
    variables = commands.add_parser("env", parents=[where, foreign], help="print `export` lines for a shell")
    variables.set_defaults(command=env)
    building = commands.add_parser("build", help="build programs into the cache (default: all)")
    building.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"any of {', '.join(PROGRAMS)}")
    building.set_defaults(command=build)
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) > 10_000:
        raise argparse.ArgumentTypeError(f"a number from 0 to 10000 is allowed, was {text!r}")
    return int(text)
